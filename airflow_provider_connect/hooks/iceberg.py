"""IcebergHook: Iceberg catalogs from an Airflow connection."""

from __future__ import annotations

from pyiceberg.catalog import Catalog

from airflow_provider_connect.connectors._iceberg.rest import open_catalog
from airflow_provider_connect.connectors.iceberg.config import IcebergConfig
from airflow_provider_connect.hooks.connector import ConnectorHook


class IcebergHook(ConnectorHook[IcebergConfig]):
    """pyiceberg's catalog, as the connector itself opens it."""

    connector = "iceberg"
    config_type = IcebergConfig
    conn_type = "connect_iceberg"
    hook_name = "Connect: Iceberg"
    default_conn_name = "connect_iceberg_default"

    def get_conn(self) -> Catalog:
        """An open catalog; the caller closes it."""
        config = self.config()
        return open_catalog(config.catalog_name, config.catalog_properties)

    def check(self) -> str:
        """Ask the catalog for its namespaces."""
        config = self.config()
        with open_catalog(config.catalog_name, config.catalog_properties, quickly=True) as catalog:
            return f"{config.catalog} catalog with {len(catalog.list_namespaces())} namespaces"
