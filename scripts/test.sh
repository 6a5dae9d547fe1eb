#!/usr/bin/env bash
# Runs every test with the tools that scripts/tools.sh installed. Called by `make test`; arguments go to the test runner,
# for instance: scripts/test.sh whole_job
set -euo pipefail
cd "$(dirname "$0")/.."
cargo=${CARGO:-cargo}

# shellcheck source=/dev/null
source .tools/env.sh
[[ -z $KEYLOOM_SKIP ]] || echo "skipped on this machine: $KEYLOOM_SKIP" >&2

# The end-to-end tests start these; a test runner builds the tests only.
"$cargo" build --locked --release --workspace --bins --examples
if "$cargo" nextest --version >/dev/null 2>&1; then
    "$cargo" nextest run --locked --release --workspace "$@"
else
    "$cargo" test --locked --release --workspace --no-fail-fast --lib --bins --tests "$@"
fi
