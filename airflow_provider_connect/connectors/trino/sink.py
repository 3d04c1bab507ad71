"""The sinks: rows by a few large statements, at least once, or effectively once into Iceberg tables."""

from __future__ import annotations

import hashlib
from typing import Any, ClassVar

import pyarrow as pa
import pyarrow.compute as pc

from airflow_provider_connect.connectors.trino.client import SOURCE, Client
from airflow_provider_connect.connectors.trino.config import TrinoSinkConfig
from airflow_provider_connect.connectors.trino.errors import sort_error
from airflow_provider_connect.connectors.trino.literals import Texts, cuts, joined, lengths, texts
from airflow_provider_connect.connectors.trino.statements import insert, merge_new, merge_upsert
from airflow_provider_connect.connectors.trino.table import (
    TOKEN,
    Table,
    check_idempotent,
    create_document_table,
    create_typed_table,
    describe_server,
    find_table,
    table_sql,
)
from airflow_provider_connect.engine.batch import COLUMNS, Batch
from airflow_provider_connect.engine.config import SinkConfig
from airflow_provider_connect.engine.connector import IdempotentSink, Sink, SinkContext
from airflow_provider_connect.engine.errors import ConnectError, Fatal, InvalidRecord

_OVERHEAD = 2_000
"""Characters of a statement that go to neither values nor columns: names, keywords and the token."""


class TrinoSink(Sink[TrinoSinkConfig]):
    """Rows into one table, at least once: a statement that was lost sight of may have landed, and is repeated.

    A flush is one INSERT (in `upsertMode` one MERGE) for as many rows as a statement can hold; each is atomic where
    the catalog's writes are. In `upsertMode` repeated rows replace themselves. After a refused record of a flush that
    took several statements, the rows of the earlier ones are written again.
    """

    config_type: ClassVar[type[TrinoSinkConfig]] = TrinoSinkConfig

    def __init__(self, config: TrinoSinkConfig) -> None:
        super().__init__(config)
        self._client: Client | None = None
        self._table: Table | None = None
        self._written: list[list[Texts]] = []

    @classmethod
    def choose(cls, config: SinkConfig) -> type[Sink[Any]]:
        return TrinoIdempotentSink if isinstance(config, TrinoSinkConfig) and config.idempotent else TrinoSink

    # --- life cycle

    def open(self, context: SinkContext) -> None:
        self.close()
        timeout = self.config.query_timeout_seconds
        session = {"query_max_run_time": f"{timeout}s"} if timeout else {}
        client = self._client = Client(self.config, f"{SOURCE} {context.flow}", session)
        self._table = find_table(client, self.config)
        if self._table is None and self.config.auto_create_table == "json":
            self._table = create_document_table(client, self.config)
        if self._table is None and not self.config.auto_create_table:
            raise Fatal(f"there is no table {table_sql(self.config)}; create it, or set `autoCreateTable: true`")
        if self._table is not None:
            self._check(client, self._table)

    def _check(self, client: Client, table: Table) -> None:
        """Whether the table, which is there, can do what the configuration asks for."""
        if not self.config.upsert_mode or table.document_column is not None:
            return
        names = set(table.data_columns)
        for name in self.config.conflict_columns:
            if name.lower() not in names:
                raise Fatal(f"conflictKey: '{self.config.table}' has no column '{name}'; there are: {', '.join(names)}")

    def close(self) -> None:
        client, self._client = self._client, None
        self._written = []
        if client is not None:
            client.close()

    def check(self) -> str:
        with Client(self.config) as client:
            return describe_server(client, self.config)

    def classify(self, error: Exception) -> ConnectError:
        return sort_error(error)

    def accepts(self) -> tuple[str, ...]:
        return ("json",) if self._table is not None and self._table.document_column is not None else (COLUMNS,)

    # --- rows

    def write(self, batch: Batch) -> None:
        written, self._written = self._written, []  # nothing of it is left where this batch is refused
        client = self._writer()
        if self._table is None:
            self._table = create_typed_table(client, self.config, batch.rows.schema)
            self._check(client, self._table)
        columns = self._columns(self._table, batch.rows)
        self._refuse_long(lengths(columns), self._room(columns))
        self._written = written
        written.append(columns)

    def flush(self) -> None:
        client, first = self._writer(), 0
        written, self._written = self._written, []
        for columns in _put_together(written):
            assert self._table is not None
            for start, stop in cuts(lengths(columns), self._room(columns)):
                part = [column.slice(start, stop) for column in columns]
                client.run(self._statement(self._table, part, first + start))
            first += len(columns[0].values)

    def _writer(self) -> Client:
        if self._client is None:
            raise Fatal("the sink is not open")
        return self._client

    def _statement(self, table: Table, columns: list[Texts], first: int) -> str:
        if self.config.upsert_mode:
            return merge_upsert(table, columns, self.config.conflict_columns)
        return insert(table, columns)

    def _columns(self, table: Table, rows: pa.RecordBatch) -> list[Texts]:
        document = table.document_column
        if document is not None:
            values = _documents(rows.column("value"))
            return [texts(document.name, values, pa.field(document.name, pa.string()), document.type)]
        found: list[Texts] = []
        known = table.data_columns
        for field, values in zip(rows.schema, rows.columns, strict=True):
            column = known.get(field.name.lower())
            if column is not None:
                found.append(texts(column.name, values, field, column.type))
            elif not self.config.ignore_unknown_columns and values.null_count < len(values):
                reason = f"the table '{self.config.table}' has no column '{field.name}'"
                refused = pc.indices_nonzero(values.is_valid()).to_pylist()
                raise InvalidRecord(f"{reason} (see `ignoreUnknownColumns`)", rows=dict.fromkeys(refused, reason))
        names = [column.name for column in found]
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise Fatal(f"two fields differ only in case and would both go to the column '{twice}'; rename one")
        if not found:
            reason = f"no field of the row is a column of '{self.config.table}', which has {', '.join(known)}"
            raise InvalidRecord(reason, rows=dict.fromkeys(range(rows.num_rows), reason))
        return found

    def _room(self, columns: list[Texts]) -> int:
        """Characters of a statement that are left for values."""
        around = sum(len(column.expression("c000")) + 8 * len(column.name) + 100 for column in columns)
        return max(self.config.max_statement_length - _OVERHEAD - around, 1)

    def _refuse_long(self, sizes: pa.Array, room: int) -> None:
        if pc.max(sizes).as_py() <= room:
            return
        refused = {
            at: f"the row takes {sizes[at]} characters, more than a statement can hold: set `maxStatementLength` to"
            " what the server's `query.max-length` is"
            for at in pc.indices_nonzero(pc.greater(sizes, room)).to_pylist()
        }
        raise InvalidRecord(next(iter(refused.values())), rows=refused)


