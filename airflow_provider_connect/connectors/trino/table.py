"""Table: what is there to write to, and what we create."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa

from airflow_provider_connect.connectors.trino.client import Client
from airflow_provider_connect.connectors.trino.config import TrinoConfig, TrinoSinkConfig
from airflow_provider_connect.connectors.trino.errors import MissingTable
from airflow_provider_connect.connectors.trino.names import literal, quoted
from airflow_provider_connect.connectors.trino.types import Column, trino_type
from airflow_provider_connect.engine.errors import ConnectError, Fatal

DOCUMENT_COLUMN = "data"
TOKEN, ROW = "connect_token", "connect_row"
"""The columns that tell which flush a row belongs to, and which row of it it is."""
_TOKEN_COLUMNS = ((TOKEN, "varchar"), (ROW, "bigint"))


@dataclass(frozen=True, slots=True)
class Table:
    """A table that is there."""

    sql: str
    """Its name in SQL."""
    columns: tuple[Column, ...]

    @property
    def data_columns(self) -> dict[str, Column]:
        """Its columns by name, without those of the token."""
        return {column.name: column for column in self.columns if column.name not in (TOKEN, ROW)}

    @property
    def document_column(self) -> Column | None:
        """The column for whole documents, if it has one and no other."""
        columns = self.data_columns
        found = columns.get(DOCUMENT_COLUMN)
        return found if found is not None and len(columns) == 1 and found.type.name in ("varchar", "json") else None


def describe_server(client: Client, config: TrinoConfig) -> str:
    """One line on what answers. Fatal if there is no such catalog or schema."""
    version, user = client.run("SELECT version(), current_user")[0]
    schemas = f"{quoted(config.catalog)}.information_schema.schemata"
    if not client.run(f"SELECT 1 FROM {schemas} WHERE schema_name = {literal(config.schema_name.lower())}"):
        raise Fatal(
            f"the catalog '{config.catalog}' has no schema '{config.schema_name}'; check `schema`, or create it"
        )
    return f"Trino {version}, schema {config.catalog}.{config.schema_name}, as {user}"


def table_sql(config: TrinoSinkConfig, suffix: str = "") -> str:
    """The table's name in SQL; with a suffix such as `$properties` what is told about it."""
    return f"{quoted(config.catalog)}.{quoted(config.schema_name)}.{quoted(config.table + suffix)}"


def find_table(client: Client, config: TrinoSinkConfig) -> Table | None:
    """The table as it is; None if it is missing."""
    name = table_sql(config)
    try:
        return Table(name, client.describe(f"SELECT * FROM {name} LIMIT 0"))
    except MissingTable:
        return None


def create_document_table(client: Client, config: TrinoSinkConfig) -> Table:
    """Create the table with one column for documents, unless it is there."""
    return _create(client, config, [(DOCUMENT_COLUMN, "varchar")])


def create_typed_table(client: Client, config: TrinoSinkConfig, schema: pa.Schema) -> Table:
    """Create the table with a column for each field, unless it is there."""
    columns = []
    for field in schema:
        kind = trino_type(field)
        if kind is None:
            raise Fatal(f"column '{field.name}': Trino has no type for {field.type}; cast it, or create the table")
        columns.append((field.name, kind))
    return _create(client, config, columns)


def _create(client: Client, config: TrinoSinkConfig, columns: Sequence[tuple[str, str]]) -> Table:
    if config.idempotent:
        columns = [*columns, *_TOKEN_COLUMNS]
    listed = ", ".join(f"{quoted(name)} {kind}" for name, kind in columns)
    failure: ConnectError | None = None
    try:
        client.run(f"CREATE TABLE IF NOT EXISTS {table_sql(config)} ({listed})")
    except ConnectError as error:  # two that create it at once may collide
        failure = error
    table = find_table(client, config)
    if table is None:
        raise failure or Fatal(f"the table '{config.table}' was created, but is not there")
    return table


def check_idempotent(client: Client, config: TrinoSinkConfig, table: Table) -> None:
    """Fatal where the table cannot tell what has landed, or would not notice a conflict."""
    kinds = {column.name: column.type.name for column in table.columns}
    missing = [f"{name} {kind}" for name, kind in _TOKEN_COLUMNS if kinds.get(name) != kind]
    if missing:
        added = ", ".join(f"ALTER TABLE {table.sql} ADD COLUMN {column}" for column in missing)
        raise Fatal(f"idempotent: the table '{config.table}' lacks {' and '.join(missing)}; run: {added}")
    try:
        client.run(f"SELECT 1 FROM {table_sql(config, '$snapshots')} LIMIT 1")
        levels = client.run(
            f"SELECT value FROM {table_sql(config, '$properties')} WHERE key = 'write.delete.isolation-level'"
        )
    except Fatal as error:
        raise Fatal(
            f"idempotent: '{config.table}' is no Iceberg table, so it cannot tell what has landed; without `idempotent`"
            f" rows are written at least once ({error})"
        ) from error
    if levels and levels[0][0] != "serializable":
        raise Fatal(
            f"idempotent: the table property write.delete.isolation-level of '{config.table}' is '{levels[0][0]}';"
            " conflicts are only noticed when it is 'serializable'"
        )
