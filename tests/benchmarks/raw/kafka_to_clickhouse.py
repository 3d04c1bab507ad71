"""Kafka to ClickHouse: consume, join the values, post them as JSONEachRow, or as lines into one column."""

import argparse
from functools import partial

from confluent_kafka import OFFSET_BEGINNING, Consumer, TopicPartition

from tests.benchmarks.raw import lanes
from tests.benchmarks.raw.posting import BLOCK_ROWS, Poster

STATEMENTS = {
    "typed": "INSERT INTO {} FORMAT JSONEachRow",
    "documents": "INSERT INTO {} (data) FORMAT LineAsString",
}


def lane(index: int, count: int, *, bootstrap: str, topic: str, host: str, port: int, table: str, shape: str) -> int:
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
    poster = Poster(host, port, STATEMENTS[shape].format(table))
    records = 0
    values: list[bytes] = []
    while left > 0:
        messages = consumer.consume(min(5_000, left), 1.0)
        values += [message.value() for message in messages]
        left -= len(messages)
        if len(values) >= BLOCK_ROWS or (values and left == 0):
            poster.post(b"\n".join(values) + b"\n")
            records += len(values)
            values = []
    consumer.close()
    return records


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    for name in ("--bootstrap", "--topic", "--host", "--table", "--shape"):
        parser.add_argument(name, required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--lanes", type=int, default=2)
    arguments = vars(parser.parse_args())
    lane_count = arguments.pop("lanes")
    lanes.run(partial(lane, **arguments), lane_count)
