"""Kafka to one varchar column: consume, join values into one literal as long as a statement may be, INSERT them."""

import argparse
from functools import partial

import requests
from confluent_kafka import OFFSET_BEGINNING, Consumer, TopicPartition

from tests.benchmarks.raw import lanes

LENGTH = 999_000
"""Characters that the server takes in a statement, less what is not values."""


def lane(index: int, count: int, *, bootstrap: str, topic: str, url: str, table: str) -> int:
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
    session = requests.Session()
    session.headers["X-Trino-User"] = "raw"
    records = length = 0
    values: list[bytes] = []
    while left > 0:
        messages = consumer.consume(min(1_000, left), 1.0)  # it waits for as many as it was asked for
        for message in messages:
            value = message.value().replace(b"'", b"''")
            if length + len(value) + 1 > LENGTH:
                _insert(session, url, table, values)
                values, length = [], 0
            values.append(value)
            length += len(value) + 1
        left -= len(messages)
        records += len(messages)
    _insert(session, url, table, values)
    consumer.close()
    return records


def _insert(session: requests.Session, url: str, table: str, values: list[bytes]) -> None:
    """Values of JSON on one line hold no control characters."""
    if not values:
        return
    rows = b"UNNEST(split('" + b"\x1f".join(values) + b"', '\x1f'))"
    statement = f"INSERT INTO {table} (data) SELECT data FROM ".encode() + rows + b" AS t(data)"
    answer = session.post(f"{url}/v1/statement", data=statement).json()
    while "nextUri" in answer:
        answer = session.get(answer["nextUri"]).json()
    if "error" in answer:
        raise RuntimeError(answer["error"]["message"])


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    for name in ("--bootstrap", "--topic", "--url", "--table"):
        parser.add_argument(name, required=True)
    parser.add_argument("--lanes", type=int, default=1)
    arguments = vars(parser.parse_args())
    lane_count = arguments.pop("lanes")
    lanes.run(partial(lane, **arguments), lane_count)
