"""KafkaSink: writes a topic with an idempotent producer, at least once."""

from __future__ import annotations

import logging
from typing import Any

from confluent_kafka import KafkaException
from confluent_kafka.admin import NewTopic  # type: ignore[attr-defined]

from airflow_provider_connect.connectors.kafka.client import Cluster
from airflow_provider_connect.connectors.kafka.config import KafkaSinkConfig
from airflow_provider_connect.connectors.kafka.errors import E, classified
from airflow_provider_connect.connectors.kafka.limits import TopicLimits
from airflow_provider_connect.connectors.kafka.writer import Writer
from airflow_provider_connect.engine.batch import Batch
from airflow_provider_connect.engine.codec import Codec
from airflow_provider_connect.engine.config import SinkConfig
from airflow_provider_connect.engine.connector import Sink, SinkContext
from airflow_provider_connect.engine.errors import ConnectError, Fatal

log = logging.getLogger(__name__)

_CREATE_SECONDS = 10.0


def prepare_topic(cluster: Cluster, config: KafkaSinkConfig) -> TopicLimits:
    """What the target topic takes. Created if the configuration asks for it; Fatal if it is not there."""
    if not cluster.exists(config.topic):
        if not config.create_topic:
            raise Fatal(
                f"there is no topic '{config.topic}' at {', '.join(config.brokers)}; "
                "create it, or set `createTopic: true`"
            )
        created = cluster.admin.create_topics([NewTopic(config.topic, -1, -1)], request_timeout=_CREATE_SECONDS)
        try:
            created[config.topic].result(_CREATE_SECONDS)
        except KafkaException as error:
            if error.args[0].code() != E.TOPIC_ALREADY_EXISTS:
                raise
    return TopicLimits.of(cluster.topic_settings(config.topic))


def check_topic(config: KafkaSinkConfig) -> str:
    """Ask whether the topic is there; one line on what answered."""
    cluster = Cluster(config)
    where = f"Kafka at {', '.join(config.brokers)} answers"
    if cluster.exists(config.topic):
        count = len(cluster.partitions(config.topic))
        return (
            f"{where}; topic '{config.topic}' has {count} partition{'s' if count != 1 else ''}{config.check_registry()}"
        )
    if config.create_topic:
        return f"{where}; topic '{config.topic}' will be created{config.check_registry()}"
    raise Fatal(f"{where}, but there is no topic '{config.topic}'; create it, or set `createTopic: true`")


def accepted(config: KafkaSinkConfig) -> tuple[str, ...]:
    """The formats that a sink of this configuration takes."""
    return ("json", "bytes") if config.format == "json" else (config.encoding,)


def codec_of(config: KafkaSinkConfig, encoding: str) -> Codec | None:
    """The codec of a format that needs a schema; None for others."""
    return config.codec(config.topic) if config.format != "json" and encoding == config.encoding else None


class KafkaSink(Sink[KafkaSinkConfig]):
    """Writes envelope rows: key, value, headers and timestamp stay; the partition follows from the key as in Java."""

    config_type = KafkaSinkConfig

    def __init__(self, config: KafkaSinkConfig) -> None:
        super().__init__(config)
        self._writer: Writer | None = None

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
        """The configured format; beside JSON documents also bytes of any kind."""
        return accepted(self.config)

    def codec(self, encoding: str) -> Codec | None:
        """The codec of a format that needs a schema."""
        return codec_of(self.config, encoding)

    def open(self, context: SinkContext) -> None:
        """Look at the topic and make the producer."""
        self.close()
        self._writer = Writer(self.config, prepare_topic(Cluster(self.config), self.config))

    def write(self, batch: Batch) -> None:
        """Queue the rows; librdkafka sends them."""
        self._open_writer().write(batch.rows)

    def flush(self) -> None:
        """Wait until all replicas in sync have the rows."""
        self._open_writer().flush()

    def check(self) -> str:
        """Ask for the topic."""
        return check_topic(self.config)

    def close(self) -> None:
        """Free the producer; what is not flushed is thrown away."""
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.close()

    def _open_writer(self) -> Writer:
        if self._writer is None:
            raise RuntimeError("the sink is not open")
        return self._writer
