"""The sink of type `iceberg`."""

from __future__ import annotations

from typing import ClassVar

from pyiceberg.catalog import Catalog

from airflow_provider_connect.connectors._iceberg.rest import open_catalog
from airflow_provider_connect.connectors._iceberg.sink import TableSink
from airflow_provider_connect.connectors.iceberg.config import IcebergSinkConfig


class IcebergSink(TableSink[IcebergSinkConfig]):
    """Rows into an Iceberg table, exactly once."""

    config_type: ClassVar[type[IcebergSinkConfig]] = IcebergSinkConfig

    def connect(self, *, quickly: bool = False) -> Catalog:
        return open_catalog(self.config.catalog_name, self.config.catalog_properties, quickly=quickly)
