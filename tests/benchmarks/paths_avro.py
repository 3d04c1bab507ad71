"""The path from Kafka with Avro: records of a schema registry into a typed table."""

import contextlib
import io
import json
import os
from datetime import datetime
from typing import Any

import fastavro

from tests.benchmarks import dataset
from tests.benchmarks.paths import Path
from tests.services.schema_registry import SchemaRegistry
from tests.services.schema_registry_server import SchemaRegistryServer

SCHEMA = {
    "type": "record",
    "name": "Order",
    "fields": [
        {"name": "id", "type": "long"},
        {"name": "customer", "type": "string"},
        {"name": "product", "type": "string"},
        {"name": "quantity", "type": "int"},
        {"name": "price", "type": "double"},
        {"name": "paid", "type": "boolean"},
        {"name": "created_at", "type": {"type": "long", "logicalType": "timestamp-micros"}},
        {"name": "note", "type": ["null", "string"], "default": None},
    ],
}


class KafkaAvroToPostgreSQL(Path):
    """Avro records into typed columns."""

    name = "kafka-avro-postgresql"
    raw_variants = (("--lanes", "1"), ("--lanes", "2", "--processes"))

    def prepare(self) -> None:
        self._stack = contextlib.ExitStack()
        url = os.environ.get("CONNECT_TEST_SCHEMA_REGISTRY")
        if not url:
            url = self._stack.enter_context(contextlib.closing(SchemaRegistryServer())).url
        self._registry = SchemaRegistry(url)
        subject = self._registry.unique_name("bench")
        self._frame = b"\0" + self._registry.register(subject, SCHEMA).to_bytes(4, "big")
        self._parsed = fastavro.parse_schema(SCHEMA)
        self._topic = self.kafka.create_topic(dataset.PARTITIONS, name=self.kafka.unique_name("bench"))
        producer = self.kafka.producer(
            linger_ms=20, batch_size=1_000_000, queue_buffering_max_messages=200_000, acks="1"
        )
        for n, document in enumerate(dataset.documents(self.rows)):
            while True:
                try:
                    producer.produce(self._topic, self._encoded(document), partition=(n >> 8) % dataset.PARTITIONS)
                    break
                except BufferError:
                    producer.poll(0.05)
            if n & 1023 == 0:
                producer.poll(0)
        if producer.flush(120):
            raise RuntimeError(f"not all records reached {self._topic}")

    def _encoded(self, document: bytes) -> bytes:
        record = json.loads(document)
        record["created_at"] = datetime.fromisoformat(record["created_at"])
        out = io.BytesIO(self._frame)
        out.seek(len(self._frame))
        fastavro.schemaless_writer(out, self._parsed, record)
        return out.getvalue()

    def clean(self) -> None:
        dataset.drop_topic(self.kafka, self._topic)
        self._stack.close()

    def new_target(self) -> str:
        return self._new_table(None)

    def flow(self, target: str, lanes: int) -> dict[str, Any]:
        return {
            "parallelism": lanes,
            "source": {
                "type": "kafka",
                "kafka": {
                    "brokers": self.kafka.bootstrap_servers.split(","),
                    "topic": self._topic,
                    "consumerGroup": target,
                    "format": "avro",
                    "schemaRegistry": {"url": self._registry.url},
                },
            },
            "sink": {
                "type": "postgresql",
                "postgresql": {"connectionString": self.postgresql.dsn, "table": target, "batchSize": 50_000},
            },
        }

    def raw(self, target: str) -> list[str]:
        return [
            "tests.benchmarks.raw.kafka_avro_to_postgresql",
            *("--bootstrap", self.kafka.bootstrap_servers, "--topic", self._topic, "--registry", self._registry.url),
            *("--dsn", self.postgresql.dsn, "--table", target),
        ]

    def check(self, target: str) -> None:
        ((rows, distinct, odd),) = self.postgresql.execute(
            f"SELECT count(*), count(DISTINCT id), count(*) FILTER (WHERE note LIKE '%\"hello\" at C:\\\\door')"
            f" FROM {target}"
        )
        self._expect(target, rows=(rows, self.rows), distinct=(distinct, self.rows), odd=(odd, self.odd_notes))

    def drop(self, target: str) -> None:
        self._drop_table(target)


AVRO_PATHS = (KafkaAvroToPostgreSQL,)
