"""An Iceberg table to a typed table: read as Arrow, write CSV by Arrow, COPY it."""

import argparse
import io
from functools import partial
from typing import Any

import psycopg
import pyarrow as pa
import pyarrow.csv
from psycopg import sql
from pyiceberg.catalog import load_catalog

from tests.benchmarks.raw import lanes


def lane(index: int, count: int, *, dsn: str, table: str, catalog: dict[str, Any], target: str) -> int:
    source = load_catalog("raw", **catalog).load_table(table)
    rows = 0
    writing = pa.csv.WriteOptions(include_header=False)
    statement = sql.SQL("COPY {} FROM STDIN (FORMAT csv)").format(sql.Identifier(target))
    with psycopg.connect(dsn) as connection, connection.cursor() as cursor, cursor.copy(statement) as copy:
        for batch in source.scan().to_arrow_batch_reader():
            buffer = io.BytesIO()
            pa.csv.write_csv(batch, buffer, writing)
            copy.write(buffer.getvalue())
            rows += batch.num_rows
    return rows


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    for name in ("--dsn", "--table", "--target"):
        parser.add_argument(name, required=True)
    parser.add_argument("--catalog", nargs="+", required=True)
    arguments = vars(parser.parse_args())
    arguments["catalog"] = dict(pair.split("=", 1) for pair in arguments["catalog"])
    lanes.run(partial(lane, **arguments), 1)
