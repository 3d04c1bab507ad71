"""ClickHouseHook: clients of ClickHouse from an Airflow connection."""

from __future__ import annotations

from typing import ClassVar

from airflow_provider_connect.connectors.clickhouse.client import Client, connect, describe_server
from airflow_provider_connect.connectors.clickhouse.config import ClickHouseConfig
from airflow_provider_connect.hooks.connector import ConnectorHook


class ClickHouseHook(ConnectorHook[ClickHouseConfig]):
    """A client of the server, over HTTP or the native protocol, as the connector itself opens it."""

    connector = "clickhouse"
    config_type = ClickHouseConfig
    relabeling: ClassVar[dict[str, str]] = {"schema": "Database"}
    conn_type = "connect_clickhouse"
    hook_name = "Connect: ClickHouse"
    default_conn_name = "connect_clickhouse_default"

    def get_conn(self) -> Client:
        """A connected client (`client.query("SELECT 1")` gives rows); the caller closes it."""
        config = self.config()
        return connect(config.access, config.settings, config.ca)

    def check(self) -> str:
        """Ask the server who it is."""
        config = self.config()
        return describe_server(config.access, config.ca)
