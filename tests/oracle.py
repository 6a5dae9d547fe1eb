"""Checks what the engine answers and what it wrote against the input, with nothing of the engine's own code.

Reads the input (JSON lines, .gz or not), removes repeats of (domain_userid, event_id), and computes what each user's
features and the table raw_events must be. Prints one JSON line of results; exit 1 and the first differences if anything
differs, 2 if it could not look. Lines that are no event (no JSON object, no usable key) are left out: they enter no table.
"""

import argparse
import collections
import concurrent.futures
import datetime
import gzip
import http.client
import json
import os
import re
import sys
import threading
import urllib.parse

import pyarrow.fs
import pyarrow.parquet

# How many differences are shown.
SHOWN = 10
# Connections that ask for features at the same time, and seconds that one request may take.
THREADS = 8
REQUEST_MAX = 30
UTC = datetime.timezone.utc
EPOCH = datetime.datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = datetime.timedelta(microseconds=1)
HIVE = re.compile(r"year=(\d{4})/month=(\d\d)/day=(\d\d)/hour=(\d\d)/part-(\d+)-(\d+)-(\d+)\.parquet$")
KEY_BYTES_MAX = 512


class User:
    """What is expected of one user."""

    def __init__(self):
        self.count = 0
        self.types = collections.Counter()
        self.first = self.last = None
        self.page = (None, None)

    def add(self, event, time):
        self.count += 1
        self.types[event.get("event", "(none)")] += 1
        self.first = time if self.first is None else min(self.first, time)
        self.last = time if self.last is None else max(self.last, time)
        page = event.get("page_url")
        if page and (self.page[0] is None or time >= self.page[0]):
            self.page = (time, page)


def micros(text):
    time = datetime.datetime.fromisoformat(text.replace("Z", "+00:00"))
    return (time - EPOCH) // MICROSECOND


def usable_key(event):
    key = event.get("domain_userid") if isinstance(event, dict) else None
    return key if isinstance(key, str) and 0 < len(key.encode()) <= KEY_BYTES_MAX else None


def read_input(paths):
    """Users by key, the set of (key, event id), and how many lines repeated one."""
    users, ids, repeats, anonymous = collections.defaultdict(User), set(), 0, 0
    for path in paths:
        with (gzip.open if path.endswith(".gz") else open)(path, "rb") as lines:
            for line in lines:
                try:
                    event = json.loads(line)
                except ValueError:
                    continue
                key = usable_key(event)
                if key is None:
                    continue
                event_id = event.get("event_id")
                if not event_id:
                    anonymous += 1
                elif (key, event_id) in ids:
                    repeats += 1
                    continue
                else:
                    ids.add((key, event_id))
                users[key].add(event, micros(event["collector_tstamp"]))
    return users, ids, repeats, anonymous


class Differences:
    """The first few, and how many."""

    def __init__(self):
        self.count = 0
        self.shown = []
        self.lock = threading.Lock()

    def add(self, text):
        with self.lock:
            self.count += 1
            if len(self.shown) < SHOWN:
                self.shown.append(text)

    def expect(self, what, got, wanted):
        if got != wanted:
            self.add(f"{what}: {got!r}, expected {wanted!r}")


def report(result, shown):
    """One JSON line of results; the first differences in words on standard error."""
    print(json.dumps(result), flush=True)
    for text in shown:
        print(text, file=sys.stderr)


def run(name, main):
    """Ends with what `main` returns as the exit code, or with 2 if it could not look."""
    try:
        sys.exit(main())
    except Exception as error:  # whatever it is: not a finding, but no verdict either
        print(f"{name}: {type(error).__name__}: {error}", file=sys.stderr)
        sys.exit(2)


def check_features(base, users, differences):
    """Asks for every user, over a few connections that are kept."""
    address = urllib.parse.urlsplit(base)
    local = threading.local()

    def ask(key):
        path = f"/v1/features/{urllib.parse.quote(key, safe='')}"
        for last_try in (False, True):
            if not hasattr(local, "connection"):
                local.connection = http.client.HTTPConnection(address.hostname, address.port, timeout=REQUEST_MAX)
            try:
                local.connection.request("GET", path)
                answer = local.connection.getresponse()
                return answer.status, answer.read()
            except (OSError, http.client.HTTPException):
                local.connection.close()
                del local.connection
                if last_try:
                    raise

    def check(item):
        key, user = item
        status, body = ask(key)
        if status != 200:
            differences.add(f"user {key}: status {status}")
            return
        answer = json.loads(body)
        features = answer["features"]
        differences.expect(f"user {key}: key", answer["key"], key)
        differences.expect(f"user {key}: event_count", features.get("event_count"), user.count)
        differences.expect(f"user {key}: events_by_type", features.get("events_by_type"), dict(user.types))
        for name, wanted in (("first_seen", user.first), ("last_seen", user.last)):
            differences.expect(f"user {key}: {name}", micros(features[name]) if features.get(name) else None, wanted)
        differences.expect(f"user {key}: last_page", features.get("last_page"), user.page[1])

    with concurrent.futures.ThreadPoolExecutor(THREADS) as pool:
        for _ in pool.map(check, users.items()):
            pass
    return len(users)


