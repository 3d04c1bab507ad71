"""COPY out of PostgreSQL as fast as psycopg can: libpq's own loop, without a generator step per row."""

from collections.abc import Iterator

import psycopg
from psycopg import pq, sql


def copied_rows(connection: psycopg.Connection, statement: str) -> Iterator[memoryview]:
    """What the server sends for a COPY TO STDOUT, one row each; blocks in libpq while nothing comes."""
    raw = connection.pgconn
    result = raw.exec_(statement.encode())
    if result.status != pq.ExecStatus.COPY_OUT:
        raise RuntimeError(result.error_message.decode())
    read = raw.get_copy_data
    size, row = read(0)
    while size > 0:
        yield row
        size, row = read(0)
    if raw.get_result().status != pq.ExecStatus.COMMAND_OK:
        raise RuntimeError(raw.error_message.decode())
    raw.get_result()


def id_range(connection: psycopg.Connection, table: str, index: int, count: int) -> tuple[int, int]:
    """The part of the table's ids that falls to lane `index` of `count`: from the first to before the second."""
    row = connection.execute(sql.SQL("SELECT min(id), max(id) + 1 FROM {}").format(sql.Identifier(table))).fetchone()
    assert row is not None
    low, high = row
    size = high - low
    return low + size * index // count, low + size * (index + 1) // count
