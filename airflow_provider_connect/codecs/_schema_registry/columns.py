"""Columns of records with different schemas: one schema for all, and rows that are made to fit it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import pyarrow as pa

from airflow_provider_connect.codecs._schema_registry.framing import Ints
from airflow_provider_connect.engine.errors import Fatal

_SIMPLE = (pa.types.is_struct, pa.types.is_list, pa.types.is_map)


def merged(schemas: Iterable[pa.Schema]) -> pa.Schema:
    """Every column of every schema, those of the first schema first, each with a type that holds the values of all.

    Numbers become the wider number; other types that differ become text. Fatal where that is impossible.
    """
    fields: dict[str, pa.Field] = {}
    for schema in schemas:
        for field in schema:
            known = fields.get(field.name)
            fields[field.name] = field if known is None else _wider(known, field)
    return pa.schema(list(fields.values()))


def _wider(known: pa.Field, other: pa.Field) -> pa.Field:
    if known.type == other.type:
        return known
    try:
        found = pa.unify_schemas([pa.schema([known]), pa.schema([other])], promote_options="permissive")
        return found.field(0)
    except (pa.ArrowTypeError, pa.ArrowInvalid):
        if any(test(type_) for test in _SIMPLE for type_ in (known.type, other.type)):
            raise Fatal(
                f"schemas of one topic give column '{known.name}' the types {known.type} and {other.type}, and no type "
                "holds both; give the schema to read with (`avroSchema`), or read the kinds of records apart"
            ) from None
        return known.with_type(pa.string())


def conformed(rows: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    """The rows with exactly the columns of `schema`; null where they have none."""
    if rows.schema.equals(schema):
        return rows
    arrays = []
    for field in schema:
        index = rows.schema.get_field_index(field.name)
        arrays.append(fitted(rows.column(index), field.type) if index >= 0 else pa.nulls(len(rows), field.type))
    if not arrays:
        return rows
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def fitted(values: pa.Array, kind: pa.DataType) -> pa.Array:
    """The values in a type of `merged`."""
    if values.type == kind:
        return values
    if pa.types.is_null(values.type):
        return pa.nulls(len(values), kind)
    if pa.types.is_struct(kind) and pa.types.is_struct(values.type):
        own = {field.name: index for index, field in enumerate(values.type)}
        parts = [
            fitted(values.field(own[f.name]), f.type) if f.name in own else pa.nulls(len(values), f.type) for f in kind
        ]
        return pa.StructArray.from_arrays(parts, fields=list(kind), mask=values.is_null())
    if pa.types.is_list(kind) and pa.types.is_list(values.type):
        items = fitted(values.values, kind.value_type)
        return pa.ListArray.from_arrays(values.offsets, items, type=kind, mask=values.is_null())
    return values.cast(kind, safe=False)


def woven(parts: Sequence[tuple[Ints, pa.RecordBatch]], count: int, schema: pa.Schema) -> pa.RecordBatch:
    """The parts, each with the numbers of its rows, as one batch of `count` rows; null where no part has the row."""
    if not len(schema):
        return pa.RecordBatch.from_struct_array(pa.array([{}] * count, pa.struct([])))
    whole = [(rows, conformed(part, schema)) for rows, part in parts]
    if len(whole) == 1 and len(whole[0][0]) == count:
        return whole[0][1]
    order = np.full(count, -1, np.int64)
    if whole:
        order[np.concatenate([rows for rows, _ in whole])] = np.arange(sum(len(rows) for rows, _ in whole))
    table = pa.Table.from_batches([part for _, part in whole], schema=schema).combine_chunks()
    batches = table.to_batches()
    joined = batches[0] if batches else pa.RecordBatch.from_pylist([], schema)
    return joined.take(pa.array(order, mask=order < 0))
