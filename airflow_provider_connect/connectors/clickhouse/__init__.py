"""clickhouse: reads tables and queries incrementally; writes whole flushes under a token, effectively once."""

from airflow_provider_connect.connectors.clickhouse.config import ClickHouseSinkConfig, ClickHouseSourceConfig
from airflow_provider_connect.connectors.clickhouse.sink import ClickHouseSink
from airflow_provider_connect.connectors.clickhouse.source import ClickHouseSource

source = ClickHouseSource
sink = ClickHouseSink

__all__ = ["ClickHouseSink", "ClickHouseSinkConfig", "ClickHouseSource", "ClickHouseSourceConfig", "sink", "source"]
