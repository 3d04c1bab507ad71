"""Target lookup: the table that a configuration means, as it is on the server, or created as it should be."""

from __future__ import annotations

from collections.abc import Sequence

import psycopg
import pyarrow as pa
import pyarrow.compute as pc

from airflow_provider_connect.connectors._postgresql.client import Connection, run
from airflow_provider_connect.connectors._postgresql.names import quoted
from airflow_provider_connect.connectors.postgresql.column_types import Wanted
from airflow_provider_connect.connectors.postgresql.config import PostgreSQLSinkConfig
from airflow_provider_connect.connectors.postgresql.evolution import create_typed_table
from airflow_provider_connect.connectors.postgresql.merge import columns_statement, documents_statement
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
from airflow_provider_connect.engine.errors import Fatal, FlowError, InvalidRecord


def find_target(connection: Connection, config: PostgreSQLSinkConfig) -> Target | None:
    """The target. A table of documents is created if it is missing and the configuration says so; None if it is a typed
    one that is to be created. Fatal if it is missing else, or does not fit."""
    name = config.table_name
    table = find_table(connection, name)
    if table is None:
        if not config.auto_create_table:
            raise missing_table(connection, name, "create it, or set `autoCreateTable: true`")
        if config.upsert_mode and not config.conflict_columns:
            raise FlowError(
                f"upsertMode: the table '{name}' is to be created, so set `conflictKey` to the field(s) that identify a"
                " row"
            )
        if config.creates_typed:
            return None
        create_document_table(connection, name, config.conflict_columns, config.soft_delete_column)
        table = find_table(connection, name)
        assert table is not None
    return _target(table, config)


def create_target(connection: Connection, config: PostgreSQLSinkConfig, wanted: Sequence[Wanted]) -> Target:
    """Create a typed table with the columns wanted, unless another lane did so first."""
    key = config.conflict_columns
    create_typed_table(connection, config.table_name, wanted, key, config.soft_delete_column)
    target = find_target(connection, config)
    if target is None:
        raise Fatal(f"the table '{config.table_name}' was created and is not there; check the search_path")
    check_conflict_key(connection, target)
    return target


def may_create(wanted: Sequence[Wanted], rows: pa.RecordBatch, config: PostgreSQLSinkConfig) -> bool:
    """Whether a table can be made of these documents; False for tombstones, which delete nothing where nothing is.

    InvalidRecord: they lack the key of the upsert, or are null without one.
    """
    present = rows.column("value").is_valid()
    if config.upsert_mode and not pc.any(present).as_py():
        return False
    names = [column.name for column in wanted]
    lacking = [name for name in config.conflict_columns if name not in names]
    if lacking:
        reason, refused = f"the document has no {lacking[0]!r} (conflictKey)", present
    else:
        reason, refused = "a null document has no fields for the columns of a table", pc.invert(present)
        if config.upsert_mode:
            return True
    if places := pc.indices_nonzero(refused).to_pylist():
        raise InvalidRecord(f"{len(places)} rows: {reason}", rows=dict.fromkeys(places, reason))
    return True


def schema_of(connection: Connection, config: PostgreSQLSinkConfig, target: Target | None) -> str:
    """The schema where the table is, or will be."""
    if target is not None and target.table.name.schema is not None:
        return target.table.name.schema
    if config.table_name.schema is not None:
        return config.table_name.schema
    row = run(connection, "SELECT current_schema()").fetchone()
    return str(row[0]) if row is not None and row[0] is not None else "public"


def check_conflict_key(connection: Connection, target: Target) -> None:
    """The server judges whether a unique index fits, by planning the very statement."""
    upsert, table = target.upsert, target.table
    if upsert is None:
        return
    if target.document_column is not None:
        stage = Stage.of_documents()
        stage.create(connection)
        statement = documents_statement(target, stage)
        index = document_key(upsert.key, quoted(target.document_column.name))
    else:
        names = [*upsert.key, *([upsert.version] if upsert.version is not None else [])]
        remedy = "name columns of the table in `conflictKey` and `upsertVersionColumn`"
        columns = [column for column in target.columns_named(names, remedy) if column is not None]
        stage = Stage.of_columns(columns)
        stage.create(connection)
        statement = columns_statement(target, stage, columns)
        index = ", ".join(quoted(name) for name in upsert.key)
    try:
        run(connection, f"EXPLAIN {statement}")
    except psycopg.errors.InvalidColumnReference as error:
        raise Fatal(
            f"upsertMode: no unique index of '{table.name}' covers conflictKey {', '.join(upsert.key)}; create one:"
            f" CREATE UNIQUE INDEX ON {table.name.sql} ({index})"
        ) from error


def _target(table: Table, config: PostgreSQLSinkConfig) -> Target:
    document = None if config.creates_typed else table.document_column(besides=config.soft_delete_column)
    if config.document_column is not None:
        document = table.column(config.document_column)
        if document is None or not document.is_json:
            problem = "is not json or jsonb" if document is not None else "is missing"
            raise Fatal(f"documentColumn: '{config.document_column}' of '{table.name}' {problem}")
    upsert = _upsert(table, document, config) if config.upsert_mode else None
    return Target(table, document, upsert, config.ignore_unknown_columns, config.creates_typed)


def _upsert(table: Table, document: Column | None, config: PostgreSQLSinkConfig) -> Upsert:
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
