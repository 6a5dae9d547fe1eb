"""What a client's script knows of its own deliveries: events sent and events that the client says are delivered. The last
line of its output is `{"sent": n}`; a failure, or an event that the client is silent about, ends it with 1."""

import json
import sys
import threading
import time

# How long a client may take to say what became of its events.
PATIENCE_SECONDS = 30

LOCK = threading.Lock()
COUNTS = {"sent": 0, "delivered": 0}
FAILURES = []


def sent(events=1):
    with LOCK:
        COUNTS["sent"] += events


def delivered(events):
    """To be hooked in as what a client calls with the events that arrived."""
    with LOCK:
        COUNTS["delivered"] += len(events)


def failed(why, *_):
    """To be hooked in as what a client calls when it gives up."""
    with LOCK:
        FAILURES.append(str(why))


def expect(condition, why):
    if not condition:
        failed(why)


def finish():
    """Waits until the client has said of every event what became of it, and ends the script."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not FAILURES and COUNTS["delivered"] < COUNTS["sent"] and time.monotonic() < deadline:
        time.sleep(0.01)
    print(json.dumps({"sent": COUNTS["sent"]}), flush=True)
    for failure in FAILURES:
        print(f"the client gave up: {failure}", file=sys.stderr)
    if COUNTS["delivered"] != COUNTS["sent"]:
        print(f"the client knows of {COUNTS['delivered']} deliveries of {COUNTS['sent']}", file=sys.stderr)
        sys.exit(1)
    sys.exit(1 if FAILURES else 0)
