"""The source of type `iceberg`."""

from __future__ import annotations

from typing import ClassVar

from pyiceberg.catalog import Catalog

from airflow_provider_connect.connectors._iceberg.rest import open_catalog
from airflow_provider_connect.connectors._iceberg.source import TableSource
from airflow_provider_connect.connectors.iceberg.config import IcebergSourceConfig


class IcebergSource(TableSource[IcebergSourceConfig]):
    """Rows of an Iceberg table: all of them once, and then what is appended."""

    config_type: ClassVar[type[IcebergSourceConfig]] = IcebergSourceConfig

    def connect(self, *, quickly: bool = False) -> Catalog:
        return open_catalog(self.config.catalog_name, self.config.catalog_properties, quickly=quickly)
