"""Iceberg tables in any catalog that pyiceberg knows: REST, SQL, Glue, Hive, DynamoDB."""

from airflow_provider_connect.connectors.iceberg.config import IcebergConfig, IcebergSinkConfig, IcebergSourceConfig
from airflow_provider_connect.connectors.iceberg.sink import IcebergSink
from airflow_provider_connect.connectors.iceberg.source import IcebergSource

source = IcebergSource
sink = IcebergSink

__all__ = [
    "IcebergConfig",
    "IcebergSink",
    "IcebergSinkConfig",
    "IcebergSource",
    "IcebergSourceConfig",
    "sink",
    "source",
]
