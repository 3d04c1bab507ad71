"""The source of type `nessie`."""

from __future__ import annotations

from typing import ClassVar

from pyiceberg.catalog import Catalog
from pyiceberg.table import Table

from airflow_provider_connect.connectors._iceberg.source import TableSource
from airflow_provider_connect.connectors.nessie.branches import Branch, open_branch
from airflow_provider_connect.connectors.nessie.config import NessieSourceConfig
from airflow_provider_connect.connectors.nessie.history import BranchHistory


class NessieSource(TableSource[NessieSourceConfig]):
    """Rows of an Iceberg table on a branch of Nessie: all of them once, and then what is appended."""

    config_type: ClassVar[type[NessieSourceConfig]] = NessieSourceConfig

    def connect(self, *, quickly: bool = False) -> Catalog:
        return open_branch(self.config, quickly=quickly)

    def history(self, catalog: Catalog, table: Table) -> BranchHistory:
        return BranchHistory(table, Branch(catalog, self.config), self.config.identifier)
