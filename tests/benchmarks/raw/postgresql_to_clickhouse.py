"""A typed table to ClickHouse: the text of COPY TO STDOUT is what ClickHouse calls TabSeparated."""

import argparse
from functools import partial

import psycopg
from psycopg import sql

from tests.benchmarks.raw import lanes
from tests.benchmarks.raw.copying import copied_rows, id_range
from tests.benchmarks.raw.posting import BLOCK_ROWS, Poster


def lane(index: int, count: int, *, dsn: str, source: str, host: str, port: int, table: str) -> int:
    poster = Poster(host, port, f"INSERT INTO {table} FORMAT TabSeparated")
    records = 0
    with psycopg.connect(dsn) as connection:
        low, high = id_range(connection, source, index, count)
        statement = sql.SQL("COPY (SELECT * FROM {} WHERE id >= {} AND id < {}) TO STDOUT").format(
            sql.Identifier(source), low, high
        )
        rows: list[bytes] = []
        for row in copied_rows(connection, statement.as_string(connection)):
            rows.append(bytes(row))
            if len(rows) == BLOCK_ROWS:
                poster.post(b"".join(rows))
                records += len(rows)
                rows = []
        if rows:
            poster.post(b"".join(rows))
            records += len(rows)
    return records


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    for name in ("--dsn", "--source", "--host", "--table"):
        parser.add_argument(name, required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--lanes", type=int, default=2)
    arguments = vars(parser.parse_args())
    lane_count = arguments.pop("lanes")
    lanes.run(partial(lane, **arguments), lane_count)
