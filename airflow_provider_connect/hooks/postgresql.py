"""PostgreSQLHook: sessions of PostgreSQL from an Airflow connection."""

from __future__ import annotations

from typing import Any, ClassVar

import psycopg

from airflow_provider_connect.connectors._postgresql.client import connect, describe_server
from airflow_provider_connect.connectors._postgresql.config import PostgreSQLConfig
from airflow_provider_connect.hooks.connector import ConnectorHook


class PostgreSQLHook(ConnectorHook[PostgreSQLConfig]):
    """psycopg's connection, as the connector itself opens it."""

    connector = "postgresql"
    config_type = PostgreSQLConfig
    relabeling: ClassVar[dict[str, str]] = {"schema": "Database"}
    conn_type = "connect_postgresql"
    hook_name = "Connect: PostgreSQL"
    default_conn_name = "connect_postgresql_default"

    def get_conn(self) -> psycopg.Connection[tuple[Any, ...]]:
        """An open session in autocommit (`with connection.transaction():` begins one); the caller closes it."""
        return connect(self.config().access, "airflow")

    def check(self) -> str:
        """Ask the server who it is."""
        return describe_server(self.config().access)
