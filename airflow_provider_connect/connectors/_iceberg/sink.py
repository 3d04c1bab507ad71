"""The sink: data files are written as batches come, and appear in the table together with their checkpoint."""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Iterable
from typing import Any, TypeVar

from pyiceberg.catalog import Catalog
from pyiceberg.manifest import DataFile
from pyiceberg.schema import Schema
from pyiceberg.table import Table

from airflow_provider_connect.connectors._iceberg.commits import TableCommits
from airflow_provider_connect.connectors._iceberg.config import TableSinkConfig
from airflow_provider_connect.connectors._iceberg.errors import UncertainCommit, sort_error
from airflow_provider_connect.connectors._iceberg.files import DataFiles, delete_files
from airflow_provider_connect.connectors._iceberg.fitting import Fitting
from airflow_provider_connect.connectors._iceberg.ledger import PropertyLedger
from airflow_provider_connect.connectors._iceberg.tables import document_column, evolve, find_or_create, load_table
from airflow_provider_connect.engine.batch import COLUMNS, Batch, Checkpoint
from airflow_provider_connect.engine.connector import SinkContext, TransactionalSink
from airflow_provider_connect.engine.errors import ConnectError, Fatal

S = TypeVar("S", bound=TableSinkConfig)

_SEEN_SECONDS = 600.0
"""How long we go on with what we saw of a table; the credentials for its store that come with it do not last."""


