#!/usr/bin/env bash
# The demo: one engine with nothing beside it, live traffic, a progress line each second. See scripts/demo.py.
# DEMO_SECONDS=20 ends it by itself, DEMO_RATE=5000 sets the events per second.
set -euo pipefail
cd "$(dirname "$0")/.."
command -v python3 >/dev/null || { echo 'demo: needs python3 to show its progress' >&2; exit 1; }
exec python3 scripts/demo.py "${KEYLOOM_BIN:-target/release/keyloom}"
