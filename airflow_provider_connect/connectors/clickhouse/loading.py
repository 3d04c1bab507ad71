"""Loading: the rows of one flush as one insert of one block.

The server checks and converts the whole block before it writes any of it, so a refused flush leaves nothing, and one
token stands for one block (per partition) however the flush was cut into batches.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from airflow_provider_connect.connectors.clickhouse.client import Client
from airflow_provider_connect.connectors.clickhouse.conversion import Value, from_column, from_json, guarded, json_input
from airflow_provider_connect.connectors.clickhouse.names import listed, literal, quoted
from airflow_provider_connect.connectors.clickhouse.native_block import Block, block_of
from airflow_provider_connect.connectors.clickhouse.table import Table, TableColumn, unknown_columns
from airflow_provider_connect.connectors.clickhouse.types import Type
from airflow_provider_connect.engine.errors import Fatal, InvalidRecord

_ENDLESS = 1 << 40
ONE_BLOCK = {
    "async_insert": 0,
    "insert_deduplicate": 1,
    "deduplicate_blocks_in_dependent_materialized_views": 1,
    "insert_null_as_default": 1,
    "max_insert_block_size": _ENDLESS,
    "min_insert_block_size_rows": _ENDLESS,
    "min_insert_block_size_bytes": _ENDLESS,
    "max_insert_threads": 1,
    "max_threads": 1,
}
"""What keeps an insert in one piece, and has it judged by its token."""
JSON_INPUT = {
    "input_format_parallel_parsing": 0,  # so that the row in an error message is the row
    "input_format_import_nested_json": 0,
    "date_time_input_format": "best_effort",
    "date_time_overflow_behavior": "throw",
}


def token_settings(token: str | None) -> dict[str, Any]:
    """Settings of an insert. Without a token each insert is new, also if the one before had equal rows."""
    if token is None:
        return {**ONE_BLOCK, "insert_deduplicate": 0}
    return {**ONE_BLOCK, "insert_deduplication_token": token}


def insert_documents(
    client: Client, table: Table, column: TableColumn, rows: list[pa.RecordBatch], token: str | None
) -> None:
    """Whole documents into one column."""
    block = block_of([pa.record_batch([batch.column("value")], names=["data"]) for batch in rows])
    name = quoted(column.name)
    statement = f"INSERT INTO {table.name.sql} ({name}) SELECT `data` FROM input({block.structure()})"
    client.insert(statement, block, token_settings(token))


def insert_columns(
    client: Client, table: Table, rows: list[pa.RecordBatch], token: str | None, ignore_unknown: bool
) -> None:
    """Columns by name. InvalidRecord if the table has no such column."""
    names = list(dict.fromkeys(name for batch in rows for name in batch.schema.names))
    unknown = unknown_columns(table, names)
    if unknown and not ignore_unknown:
        raise InvalidRecord(
            f"'{table.name}' has no column {', '.join(unknown)} to insert into; there are:"
            f" {', '.join(column.name for column in table.columns if column.inserted)} (or set ignoreUnknownColumns)"
        )
    names = [name for name in names if name not in unknown]
    if not names:
        raise InvalidRecord(f"none of the fields has a column in '{table.name}'")
    try:
        block = block_of([batch.select([name for name in batch.schema.names if name in names]) for batch in rows])
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise InvalidRecord(f"the rows of one flush do not have one type per column: {error}") from error
    client.insert(_columns_statement(table, block), block, token_settings(token))


def schema_of(batches: Sequence[pa.RecordBatch]) -> pa.Schema:
    """One schema for all these rows. InvalidRecord if a column has types that no one type holds."""
    try:
        return pa.unify_schemas([batch.schema for batch in batches], promote_options="permissive")
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise InvalidRecord(f"the rows of one flush do not have one type per column: {error}") from error


def _columns_statement(table: Table, block: Block) -> str:
    values = []
    for made in block.columns:
        column = table.column(made.name)
        assert column is not None
        values.append((made.name, from_column(made.name, Type.parse(made.type), column.type)))
    return _insert(table, values, block.structure())


def _insert(table: Table, values: list[tuple[str, Value]], structure: str, *conditions: str) -> str:
    names, chosen = listed([name for name, _ in values]), ", ".join(value.sql for _, value in values)
    guards = [*conditions, *guarded(values)]
    where = f" WHERE {' AND '.join(guards)}" if guards else ""
    return f"INSERT INTO {table.name.sql} ({names}) SELECT {chosen} FROM input({structure}){where}"


# --- JSON documents into typed columns, parsed by the server


def json_statement(table: Table, documents: int) -> str:
    """INSERT of so many JSON documents, by the names of their fields."""
    columns = [column for column in table.columns if column.inserted and column.default != "EPHEMERAL"]
    fields = ", ".join(f"{quoted(column.name)} {json_input(column)}" for column in columns)
    # A document that holds two values would be two rows.
    check = f"throwIf(rowNumberInAllBlocks() >= {documents}, 'a document holds more than one JSON value') = 0"
    values = [(column.name, from_json(column)) for column in columns]
    return f"{_insert(table, values, literal(fields), check)} FORMAT JSONEachRow"


def json_lines(batches: Sequence[pa.RecordBatch]) -> pa.Buffer:
    """The documents, one after the other. InvalidRecord for those that cannot be one object each."""
    values = pa.concat_arrays([batch.column("value") for batch in batches])
    _refuse_others(values, [batch.num_rows for batch in batches])
    whole = pa.ListArray.from_arrays(pa.array([0, len(values)], pa.int32()), values)
    return pc.binary_join(whole, b"\n")[0].as_buffer()


def _refuse_others(values: pa.Array, sizes: Sequence[int]) -> None:
    """What is blank, or no object, would be no row, or an error for all rows."""
    objects = pc.and_(pc.starts_with(values, b"{"), pc.ends_with(values, b"}"))
    if pc.all(objects).as_py():
        return
    trimmed = pc.replace_substring_regex(values, rb"^\s+|\s+$", b"")
    objects = pc.and_(pc.starts_with(trimmed, b"{"), pc.ends_with(trimmed, b"}"))
    if not pc.all(objects).as_py():
        reason = "the document is no JSON object"
        refused = pc.indices_nonzero(pc.invert(objects)).to_pylist()
        raise InvalidRecord(reason, rows=dict.fromkeys(refused, reason) if len(sizes) == 1 else None)


def refuse_tombstones(batch: pa.RecordBatch, reason: str) -> None:
    """InvalidRecord for documents without value."""
    values = batch.column("value")
    if values.null_count:
        refused = pc.indices_nonzero(values.is_null()).to_pylist()
        raise InvalidRecord(reason, rows=dict.fromkeys(refused, reason))


def missing_table(table: str) -> Fatal:
    """The error for a table that is not there."""
    return Fatal(f"there is no table '{table}': create it, or set `autoCreateTable: true` (or `typed`)")
