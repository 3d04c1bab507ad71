"""trino: reads tables and queries page by page; writes by few large statements, into Iceberg effectively once."""

from airflow_provider_connect.connectors.trino.config import TrinoSinkConfig, TrinoSourceConfig
from airflow_provider_connect.connectors.trino.sink import TrinoIdempotentSink, TrinoSink
from airflow_provider_connect.connectors.trino.source import TrinoSource

source = TrinoSource
sink = TrinoSink

__all__ = [
    "TrinoIdempotentSink",
    "TrinoSink",
    "TrinoSinkConfig",
    "TrinoSource",
    "TrinoSourceConfig",
    "sink",
    "source",
]
