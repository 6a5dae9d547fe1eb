"""Prints the rows of raw_events as the events that clients sent: a JSON array in the order of the log, columns and `extra`
side by side, for comparison with a golden file. What differs from run to run is checked for its form here and replaced:

- ids that a client draws become `<uuid 1>`, `<uuid 2>`, in the order in which they appear, so that the same id is the same
  again; those that stand in the client's script stay as they are (--script);
- times near that of receiving become `<received>`, `<received - 5.65s>`; others stay as they are;
- versions of Node become `<version>`.

Columns that have no value are left out, and so is what the log adds (`seq`, `partition_id`, `stored_time`).
"""

import argparse
import datetime
import json
import pathlib
import re

import pyarrow.parquet

import oracle

UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)$")
# As the engine writes times: in UTC, with microseconds.
OWN_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z$")
OWN_TIMES = ("collector_tstamp", "dvce_created_tstamp", "dvce_sent_tstamp", "derived_tstamp", "true_tstamp")
LOG_ONLY = ("seq", "partition_id", "stored_time")
# What trackers say for nobody.
NIL_UUID = "00000000-0000-0000-0000-000000000000"
# How far from the time of receiving a time is said by its distance. A client's clock that is wrong is years away.
NEAR = datetime.timedelta(days=30)
# How long ago an event of this test may have been received.
RECENT = datetime.timedelta(minutes=10)


def rows(options):
    files, paths = oracle.table_files(options)
    found = []
    for path in paths:
        with files.open_input_file(path) as source:
            found.extend(pyarrow.parquet.ParquetFile(source).read().to_pylist())
    return sorted(found, key=lambda row: (row["partition_id"], row["seq"]))


def as_event(row):
    """Columns and what is in `extra`, side by side."""
    event = {}
    for name, value in row.items():
        if isinstance(value, datetime.datetime):
            event[name] = value.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        elif value is not None and name != "extra" and name not in LOG_ONLY:
            event[name] = value
    for name, value in json.loads(row["extra"] or "{}").items():
        if name in event:
            raise ValueError(f"{name} is a column and in extra")
        event[name] = value
    return {name: value for name, value in event.items() if name not in LOG_ONLY}


class Normal:
    """Replaces what differs from run to run."""

    def __init__(self, scripts):
        self.scripts = scripts
        self.uuids = {}
        self.received = None

    def event(self, event):
        received = datetime.datetime.fromisoformat(event["collector_tstamp"])
        now = datetime.datetime.now(datetime.timezone.utc)
        if not now - RECENT < received <= now:
            raise ValueError(f"received at {received}, and now it is {now}")
        for name in OWN_TIMES:
            if name in event and not OWN_TIME.match(event[name]):
                raise ValueError(f"{name} is {event[name]!r}: not UTC with microseconds")
        self.received = received
        return self.value(event)

    def value(self, value, name=None):
        if isinstance(value, dict):
            return {member: self.value(inner, member) for member, inner in value.items()}
        if isinstance(value, list):
            return [self.value(inner) for inner in value]
        if not isinstance(value, str):
            return value
        if name == "nodeVersion":
            return "<version>" if re.fullmatch(r"v?\d+\.\d+\.\d+", value) else value
        if TIME.match(value):
            return self.time(value)
        # Segment's ids for Node begin with the client's time, which is known.
        return UUID.sub(self.uuid, value)

    def uuid(self, match):
        found = match.group(0)
        if found == NIL_UUID or found in self.scripts:
            return found
        return f"<uuid {self.uuids.setdefault(found, len(self.uuids) + 1)}>"

    def time(self, text):
        distance = self.received - datetime.datetime.fromisoformat(text)
        if abs(distance) > NEAR:
            return text
        if not distance:
            return "<received>"
        seconds = abs(distance).total_seconds()
        return f"<received {'-' if distance > datetime.timedelta() else '+'} {seconds:.6f}".rstrip("0").rstrip(".") + "s>"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    oracle.add_lake_arguments(parser)
    parser.add_argument("--script", action="append", default=[], help="a client's script; may be given again")
    options = parser.parse_args()
    normal = Normal("".join(pathlib.Path(script).read_text() for script in options.script))
    print(json.dumps([normal.event(as_event(row)) for row in rows(options)], ensure_ascii=False))
    return 0


if __name__ == "__main__":
    oracle.run("client_rows", main)
