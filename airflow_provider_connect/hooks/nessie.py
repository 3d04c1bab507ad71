"""NessieHook: the Iceberg catalog of a branch of Nessie from an Airflow connection."""

from __future__ import annotations

from pyiceberg.catalog import Catalog

from airflow_provider_connect.connectors.nessie.branches import open_branch
from airflow_provider_connect.connectors.nessie.config import NessieConfig
from airflow_provider_connect.hooks.connector import ConnectorHook


class NessieHook(ConnectorHook[NessieConfig]):
    """pyiceberg's catalog, as the connector itself opens it."""

    connector = "nessie"
    config_type = NessieConfig
    conn_type = "connect_nessie"
    hook_name = "Connect: Nessie"
    default_conn_name = "connect_nessie_default"

    def get_conn(self, branch: str = "main") -> Catalog:
        """The open catalog of a branch; the caller closes it."""
        return open_branch(self.config(branch=branch))

    def check(self) -> str:
        """Ask Nessie for the namespaces on its branch main."""
        config = self.config()
        with open_branch(config, quickly=True) as catalog:
            return f"Nessie at {config.base_url}, branch {config.branch}, {len(catalog.list_namespaces())} namespaces"
