"""A typed table to JSON documents: COPY row_to_json out, unescape a block of rows at once, produce without waiting."""

import argparse
from functools import partial

import psycopg
from confluent_kafka import Producer
from psycopg import sql

from tests.benchmarks.raw import lanes
from tests.benchmarks.raw.copying import copied_rows, id_range

PARTITIONS = 4


def lane(index: int, count: int, *, bootstrap: str, topic: str, dsn: str, table: str, acks: str, batch: bool) -> int:
    producer = Producer(
        {
            "bootstrap.servers": bootstrap,
            "acks": acks,
            "linger.ms": 20,
            "batch.size": 1_000_000,
            "batch.num.messages": 100_000,
            "queue.buffering.max.messages": 200_000,
            "queue.buffering.max.kbytes": 262_144,
            "delivery.report.only.error": True,
            "log_level": 4,  # it tells at its end that there were delivery reports to throw away
        }
    )
    records = 0
    with psycopg.connect(dsn) as connection:
        low, high = id_range(connection, table, index, count)
        statement = sql.SQL("COPY (SELECT row_to_json(t) FROM {} t WHERE id >= {} AND id < {}) TO STDOUT").format(
            sql.Identifier(table), low, high
        )
        values: list[bytes] = []
        for row in copied_rows(connection, statement.as_string(connection)):
            values.append(bytes(row)[:-1])
            if len(values) == 5_000:
                records += _produce(producer, topic, values, records, batch)
                values = []
        records += _produce(producer, topic, values, records, batch)
    if producer.flush(60):
        raise RuntimeError("not everything was delivered")
    return records


def _produce(producer: Producer, topic: str, values: list[bytes], sequence: int, batch: bool) -> int:
    joined = b"\n".join(values)
    if b"\\" in joined:
        values = joined.replace(b"\\\\", b"\\").split(b"\n")
    partition = sequence // 5_000 % PARTITIONS
    if batch:
        pending = [{"value": value} for value in values]
        while pending:
            try:
                producer.produce_batch(topic, pending, partition=partition)
            except BufferError:
                producer.poll(0.01)
            pending = [message for message in pending if "_error" in message]
            for message in pending:
                del message["_error"]
            producer.poll(0.01 if pending else 0)
        return len(values)
    produce = producer.produce
    for value in values:
        while True:
            try:
                produce(topic, value, None, partition)
                break
            except BufferError:
                producer.poll(0.01)
    producer.poll(0)
    return len(values)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    for name in ("--bootstrap", "--topic", "--dsn", "--table"):
        parser.add_argument(name, required=True)
    parser.add_argument("--lanes", type=int, default=2)
    parser.add_argument("--acks", default="1")
    parser.add_argument("--batch", action="store_true")
    parser.add_argument("--processes", action="store_true")
    arguments = vars(parser.parse_args())
    lane_count, processes = arguments.pop("lanes"), arguments.pop("processes")
    lanes.run(partial(lane, **arguments), lane_count, processes)
