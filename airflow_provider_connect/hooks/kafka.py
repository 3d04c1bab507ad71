"""KafkaHook: clients of Kafka from an Airflow connection."""

from __future__ import annotations

from typing import Any

from confluent_kafka import Consumer, Producer
from confluent_kafka.admin import AdminClient

from airflow_provider_connect.connectors.kafka.client import Cluster, common_properties
from airflow_provider_connect.connectors.kafka.config import KafkaConfig
from airflow_provider_connect.hooks.connector import ConnectorHook


class KafkaHook(ConnectorHook[KafkaConfig]):
    """confluent-kafka's clients, with brokers, encryption and account from the connection."""

    connector = "kafka"
    config_type = KafkaConfig
    conn_type = "connect_kafka"
    hook_name = "Connect: Kafka"
    default_conn_name = "connect_kafka_default"

    def get_conn(self) -> AdminClient:
        """A client for topics, groups and the cluster. Keep it while you wait for its futures."""
        return Cluster(self.config()).admin

    def consumer(self, group: str, **properties: Any) -> Consumer:
        """A consumer of a group, which commits only what you commit. More properties have `_` for `.`."""
        own = {"group.id": group, "enable.auto.commit": False, "isolation.level": "read_committed"}
        return Consumer({**self._properties(), **own, **_dotted(properties)})

    def producer(self, **properties: Any) -> Producer:
        """An idempotent producer. More properties have `_` for `.`."""
        return Producer({**self._properties(), "enable.idempotence": True, **_dotted(properties)})

    def check(self) -> str:
        """Ask the brokers who they are."""
        config = self.config()
        return f"Kafka cluster {Cluster(config).cluster_id()} at {', '.join(config.brokers)}"

    def _properties(self) -> dict[str, Any]:
        return common_properties(self.config())


def _dotted(properties: dict[str, Any]) -> dict[str, Any]:
    return {name.replace("_", "."): value for name, value in properties.items()}
