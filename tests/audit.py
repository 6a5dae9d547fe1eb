"""Counts what an engine lost or did twice, after faults, with nothing of the engine's own code.

Takes the ledger of the senders (JSON lines: every event answered 2xx, those of one key in the order in which they were
sent), reads the table with pyarrow and the features and numbers over HTTP, and prints one JSON line of counts; the first
few findings in words on standard error. The verdict is the caller's. What the features must be is oracle.py's to say.
"""

import argparse
import collections
import http.client
import json
import time
import urllib.parse

import pyarrow.parquet

import oracle

# Features are published a moment after their events are applied: seconds until they must agree.
FEATURES_MAX = 15
PAUSE = 0.2


def ask(base, path):
    address = urllib.parse.urlsplit(base)
    connection = http.client.HTTPConnection(address.hostname, address.port, timeout=oracle.REQUEST_MAX)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def read_rows(options, found):
    """(partition, sequence) -> (key, event id), and the number of rows and files."""
    files, paths = oracle.table_files(options)
    rows, total, twice = {}, 0, 0
    for path in paths:
        named = oracle.HIVE.search(path)
        if not named:
            found.add(f"{path}: not a name of a table file")
            continue
        partition, first, last = map(int, named.groups()[4:])
        with files.open_input_file(path) as source:
            table = pyarrow.parquet.ParquetFile(source).read(columns=["seq", "partition_id", "key", "event_id"])
        for seq, partition_id, key, event_id in zip(*(column.to_pylist() for column in table.columns)):
            total += 1
            if not (partition_id == partition and first <= seq <= last):
                found.add(f"{path}: holds sequence {seq} of partition {partition_id}")
            if (partition_id, seq) in rows:
                twice += 1
                found.add(f"{path}: sequence {seq} of partition {partition_id} is in the table twice")
            rows[partition_id, seq] = (key, event_id)
    return rows, total, twice, len(paths)


def check_rows(options, places, status, found):
    rows, total, twice, files = read_rows(options, found)
    counts = {"rows": total, "files": files, "duplicate_rows": twice, "missing_rows": 0, "conservation": 0}
    firsts, poisoned, foreign, inversions, reached = collections.Counter(), collections.Counter(), 0, 0, {}
    seen = set()
    for (partition, seq), (key, event_id) in sorted(rows.items()):
        place = places.get((key, event_id))
        if place is None:
            foreign += 1
            found.add(f"sequence {seq} of partition {partition}: event {event_id} of {key} was never answered 2xx")
            continue
        if (key, event_id) in seen:
            continue  # a repeat that the log could not absorb: a record of its own, and a row of its own
        seen.add((key, event_id))
        firsts[partition] += 1
        poisoned[partition] += key == options.poisoned
        if place < reached.get(key, -1):
            inversions += 1
            found.add(f"sequence {seq} of partition {partition}: event {event_id} comes after a later one of its key")
        reached[key] = max(place, reached.get(key, -1))
    lost = places.keys() - seen
    for key, event_id in sorted(lost)[: oracle.SHOWN]:
        found.add(f"event {event_id} of {key} was answered 2xx and is not in the table")
    counts.update(foreign_rows=foreign, inversions=inversions, lost=len(lost), log_records=0, applied_twice=0)
    for partition in status["partitions"]:
        number, last = partition["partition"], partition["log_last"]
        here = {seq for (p, seq) in rows if p == number}
        missing = set(range(1, last + 1)) - here
        for seq in sorted(missing)[: oracle.SHOWN]:
            found.add(f"sequence {seq} of partition {number} is not in the table")
        beyond = {seq for seq in here if seq > last}
        if beyond:
            found.add(f"partition {number}: rows beyond the log's end {last}: {sorted(beyond)[:3]}")
        counts["missing_rows"] += len(missing)
        counts["foreign_rows"] += len(beyond)
        counts["log_records"] += last
        ends = {name: partition[name] for name in ("applied", "duplicate", "dead_lettered", "dropped")}
        wanted = {
            "applied": firsts[number] - poisoned[number],
            "duplicate": last - firsts[number],
            "dead_lettered": poisoned[number],
            "dropped": 0,
        }
        if sum(ends.values()) != last or ends != wanted:
            counts["conservation"] += 1
            found.add(f"partition {number}: log has {last} records, they ended as {ends}, expected {wanted}")
        counts["applied_twice"] += ends["applied"]
    # By the ledger, not by the rows: those may be what is missing.
    once = sum(key != options.poisoned for key, _ in places)
    counts["applied_twice"] = max(0, counts["applied_twice"] - once)
    return counts


def check_counts(base, users, differences):
    """For a handler of which only the number of events is known."""
    for key, user in users.items():
        status, body = ask(base, f"/v1/features/{urllib.parse.quote(key, safe='')}")
        shown = json.loads(body)["features"].get("event_count") if status == 200 else None
        differences.expect(f"user {key}: event_count", shown, user.count)


def check_features(base, users, check):
    """Features that stay wrong, and how many events they show too many or too few."""
    deadline = time.monotonic() + FEATURES_MAX
    while True:
        differences = oracle.Differences()
        check(base, users, differences)
        if not differences.count or time.monotonic() > deadline:
            break
        time.sleep(PAUSE)
    more = fewer = 0
    if differences.count:
        for key, user in users.items():
            status, body = ask(base, f"/v1/features/{urllib.parse.quote(key, safe='')}")
            shown = json.loads(body)["features"].get("event_count", 0) if status == 200 else 0
            more, fewer = more + max(0, shown - user.count), fewer + max(0, user.count - shown)
    return differences, {"wrong_features": differences.count, "counted_twice": more, "not_counted": fewer}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--input", action="append", required=True, help="a file of the ledger; may be given again")
    parser.add_argument("--engine", required=True, help="where the engine is, http://HOST:PORT")
    parser.add_argument("--poisoned", help="the user whose events must all be dead letters")
    parser.add_argument("--counts-only", action="store_true", help="of features, only event_count is known")
    oracle.add_lake_arguments(parser)
    options = parser.parse_args()

    users, ids, repeats, anonymous = oracle.read_input(options.input)
    if repeats or anonymous:
        raise ValueError(f"the ledger has {repeats} repeats and {anonymous} events without an id")
    places, number = {}, collections.Counter()
    for path in options.input:
        with open(path, "rb") as lines:
            for line in lines:
                event = json.loads(line)
                key = event["domain_userid"]
                places[key, event["event_id"]] = number[key]
                number[key] += 1
    found = oracle.Differences()
    status = json.loads(ask(options.engine, "/api/status")[1])
    result = {"events": len(ids)} | check_rows(options, places, status, found)
    users.pop(options.poisoned, None)
    check = check_counts if options.counts_only else oracle.check_features
    features, counts = check_features(options.engine, users, check)
    oracle.report(result | counts, found.shown + features.shown)


if __name__ == "__main__":
    oracle.run("audit", main)
