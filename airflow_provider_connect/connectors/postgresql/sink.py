"""The sink: rows stream into COPY while the source reads on, and become visible together with their checkpoint."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar, NoReturn

import psycopg

from airflow_provider_connect.connectors._postgresql.client import (
    Connection,
    connect,
    describe_server,
    refused_line,
    run,
    sort_error,
)
from airflow_provider_connect.connectors._postgresql.session_name import session_name
from airflow_provider_connect.connectors.postgresql.config import PostgreSQLSinkConfig
from airflow_provider_connect.connectors.postgresql.evolution import wanted_of, wanted_of_server
from airflow_provider_connect.connectors.postgresql.ledger import CheckpointTable
from airflow_provider_connect.connectors.postgresql.loading import Loading
from airflow_provider_connect.connectors.postgresql.query import look_up
from airflow_provider_connect.connectors.postgresql.source import PostgreSQLSource
from airflow_provider_connect.connectors.postgresql.table import Column
from airflow_provider_connect.connectors.postgresql.target import Target
from airflow_provider_connect.connectors.postgresql.target_lookup import (
    check_conflict_key,
    create_target,
    find_target,
    may_create,
    schema_of,
)
from airflow_provider_connect.engine.batch import COLUMNS, Batch, Checkpoint
from airflow_provider_connect.engine.connector import SinkContext, Source, TransactionalSink
from airflow_provider_connect.engine.errors import ConnectError, Fatal, InvalidRecord, Retryable

_SAVEPOINT = "connect_flush"


class PostgreSQLSink(TransactionalSink[PostgreSQLSinkConfig]):
    """Rows into one table, exactly once.

    One connection writes: BEGIN and COPY with the first batch after a commit, further batches into the same COPY,
    `flush` ends it (and merges what was staged), `commit` moves the checkpoint in the same transaction. A flush after
    the first one of a transaction is a savepoint. Claims that come while rows are uncommitted use a connection of
    their own.

    A document table (see `table` of the configuration) takes JSON documents; a null document becomes a NULL. A typed
    table takes rows of COPY text as they are, columns, and JSON documents whose fields go to the columns of their
    names. From a source whose columns have the very types of the table's, it takes the tuples of binary COPY.

    A null document is stored as NULL in a document table and refused by a typed one; in an upsert it deletes. A table
    that is created typed (`evolution`) has no columns before the first rows are written.
    """

    config_type: ClassVar[type[PostgreSQLSinkConfig]] = PostgreSQLSinkConfig

    def __init__(self, config: PostgreSQLSinkConfig) -> None:
        super().__init__(config)
        self._connection: Connection | None = None
        self._ledger: CheckpointTable | None = None
        self._target: Target | None = None
        self._stale = False
        self._takes_tuples = False
        self._reset()

    def _reset(self) -> None:
        self._loading: Loading | None = None
        self._in_transaction = False
        self._flushed = False

    # --- life cycle

    def open(self, context: SinkContext) -> None:
        self.close()
        self._name = session_name(context.flow)
        with connect(self.config.access, self._name) as connection:
            try:
                self._target = find_target(connection, self.config) or self._create_for(context.source, connection)
                ledger = CheckpointTable(schema_of(connection, self.config, self._target), context.flow)
                ledger.create(connection)
                if self._target is not None:
                    check_conflict_key(connection, self._target)
            except psycopg.Error as error:
                raise sort_error(error) from error
        self._stale = False
        self._takes_tuples = self._fits_as_it_is(context.source)
        if self._ledger is None or not self._ledger.same(ledger):
            self._ledger = ledger  # else what it owns is kept: after an error we come back as the same owner
        self._connection = connect(self.config.access, self._name)

    def close(self) -> None:
        connection, self._connection = self._connection, None
        self._reset()
        if connection is not None:
            connection.close()

    def check(self) -> str:
        return describe_server(self.config.access)

    def classify(self, error: Exception) -> ConnectError:
        return sort_error(error)

    def accepts(self) -> tuple[str, ...]:
        if self._target is not None and self._target.document_column is not None:
            return ("json",)
        return (*(("postgresql-copy-binary",) if self._takes_tuples else ()), "postgresql-copy", COLUMNS, "json")

    # --- what is there

    def _create_for(self, source: Source[Any] | None, connection: Connection) -> Target | None:
        """The table for the rows of a source that says beforehand which columns it has; None if there is none such."""
        columns = self._columns_of(source)
        if columns is None or not self.config.creates_typed:
            return None
        described = [(column.name, column.type, oid) for column, (_, oid) in columns]
        return create_target(connection, self.config, wanted_of_server(connection, described))

    def _columns_of(self, source: Source[Any] | None) -> list[tuple[Column, tuple[str, int]]] | None:
        if not isinstance(source, PostgreSQLSource) or source.config.raw_mode:
            return None
        try:
            with connect(source.config.access, f"{self._name} source"[:63], read_only=True) as connection:
                reading = look_up(connection, source.config)
                return list(zip(reading.columns, reading.types, strict=True))
        except (ConnectError, psycopg.Error):
            return None  # that is for the source to tell

    def _fits_as_it_is(self, source: Source[Any] | None) -> bool:
        """Whether the rows of `source` can stay what its server sends, binary, on their way into the table."""
        target = self._target
        if target is None or target.document_column is not None or target.upsert is not None:
            return False
        columns = self._columns_of(source)
        return columns is not None and target.refuses_tuples([sent for _, sent in columns]) is None

    def _ready_target(self, batch: Batch) -> Target | None:
        """The target, created or looked up again if it has to be; None if there is no table, and nothing to write."""
        connection = self._writer()
        if self._target is not None and not self._stale:
            return self._target
        # What a rolled back transaction had changed is no longer so.
        self._target = find_target(connection, self.config)
        self._stale = False
        if self._target is None:
            with connect(self.config.access, self._name) as aside:
                wanted = wanted_of(aside, batch.rows, None)
                if batch.format == "json" and not may_create(wanted, batch.rows, self.config):
                    return None
                self._target = create_target(aside, self.config, wanted)
        return self._target

    # --- rows

    def write(self, batch: Batch) -> None:
        connection = self._writer()
        try:
            if self._loading is None:
                target = self._ready_target(batch)
                if target is None:
                    return
                self._begin_flush(connection)
                self._loading = Loading(connection, target)
            self._loading.write(batch)
            self._target = self._loading.target
        except Exception as error:
            self._undo_flush(error)

    def flush(self) -> None:
        loading = self._loading
        if loading is None:
            return
        try:
            loading.finish()
        except Exception as error:
            self._undo_flush(error)
        self._loading = None
        self._flushed = True

    def _writer(self) -> Connection:
        if self._connection is None:
            raise Fatal("the sink is not open")
        return self._connection

    def _begin_flush(self, connection: Connection) -> None:
        if not self._in_transaction:
            run(connection, "BEGIN")
            self._in_transaction = True
            self._flushed = False
        elif self._flushed:
            run(connection, f"SAVEPOINT {_SAVEPOINT}")

    def _undo_flush(self, error: Exception) -> NoReturn:
        """Throw away what was written since the last flush, and raise the error, sorted."""
        self._stale = self.config.creates_typed
        loading, self._loading = self._loading, None
        sorted_error = sort_error(error)
        if isinstance(error, psycopg.Error) and isinstance(sorted_error, InvalidRecord) and loading is not None:
            sorted_error = loading.refused(refused_line(error), str(sorted_error))
        try:
            if loading is not None:
                loading.cancel()
            if self._flushed:
                run(self._writer(), f"ROLLBACK TO SAVEPOINT {_SAVEPOINT}")
            elif self._in_transaction:
                run(self._writer(), "ROLLBACK")
                self._in_transaction = False
        except psycopg.Error as gone:
            self._drop_connection()
            if not isinstance(sorted_error, Retryable):
                sorted_error = Retryable(f"{sorted_error}; and then the connection was lost: {gone}")
        _raise(sorted_error, error)

    def _drop_connection(self) -> None:
        """Close a connection that nothing can be expected of; the server rolls back what it held."""
        self._reset()
        if self._connection is not None:
            self._connection.close()

    def abort(self) -> None:
        connection, loading = self._connection, self._loading
        in_transaction = self._in_transaction
        self._reset()
        self._stale = self.config.creates_typed
        if connection is None or connection.closed:
            return
        try:
            if loading is not None:
                loading.cancel()
            if in_transaction:
                run(connection, "ROLLBACK")
        except psycopg.Error:
            connection.close()

    # --- ledger

    def claim(self, splits: Iterable[str]) -> Checkpoint:
        with self._aside() as connection:
            return self._owned().claim(connection, splits)

    def positions(self, splits: Iterable[str]) -> Checkpoint:
        with self._aside() as connection:
            return self._owned().positions(connection, splits)

    def commit(self, checkpoint: Checkpoint) -> None:
        connection = self._writer()
        if self._loading is not None:
            raise Fatal("commit without flush")
        if not checkpoint and not self._in_transaction:
            return
        try:
            if not self._in_transaction:
                run(connection, "BEGIN")
                self._in_transaction = True
            if checkpoint:
                self._owned().advance(connection, checkpoint)
            status = run(connection, "COMMIT").statusmessage
        except Exception as error:
            self.abort()
            _raise(sort_error(error), error)
        self._reset()
        if status != "COMMIT":
            raise Retryable(f"the server answered COMMIT with {status}")
        self._owned().landed(checkpoint)

    def _owned(self) -> CheckpointTable:
        if self._ledger is None:
            raise Fatal("the sink is not open")
        return self._ledger

    def _aside(self) -> _Aside:
        """A connection whose transactions have nothing to do with uncommitted rows."""
        connection = self._connection
        if connection is None or connection.closed or self._in_transaction:
            return _Aside(connect(self.config.access, self._name), True)
        return _Aside(connection, False)


def _raise(error: ConnectError, cause: Exception) -> NoReturn:
    raise error from (cause if cause is not error else cause.__cause__)


class _Aside:
    """A connection for a `with` block, closed behind it if it was opened for it; errors leave it sorted."""

    def __init__(self, connection: Connection, own: bool) -> None:
        self._connection, self._own = connection, own

    def __enter__(self) -> Connection:
        return self._connection

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if self._own:
            self._connection.close()
        if isinstance(error, psycopg.Error):
            raise sort_error(error) from error
