"""A typed table to an Iceberg table: COPY as CSV, read by Arrow's parser in blocks, append them."""

import argparse
import io
from functools import partial
from typing import Any

import psycopg
import pyarrow as pa
import pyarrow.csv
from psycopg import sql
from pyiceberg.catalog import load_catalog
from pyiceberg.io.pyarrow import schema_to_pyarrow

from tests.benchmarks.raw import lanes
from tests.benchmarks.raw.copying import copied_rows, id_range


def lane(index: int, count: int, *, dsn: str, table: str, catalog: dict[str, Any], target: str, block: int) -> int:
    into = load_catalog("raw", **catalog).load_table(target)
    schema = schema_to_pyarrow(into.schema(), include_field_ids=False)
    reading = pa.csv.ReadOptions(column_names=schema.names)
    converting = pa.csv.ConvertOptions(
        column_types=schema, true_values=["t"], false_values=["f"], strings_can_be_null=True
    )
    rows = 0
    with psycopg.connect(dsn) as source:
        source.execute("SET timezone = 'UTC'")
        low, high = id_range(source, table, index, count)
        read = sql.SQL("COPY (SELECT * FROM {} WHERE id >= {} AND id < {}) TO STDOUT (FORMAT csv)").format(
            sql.Identifier(table), low, high
        )
        lines: list[bytes] = []

        def append() -> int:
            buffer = io.BytesIO(b"".join(lines))
            parsed = pa.csv.read_csv(buffer, reading, None, converting)
            into.append(parsed)
            return parsed.num_rows

        for row in copied_rows(source, read.as_string(source)):
            lines.append(bytes(row))
            if len(lines) >= block:
                rows += append()
                lines = []
        return rows + (append() if lines else 0)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    for name in ("--dsn", "--table", "--target"):
        parser.add_argument(name, required=True)
    parser.add_argument("--catalog", nargs="+", required=True)
    parser.add_argument("--lanes", type=int, default=1)
    parser.add_argument("--block", type=int, default=50_000)
    arguments = vars(parser.parse_args())
    arguments["catalog"] = dict(pair.split("=", 1) for pair in arguments["catalog"])
    lane_count = arguments.pop("lanes")
    lanes.run(partial(lane, **arguments), lane_count)
