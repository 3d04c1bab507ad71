"""Loading: the rows of one flush on their way into the table, by COPY, directly or through a staging table."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from airflow_provider_connect.connectors._postgresql.client import Connection, run
from airflow_provider_connect.connectors._postgresql.copy_stream import Buffer, CopyIn
from airflow_provider_connect.connectors._postgresql.names import listed, quoted
from airflow_provider_connect.connectors.postgresql.column_types import Wanted
from airflow_provider_connect.connectors.postgresql.copy_binary import HEADER, TRAILER, binary_documents
from airflow_provider_connect.connectors.postgresql.copy_text import lines, parts, text_field, text_rows
from airflow_provider_connect.connectors.postgresql.document_columns import columns_of
from airflow_provider_connect.connectors.postgresql.evolution import (
    evolve,
    missing,
    wanted_of,
    wanted_of_columns,
    wanted_of_documents,
)
from airflow_provider_connect.connectors.postgresql.merge import Refused, merge_columns, merge_documents
from airflow_provider_connect.connectors.postgresql.stage import DOCUMENT, GONE, NUMBER, Stage
from airflow_provider_connect.connectors.postgresql.table import Column, Table, find_table
from airflow_provider_connect.connectors.postgresql.target import Target
from airflow_provider_connect.connectors.postgresql.tombstones import filled
from airflow_provider_connect.engine.batch import COLUMNS, Batch
from airflow_provider_connect.engine.errors import Fatal, InvalidRecord

_COPY_TEXT = "postgresql-copy"
_COPY_BINARY = "postgresql-copy-binary"
_JSON = "json"


class Loading:
    """One flush. After an error, `cancel` and roll back; its rows are gone."""

    def __init__(self, connection: Connection, target: Target) -> None:
        self._connection, self.target = connection, target
        """Where rows go; a table that evolves is another one after `write`."""
        self._described: bytes | None = None
        self._copy: CopyIn | None = None
        self._statement = ""
        self._binary = False
        self._merge: Callable[[], Refused | None] | None = None
        self._batches = 0
        self._rows = 0
        self._rows_before_copy = 0

    # --- writing

    def write(self, batch: Batch) -> None:
        """Send the rows on."""
        self._batches += 1
        if batch.format == _JSON:
            self._write_documents(batch.rows)
        elif self.target.document_column is not None:
            raise Fatal(f"'{self.target.table.name}' takes JSON documents, not '{batch.format}'")
        elif batch.format == _COPY_TEXT:
            self._write_copy_text(batch.rows)
        elif batch.format == _COPY_BINARY:
            self._write_copy_binary(batch.rows)
        elif batch.format == COLUMNS:
            self._write_columns(batch.rows)
        else:
            raise Fatal(f"a PostgreSQL table takes no documents of the encoding '{batch.format}'")
        self._rows += len(batch)

    def _write_documents(self, rows: pa.RecordBatch) -> None:
        target = self.target
        column = target.document_column
        documents = rows.column("value").cast(pa.binary())
        if column is not None and target.upsert is None:
            statement = f"COPY {target.table.name.sql} ({quoted(column.name)}) FROM STDIN (FORMAT binary)"
            self._direct(statement, binary=True)
            self._send(binary_documents(documents, column.type == "jsonb"))
            return
        gone = None
        if documents.null_count:
            if target.upsert is None:
                nulls = pc.indices_nonzero(documents.is_null()).to_pylist()
                reason = "a null document has no fields for the columns of a table, and only deletes with upsertMode"
                raise InvalidRecord(f"{len(nulls)} rows: {reason}", rows=dict.fromkeys(nulls, reason))
            gone = documents.is_null()
            documents = filled(documents, rows.column("key").cast(pa.binary()), target.key)
        if column is None:
            pairs = columns_of(documents, target) if gone is None else None
            if pairs is None and target.evolving and self._evolve(lambda table: wanted_of_documents(rows, table)):
                target = self.target
                pairs = columns_of(documents, target) if gone is None else None
            if pairs is not None:
                self._write_pairs(pairs)
                return
        stage = Stage.of_documents()
        statement = f"COPY {stage.sql} ({NUMBER}, {GONE}, {DOCUMENT}) FROM STDIN (FORMAT binary)"
        self._staged(stage, statement, lambda: merge_documents(self._connection, target, stage), binary=True)
        self._send(binary_documents(documents, True, self._rows, gone))

    def _evolve(self, wanted: Callable[[Table], list[Wanted]]) -> bool:
        """Give the table what it lacks; whether that was anything. Rows that were sent before are merged first."""
        if not missing(self.target.table, wanted(self.target.table)):
            return False
        self._end_copy()
        self.target = replace(self.target, table=evolve(self._connection, self.target.table, wanted))
        return True

    def _evolve_as_described(self, rows: pa.RecordBatch) -> None:
        """The same for rows as another server sends them; all of a flush are mostly described alike."""
        described = (rows.schema.metadata or {}).get(b"columns")
        if self.target.evolving and described != self._described:
            self._end_copy()
            needed = wanted_of(self._connection, rows, self.target.table)
            self._evolve(lambda table: needed)
            self._described = described

    def _write_copy_text(self, rows: pa.RecordBatch) -> None:
        self._evolve_as_described(rows)
        names = [column["name"] for column in _described(rows)]
        columns = self.target.columns_named(names, "add it, or select other columns")
        documents = _without_nulls(rows)
        if None in columns:
            kept = [index for index, column in enumerate(columns) if column is not None]
            parts = [text.split(b"\t") for text in documents.to_pylist()]
            documents = pa.array([b"\t".join(part[index] for index in kept) for part in parts], pa.binary())
        self._write_text(documents, [column for column in columns if column is not None])

    def _write_copy_binary(self, rows: pa.RecordBatch) -> None:
        self._evolve_as_described(rows)
        if self.target.evolving and self._copy is None:
            # Another lane may widen a column at any time until we have locked the table.
            run(self._connection, f"LOCK TABLE {self.target.table.name.sql} IN ROW EXCLUSIVE MODE")
            table = find_table(self._connection, self.target.table.name)
            self.target = replace(self.target, table=table or self.target.table)
        target, described = self.target, [(column["name"], column["oid"]) for column in _described(rows)]
        if reason := target.refuses_tuples(described):
            # What `accepts` looked at is no longer so; nothing in a tuple would tell the server.
            raise Fatal(f"rows do not fit '{target.table.name}' as they are: {reason}; start the flow again")
        documents = _without_nulls(rows)
        names = [name for name, _ in described]
        self._direct(f"COPY {target.table.name.sql} ({listed(names)}) FROM STDIN (FORMAT binary)", binary=True)
        self._send(parts(documents)[1])

    def _write_columns(self, rows: pa.RecordBatch) -> None:
        if self.target.evolving:
            self._evolve(lambda table: wanted_of_columns(rows, table))
            rows = rows.select([f.name for f in rows.schema if f.type != pa.null() or self.target.table.column(f.name)])
        columns = self.target.columns_named(rows.schema.names, "add it, or drop the column with a transform")
        pairs = [(column, values) for column, values in zip(columns, rows.columns, strict=True) if column is not None]
        self._write_pairs(pairs)

    def _write_pairs(self, pairs: list[tuple[Column, pa.Array]]) -> None:
        try:
            fields = [text_field(values, column.is_json) for column, values in pairs]
        except pa.ArrowInvalid as error:
            raise InvalidRecord(f"rows cannot be written as text: {error}") from error
        self._write_text(text_rows(fields), [column for column, _ in pairs])

    def _write_text(self, rows: pa.Array, columns: list[Column]) -> None:
        target, names = self.target, [column.name for column in columns]
        if target.upsert is None:
            self._direct(f"COPY {target.table.name.sql} ({listed(names)}) FROM STDIN", binary=False)
        else:
            stage = Stage.of_columns(columns)

            def merge() -> Refused | None:
                return merge_columns(self._connection, target, stage, columns)

            self._staged(stage, f"COPY {stage.sql} ({NUMBER}, {listed(names)}) FROM STDIN", merge, binary=False)
            numbers = pa.array(range(self._rows, self._rows + len(rows)), pa.int64()).cast(pa.string())
            rows = pc.binary_join_element_wise(numbers.cast(pa.binary()), rows.cast(pa.binary()), b"\t")
        self._send(lines(rows))

    # --- the COPY

    def _direct(self, statement: str, binary: bool) -> None:
        if statement != self._statement:
            self._end_copy()
            self._start_copy(statement, binary)

    def _staged(self, stage: Stage, statement: str, merge: Callable[[], Refused | None], binary: bool) -> None:
        if statement != self._statement:
            self._end_copy()
            stage.create(self._connection)
            stage.empty(self._connection)
            self._merge = merge
            self._start_copy(statement, binary)

    def _start_copy(self, statement: str, binary: bool) -> None:
        self._copy = CopyIn(self._connection, statement)
        self._statement, self._binary = statement, binary
        self._rows_before_copy = self._rows
        if binary:
            self._copy.write(HEADER)

    def _send(self, rows: Buffer) -> None:
        assert self._copy is not None
        self._copy.write(rows)

    def _end_copy(self) -> None:
        """End the COPY that is open, and merge what it staged."""
        if self._copy is not None:
            if self._binary:
                self._copy.write(TRAILER)
            self._copy.end()
        merge, self._copy, self._merge, self._statement = self._merge, None, None, ""
        if merge is not None and (refused := merge()) is not None:
            reasons = list(dict.fromkeys(refused.rows.values()))
            message = f"{len(refused.rows)} rows: {'; '.join(reasons[:3])}"
            raise InvalidRecord(message, rows=refused.rows if self._batches == 1 else None)

    def finish(self) -> None:
        """All rows of the flush have been written: returns once the server has taken them."""
        self._end_copy()

    def cancel(self) -> None:
        """Give an open COPY up, so that the transaction can be rolled back."""
        if self._copy is not None:
            self._copy.cancel()

    def refused(self, line: int | None, reason: str) -> InvalidRecord:
        """The error for a line of the COPY; the row is known if a single batch was written."""
        row = line - 1 if line is not None and self._batches == 1 else None
        return InvalidRecord(reason, rows={row: reason} if row is not None and row >= 0 else None)


def _described(rows: pa.RecordBatch) -> list[dict[str, Any]]:
    described = (rows.schema.metadata or {}).get(b"columns")
    if described is None:
        raise Fatal("postgresql-copy documents need the list of columns in the schema metadata key 'columns'")
    columns: list[dict[str, Any]] = json.loads(described)
    return columns


def _without_nulls(rows: pa.RecordBatch) -> pa.Array:
    documents = rows.column("value")
    if documents.null_count:
        nulls = pc.indices_nonzero(documents.is_null()).to_pylist()
        raise InvalidRecord("null is no row", rows=dict.fromkeys(nulls, "null is no row"))
    return documents
