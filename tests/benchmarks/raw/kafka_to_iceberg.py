"""Kafka to an Iceberg table's one string column: consume, make an Arrow table of a block of values, append it."""

import argparse
from functools import partial
from typing import Any

import pyarrow as pa
from confluent_kafka import OFFSET_BEGINNING, Consumer, TopicPartition
from pyiceberg.catalog import load_catalog

from tests.benchmarks.raw import lanes


def lane(index: int, count: int, *, bootstrap: str, topic: str, catalog: dict[str, Any], table: str, block: int) -> int:
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
    target = load_catalog("raw", **catalog).load_table(table)
    records = 0
    values: list[bytes] = []
    while left > 0:
        messages = consumer.consume(min(5_000, left), 1.0)  # it waits for as many as it was asked for
        values += [message.value() for message in messages]
        left -= len(messages)
        records += len(messages)
        if len(values) >= block or left == 0:
            target.append(pa.table({"data": pa.array(values, pa.binary()).cast(pa.string())}))
            values = []
    consumer.close()
    return records


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    for name in ("--bootstrap", "--topic", "--table"):
        parser.add_argument(name, required=True)
    parser.add_argument("--catalog", nargs="+", required=True)
    parser.add_argument("--lanes", type=int, default=1)
    parser.add_argument("--block", type=int, default=50_000)
    arguments = vars(parser.parse_args())
    arguments["catalog"] = dict(pair.split("=", 1) for pair in arguments["catalog"])
    lane_count = arguments.pop("lanes")
    lanes.run(partial(lane, **arguments), lane_count)
