"""Conversion: values into the types of a table's columns, without ClickHouse's silent losses.

Where a plain cast would take the low bits of a number, clamp a time, or make NULL of a text that cannot be read, the
server is made to refuse the row instead: by `accurateCast`, or by a guard, a condition that raises.
"""

from __future__ import annotations

from dataclasses import dataclass

from airflow_provider_connect.connectors.clickhouse.names import literal, quoted
from airflow_provider_connect.connectors.clickhouse.table import TableColumn
from airflow_provider_connect.connectors.clickhouse.types import INTEGERS, Type

_TEXTS = {"String", "JSON", "Object", "Dynamic", "Variant"}
_CONTAINERS = {"Array", "Map", "Tuple", "Nested"}
_NOT_NULLABLE = _CONTAINERS | {"JSON", "Object", "Variant", "Dynamic", "Nothing", "Point", "Ring", "Polygon"} | {
    "MultiPolygon", "LineString", "MultiLineString",
}  # fmt: skip
_RANGES = {
    "DateTime": ("1970-01-01 00:00:00", "2106-02-07 06:28:15.999999"),
    "Date": ("1970-01-01 00:00:00", "2149-06-06 23:59:59.999999"),
}
_WIDE_TIMES = {"DateTime64", "Date32", "DateTime"}


@dataclass(frozen=True, slots=True)
class Value:
    """SQL for a value, and the condition under which a row is refused, where there is one."""

    sql: str
    guard: str | None = None


def guarded(values: list[tuple[str, Value]]) -> list[str]:
    """The guards of columns with these names, as conditions for WHERE that raise."""
    return [
        f"throwIf({value.guard}, {literal(f'a value of {name} does not fit into its column')}) = 0"
        for name, value in values
        if value.guard is not None
    ]


def from_column(name: str, given: Type, wanted: Type) -> Value:
    """The value of an input column of one type for a table's column of another."""
    value, source, target = quoted(name), given.inner, wanted.inner
    if written(source) == written(target):
        return Value(value)
    if source.name == "String":
        return _from_text(value, target)
    if holds_integers(target):
        return Value(_accurate(value, target))
    if target.name in _RANGES and source.name in _WIDE_TIMES:
        return Value(value, _out_of_range(value, target))
    if target.name == "Float32":
        return Value(value, _becomes_infinite(value))
    return Value(value)


def _from_text(value: str, target: Type) -> Value:
    if target.name in _TEXTS:
        return Value(value)
    if target.name in {"DateTime", "DateTime64", "Date", "Date32"}:
        # Also with T, Z and offsets, which a cast does not read.
        zone = target.arguments[-1] if target.arguments and target.arguments[-1].startswith("'") else None
        digits = target.arguments[0] if target.name == "DateTime64" and target.arguments else "6"
        parsed = f"parseDateTime64BestEffort({value}, {digits}{f', {zone}' if zone else ''})"
        return Value(parsed, _out_of_range(parsed, target) if target.name in _RANGES else None)
    cast = _accurate(value, target)
    return Value(cast, f"isNull({cast}) AND isNotNull({value})" if target.name not in _NOT_NULLABLE else None)


def json_input(column: TableColumn) -> str:
    """The type as which a column's values are read from JSON: with room for numbers that do not fit."""
    target = column.type.inner
    text = _widened(target)
    return text if target.name in _NOT_NULLABLE else f"Nullable({text})"


def from_json(column: TableColumn) -> Value:
    """The value that was read from JSON as `json_input`."""
    value, target = quoted(column.name), column.type.inner
    if holds_integers(target):
        return Value(_accurate(value, target))
    return Value(value, _becomes_infinite(value) if target.name == "Float32" else None)


def holds_integers(type_: Type) -> bool:
    """Whether a value is an integer, or holds some."""
    inner = type_.inner
    if inner.name in _CONTAINERS:
        return any(holds_integers(Type.parse(_without_label(argument)[1])) for argument in inner.arguments)
    return inner.name in INTEGERS


def written(type_: Type) -> str:
    """The type in SQL."""
    return f"{type_.name}({', '.join(type_.arguments)})" if type_.arguments else type_.name


def _accurate(value: str, target: Type) -> str:
    text = written(target)
    return f"accurateCast({value}, {literal(text if target.name in _NOT_NULLABLE else f'Nullable({text})')})"


def _widened(type_: Type) -> str:
    if type_.name in INTEGERS and INTEGERS[type_.name][0] <= 64:
        return "Int128"
    if type_.name == "Float32":
        return "Float64"
    if type_.name == "LowCardinality":
        return _widened(Type.parse(type_.arguments[0]))
    if type_.name in _CONTAINERS | {"Nullable"}:
        parts = [_without_label(argument) for argument in type_.arguments]
        inner = ", ".join(f"{label}{_widened(Type.parse(text))}" for label, text in parts)
        return f"{type_.name}({inner})"
    return written(type_)


def _without_label(argument: str) -> tuple[str, str]:
    """The name of a tuple's element with a space behind it, or nothing, and its type."""
    head, space, rest = argument.partition(" ")
    return (head + space, rest) if space and "(" not in head and not head.endswith(",") else ("", argument)


def _out_of_range(value: str, target: Type) -> str:
    low, high = (f"toDateTime64({literal(bound)}, 6, 'UTC')" for bound in _RANGES[target.name])
    return f"ifNull({value} < {low} OR {value} > {high}, 0)"


def _becomes_infinite(value: str) -> str:
    return f"ifNull(isInfinite(toFloat32({value})) AND NOT isInfinite({value}), 0)"
