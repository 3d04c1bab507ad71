"""Where the demonstration's Kafka comes from: a real one if Java and Maven are here, else librdkafka's mock cluster."""

import os
import re
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from confluent_kafka.admin import AdminClient, NewTopic

from demo import kafka_mock
from tests.services.kafka_server import KafkaServer
from tests.services.process import ServerProcess, Unavailable

TOPIC = "orders"


@dataclass(frozen=True)
class Kafka:
    """A running Kafka with the topic of the orders."""

    bootstrap_servers: str
    kind: str


@contextmanager
def running_kafka() -> Iterator[Kafka]:
    """A Kafka that ends with the block, or with this process."""
    if shutil.which("java") and shutil.which("mvn") and os.environ.get("DEMO_KAFKA") != "mock":
        try:
            server = KafkaServer()
        except Unavailable:
            pass
        else:
            try:
                admin = AdminClient({"bootstrap.servers": server.bootstrap_servers})
                admin.create_topics([NewTopic(TOPIC, kafka_mock.PARTITIONS, 1)])[TOPIC].result(30)
                yield Kafka(server.bootstrap_servers, "Apache Kafka")
            finally:
                server.close()
            return
    process = ServerProcess("kafka-mock")
    try:
        process.start([sys.executable, Path(kafka_mock.__file__)])
        process.wait_until(lambda: process.has_logged(kafka_mock.MARK), timeout=30)
        found = re.search(rf"{re.escape(kafka_mock.MARK)}(\S+)", process.log.read_text())
        assert found is not None
        yield Kafka(found[1], "librdkafka's mock cluster")
    finally:
        process.close()
