#!/usr/bin/env bash
# The long form of tests/faults.rs: kills the engine at every named point in both homes, breaks its network, freezes it, and
# prints a table of what was lost or done twice. Called by `make faults`. From the environment: KEYLOOM_FAULT_KILLS (300),
# KEYLOOM_FAULT_SEED (1), and KEYLOOM_FAULT_SCENARIO, which runs one scenario alone.
set -euo pipefail
cd "$(dirname "$0")/.."
cargo=${CARGO:-cargo}

# shellcheck source=/dev/null
source .tools/env.sh

# The scenarios start these.
"$cargo" build --locked --release --workspace --bins --examples
"$cargo" test --locked --release --package keyloom-tests --test faults -- --ignored --exact long --nocapture
