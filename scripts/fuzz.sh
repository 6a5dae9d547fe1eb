#!/usr/bin/env bash
# The long form of tests/fuzz.rs: hostile input for every decoder, until one breaks. Called by `make fuzz`. From the
# environment: KEYLOOM_FUZZ_INPUTS (10,000,000), KEYLOOM_FUZZ_SEED (1), and KEYLOOM_FUZZ_ONE, the seed of a single input that
# a run has named. A process that dies leaves the seeds that it was at in the temporary folder, as keyloom-fuzz-*.
set -euo pipefail
cd "$(dirname "$0")/.."
cargo=${CARGO:-cargo}

export KEYLOOM_FUZZ_INPUTS=${KEYLOOM_FUZZ_INPUTS:-10000000}
"$cargo" test --locked --release --package keyloom-tests --test fuzz -- --nocapture
