#!/usr/bin/env bash
# Writes scripts/requirements.txt from scripts/requirements.in: every package, direct or not, with its version and the
# sha256 of the one file that CPython 3.11 on Linux x86_64 uses. Run it after a change to requirements.in, and read the
# difference before committing it. Not part of make test.
set -euo pipefail
cd "$(dirname "$0")"

python=${PYTHON:-python3.11}
wheels=$(mktemp -d)
trap 'rm -rf "$wheels"' EXIT
"$python" -m pip --disable-pip-version-check download --quiet --only-binary :all: --dest "$wheels" -r requirements.in

{
    echo '# Made by scripts/lock-requirements.sh from requirements.in for CPython 3.11, Linux x86_64. Do not edit.'
    "$python" - "$wheels" <<'PYTHON'
import hashlib, pathlib, re, sys

for wheel in sorted(pathlib.Path(sys.argv[1]).glob("*.whl"), key=lambda w: w.name.lower()):
    name, version = wheel.name.split("-")[:2]
    name = re.sub(r"[-_.]+", "-", name).lower()
    print(f"{name}=={version} --hash=sha256:{hashlib.sha256(wheel.read_bytes()).hexdigest()}")
PYTHON
} >requirements.txt.new
mv requirements.txt.new requirements.txt
echo "scripts/requirements.txt: $(grep -c sha256 requirements.txt) packages"
