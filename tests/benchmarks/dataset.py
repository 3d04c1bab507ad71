"""The data: orders of eight fields, about 200 bytes as JSON, the same on every run.

`id` runs from 0 to rows - 1. One record in 64 has quotes and a backslash in its note, so that a loop
that does not escape fails the count.
"""

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

from confluent_kafka import Producer
from psycopg import Connection, sql

from tests.services.kafka import Kafka
from tests.services.postgresql import PostgreSQL

PARTITIONS = 4
COLUMNS = {
    "id": "bigint",
    "customer": "text",
    "product": "text",
    "quantity": "integer",
    "price": "double precision",
    "paid": "boolean",
    "created_at": "timestamptz",
    "note": "text",
}
_NOTES = ("leave it with the neighbour", "ring twice, please", 'say "hello" at C:\\door', "second floor, on the left")
_START = datetime(2025, 1, 1, tzinfo=UTC)


def documents(rows: int, start: int = 0) -> Iterator[bytes]:
    """Records as JSON documents."""
    # All but the id repeats after 4096 records, so that making the data takes less time than moving it.
    tails = [_tail(n) for n in range(4096)]
    for n in range(start, start + rows):
        yield b'{"id":%d%b' % (n, tails[n & 4095])


def _tail(n: int) -> bytes:
    note = _NOTES[2] if n % 64 == 0 else _NOTES[n % 2]
    rest = {
        "customer": f"customer-{n * 7919 % 100_000:06d}",
        "product": f"{n * 104_729 % 1_000_000:06d}-{'chair' if n % 3 else 'table'}-oak",
        "quantity": n % 9 + 1,
        "price": round(1 + n * 37 % 9999 / 100, 2),
        "paid": n % 5 != 0,
        "created_at": (_START + timedelta(seconds=n, microseconds=123_456)).isoformat(),
        "note": note,
    }
    return b"," + json.dumps(rest, separators=(",", ":")).encode()[1:]


def fill_topic(kafka: Kafka, rows: int) -> str:
    """A new topic with so many records, dealt evenly over its partitions."""
    topic = kafka.create_topic(PARTITIONS, name=kafka.unique_name("bench"))
    producer: Producer = kafka.producer(
        linger_ms=20, batch_size=1_000_000, queue_buffering_max_messages=200_000, acks="1"
    )
    for n, document in enumerate(documents(rows)):
        while True:
            try:
                # In runs, as a producer with the sticky partitioner writes them.
                producer.produce(topic, document, partition=(n >> 8) % PARTITIONS)
                break
            except BufferError:
                producer.poll(0.05)
        if n & 1023 == 0:
            producer.poll(0)
    if producer.flush(120):
        raise RuntimeError(f"not all records reached {topic}")
    return topic


def drop_topic(kafka: Kafka, topic: str) -> None:
    """Remove a topic."""
    admin = kafka.admin()
    for deletion in admin.delete_topics([topic]).values():
        deletion.result(30)


def fill_table(postgresql: PostgreSQL, rows: int) -> str:
    """A new typed table with so many rows and a primary key."""
    table = postgresql.unique_name("bench")
    with postgresql.connect(autocommit=True) as connection:
        create_table(connection, table, key=True)
        connection.execute(
            sql.SQL(
                """INSERT INTO {table}
                SELECT n, 'customer-' || lpad((n * 7919 % 100000)::text, 6, '0'),
                       lpad((n * 104729 % 1000000)::text, 6, '0')
                           || CASE n % 3 WHEN 0 THEN '-table' ELSE '-chair' END || '-oak',
                       n % 9 + 1, 1 + n * 37 % 9999 / 100.0, n % 5 <> 0,
                       timestamptz '2025-01-01 00:00:00.123456+00' + n * interval '1 second',
                       CASE WHEN n % 64 = 0 THEN {odd} WHEN n % 2 = 0 THEN {even} ELSE {uneven} END
                FROM generate_series(0::bigint, {last}) n"""
            ).format(table=sql.Identifier(table), odd=_NOTES[2], even=_NOTES[0], uneven=_NOTES[1], last=rows - 1)
        )
        connection.execute(sql.SQL("VACUUM (ANALYZE, FREEZE) {}").format(sql.Identifier(table)))
    return table


def create_table(connection: Connection, table: str, *, key: bool = False) -> None:
    """An empty table for the records, one column per field."""
    columns = sql.SQL(", ").join(
        sql.SQL("{} {}").format(sql.Identifier(name), sql.SQL(kind)) for name, kind in COLUMNS.items()
    )
    primary = sql.SQL(", PRIMARY KEY (id)") if key else sql.SQL("")
    connection.execute(sql.SQL("CREATE TABLE {} ({}{})").format(sql.Identifier(table), columns, primary))
