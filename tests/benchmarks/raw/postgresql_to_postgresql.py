"""A typed table to another: the bytes of COPY TO STDOUT go into COPY FROM STDIN unread."""

import argparse
from functools import partial

import psycopg
from psycopg import sql

from tests.benchmarks.raw import lanes
from tests.benchmarks.raw.copying import copied_rows, id_range


def lane(index: int, count: int, *, dsn: str, table: str, target: str, binary: bool) -> int:
    options = sql.SQL("(FORMAT binary)" if binary else "")
    with psycopg.connect(dsn) as source, psycopg.connect(dsn) as sink:
        low, high = id_range(source, table, index, count)
        read = sql.SQL("COPY (SELECT * FROM {} WHERE id >= {} AND id < {}) TO STDOUT {}").format(
            sql.Identifier(table), low, high, options
        )
        write = sql.SQL("COPY {} FROM STDIN {}").format(sql.Identifier(target), options)
        with sink.cursor() as cursor:
            with cursor.copy(write) as copy:
                block = bytearray()
                for row in copied_rows(source, read.as_string(source)):
                    block += row
                    if len(block) > 131_072:
                        copy.write(block)
                        block = bytearray()
                copy.write(block)
            return cursor.rowcount


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    for name in ("--dsn", "--table", "--target"):
        parser.add_argument(name, required=True)
    parser.add_argument("--lanes", type=int, default=2)
    parser.add_argument("--binary", action="store_true")
    parser.add_argument("--processes", action="store_true")
    arguments = vars(parser.parse_args())
    lane_count, processes = arguments.pop("lanes"), arguments.pop("processes")
    lanes.run(partial(lane, **arguments), lane_count, processes)