class TrinoIdempotentSink(TrinoSink, IdempotentSink[TrinoSinkConfig]):
    """Rows into one Iceberg table, effectively once.

    Every row carries the token of its flush and its number in it. A statement is a MERGE that inserts the rows which
    are not there; its commit is refused by Iceberg (and tried again by the worker) if files with rows of that token and
    these numbers were added since it began. So it does not matter whether an earlier try landed, is lost, or still
    runs: a row is there once. Rows of other tokens do not conflict.

    A refused row takes back what its flush has written. Only a statement of an earlier try that waited in the server's
    queue until after that (no longer than `queryTimeoutSeconds`) could write rows twice.
    """

    def __init__(self, config: TrinoSinkConfig) -> None:
        super().__init__(config)
        self._token = ""

    def begin(self, token: str) -> None:
        self._written = []
        # Iceberg's statistics keep 16 characters of a text, by which files of other flushes are left out.
        self._token = f"{hashlib.sha256(token.encode()).hexdigest()[:16]}-{token}"

    def flush(self) -> None:
        try:
            super().flush()
        except InvalidRecord:
            self._take_back()
            raise

    def _check(self, client: Client, table: Table) -> None:
        check_idempotent(client, self.config, table)

    def _statement(self, table: Table, columns: list[Texts], first: int) -> str:
        return merge_new(table, columns, self._token, first)

    def _take_back(self) -> None:
        """What earlier statements of a refused flush have written, for all of it is written again by other tokens."""
        if self._client is not None and self._table is not None:
            self._client.run(f"DELETE FROM {self._table.sql} WHERE {TOKEN} = '{self._token}'")


def _put_together(written: list[list[Texts]]) -> list[list[Texts]]:
    """Neighbours whose values go the same way into the same columns as one."""
    groups: list[list[list[Texts]]] = []
    for columns in written:
        if groups and [column.way for column in groups[-1][0]] == [column.way for column in columns]:
            groups[-1].append(columns)
        else:
            groups.append([columns])
    return [[joined(parts) for parts in zip(*group, strict=True)] for group in groups]


def _documents(values: pa.Array) -> pa.Array:
    try:
        return values.cast(pa.string())
    except pa.ArrowInvalid:
        refused = {}
        for at, value in enumerate(values.to_pylist()):
            try:
                (value or b"").decode()
            except UnicodeDecodeError as error:
                refused[at] = f"the document is no UTF-8 text: {error.reason}"
        raise InvalidRecord(f"{len(refused)} documents are no UTF-8 text", rows=refused) from None
