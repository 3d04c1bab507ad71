"""Rows as the arguments that a message's class is called with."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from google.protobuf.descriptor import Descriptor, FieldDescriptor  # type: ignore[import-untyped]

from airflow_provider_connect.codecs._protobuf import messages

_UNITS = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}


def arguments(kind: Descriptor, rows: pa.RecordBatch) -> Iterator[dict[str, Any]]:
    """One mapping per row, without the fields that are null. What a class does not take in it, it refuses."""
    names = rows.schema.names
    columns = [_values(kind.fields_by_name.get(name), column) for name, column in zip(names, rows.columns, strict=True)]
    for values in zip(*columns, strict=True) if columns else ((),) * len(rows):
        yield {name: value for name, value in zip(names, values, strict=True) if value is not None}


def _values(field: FieldDescriptor | None, column: pa.Array) -> list[Any]:
    if field is not None and pa.types.is_map(column.type):
        return [None if entries is None else dict(entries) for entries in column.to_pylist()]
    values: list[Any] = _moments(column).to_pylist()
    if field is not None and field.message_type is not None and field.message_type.full_name in messages.WRAPPERS:
        return [None if value is None else {"value": value} for value in values]
    return values


def _moments(column: pa.Array) -> pa.Array:
    """With moments as the seconds and nanoseconds that Protobuf has for them."""
    kind = column.type
    if pa.types.is_timestamp(kind):
        unit = _UNITS[kind.unit]
        ticks = column.view(pa.int64())
        seconds = column.cast(pa.timestamp("s", tz=kind.tz), safe=False).view(pa.int64())
        late = pc.greater(pc.multiply(seconds, unit), ticks)  # before 1970 the cast rounds up
        seconds = pc.subtract(seconds, late.cast(pa.int64()))
        nanos = pc.multiply(pc.subtract(ticks, pc.multiply(seconds, unit)), 1_000_000_000 // unit).cast(pa.int32())
        return pa.StructArray.from_arrays([seconds, nanos], names=["seconds", "nanos"], mask=column.is_null())
    if pa.types.is_struct(kind):
        parts = [_moments(part) for part in column.flatten()]
        names = [field.name for field in kind]
        return pa.StructArray.from_arrays(parts, names=names, mask=column.is_null()) if parts else column
    if pa.types.is_list(kind):
        mask = column.is_null() if column.null_count else None
        bounds = column.offsets if column.offset == 0 else pa.concat_arrays([column.offsets])
        return pa.ListArray.from_arrays(bounds, _moments(column.values), mask=mask)
    return column
