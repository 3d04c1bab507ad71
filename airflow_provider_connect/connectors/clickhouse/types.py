"""Types: ClickHouse's type names taken apart, as what they are read, and as which Arrow type."""

from __future__ import annotations

import re
from dataclasses import dataclass

import pyarrow as pa

_HEAD = re.compile(r"\s*(\w+)\s*(?:\((.*)\))?\s*", re.DOTALL)
_LABEL = re.compile(r"(`(?:[^`\\]|\\.)+`|\w+)\s+(\S.*)", re.DOTALL)

_PLAIN = {
    "Int8": pa.int8(), "Int16": pa.int16(), "Int32": pa.int32(), "Int64": pa.int64(),
    "UInt8": pa.uint8(), "UInt16": pa.uint16(), "UInt32": pa.uint32(), "UInt64": pa.uint64(),
    "Float32": pa.float32(), "Float64": pa.float64(), "Bool": pa.bool_(), "String": pa.string(), "Date32": pa.date32(),
}  # fmt: skip
_WIDE = {"Int128", "Int256", "UInt128", "UInt256"}
_AS_TEXT = {"UUID", "IPv4", "IPv6", "Enum8", "Enum16", "FixedString", "Time", "Time64", "IntervalSecond", "Nothing"}
_DECIMALS = {"Decimal32": 9, "Decimal64": 18, "Decimal128": 38, "Decimal256": 76}
_UNITS = ((0, "s"), (3, "ms"), (6, "us"), (9, "ns"))
UNIT_SCALES = {"s": 0, "ms": 3, "us": 6, "ns": 9}

INTEGERS = {f"{sign}Int{bits}": (bits, not sign) for sign in ("", "U") for bits in (8, 16, 32, 64, 128, 256)}
"""Names of integer types, with their bits and whether they are signed."""


@dataclass(frozen=True, slots=True)
class Type:
    """A type: its name, and what stands in parentheses behind it, cut at the commas."""

    name: str
    arguments: tuple[str, ...] = ()

    @classmethod
    def parse(cls, text: str) -> Type:
        """`Nullable(Decimal(10, 2))` is `Nullable` with one argument."""
        found = _HEAD.fullmatch(text)
        if found is None:
            return cls(text.strip())
        return cls(found[1], tuple(_cut(found[2])) if found[2] else ())

    @property
    def nullable(self) -> bool:
        """Whether a value may be NULL."""
        if self.name == "LowCardinality":
            return Type.parse(self.arguments[0]).nullable
        return self.name in {"Nullable", "Dynamic", "Variant"}

    @property
    def inner(self) -> Type:
        """The type without Nullable and LowCardinality around it."""
        wrapped = self.name in {"Nullable", "LowCardinality"}
        return Type.parse(self.arguments[0]).inner if wrapped else self


@dataclass(frozen=True, slots=True)
class Readable:
    """As what a column is read: a type that both protocols hand out without loss, and the Arrow type of that."""

    text: str
    arrow: pa.DataType


def readable(type_: Type) -> Readable | None:
    """The readable counterpart of a type; None if its values have to be read as JSON text."""
    name, arguments = type_.name, type_.arguments
    if name == "Nullable":
        inner = readable(Type.parse(arguments[0]))
        return Readable(f"Nullable({inner.text})", inner.arrow) if inner else None
    if name == "LowCardinality":
        return readable(Type.parse(arguments[0]))
    if name == "SimpleAggregateFunction":
        return readable(Type.parse(arguments[-1]))
    if name in _PLAIN:
        return Readable(name, _PLAIN[name])
    if name in _WIDE or name in _AS_TEXT:
        return Readable("String", pa.string())
    if name == "BFloat16":
        return Readable("Float32", pa.float32())
    if name == "Date":
        return Readable("Date32", pa.date32())
    if name in {"DateTime", "DateTime64"}:
        digits = int(arguments[0]) if name == "DateTime64" and arguments else 3 if name == "DateTime64" else 0
        scale, unit = next(pair for pair in _UNITS if digits <= pair[0])
        # The function that gives ticks begins at milliseconds.
        return Readable(f"DateTime64({scale or 3}, 'UTC')", pa.timestamp(unit, tz="UTC"))
    if name == "Decimal" or name in _DECIMALS:
        return _decimal(name, arguments)
    return _nested(name, arguments)


def _decimal(name: str, arguments: tuple[str, ...]) -> Readable:
    numbers = [int(argument) for argument in arguments]
    if name in _DECIMALS:
        precision, scale = _DECIMALS[name], numbers[0]
    else:
        precision, scale = [*numbers, 0][:2] if numbers else (10, 0)
    arrow = pa.decimal128(precision, scale) if precision <= 38 else pa.decimal256(precision, scale)
    return Readable(f"Decimal({precision}, {scale})", arrow)


def _nested(name: str, arguments: tuple[str, ...]) -> Readable | None:
    if name == "Array":
        item = readable(Type.parse(arguments[0]))
        return Readable(f"Array({item.text})", pa.list_(item.arrow)) if item else None
    if name == "Map":
        key, value = (readable(Type.parse(argument)) for argument in arguments)
        return Readable(f"Map({key.text}, {value.text})", pa.map_(key.arrow, value.arrow)) if key and value else None
    if name in {"Tuple", "Nested"}:
        fields = [_labelled(argument) for argument in arguments]
        found = [(label, readable(Type.parse(text))) for label, text in fields]
        if any(label is None or inner is None for label, inner in found):
            return None
        text = ", ".join(f"{label} {inner.text}" for label, inner in found if inner)
        struct = pa.struct([pa.field(_unquoted(str(label)), inner.arrow) for label, inner in found if inner])
        return (
            Readable(f"Tuple({text})", struct)
            if name == "Tuple"
            else Readable(f"Array(Tuple({text}))", pa.list_(struct))
        )
    return None


def is_number(type_: Type) -> bool:
    """Whether the text of a value is a number in JSON as well, too big for Arrow's integers."""
    return type_.inner.name in _WIDE


def _labelled(argument: str) -> tuple[str | None, str]:
    """Name and type of a tuple's element; a type never has a space before its first parenthesis."""
    found = _LABEL.fullmatch(argument)
    return (found[1], found[2]) if found else (None, argument)


def _unquoted(label: str) -> str:
    return re.sub(r"\\(.)", r"\1", label[1:-1]) if label.startswith("`") else label


def _cut(text: str) -> list[str]:
    """The parts between commas that are in no parentheses or quotes."""
    parts, depth, start, quote = [], 0, 0, ""
    at = 0
    while at < len(text):
        sign = text[at]
        if quote:
            at += sign == "\\"
            quote = "" if sign == quote else quote
        elif sign in "'`":
            quote = sign
        elif sign in "()":
            depth += 1 if sign == "(" else -1
        elif sign == "," and depth == 0:
            parts.append(text[start:at].strip())
            start = at + 1
        at += 1
    return [*parts, text[start:].strip()]
