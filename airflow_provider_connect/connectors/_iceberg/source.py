"""The source: a table once, and then what each new snapshot appends."""

from __future__ import annotations

import time
from abc import abstractmethod
from typing import TypeVar

import pyarrow as pa
from pyiceberg.catalog import Catalog
from pyiceberg.table import Table

from airflow_provider_connect.connectors._iceberg.config import TableSourceConfig
from airflow_provider_connect.connectors._iceberg.cursor import Cursor, Position
from airflow_provider_connect.connectors._iceberg.errors import sort_error
from airflow_provider_connect.connectors._iceberg.history import History
from airflow_provider_connect.connectors._iceberg.scanning import Scan
from airflow_provider_connect.connectors._iceberg.tables import load_table
from airflow_provider_connect.connectors._iceberg.view import TableView
from airflow_provider_connect.engine.batch import COLUMNS, Batch, Checkpoint
from airflow_provider_connect.engine.connector import Source, SourceContext, dealt
from airflow_provider_connect.engine.errors import ConnectError, EndOfInput, Fatal

S = TypeVar("S", bound=TableSourceConfig)


class TableSource(Source[S]):
    """Rows of one Iceberg table, as columns.

    A split is a part of the data files (see `splits`); a position names snapshot, file and row. The order of a
    snapshot's files is that of their being added. With `incrementalBySnapshot: false` the snapshots that are read
    depend on when one looked, so such a source is not replayable.
    """

    def __init__(self, config: S) -> None:
        super().__init__(config)
        self.replayable = config.incremental_by_snapshot
        self._catalog: Catalog | None = None
        self._cursors: list[Cursor] = []

    @abstractmethod
    def connect(self, *, quickly: bool = False) -> Catalog:
        """The catalog, newly opened; `quickly` gives up after a few seconds."""

    def history(self, catalog: Catalog, table: Table) -> History:
        """The snapshots of the table as it is now."""
        return History(table)

    # --- life cycle

    def formats(self) -> tuple[str, ...]:
        return (COLUMNS,)

    def splits(self) -> list[str]:
        return [str(part) for part in range(self.config.splits)]

    def check(self) -> str:
        try:
            with self.connect(quickly=True) as catalog:
                table = load_table(catalog, self.config)
                Scan(table, self.config)
                snapshot = table.current_snapshot()
                summary = snapshot.summary if snapshot is not None else None
                rows = summary["total-records"] if summary is not None else "0"
                return f"table {self.config.label} (format {table.metadata.format_version}), {rows or '?'} records"
        except Exception as error:
            raise sort_error(error) from error

    def open(self, context: SourceContext) -> None:
        self.close()
        try:
            self._catalog = self.connect()
            self._look()
        except Exception as error:
            raise sort_error(error) from error
        splits = dealt(context, self.splits())
        unknown = sorted(set(context.until) - set(splits))
        if unknown:
            raise Fatal(f"there is no part {', '.join(unknown)} of {self.config.splits}; was `splits` changed?")
        stored = context.claim(splits)
        self._cursors = [
            Cursor(
                split,
                int(split),
                Position.read(stored[split]) if split in stored else None,
                Position.read(context.until[split]) if split in context.until else None,
            )
            for split in splits
        ]
        current = self._view.current
        self._empty = context.drain and current is None
        for cursor in self._cursors:
            if context.drain and current is not None:
                cursor.target = current.snapshot_id
            self._plan(cursor)

    def close(self) -> None:
        catalog, self._catalog = self._catalog, None
        self._cursors = []
        if catalog is not None:
            catalog.close()

    def classify(self, error: Exception) -> ConnectError:
        if isinstance(error, FileNotFoundError):
            return Fatal(
                f"a file of '{self.config.label}' is gone: {error}; its snapshot was expired while it was read, or the "
                "file was deleted behind the catalog's back"
            )
        return sort_error(error)

    # --- reading

    def read(self, max_records: int, timeout: float) -> Batch | None:
        if self._catalog is None:
            raise Fatal("the source is not open")
        deadline = time.monotonic() + timeout
        while True:
            for at, cursor in enumerate(self._cursors):
                stretch = None if cursor.ended else cursor.read(self._view.scan, max_records)
                if stretch is not None:
                    self._cursors = self._cursors[at:] + self._cursors[:at]
                    checkpoint = Checkpoint({cursor.split: stretch.position.json()})
                    return Batch(self._none() if stretch.rows is None else self._wrapped(stretch.rows), checkpoint)
            if self._empty or all(cursor.ended for cursor in self._cursors):
                raise EndOfInput
            pause = self._next_look - time.monotonic()
            if pause > 0:
                time.sleep(max(0.0, min(pause, deadline - time.monotonic())))
                if time.monotonic() >= deadline:
                    return None
                continue
            self._look()
            for cursor in self._cursors:
                if cursor.idle and not cursor.ended:
                    self._plan(cursor)
            if time.monotonic() >= deadline and all(cursor.idle for cursor in self._cursors):
                return None

    def _look(self) -> None:
        """See the table as it is now."""
        assert self._catalog is not None
        self._view = self._view_of(self._catalog)
        self._next_look = time.monotonic() + self.config.poll_interval

    def _view_of(self, catalog: Catalog) -> TableView:
        table = load_table(catalog, self.config)
        return TableView(table, self.history(catalog, table), self.config)

    def _plan(self, cursor: Cursor) -> None:
        """Tell a cursor what there is to read after where it stands."""
        until = cursor.until
        last = until.snapshot if until is not None else cursor.target
        cursor.follow(self._view.steps(cursor.at, last, until.scan if until is not None else None))

    # --- rows to batches

    def _none(self) -> pa.RecordBatch:
        return pa.RecordBatch.from_pylist([], pa.schema([]))

    def _wrapped(self, rows: pa.RecordBatch) -> pa.RecordBatch:
        if not self.config.raw_mode:
            return rows
        origin = pa.scalar({"namespace": self.config.namespace, "table": self.config.table})
        return pa.RecordBatch.from_arrays(
            [rows.to_struct_array(), pa.repeat(origin, rows.num_rows)], names=["value", "_metadata"]
        )

    # --- lag

    def lag(self, checkpoint: Checkpoint) -> int | None:
        """Rows past `checkpoint`, by what the manifests say; None where only reading would tell."""
        with self.connect() as catalog:
            view = self._view_of(catalog)
            counts = [
                view.count(Position.read(checkpoint[split]) if split in checkpoint else None, int(split))
                for split in self.splits()
            ]
        return None if None in counts else sum(count for count in counts if count is not None)
