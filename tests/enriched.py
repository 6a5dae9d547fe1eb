#!/usr/bin/env python3
"""Checks the table `enriched` of examples/enrichment.rs against the table `raw_events` of the same lake: goes through the
events in the order of the log and says, in its own words, what each row must be. Shares no code with the engine.

    enriched.py (--lake FOLDER | --s3-endpoint URL --bucket NAME [--prefix P]) [--gap SECONDS]

Prints {"events", "repeats", "rows", "files", "differences"} as JSON; exit 1 when there are differences.
"""
import argparse
import collections

import pyarrow.parquet

from oracle import Differences, add_lake_arguments, report, run, table_files

FIELDS = [
    "event", "page", "session", "event_of_session", "events_before", "purchases_before", "page_before", "seen_before",
]
# What a session remembers of the ids of its events.
RECENT_IDS = 64


def read_table(options, name):
    files, paths = table_files(options, name)
    rows = []
    for path in paths:
        with files.open_input_file(path) as source:
            rows.extend(pyarrow.parquet.ParquetFile(source).read().to_pylist())
    return rows, len(paths)


def main():
    parser = argparse.ArgumentParser()
    add_lake_arguments(parser)
    parser.add_argument("--gap", type=int, default=1800)
    options = parser.parse_args()
    events, _ = read_table(options, "raw_events")
    enriched, files = read_table(options, "enriched")
    differences = Differences()

    found = collections.defaultdict(list)
    for row in enriched:
        found[(row["partition_id"], row["seq"])].append(row)
    known = collections.defaultdict(lambda: {"ids": collections.deque(maxlen=RECENT_IDS), "n": 0, "bought": 0,
                                             "session": 0, "of_session": 0, "seen": None, "page": None})
    expected, repeats = 0, 0
    for event in sorted(events, key=lambda e: (e["partition_id"], e["seq"])):
        visitor = known[event["key"]]
        place = (event["partition_id"], event["seq"])
        if event["event_id"] in visitor["ids"]:
            repeats += 1
            continue
        visitor["ids"].append(event["event_id"])
        time = event["event_time"]
        if visitor["seen"] is None or (time - visitor["seen"]).total_seconds() > options.gap:
            visitor["session"] += 1
            visitor["of_session"] = 0
        visitor["of_session"] += 1
        wanted = dict(zip(FIELDS, [
            event["event"], event["page_url"], visitor["session"], visitor["of_session"], visitor["n"],
            visitor["bought"], visitor["page"], visitor["seen"],
        ]))
        wanted.update(key=event["key"], event_id=event["event_id"], event_time=time, row=0, extra=None)
        expected += 1
        rows = found.pop(place, [])
        if len(rows) != 1:
            differences.add(f"event {place}: {len(rows)} rows")
        for row in rows[:1]:
            for name, value in wanted.items():
                if row[name] != value:
                    differences.add(f"event {place}: {name} is {row[name]!r}, not {value!r}")
        visitor["n"] += 1
        visitor["bought"] += event["event"] == "purchase"
        visitor["page"] = event["page_url"] if event["page_url"] is not None else visitor["page"]
        visitor["seen"] = time if visitor["seen"] is None else max(visitor["seen"], time)
    for place in found:
        differences.add(f"event {place}: rows that it must not have")

    result = {"events": len(events), "repeats": repeats, "rows": len(enriched), "files": files}
    report({**result, "differences": differences.count}, differences.shown)
    return 1 if differences.count else 0


if __name__ == "__main__":
    run("enriched", main)
