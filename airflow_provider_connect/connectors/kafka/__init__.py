"""Kafka: topics as source and sink, with consumer groups and transactions."""

from airflow_provider_connect.connectors.kafka.sink import KafkaSink
from airflow_provider_connect.connectors.kafka.source import KafkaSource
from airflow_provider_connect.connectors.kafka.transactional import KafkaTransactionalSink

source = KafkaSource
sink = KafkaTransactionalSink

__all__ = ["KafkaSink", "KafkaSource", "KafkaTransactionalSink", "sink", "source"]
