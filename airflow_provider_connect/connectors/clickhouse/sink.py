"""The sink: each flush is one insert of one block under its token, over HTTP or the native protocol."""

from __future__ import annotations

import logging
from typing import ClassVar

import pyarrow as pa

from airflow_provider_connect.codecs.postgresql_copy import PostgresqlCopy
from airflow_provider_connect.connectors.clickhouse import loading
from airflow_provider_connect.connectors.clickhouse.client import Client, connect, describe_server
from airflow_provider_connect.connectors.clickhouse.config import ClickHouseSinkConfig
from airflow_provider_connect.connectors.clickhouse.errors import row_of, sort_error
from airflow_provider_connect.connectors.clickhouse.http_client import HttpClient
from airflow_provider_connect.connectors.clickhouse.table import (
    Table,
    TableColumn,
    create_document_table,
    create_typed_table,
    find_table,
    forgets_tokens,
    is_document,
)
from airflow_provider_connect.engine.batch import COLUMNS, Batch, format_of
from airflow_provider_connect.engine.connector import IdempotentSink, SinkContext
from airflow_provider_connect.engine.errors import ConnectError, Fatal, InvalidRecord

log = logging.getLogger(__name__)

_JSON = "json"
_COPY = "postgresql-copy"


class ClickHouseSink(IdempotentSink[ClickHouseSinkConfig]):
    """Writes a flush as one insert with `insert_deduplication_token`; the server drops the same token again.

    That holds for tables that remember tokens: replicated ones, those of ClickHouse Cloud, and a MergeTree whose
    `non_replicated_deduplication_window` is above 0, as that of created tables. On any other table a crash between an
    insert and its checkpoint repeats rows, and `open` warns, with the ALTER TABLE that mends it. Partitions and
    materialized views deduplicate each for themselves by the same token.

    A flush is collected in memory, bounded by `batch_bytes`.

    * A document table (see `table` of the configuration) takes JSON documents, byte by byte.
    * A typed table takes columns, rows of PostgreSQL's COPY text (as columns), and over HTTP also JSON documents, which
      the server parses. A null or missing field takes the column's default, as ClickHouse has it; a number, time or
      text that does not fit is refused.
    """

    config_type: ClassVar[type[ClickHouseSinkConfig]] = ClickHouseSinkConfig

    def __init__(self, config: ClickHouseSinkConfig) -> None:
        super().__init__(config)
        self._client: Client | None = None
        self._table: Table | None = None
        self._document: TableColumn | None = None
        self._copied = PostgresqlCopy()
        self._reset()

    def _reset(self) -> None:
        self._batches: list[pa.RecordBatch] = []
        self._token: str | None = None

    # --- life cycle

    def open(self, context: SinkContext) -> None:
        self.close()
        client = connect(self.config.access, self.config.settings, self.config.ca)
        self._client = client
        table = find_table(client, self.config.table_name)
        if table is None and self.config.shape == "json":
            create_document_table(client, self.config.table_name)
            table = find_table(client, self.config.table_name)
        if table is None and self.config.shape != "typed":
            raise loading.missing_table(self.config.table)
        if table is not None:
            self._use(client, table)

    def _use(self, client: Client, table: Table) -> None:
        document = table.document_column if self.config.shape != "typed" else None
        if self.config.document_column is not None:
            document = table.column(self.config.document_column)
            if document is None or not is_document(document):
                problem = "is neither String nor JSON" if document is not None else "is missing"
                raise Fatal(f"documentColumn: '{self.config.document_column}' of '{table.name}' {problem}")
        if self.config.upsert_mode and not table.replacing:
            raise Fatal(
                f"upsertMode: the engine of '{table.name}' is {table.engine}, which keeps every row; create it with"
                " ENGINE = ReplacingMergeTree([version]) ORDER BY the columns that identify a row"
            )
        if (reason := forgets_tokens(client, table)) is not None:
            log.warning("table=%s rows may come twice after a crash (at least once): %s", table.name, reason)
        self._table, self._document = table, document

    def close(self) -> None:
        client, self._client = self._client, None
        self._table = self._document = None
        self._reset()
        if client is not None:
            client.close()

    def check(self) -> str:
        return describe_server(self.config.access, self.config.ca)

    def classify(self, error: Exception) -> ConnectError:
        return sort_error(error)

    def accepts(self) -> tuple[str, ...]:
        if self._document is not None:
            return (_JSON,)
        return (COLUMNS, _COPY, _JSON) if self._parses_json else (COLUMNS, _COPY)

    @property
    def _parses_json(self) -> bool:
        """The native protocol has no formats but its own, and a table that is yet to be created has no types."""
        return self.config.access.protocol == "http" and self._table is not None

    # --- rows

    def begin(self, token: str) -> None:
        self._token, self._batches = token, []

    def write(self, batch: Batch) -> None:
        if batch.format == _JSON:
            try:
                loading.refuse_tombstones(batch.rows, "a record without value (a tombstone) has no row in ClickHouse")
            except InvalidRecord:
                self._reset()
                raise
        # Arrow reads the text of COPY at the speed of the wire, and spares PostgreSQL making JSON of its rows.
        self._batches.append(batch.rows if batch.format != _COPY else self._copied.decode(batch.rows))

    def flush(self) -> None:
        batches, token = self._batches, self._token
        self._reset()
        if not batches:
            return
        try:
            self._insert(self._connected(), batches, token)
        except Exception as error:
            raise self._refused(error, batches) from error

    def _insert(self, client: Client, batches: list[pa.RecordBatch], token: str | None) -> None:
        if self._table is None:
            create_typed_table(client, self.config, loading.schema_of(batches))
            table = find_table(client, self.config.table_name)
            assert table is not None
            self._use(client, table)
        table = self._table
        assert table is not None
        if self._document is not None:
            loading.insert_documents(client, table, self._document, batches, token)
        elif format_of(batches[0].schema) == _JSON:
            assert isinstance(client, HttpClient)
            skip = int(self.config.ignore_unknown_columns)
            settings = {**loading.token_settings(token), **loading.JSON_INPUT, "input_format_skip_unknown_fields": skip}
            lines = loading.json_lines(batches)
            client.send(loading.json_statement(table, sum(batch.num_rows for batch in batches)), lines, settings)
        else:
            loading.insert_columns(client, table, batches, token, self.config.ignore_unknown_columns)

    def _refused(self, error: Exception, batches: list[pa.RecordBatch]) -> ConnectError:
        """The error, sorted, with the row where the server tells it and there is one batch for it to be in."""
        found = sort_error(error)
        row = row_of(error)
        if not isinstance(found, InvalidRecord) or found.rows is not None or row is None or len(batches) > 1:
            return found
        return InvalidRecord(str(found), rows={row: str(found)}) if 0 <= row < batches[0].num_rows else found

    def _connected(self) -> Client:
        if self._client is None:
            raise Fatal("the sink is not open")
        return self._client
