"""KafkaSink: writes a topic with an idempotent producer, at least once."""

from __future__ import annotations

from typing import Any

from airflow_provider_connect.connectors.kafka.addressed import Addressed
from airflow_provider_connect.connectors.kafka.client import Cluster
from airflow_provider_connect.connectors.kafka.config import KafkaSinkConfig
from airflow_provider_connect.connectors.kafka.errors import classified
from airflow_provider_connect.connectors.kafka.routing import Routing
from airflow_provider_connect.connectors.kafka.targets import Targets, check_targets
from airflow_provider_connect.connectors.kafka.writer import Writer
from airflow_provider_connect.engine.batch import Batch
from airflow_provider_connect.engine.codec import Codec
from airflow_provider_connect.engine.config import SinkConfig
from airflow_provider_connect.engine.connector import Sink, SinkContext
from airflow_provider_connect.engine.errors import ConnectError


class KafkaProducing(Sink[KafkaSinkConfig]):
    """What both sinks have in common: the configuration, the formats, and what an error means."""

    config_type = KafkaSinkConfig

    @classmethod
    def choose(cls, config: SinkConfig) -> type[Sink[Any]]:
        """By `guarantee`."""
        from airflow_provider_connect.connectors.kafka.transactional import KafkaTransactionalSink

        exactly = isinstance(config, KafkaSinkConfig) and config.guarantee == "exactly-once"
        return KafkaTransactionalSink if exactly else KafkaSink

    def classify(self, error: Exception) -> ConnectError:
        """librdkafka's errors by their code."""
        return classified(error)

    def accepts(self) -> tuple[str, ...]:
        """The configured format; beside JSON documents also bytes of any kind, unless their fields are needed."""
        by_fields = Routing(self.config).by_fields
        if self.config.format != "json":  # nothing passes whose fields are needed
            return (f"{self.config.encoding}#addressed" if by_fields else self.config.encoding,)
        return ("json",) if by_fields else ("json", "bytes")

    def codec(self, encoding: str) -> Codec | None:
        """The codec of a format that needs a schema; None for others."""
        if self.config.format == "json" or encoding not in self.accepts():
            return None
        routing = Routing(self.config)
        codec = self.config.codec(routing.topic or "record")
        return Addressed(codec, routing) if codec is not None and routing.by_fields else codec

    def check(self) -> str:
        """Ask for the topic."""
        return check_targets(self.config)


class KafkaSink(KafkaProducing):
    """Writes envelope rows: key, value, headers and timestamp stay; the partition follows from the key as in Java."""

    def __init__(self, config: KafkaSinkConfig) -> None:
        super().__init__(config)
        self._opened: tuple[Targets, Writer] | None = None

    def open(self, context: SinkContext) -> None:
        """Look at the topic and make the producer."""
        self.close()
        targets = Targets(Cluster(self.config), self.config)
        self._opened = targets, Writer(self.config, targets.largest)

    def write(self, batch: Batch) -> None:
        """Queue the rows; librdkafka sends them."""
        targets, writer = self._open()
        writer.write(targets.address(batch.rows))

    def flush(self) -> None:
        """Wait until all replicas in sync have the rows."""
        self._open()[1].flush()

    def close(self) -> None:
        """Free the producer; what is not flushed is thrown away."""
        opened, self._opened = self._opened, None
        if opened is not None:
            opened[1].close()

    def _open(self) -> tuple[Targets, Writer]:
        if self._opened is None:
            raise RuntimeError("the sink is not open")
        return self._opened