class TableSink(TransactionalSink[S]):
    """Rows into one Iceberg table, exactly once.

    `write` puts rows into Parquet files, `flush` ends these, `commit` makes one snapshot of them whose commit also
    sets the positions (see `ledger`). A commit that meets another one looks whether our splits are still ours, and is
    built again on top of it. If a commit got no answer, `positions` first makes a snapshot of its own: then the lost
    one has either landed before it or never will.

    A document table (see `documentColumn`) takes JSON documents; any other takes columns, by name.
    """

    def __init__(self, config: S) -> None:
        super().__init__(config)
        self._catalog: Catalog | None = None
        self._commits: TableCommits | None = None
        self._ledger: PropertyLedger | None = None
        self._files: DataFiles | None = None
        self._fitting: Fitting | None = None
        self._flushed: list[DataFile] = []
        self._uncertain: tuple[list[DataFile], Checkpoint] | None = None

    @abstractmethod
    def connect(self, *, quickly: bool = False) -> Catalog:
        """The catalog, newly opened; `quickly` gives up after a few seconds."""

    def prepare(self, catalog: Catalog, table: Table) -> Table:
        """The table, ready for our first commit. Default: as it is."""
        return table

    # --- life cycle

    def open(self, context: SinkContext) -> None:
        self.close()
        try:
            self._catalog = self.connect()
            table = self.prepare(self._catalog, find_or_create(self._catalog, self.config))
            self._commits = TableCommits(self._catalog, table)
            self._document = document_column(self._commits.table, self.config)
        except Exception as error:
            raise sort_error(error) from error
        ledger = PropertyLedger(str(self._commits.table.metadata.table_uuid), context.flow)
        if self._ledger is None or not self._ledger.same(ledger):
            self._ledger = ledger  # else what it owns is kept: after an error we come back as the same owner
            self._uncertain = None

    def close(self) -> None:
        self.abort()
        catalog, self._catalog, self._commits = self._catalog, None, None
        if catalog is not None:
            catalog.close()

    def check(self) -> str:
        catalog = self.connect(quickly=True)
        try:
            if self.config.auto_create_table:
                there = catalog.table_exists(self.config.identifier)
                return f"catalog answers; table {self.config.label} {'is there' if there else 'will be created'}"
            table = load_table(catalog, self.config)
            return f"table {self.config.label} (format {table.metadata.format_version}) at {table.location()}"
        except Exception as error:
            raise sort_error(error) from error
        finally:
            catalog.close()

    def classify(self, error: Exception) -> ConnectError:
        return sort_error(error)

    def accepts(self) -> tuple[str, ...]:
        return ("json",) if self._document is not None else (COLUMNS,)

    # --- rows

    def write(self, batch: Batch) -> None:
        commits = self._opened()
        try:
            if self._files is None and time.monotonic() - commits.seen_at > _SEEN_SECONDS:
                commits.refresh()
            if (self._document is None and self.config.schema_evolution == "add") or not commits.table.schema().columns:
                self._evolve(commits, batch)
            if self._files is None:
                self._files = DataFiles(commits.table, self.config.target_file_size_bytes)
            self._files.write(self._fitting_to(commits.table.schema()).rows(batch.rows))
        except Exception as error:
            self._discard_unflushed()
            raise sort_error(error) from error

    def _fitting_to(self, schema: Schema) -> Fitting:
        if self._fitting is None or self._fitting.schema is not schema:
            self._fitting = Fitting(schema, self._document, self.config.schema_evolution == "ignore")
        return self._fitting

    def _evolve(self, commits: TableCommits, batch: Batch) -> None:
        before = commits.table
        evolve(commits, self.config, batch.rows)
        if commits.table is not before and self._files is not None:
            self._files.use(commits.table)

    def flush(self) -> None:
        files = self._files
        if files is None:
            return
        try:
            self._flushed += files.finish()
        except Exception as error:
            self._discard_unflushed()
            raise sort_error(error) from error
        self._files = None

    def abort(self) -> None:
        self._discard_unflushed()
        flushed, self._flushed = self._flushed, []
        if self._commits is not None:
            delete_files(self._commits.table, flushed)

    def _discard_unflushed(self) -> None:
        files, self._files = self._files, None
        if files is not None:
            files.discard()

    # --- ledger

    def claim(self, splits: Iterable[str]) -> Checkpoint:
        commits, ledger, wanted = self._opened(), self._owned(), sorted(set(splits))
        properties = self._sorted(lambda: commits.append([], lambda seen: ledger.claiming(seen, wanted)))
        return ledger.claimed(properties, wanted)

    def positions(self, splits: Iterable[str]) -> Checkpoint:
        commits, ledger, wanted = self._opened(), self._owned(), sorted(set(splits))
        self._sorted(commits.refresh)
        if self._uncertain is not None:
            self._settle(commits, ledger, *self._uncertain)
        return ledger.owned(commits.table.properties, wanted)

    def _settle(
        self, commits: TableCommits, ledger: PropertyLedger, files: list[DataFile], checkpoint: Checkpoint
    ) -> None:
        """Find out what became of the commit that got no answer; from here on it cannot land any more."""

        def nothing_more(seen: Any) -> dict[str, str]:
            return {}

        landed = ledger.holds(commits.table.properties, checkpoint)
        if not landed:
            landed = ledger.holds(self._sorted(lambda: commits.append([], nothing_more)), checkpoint)
        self._uncertain = None
        if not landed:
            delete_files(commits.table, files)

    def commit(self, checkpoint: Checkpoint) -> None:
        commits, ledger, files = self._opened(), self._owned(), self._flushed
        if self._files is not None:
            raise Fatal("commit without flush")
        if not checkpoint and not files:
            return
        self._flushed = []
        self._uncertain = (files, checkpoint)
        try:
            self._sorted(
                lambda: commits.append(
                    files,
                    lambda seen: ledger.advancing(seen, checkpoint),
                    lambda seen: bool(checkpoint) and ledger.holds(seen, checkpoint),
                )
            )
        except UncertainCommit:
            raise
        except ConnectError:
            self._uncertain = None
            delete_files(commits.table, files)
            raise
        self._uncertain = None
        ledger.advanced(checkpoint)
        if self.config.expire_snapshots_older_than_hours:
            commits.expire(self.config.expire_snapshots_older_than_hours)

    # --- what is there

    def _opened(self) -> TableCommits:
        if self._commits is None:
            raise Fatal("the sink is not open")
        return self._commits

    def _owned(self) -> PropertyLedger:
        if self._ledger is None:
            raise Fatal("the sink is not open")
        return self._ledger

    def _sorted(self, call: Any) -> Any:
        try:
            return call()
        except Exception as error:
            raise sort_error(error) from error
