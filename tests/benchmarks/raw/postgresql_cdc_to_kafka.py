"""Changes to JSON documents: a replication stream by libpq, inserts taken apart field by field, produce at once.

Nothing is confirmed, nothing is kept for going on, and only what inserts of this table hold is understood.
"""

import argparse
import contextlib
import json
import re

import psycopg
from confluent_kafka import Producer
from psycopg import pq

from tests.benchmarks.dataset import COLUMNS
from tests.benchmarks.raw import lanes

PARTITIONS = 4
_ODD = re.compile(rb'[\x00-\x1f"\\]').search


def _number(text: bytes) -> bytes:
    return text


def _text(text: bytes) -> bytes:
    return json.dumps(text.decode()).encode() if _ODD(text) else b'"%b"' % text


def _boolean(text: bytes) -> bytes:
    return b"true" if text == b"t" else b"false"


def _time(text: bytes) -> bytes:
    return b'"%b:00"' % text.replace(b" ", b"T")


_MAKERS = {
    "bigint": _number, "integer": _number, "double precision": _number,
    "text": _text, "boolean": _boolean, "timestamptz": _time,
}  # fmt: skip


def lane(index: int, count: int, *, bootstrap: str, topic: str, dsn: str, publication: str) -> int:
    fields = [(json.dumps(name).encode() + b":", _MAKERS[kind]) for name, kind in COLUMNS.items()]
    producer = Producer(
        {
            "bootstrap.servers": bootstrap,
            "acks": "1",
            "linger.ms": 20,
            "batch.size": 1_000_000,
            "batch.num.messages": 100_000,
            "queue.buffering.max.messages": 200_000,
            "queue.buffering.max.kbytes": 262_144,
            "delivery.report.only.error": True,
            "log_level": 4,
        }
    )
    records = 0
    produce = producer.produce
    connection = psycopg.connect(dsn, autocommit=True, replication="database", options="-c TimeZone=UTC")
    with contextlib.closing(connection):
        stream = connection.pgconn
        started = stream.exec_(
            f"START_REPLICATION SLOT {topic} LOGICAL 0/0"
            f" (proto_version '1', publication_names '{publication}')".encode()
        )
        assert started.status == pq.ExecStatus.COPY_BOTH, started.error_message
        while True:
            length, message = stream.get_copy_data(0)
            if length < 0 or (message[0] == 119 and message[25] == 67):  # the end, or the transaction's
                break
            if message[0] != 119 or message[25] != 73:
                continue
            row = bytes(message)
            at, parts = 33, []
            for name, make in fields:
                end = at + 5 + int.from_bytes(row[at + 1 : at + 5])
                parts.append(name + make(row[at + 5 : end]))
                at = end
            document = b"{" + b",".join(parts) + b"}"
            while True:
                try:
                    produce(topic, document, b'{"id":%b}' % parts[0][5:], records // 5_000 % PARTITIONS)
                    break
                except BufferError:
                    producer.poll(0.01)
            records += 1
            if not records & 1023:
                producer.poll(0)
    if producer.flush(60):
        raise RuntimeError("not everything was delivered")
    return records


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    for option in ("--bootstrap", "--topic", "--dsn", "--publication"):
        parser.add_argument(option, required=True)
    arguments = vars(parser.parse_args())
    lanes.run(lambda index, count: lane(index, count, **arguments), 1, False)
