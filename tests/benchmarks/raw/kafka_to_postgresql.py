"""Kafka to one JSONB column: consume, join and escape a block of values at once, COPY it; one transaction per lane."""

import argparse
from functools import partial

import psycopg
from confluent_kafka import OFFSET_BEGINNING, Consumer, TopicPartition
from psycopg import sql

from tests.benchmarks.raw import lanes


def lane(index: int, count: int, *, bootstrap: str, topic: str, dsn: str, table: str, block: int) -> int:
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": "raw",
            "enable.auto.commit": False,
            "enable.auto.offset.store": False,
            "check.crcs": False,
            "fetch.queue.backoff.ms": 10,
            "queued.min.messages": 100_000,
            "queued.max.messages.kbytes": 32_768,
            "fetch.message.max.bytes": 4_194_304,
        }
    )
    partitions = sorted(consumer.list_topics(topic).topics[topic].partitions)[index::count]
    left = 0
    for partition in partitions:
        low, high = consumer.get_watermark_offsets(TopicPartition(topic, partition))
        left += high - low
    consumer.assign([TopicPartition(topic, partition, OFFSET_BEGINNING) for partition in partitions])
    records = 0
    statement = sql.SQL("COPY {} (data) FROM STDIN").format(sql.Identifier(table))
    with psycopg.connect(dsn) as connection, connection.cursor().copy(statement) as copy:
        while left > 0:
            messages = consumer.consume(min(block, left), 1.0)  # it waits for as many as it was asked for
            values = [message.value() for message in messages]
            # JSON on one line holds no tab and no line break, so a backslash is all there is to escape.
            copy.write(b"\n".join(values).replace(b"\\", b"\\\\") + b"\n" if values else b"")
            records += len(values)
            left -= len(values)
    consumer.close()
    return records


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    for name in ("--bootstrap", "--topic", "--dsn", "--table"):
        parser.add_argument(name, required=True)
    parser.add_argument("--lanes", type=int, default=2)
    parser.add_argument("--block", type=int, default=5_000)
    parser.add_argument("--processes", action="store_true")
    arguments = vars(parser.parse_args())
    lane_count, processes = arguments.pop("lanes"), arguments.pop("processes")
    lanes.run(partial(lane, **arguments), lane_count, processes)
