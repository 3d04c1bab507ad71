"""postgresql: reads tables and queries by COPY, incrementally; writes by COPY, exactly once."""

from airflow_provider_connect.connectors.postgresql.config import PostgreSQLSinkConfig, PostgreSQLSourceConfig
from airflow_provider_connect.connectors.postgresql.sink import PostgreSQLSink
from airflow_provider_connect.connectors.postgresql.source import PostgreSQLSource

source = PostgreSQLSource
sink = PostgreSQLSink

__all__ = ["PostgreSQLSink", "PostgreSQLSinkConfig", "PostgreSQLSource", "PostgreSQLSourceConfig", "sink", "source"]
