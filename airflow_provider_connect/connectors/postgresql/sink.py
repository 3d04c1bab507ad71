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
from airflow_provider_connect.connectors.postgresql.ledger import CheckpointTable
from airflow_provider_connect.connectors.postgresql.loading import Loading
from airflow_provider_connect.connectors.postgresql.merge import columns_statement, documents_statement
from airflow_provider_connect.connectors.postgresql.query import look_up
from airflow_provider_connect.connectors.postgresql.source import PostgreSQLSource
from airflow_provider_connect.connectors.postgresql.stage import Stage
from airflow_provider_connect.connectors.postgresql.table import (
    Column,
    Table,
    create_document_table,
    document_key,
    find_table,
    missing_table,
)
from airflow_provider_connect.connectors.postgresql.target import Target, Upsert
from airflow_provider_connect.engine.batch import COLUMNS, Batch, Checkpoint
from airflow_provider_connect.engine.connector import SinkContext, Source, TransactionalSink
from airflow_provider_connect.engine.errors import ConnectError, Fatal, FlowError, InvalidRecord, Retryable

_SAVEPOINT = "connect_flush"


class PostgreSQLSink(TransactionalSink[PostgreSQLSinkConfig]):
    """Rows into one table, exactly once.

    One connection writes: BEGIN and COPY with the first batch after a commit, further batches into the same COPY,
    `flush` ends it (and merges what was staged), `commit` moves the checkpoint in the same transaction. A flush after
    the first one of a transaction is a savepoint. Claims that come while rows are uncommitted use a connection of
    their own.

    A document table (see `table` of the configuration) takes JSON documents; a null document becomes a NULL. A typed
    table takes rows of COPY text as they are, columns, and JSON documents whose fields go to the columns of their
    names; there a null document is refused. From a source whose columns have the very types of the table's, it takes
    the tuples of binary COPY.
    """

    config_type: ClassVar[type[PostgreSQLSinkConfig]] = PostgreSQLSinkConfig

    def __init__(self, config: PostgreSQLSinkConfig) -> None:
        super().__init__(config)
        self._connection: Connection | None = None
        self._ledger: CheckpointTable | None = None
        self._target: Target
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
                table = self._find_or_create(connection)
                ledger = CheckpointTable(table.name.schema or "public", context.flow)
                ledger.create(connection)
                self._target = self._target_in(table)
                self._check_conflict_key(connection)
            except psycopg.Error as error:
                raise sort_error(error) from error
        self._takes_tuples = self._fit_as_they_are(context.source)
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
        if self._target.document_column is not None:
            return ("json",)
        return (*(("postgresql-copy-binary",) if self._takes_tuples else ()), "postgresql-copy", COLUMNS, "json")

    # --- what is there

    def _find_or_create(self, connection: Connection) -> Table:
        name = self.config.table_name
        table = find_table(connection, name)
        if table is None and self.config.auto_create_table:
            key = self.config.conflict_columns
            if self.config.upsert_mode and not key:
                raise FlowError(
                    f"upsertMode: the table '{name}' is to be created, so set `conflictKey` to the field(s) of the"
                    " document that identify a row"
                )
            create_document_table(connection, name, key, self.config.soft_delete_column)
            table = find_table(connection, name)
        if table is None:
            raise missing_table(connection, name, "create it, or set `autoCreateTable: true`")
        return table

    def _target_in(self, table: Table) -> Target:
        config = self.config
        document = table.document_column(besides=config.soft_delete_column)
        if config.document_column is not None:
            document = table.column(config.document_column)
            if document is None or not document.is_json:
                problem = "is not json or jsonb" if document is not None else "is missing"
                raise Fatal(f"documentColumn: '{config.document_column}' of '{table.name}' {problem}")
        upsert = self._upsert_in(table, document) if config.upsert_mode else None
        return Target(table, document, upsert, config.ignore_unknown_columns)

    def _upsert_in(self, table: Table, document: Column | None) -> Upsert:
        config = self.config
        key = config.conflict_columns or (table.primary_key if document is None else ())
        if not key:
            what = "the field(s) of the document" if document is not None else "the column(s)"
            raise Fatal(f"upsertMode: set `conflictKey` to {what} that identify a row of '{table.name}'")
        mark = None
        if config.soft_delete_column is not None:
            mark = table.column(config.soft_delete_column)
            if mark is None or not (mark.type == "boolean" or mark.type.startswith(("timestamp", "date"))):
                problem = f"is {mark.type}, but must be a timestamp or boolean" if mark is not None else "is missing"
                raise Fatal(f"softDeleteColumn: '{config.soft_delete_column}' of '{table.name}' {problem}")
        return Upsert(key, config.upsert_version_column, mark)

    def _fit_as_they_are(self, source: Source[Any] | None) -> bool:
        """Whether the rows of `source` can stay what its server sends, binary, on their way into the table."""
        if (
            not isinstance(source, PostgreSQLSource)
            or self._target.document_column is not None
            or self._target.upsert is not None
        ):
            return False
        try:
            with connect(source.config.access, f"{self._name} source"[:63], read_only=True) as connection:
                return self._target.refuses_tuples(look_up(connection, source.config).types) is None
        except (ConnectError, psycopg.Error):
            return False  # that is for the source to tell

    def _check_conflict_key(self, connection: Connection) -> None:
        """The server judges whether a unique index fits, by planning the very statement."""
        target, upsert = self._target, self._target.upsert
        if upsert is None:
            return
        table = target.table
        if target.document_column is not None:
            stage = Stage.of_documents()
            stage.create(connection)
            statement = documents_statement(target, stage)
            index = document_key(upsert.key, f'"{target.document_column.name}"')
        else:
            names = [*upsert.key, *([upsert.version] if upsert.version is not None else [])]
            remedy = "name columns of the table in `conflictKey` and `upsertVersionColumn`"
            columns = [column for column in target.columns_named(names, remedy) if column is not None]
            stage = Stage.of_columns(columns)
            stage.create(connection)
            statement = columns_statement(target, stage, columns)
            index = ", ".join(f'"{name}"' for name in upsert.key)
        try:
            run(connection, f"EXPLAIN {statement}")
        except psycopg.errors.InvalidColumnReference as error:
            raise Fatal(
                f"upsertMode: no unique index of '{table.name}' covers conflictKey {', '.join(upsert.key)}; create one:"
                f" CREATE UNIQUE INDEX ON {table.name.sql} ({index})"
            ) from error

    # --- rows

    def write(self, batch: Batch) -> None:
        connection = self._writer()
        try:
            if self._loading is None:
                self._begin_flush(connection)
                self._loading = Loading(connection, self._target)
            self._loading.write(batch)
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
