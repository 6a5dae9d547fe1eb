"""Counts what a table holds: rows, and different records of the log among them. One JSON line; the verdict is the caller's."""

import argparse
import json

import pyarrow.parquet

import oracle


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--lake", help="the folder of the lake")
    parser.add_argument("--s3-endpoint", help="instead: an S3 server; credentials as the AWS tools take them")
    parser.add_argument("--bucket", default="lake")
    parser.add_argument("--prefix", default="")
    parser.add_argument("--table", default="raw_events")
    options = parser.parse_args()
    files, paths = oracle.table_files(options)
    rows, records = 0, set()
    for path in paths:
        with files.open_input_file(path) as source:
            table = pyarrow.parquet.ParquetFile(source).read(columns=["partition_id", "seq"])
        rows += table.num_rows
        records.update(zip(*(column.to_pylist() for column in table.columns)))
    print(json.dumps({"rows": rows, "records": len(records), "files": len(paths)}))


if __name__ == "__main__":
    main()
