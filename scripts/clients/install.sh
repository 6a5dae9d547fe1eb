#!/usr/bin/env bash
# Installs the client packages that the tests run unmodified into .tools/clients: trackers and event formats from PyPI and
# npm, the feature store Feast, and what asks the engine's interfaces. All are pinned with their hashes in this folder.
# Called by scripts/tools.sh; says nothing when all is there. Feast brings packages in versions that the others cannot share,
# so it has an environment of its own. npm runs no package's own scripts.
#
# Prints what this machine cannot have, for KEYLOOM_SKIP: `node`, unless Node 20.19 or newer and npm are there.
# (package.json holds msgpackr-extract back: an optional package of an optional package, whose newest version is not complete
# on every mirror, and which nothing here loads.)
set -euo pipefail
cd "$(dirname "$0")/../.."
umask 022

root=$PWD
here=scripts/clients
clients=$root/.tools/clients
python=$root/.tools/venv/bin/python

say() { printf 'tools: %s\n' "$*" >&2; }
stamp_of() { printf "%s %s" "$root" "$(cat "$@" | sha256sum)"; }

# environment, list, what to import from it, words for a person
python_environment() {
    local folder=$clients/$1 list=$here/$2 wanted
    wanted=$(stamp_of "$list")
    [[ ! -f $folder/stamp || $(<"$folder/stamp") != "$wanted" ]] || return 0
    say "installing $4 into .tools (once)"
    rm -rf "$folder"
    "$python" -m venv "$folder"
    "$folder/bin/python" -m pip --disable-pip-version-check --no-input install --quiet --only-binary :all: \
        --require-hashes -r "$list" || { say "installing $list failed, see above"; return 1; }
    "$folder/bin/python" -c "import $3" || { say "$4 do not load on this machine"; return 1; }
    printf '%s' "$wanted" >"$folder/stamp"
}

has_node() {
    command -v npm >/dev/null && command -v node >/dev/null &&
        node -e 'const [major, minor] = process.versions.node.split(".").map(Number);
            process.exit(major > 20 || (major === 20 && minor >= 19) ? 0 : 1)' 2>/dev/null
}

node_packages() {
    local folder=$clients/node wanted
    wanted="$(stamp_of "$here/package.json" "$here/package-lock.json") $(node --version)"
    [[ ! -f $folder/stamp || $(<"$folder/stamp") != "$wanted" ]] || return 0
    say 'installing client packages for Node into .tools (once)'
    rm -rf "$folder"
    mkdir -p "$folder"
    cp "$here/package.json" "$here/package-lock.json" "$folder/"
    (cd "$folder" && npm ci --ignore-scripts --no-audit --no-fund --loglevel error >/dev/null) ||
        { say "installing $here/package-lock.json failed, see above"; return 1; }
    (cd "$folder" && node -e 'require("jsdom"); require("@snowplow/node-tracker")') ||
        { say 'the packages for Node do not load on this machine'; return 1; }
    printf '%s' "$wanted" >"$folder/stamp"
}

skip=
if ! has_node; then
    [[ ${CI:-} != true ]] || { say 'Node 20.19 or newer with npm is missing, and CI skips nothing'; exit 1; }
    say 'skipping the tests of client packages for Node (KEYLOOM_SKIP=node); install Node 20.19 or newer with npm to run them'
    skip=node
fi
mkdir -p "$clients"
# Side by side: each waits for its downloads most of the time.
pids=()
python_environment python clients.txt 'grpc_tools, schemathesis, snowplow_tracker' 'client packages for Python' & pids+=($!)
python_environment feast feast.txt feast 'Feast' & pids+=($!)
[[ -n $skip ]] || { node_packages & pids+=($!); }
failed=
for pid in "${pids[@]}"; do
    wait "$pid" || failed=yes
done
[[ -z $failed ]] || exit 1
printf '%s' "$skip"
