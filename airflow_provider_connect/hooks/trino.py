"""TrinoHook: Trino from an Airflow connection."""

from __future__ import annotations

from typing import Any

from airflow_provider_connect.connectors.trino.client import Client
from airflow_provider_connect.connectors.trino.config import TrinoConfig
from airflow_provider_connect.connectors.trino.table import describe_server
from airflow_provider_connect.hooks.connector import ConnectorHook


class TrinoHook(ConnectorHook[TrinoConfig]):
    """Statements on Trino, with the connection's account: password, JWT, or tokens of Keycloak that are renewed."""

    connector = "trino"
    config_type = TrinoConfig
    conn_type = "connect_trino"
    hook_name = "Connect: Trino"
    default_conn_name = "connect_trino_default"

    def get_conn(self) -> Client:
        """The client that the connector itself uses; close it, or take it in a `with` block."""
        return Client(self.config())

    def get_records(self, sql: str) -> list[list[Any]]:
        """Run a statement to its end; its rows, each a list of JSON values as Trino's protocol has them."""
        with self.get_conn() as client:
            return client.run(sql)

    def check(self) -> str:
        """Ask the server who it is."""
        config = self.config()
        with Client(config) as client:
            return describe_server(client, config)
