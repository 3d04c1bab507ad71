"""Arrow types, as Iceberg's tables can hold them."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from airflow_provider_connect.engine.errors import Fatal

MICROSECONDS_UTC = pa.timestamp("us", "UTC")


def small(schema: pa.Schema) -> pa.Schema:
    """The schema with 32-bit offsets, which batches have, for text, bytes and lists."""
    return pa.schema([field.with_type(_small(field.type)) for field in schema], schema.metadata)


def storable(field: pa.Field) -> pa.Field:
    """The field with the type that a new column for it gets; optional, as all below it. Fatal if there is none."""
    return pa.field(field.name, _storable(field.type, field.name), nullable=True)


def is_known(kind: pa.DataType) -> bool:
    """Whether values of this type say what column they want; those of JSON's `null` and `[]` do not."""
    if pa.types.is_struct(kind):
        return kind.num_fields > 0 and all(is_known(field.type) for field in kind)
    if _is_list(kind):
        return is_known(kind.value_type)
    return not pa.types.is_null(kind)


def _small(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_large_string(kind):
        return pa.string()
    if pa.types.is_large_binary(kind):
        return pa.binary()
    if _is_list(kind):
        return pa.list_(kind.value_field.with_type(_small(kind.value_type)))
    if pa.types.is_map(kind):
        key, item = kind.key_field, kind.item_field
        return pa.map_(key.with_type(_small(key.type)), item.with_type(_small(item.type)))
    if pa.types.is_struct(kind):
        return pa.struct([field.with_type(_small(field.type)) for field in kind])
    return kind


def _storable(kind: pa.DataType, name: str) -> pa.DataType:
    if pa.types.is_integer(kind):
        if pa.types.is_uint64(kind):
            return pa.decimal128(20, 0)
        return pa.int64() if pa.types.is_uint32(kind) or kind.bit_width == 64 else pa.int32()
    if pa.types.is_floating(kind):
        return pa.float64() if pa.types.is_float64(kind) else pa.float32()
    if pa.types.is_decimal(kind) and kind.precision <= 38 and kind.scale >= 0:
        return pa.decimal128(kind.precision, kind.scale)
    if pa.types.is_timestamp(kind):
        return pa.timestamp("us") if kind.tz is None else MICROSECONDS_UTC
    if pa.types.is_date(kind):
        return pa.date32()
    if pa.types.is_time(kind):
        return pa.time64("us")
    if pa.types.is_duration(kind):
        return pa.int64()
    if pa.types.is_dictionary(kind):
        return _storable(kind.value_type, name)
    if pa.types.is_string_view(kind):
        return pa.string()
    if pa.types.is_binary_view(kind):
        return pa.binary()
    if _is_list(kind):
        return pa.list_(pa.field("element", _storable(kind.value_type, f"{name}[]"), nullable=True))
    if pa.types.is_map(kind):
        key, item = _storable(kind.key_type, f"{name} (key)"), _storable(kind.item_type, f"{name} (value)")
        return pa.map_(pa.field("key", key, nullable=False), pa.field("value", item, nullable=True))
    if pa.types.is_struct(kind):
        return pa.struct([pa.field(f.name, _storable(f.type, f"{name}.{f.name}"), nullable=True) for f in kind])
    plain = _small(kind)
    if any(check(plain) for check in _AS_THEY_ARE) or _is_uuid(kind):
        return plain
    raise Fatal(f"column '{name}' of type {kind} has no type in Iceberg; cast or leave it out before")


_AS_THEY_ARE = (pa.types.is_boolean, pa.types.is_string, pa.types.is_binary, pa.types.is_fixed_size_binary)


def _is_uuid(kind: pa.DataType) -> bool:
    return bool(kind == pa.uuid())


def _is_list(kind: Any) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))