def add_lake_arguments(parser):
    parser.add_argument("--lake", help="the folder of the lake")
    parser.add_argument("--s3-endpoint", help="instead: an S3 server; credentials as the AWS tools take them")
    parser.add_argument("--bucket", default="lake")
    parser.add_argument("--prefix", default="")


def table_files(options, table="raw_events"):
    if options.s3_endpoint:
        address = urllib.parse.urlsplit(options.s3_endpoint)
        files = pyarrow.fs.S3FileSystem(
            access_key=os.environ["AWS_ACCESS_KEY_ID"],
            secret_key=os.environ["AWS_SECRET_ACCESS_KEY"],
            endpoint_override=address.netloc,
            scheme=address.scheme,
            region=os.environ.get("AWS_REGION", "us-east-1"),
        )
        folder = "/".join(part for part in (options.bucket, options.prefix, table) if part)
    else:
        files = pyarrow.fs.LocalFileSystem()
        folder = os.path.join(options.lake, table)
    found = files.get_file_info(pyarrow.fs.FileSelector(folder, recursive=True, allow_not_found=True))
    return files, sorted(f.path for f in found if f.type == pyarrow.fs.FileType.File)


def check_lake(options, ids, anonymous, differences):
    """Every distinct event is one row, in the folder of its time, in a file whose name says its sequences."""
    files, paths = table_files(options)
    rows, seen, places = 0, set(), set()
    for path in paths:
        named = HIVE.search(path)
        if not named:
            differences.add(f"{path}: not a name of a table file")
            continue
        hour = datetime.datetime(*map(int, named.groups()[:4]), tzinfo=UTC)
        begin = (hour - EPOCH) // MICROSECOND
        partition, first, last = map(int, named.groups()[4:])
        columns = ["event_id", "key", "seq", "partition_id", "event_time"]
        with files.open_input_file(path) as source:
            table = pyarrow.parquet.ParquetFile(source).read(columns=columns)
        times = table.column("event_time").cast("int64").to_pylist()
        plain = [table.column(name).to_pylist() for name in columns[:4]]
        for event_id, key, seq, partition_id, time in zip(*plain, times):
            rows += 1
            if (partition_id, seq) in places:
                differences.add(f"{path}: sequence {seq} of partition {partition_id} is in the table twice")
            places.add((partition_id, seq))
            if not (partition_id == partition and first <= seq <= last):
                differences.add(f"{path}: holds sequence {seq} of partition {partition_id}")
            if not begin <= time < begin + 3_600_000_000:
                differences.add(f"{path}: event time {time} is not in that hour")
            if (key, event_id) in ids:
                seen.add((key, event_id))
            elif not anonymous:
                differences.add(f"{path}: event {event_id} of {key} is not in the input")
    for key, event_id in list(ids - seen)[:SHOWN]:
        differences.add(f"event {event_id} of {key} is not in the table")
    differences.expect("rows in the table", rows, len(ids) + anonymous)
    return rows, len(paths)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--input", action="append", required=True, help="a file of JSON lines; may be given again")
    parser.add_argument("--features", help="where the feature API is, http://HOST:PORT")
    add_lake_arguments(parser)
    options = parser.parse_args()

    users, ids, repeats, anonymous = read_input(options.input)
    differences = Differences()
    result = {"events": len(ids) + anonymous, "repeats": repeats, "users": len(users)}
    if options.features:
        result["users_checked"] = check_features(options.features, users, differences)
    if options.lake or options.s3_endpoint:
        result["rows"], result["files"] = check_lake(options, ids, anonymous, differences)
    result["differences"] = differences.count
    report(result, differences.shown)
    return 1 if differences.count else 0


if __name__ == "__main__":
    run("oracle", main)
