"""Kafka with Avro to typed columns: consume, decode with fastavro, COPY as text; one transaction per lane."""

import argparse
import io
import json
import urllib.request
from functools import partial
from operator import itemgetter
from typing import Any

import fastavro
import psycopg
from confluent_kafka import OFFSET_BEGINNING, Consumer, TopicPartition
from psycopg import sql

from tests.benchmarks.raw import lanes

COLUMNS = ("id", "customer", "product", "quantity", "price", "paid", "created_at", "note")
ESCAPES = str.maketrans({"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r"})


def lane(index: int, count: int, *, bootstrap: str, topic: str, registry: str, dsn: str, table: str, block: int) -> int:
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
    records, schemas = 0, {}
    statement = sql.SQL("COPY {} FROM STDIN").format(sql.Identifier(table))
    fields = itemgetter(*COLUMNS)
    with psycopg.connect(dsn) as connection, connection.cursor().copy(statement) as copy:
        while left > 0:
            messages = consumer.consume(min(block, left), 1.0)  # it waits for as many as it was asked for
            rows = []
            for message in messages:
                value = message.value()
                schema_id = value[1:5]
                if schema_id not in schemas:
                    schemas[schema_id] = asked(registry, int.from_bytes(schema_id, "big"))
                rows.append(text(fields(fastavro.schemaless_reader(io.BytesIO(value[5:]), schemas[schema_id]))))
            copy.write("".join(rows))
            records += len(rows)
            left -= len(rows)
    consumer.close()
    return records


def text(row: tuple[Any, ...]) -> str:
    number, customer, product, quantity, price, paid, created_at, note = row
    told = "\\N" if note is None else note.translate(ESCAPES)
    who, what = customer.translate(ESCAPES), product.translate(ESCAPES)
    return f"{number}\t{who}\t{what}\t{quantity}\t{price!r}\t{paid}\t{created_at}\t{told}\n"


def asked(registry: str, schema_id: int) -> Any:
    with urllib.request.urlopen(f"{registry}/schemas/ids/{schema_id}", timeout=10) as answer:
        return fastavro.parse_schema(json.loads(json.load(answer)["schema"]))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    for name in ("--bootstrap", "--topic", "--registry", "--dsn", "--table"):
        parser.add_argument(name, required=True)
    parser.add_argument("--lanes", type=int, default=2)
    parser.add_argument("--block", type=int, default=5_000)
    parser.add_argument("--processes", action="store_true")
    arguments = vars(parser.parse_args())
    lane_count, processes = arguments.pop("lanes"), arguments.pop("processes")
    lanes.run(partial(lane, **arguments), lane_count, processes)
