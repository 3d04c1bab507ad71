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
from airflow_provider_connect.connectors.clickhouse.names import listed, literal, quoted
from airflow_provider_connect.connectors.clickhouse.native_block import Block, block_of
from airflow_provider_connect.connectors.clickhouse.table import Table, TableColumn, unknown_columns
from airflow_provider_connect.connectors.clickhouse.types import INTEGERS, Type
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
JSON_AS_TUPLE = {
    "input_format_parallel_parsing": 0,
    "input_format_import_nested_json": 0,
    "input_format_null_as_default": 1,
    "input_format_json_named_tuples_as_objects": 1,
    "input_format_json_defaults_for_missing_elements_in_named_tuple": 1,
    "date_time_input_format": "best_effort",
}
_NOT_NULLABLE = {"Array", "Map", "Tuple", "Nested", "JSON", "Object", "Variant", "Dynamic", "Nothing", "Point",
                 "Ring", "Polygon", "MultiPolygon", "LineString", "MultiLineString"}  # fmt: skip


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
        values.append(_converted(quoted(made.name), Type.parse(made.type), column.type))
    names = listed([column.name for column in block.columns])
    return f"INSERT INTO {table.name.sql} ({names}) SELECT {', '.join(values)} FROM input({block.structure()})"


def _converted(value: str, given: Type, wanted: Type) -> str:
    """A value for a column. A plain cast of an integer that does not fit would take some of its bits."""
    target = wanted.inner
    if target.name in INTEGERS and _may_overflow(given.inner.name, target.name):
        return f"accurateCast({value}, 'Nullable({target.name})')"
    return value


def _may_overflow(given: str, wanted: str) -> bool:
    if given not in INTEGERS:
        return True
    (bits, signed), (room, room_signed) = INTEGERS[given], INTEGERS[wanted]
    if signed == room_signed:
        return bits > room
    return signed or bits >= room


# --- JSON documents into typed columns, parsed by the server


def json_statement(table: Table) -> str:
    """INSERT of documents, each as the tuple `d` of the table's columns, so that one document is one row."""
    columns = [column for column in table.columns if column.inserted and column.default != "EPHEMERAL"]
    fields = ", ".join(f"{quoted(column.name)} {_json_type(column.type)}" for column in columns)
    values = [_from_json(column) for column in columns]
    structure = literal(f"d Tuple({fields})")
    return (
        f"INSERT INTO {table.name.sql} ({listed([column.name for column in columns])})"
        f" SELECT {', '.join(values)} FROM input({structure}) FORMAT JSONEachRow"
    )


def json_lines(batches: Sequence[pa.RecordBatch]) -> pa.Buffer:
    """The documents as `{"d":…}`, one after the other."""
    values = pa.concat_arrays([batch.column("value") for batch in batches])
    lines = pc.binary_join_element_wise(b'{"d":', values, b"}\n", b"")
    _, offsets, data = lines.buffers()
    ends = pa.Array.from_buffers(pa.int32(), len(lines) + 1, [None, offsets], offset=lines.offset)
    start, end = ends[0].as_py(), ends[-1].as_py()
    return data.slice(start, end - start)


def _json_type(wanted: Type) -> str:
    target = wanted.inner
    if target.name in INTEGERS:
        # The parser takes the low bits of a number that does not fit, so it gets more room first.
        return "Nullable(Int128)" if INTEGERS[target.name][0] <= 64 else f"Nullable({target.name})"
    text = _written(target)
    return text if target.name in _NOT_NULLABLE else f"Nullable({text})"


def _from_json(column: TableColumn) -> str:
    value = f"tupleElement(d, {literal(column.name)})"
    target = column.type.inner
    if target.name in INTEGERS and INTEGERS[target.name][0] <= 64:
        return f"accurateCast({value}, 'Nullable({target.name})')"
    return value


def _written(type_: Type) -> str:
    return f"{type_.name}({', '.join(type_.arguments)})" if type_.arguments else type_.name


def refuse_tombstones(batch: pa.RecordBatch, reason: str) -> None:
    """InvalidRecord for documents without value."""
    values = batch.column("value")
    if values.null_count:
        refused = pc.indices_nonzero(values.is_null()).to_pylist()
        raise InvalidRecord(reason, rows=dict.fromkeys(refused, reason))


def missing_table(table: str) -> Fatal:
    """The error for a table that is not there."""
    return Fatal(f"there is no table '{table}': create it, or set `autoCreateTable: true` (or `typed`)")
