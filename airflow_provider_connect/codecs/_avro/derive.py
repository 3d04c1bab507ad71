"""Columns to an Avro schema: the one that holds them all, or the one that an earlier schema grows into."""

from __future__ import annotations

import json
import re
from typing import Any

import pyarrow as pa

from airflow_provider_connect.codecs._avro.schema import Type, parse
from airflow_provider_connect.engine.errors import Fatal, FlowError

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_NO_NAME = re.compile(r"[^A-Za-z0-9_]")
_UNITS = {"s": "millis", "ms": "millis", "us": "micros", "ns": "nanos"}


def record_name(text: str) -> str:
    """A full name for a record, made from any text, such as a topic's name."""
    parts = [_NO_NAME.sub("_", part) for part in text.split(".") if part]
    return ".".join(part if _NAME.fullmatch(part) else f"_{part}" for part in parts) or "Record"


def schema_of(columns: pa.Schema, name: str) -> str:
    """The text of a record schema for these columns; every field may be null, and is by default.

    FlowError for a column whose name or type Avro does not have.
    """
    return json.dumps({"type": "record", "name": name, "fields": [_field(column, name, ()) for column in columns]})


def grown(earlier: str, columns: pa.Schema) -> str:
    """The earlier record schema, with a field more for each column that it does not have; the same text if it has all.

    Fatal if a column that it has cannot be written as it says.
    """
    found = parse(earlier)
    if found.kind != "record":
        raise Fatal(f"the subject's newest Avro schema is no record but '{found.kind}'; columns become records only")
    known = {field.name: field.type for field in found.fields}
    fields = [_field(column, found.name, ()) for column in columns if column.name not in known]
    for column in columns:
        if column.name in known and not _holds(known[column.name].arrow, column.type):
            raise Fatal(
                f"column '{column.name}' is {column.type}, but the Avro schema of the subject has "
                f"{known[column.name].arrow} for it; cast the column, or write to another subject"
            )
    if not fields:
        return earlier
    raw = json.loads(earlier)
    raw["fields"] += fields
    return json.dumps(raw)


def _holds(wanted: pa.DataType, given: pa.DataType) -> bool:
    """Whether values of `given` may fit `wanted`; whether each does shows when they are cast."""
    if wanted == given or pa.types.is_null(given):
        return True
    if pa.types.is_struct(wanted) or pa.types.is_struct(given):
        if not (pa.types.is_struct(wanted) and pa.types.is_struct(given)):
            return False
        names = {field.name: field.type for field in wanted}
        return all(field.name in names and _holds(names[field.name], field.type) for field in given)
    if pa.types.is_nested(wanted) or pa.types.is_nested(given):
        return wanted.id == given.id and all(
            _holds(wanted.field(index).type, given.field(index).type) for index in range(given.num_fields)
        )
    numbers = (pa.types.is_integer, pa.types.is_floating, pa.types.is_decimal)
    number = any(test(wanted) for test in numbers), any(test(given) for test in numbers)
    if all(number):
        return not (pa.types.is_integer(wanted) and not pa.types.is_integer(given))
    if pa.types.is_string(wanted):
        return not pa.types.is_binary(given)
    if pa.types.is_temporal(wanted):
        return bool(pa.types.is_temporal(given) or pa.types.is_string(given))
    return bool(pa.types.is_binary(wanted) and pa.types.is_string(given))


def _field(column: pa.Field, space: str, path: tuple[str, ...]) -> dict[str, Any]:
    if not _NAME.fullmatch(column.name):
        place = ".".join((*path, column.name))
        raise FlowError(f"column '{place}': Avro names have letters, digits and _ only; rename it (`rename`, or AS)")
    kind = _type(column.type, space, (*path, column.name))
    return {"name": column.name, "type": kind if kind == "null" else ["null", kind], "default": None}


def _type(kind: pa.DataType, space: str, path: tuple[str, ...]) -> Any:
    types = pa.types
    if types.is_dictionary(kind):
        return _type(kind.value_type, space, path)
    if types.is_null(kind):
        return "null"
    if types.is_boolean(kind):
        return "boolean"
    if kind in (pa.int8(), pa.int16(), pa.int32(), pa.uint8(), pa.uint16()):
        return "int"
    if kind in (pa.int64(), pa.uint32()) or types.is_duration(kind):
        return "long"
    if kind == pa.uint64():
        return {"type": "bytes", "logicalType": "decimal", "precision": 20, "scale": 0}
    if types.is_floating(kind):
        return "double" if kind == pa.float64() else "float"
    if types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind):
        return "string"
    if types.is_binary(kind) or types.is_large_binary(kind) or types.is_binary_view(kind):
        return "bytes"
    if types.is_fixed_size_binary(kind):
        return "bytes"
    if types.is_decimal(kind):
        scale = max(kind.scale, 0)
        precision = max(kind.precision - min(kind.scale, 0), scale)
        return {"type": "bytes", "logicalType": "decimal", "precision": min(precision, 76), "scale": scale}
    if types.is_date(kind):
        return {"type": "int", "logicalType": "date"}
    if types.is_time(kind):
        micros = kind.unit in ("us", "ns")
        return {"type": "long" if micros else "int", "logicalType": "time-micros" if micros else "time-millis"}
    if types.is_timestamp(kind):
        local = "local-" if kind.tz is None else ""
        return {"type": "long", "logicalType": f"{local}timestamp-{_UNITS[kind.unit]}"}
    return _nested(kind, space, path)


def _nested(kind: pa.DataType, space: str, path: tuple[str, ...]) -> Any:
    if pa.types.is_struct(kind):
        inner = record_name(".".join((space, *path)))
        return {"type": "record", "name": inner, "fields": [_field(field, space, path) for field in kind]}
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        return {"type": "array", "items": _optional(_type(kind.value_type, space, (*path, "item")))}
    if pa.types.is_map(kind):
        return {"type": "map", "values": _optional(_type(kind.item_type, space, (*path, "value")))}
    raise FlowError(
        f"column '{'.'.join(path)}' of type {kind} has no Avro form; select other columns or cast it before"
    )


def _optional(kind: Any) -> Any:
    return kind if kind == "null" else ["null", kind]


def is_record(text: str) -> Type:
    """The record that a schema's text stands for; FlowError if it is something else."""
    found = parse(text)
    if found.kind != "record":
        raise FlowError(f"the Avro schema must be a record, for columns become its fields; it is '{found.kind}'")
    return found
