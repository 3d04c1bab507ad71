"""Table: what a table has, how one is created, and whether it remembers the tokens of inserts."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa

from airflow_provider_connect.connectors.clickhouse.client import Client
from airflow_provider_connect.connectors.clickhouse.config import ClickHouseSinkConfig
from airflow_provider_connect.connectors.clickhouse.errors import code_of
from airflow_provider_connect.connectors.clickhouse.names import TableName, listed, literal, quoted
from airflow_provider_connect.connectors.clickhouse.types import UNIT_SCALES, Type
from airflow_provider_connect.engine.errors import Fatal

REMEMBERED_TOKENS = 10_000
"""Inserts that a created table remembers: as many as may land between a try and its repetition."""

_UNKNOWN_TABLE = 60
_WINDOW = re.compile(r"\b(non_replicated|replicated)_deduplication_window\s*=\s*(\d+)")
_NOT_INSERTED = {"MATERIALIZED", "ALIAS"}


@dataclass(frozen=True, slots=True)
class TableColumn:
    """A column as DESCRIBE tells it; `default` is DEFAULT, MATERIALIZED, ALIAS, EPHEMERAL or empty."""

    name: str
    type: Type
    default: str

    @property
    def inserted(self) -> bool:
        """Whether an insert may name it."""
        return self.default not in _NOT_INSERTED


@dataclass(frozen=True, slots=True)
class Table:
    """A table or view that is there."""

    name: TableName
    columns: tuple[TableColumn, ...]
    engine: str
    engine_full: str

    def column(self, name: str) -> TableColumn | None:
        """The column of this name."""
        return next((column for column in self.columns if column.name == name), None)

    @property
    def document_column(self) -> TableColumn | None:
        """The column `data` if it is text or JSON, and the only one that an insert has to fill."""
        found = self.column("data")
        needed = [column for column in self.columns if not column.default]
        return found if found is not None and needed == [found] and is_document(found) else None

    @property
    def replacing(self) -> bool:
        """Whether the engine keeps the last row of each key."""
        return "ReplacingMergeTree" in self.engine


def is_document(column: TableColumn) -> bool:
    """Whether a column takes a whole JSON document."""
    return column.type.inner.name in {"String", "JSON", "Object"}


def find_table(client: Client, name: TableName) -> Table | None:
    """The table of this name, or None."""
    try:
        described = client.query(f"DESCRIBE TABLE {name.sql}")
    except Exception as error:
        if code_of(error) == _UNKNOWN_TABLE:
            return None
        raise
    columns = tuple(TableColumn(row[0], Type.parse(row[1]), row[2]) for row in described)
    database = literal(name.database) if name.database else "currentDatabase()"
    found = client.query(
        f"SELECT engine, engine_full FROM system.tables WHERE database = {database} AND name = {literal(name.table)}"
    )
    engine, engine_full = found[0] if found else ("", "")
    return Table(name, columns, engine, engine_full)


def forgets_tokens(client: Client, table: Table) -> str | None:
    """Why repeated inserts would not be recognized, and the remedy; None if they are."""
    if not table.engine.endswith("MergeTree"):
        return f"its engine {table.engine or 'is not known and'} does not remember inserts"
    kind = "replicated" if table.engine.startswith(("Replicated", "Shared")) else "non_replicated"
    setting = f"{kind}_deduplication_window"
    given = {found[1]: int(found[2]) for found in _WINDOW.finditer(table.engine_full)}
    window = given.get(kind)
    if window is None:
        source = "merge_tree_settings" if kind == "non_replicated" else "replicated_merge_tree_settings"
        rows = client.query(f"SELECT value FROM system.{source} WHERE name = {literal(setting)}")
        window = int(rows[0][0]) if rows else 0
    if window > 0:
        return None
    return f"{setting} is 0; run: ALTER TABLE {table.name.sql} MODIFY SETTING {setting} = {REMEMBERED_TOKENS}"


def create_document_table(client: Client, name: TableName) -> None:
    """The table of the specification: `data` and `created_at`."""
    client.query(
        f"CREATE TABLE IF NOT EXISTS {name.sql} (`data` String, `created_at` DateTime DEFAULT now())"
        f" ENGINE = MergeTree ORDER BY `created_at` {_SETTINGS}"
    )


def create_typed_table(client: Client, config: ClickHouseSinkConfig, schema: pa.Schema) -> None:
    """A table with the columns of `schema`; all are Nullable but those of the sorting key."""
    key, version, deleted = config.conflict_columns, config.version_column, config.deleted_column
    missing = [name for name in (*key, version) if name is not None and name not in schema.names]
    if missing:
        raise Fatal(
            f"conflictKey and versionColumn must be fields of the rows, which lack {', '.join(missing)};"
            f" there are: {', '.join(schema.names)}"
        )
    plain = {*key, version}
    columns = [f"{quoted(field.name)} {column_type(field.type, field.name not in plain)}" for field in schema
               if field.name != deleted]  # fmt: skip
    engine = "MergeTree"
    if config.upsert_mode:
        columns += [f"{quoted(deleted)} UInt8"] if deleted else []
        engine = f"ReplacingMergeTree({listed([name for name in (version, deleted) if name])})"
    order = f"({listed(key)})" if key else "tuple()"
    client.query(
        f"CREATE TABLE IF NOT EXISTS {config.table_name.sql} ({', '.join(columns)}) ENGINE = {engine} ORDER BY {order}"
        f" {_SETTINGS}"
    )


_SETTINGS = f"SETTINGS non_replicated_deduplication_window = {REMEMBERED_TOKENS}"


def column_type(kind: pa.DataType, nullable: bool = True) -> str:
    """The ClickHouse type that holds every value of an Arrow type."""
    if isinstance(kind, pa.ExtensionType):
        return column_type(kind.storage_type, nullable)
    if pa.types.is_dictionary(kind):
        return column_type(kind.value_type, nullable)
    if pa.types.is_map(kind):
        return f"Map({column_type(kind.key_type, False)}, {column_type(kind.item_type)})"
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        return f"Array({column_type(kind.value_type)})"
    if pa.types.is_struct(kind) and kind.num_fields:
        return f"Tuple({', '.join(f'{quoted(field.name)} {column_type(field.type)}' for field in kind)})"
    text = _scalar_type(kind)
    return f"Nullable({text})" if nullable else text


def _scalar_type(kind: pa.DataType) -> str:
    if pa.types.is_boolean(kind):
        return "Bool"
    if pa.types.is_integer(kind):
        return str(kind).replace("uint", "UInt") if str(kind).startswith("u") else str(kind).replace("int", "Int")
    if pa.types.is_floating(kind):
        return "Float64" if kind == pa.float64() else "Float32"
    if pa.types.is_timestamp(kind):
        return f"DateTime64({UNIT_SCALES[kind.unit]}, 'UTC')"
    if pa.types.is_date(kind):
        return "Date32"
    if pa.types.is_decimal(kind) and kind.scale >= 0:
        return f"Decimal({kind.precision}, {kind.scale})"
    return "Int64" if pa.types.is_duration(kind) else "String"


def unknown_columns(table: Table, names: Sequence[str]) -> list[str]:
    """Those of `names` that an insert cannot name."""
    known = {column.name for column in table.columns if column.inserted}
    return [name for name in names if name not in known]
