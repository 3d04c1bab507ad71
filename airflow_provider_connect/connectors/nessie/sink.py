"""The sink of type `nessie`."""

from __future__ import annotations

from typing import ClassVar

from pyiceberg.catalog import Catalog
from pyiceberg.table import Table

from airflow_provider_connect.connectors._iceberg.sink import TableSink
from airflow_provider_connect.connectors.nessie.branches import make_first_snapshot, open_branch
from airflow_provider_connect.connectors.nessie.config import NessieSinkConfig


class NessieSink(TableSink[NessieSinkConfig]):
    """Rows into an Iceberg table on a branch of Nessie, exactly once."""

    config_type: ClassVar[type[NessieSinkConfig]] = NessieSinkConfig

    def connect(self, *, quickly: bool = False) -> Catalog:
        return open_branch(self.config, quickly=quickly)

    def prepare(self, catalog: Catalog, table: Table) -> Table:
        if table.current_snapshot() is not None:
            return table
        make_first_snapshot(self.config, self.config.identifier)
        return catalog.load_table(self.config.identifier)
