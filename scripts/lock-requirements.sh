#!/usr/bin/env bash
# Writes what the tests install, from lists by hand: requirements.txt from requirements.in, clients/clients.txt and
# clients/feast.txt from their .in (every Python package, direct or not, with its version and the sha256 of the one file that
# CPython 3.11 on Linux x86_64 uses), and clients/package-lock.json from clients/package.json. Run it after a change to one of
# the lists, and read the difference before committing it. Not part of make test.
set -euo pipefail
cd "$(dirname "$0")"

python=${PYTHON:-python3.11}
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

lock_python() {
    local list=$1 wheels
    local locked=${list%.in}.txt
    wheels=$(mktemp -d "$scratch/wheels.XXXXXX")
    "$python" -m pip --disable-pip-version-check download --quiet --only-binary :all: --dest "$wheels" -r "$list"
    {
        echo "# Made by scripts/lock-requirements.sh from $(basename "$list") for CPython 3.11, Linux x86_64. Do not edit."
        "$python" - "$wheels" <<'PYTHON'
import hashlib, pathlib, re, sys

for wheel in sorted(pathlib.Path(sys.argv[1]).glob("*.whl"), key=lambda w: w.name.lower()):
    name, version = wheel.name.split("-")[:2]
    name = re.sub(r"[-_.]+", "-", name).lower()
    print(f"{name}=={version} --hash=sha256:{hashlib.sha256(wheel.read_bytes()).hexdigest()}")
PYTHON
    } >"$scratch/locked"
    mv "$scratch/locked" "$locked"
    echo "scripts/$locked: $(grep -c sha256 "$locked") packages"
}

# A lock without the addresses of a registry: whoever installs takes the packages from theirs, and checks their sha512.
lock_npm() {
    cp clients/package.json "$scratch/"
    (cd "$scratch" && npm install --package-lock-only --ignore-scripts --no-audit --no-fund --loglevel error \
        --omit-lockfile-registry-resolved=true)
    ! grep -q '"resolved"' "$scratch/package-lock.json" || { echo 'the lock of npm names a registry' >&2; exit 1; }
    mv "$scratch/package-lock.json" clients/package-lock.json
    echo "scripts/clients/package-lock.json: $(grep -c '"integrity"' clients/package-lock.json) packages"
}

lists=("$@")
[[ ${#lists[@]} -gt 0 ]] || lists=(requirements.in clients/clients.in clients/feast.in clients/package.json)
for list in "${lists[@]}"; do
    case $list in
        *.in) lock_python "$list" ;;
        *package.json) lock_npm ;;
        *) echo "lock-requirements.sh: $list is no list of packages" >&2; exit 2 ;;
    esac
done
