"""Column types: which PostgreSQL type values need, and which one holds what two need."""

from __future__ import annotations

import re
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

_INTEGERS = ("smallint", "integer", "bigint", "numeric")
_FLOATS = ("real", "double precision")
_EXACT_IN = {"real": 2**24, "double precision": 2**53}
"""Integers up to here are whole in a float."""
_NUMERIC = re.compile(r"numeric\((\d+),(-?\d+)\)")
_VARCHAR = re.compile(r"character varying\((\d+)\)")
_MOST_DIGITS = 1000


@dataclass(frozen=True, slots=True)
class Wanted:
    """A column that rows have, and the type their values need, as `format_type()` writes it."""

    name: str
    type: str


def type_of_column(field: pa.Field) -> str | None:
    """The type for an Arrow column; None while it has nothing but nulls.

    Integers and floats have the next type that holds them, uint64 is numeric(20,0), decimals are numeric(p,s), lists of
    plain values are arrays, everything else that is nested is jsonb, as is text that is marked as JSON.
    """
    kind = field.type
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        element = type_of_column(kind.value_field)
        return "jsonb" if element in (None, "jsonb") or str(element).endswith("[]") else f"{element}[]"
    if pa.types.is_nested(kind):
        return "jsonb"
    marked = (field.metadata or {}).get(b"json")
    if marked is not None:
        return "numeric" if marked == b"number" else "jsonb"
    return _plain(kind.value_type if pa.types.is_dictionary(kind) else kind)


def type_of_field(field: pa.Field) -> str | None:
    """The type for a field of JSON documents as the json codec reads them: bigint, numeric for integers beyond,
    double precision, boolean, text, and jsonb for all else."""
    if pa.types.is_decimal(field.type):
        return "numeric"
    if pa.types.is_nested(field.type):
        return "jsonb"
    return type_of_column(field)


def _plain(kind: pa.DataType) -> str | None:
    if pa.types.is_null(kind):
        return None
    for of_kind, name in (
        (pa.types.is_boolean, "boolean"),
        (pa.types.is_date, "date"),
        (pa.types.is_time, "time without time zone"),
        (pa.types.is_duration, "interval"),
        (pa.types.is_float64, "double precision"),
        (pa.types.is_floating, "real"),
    ):
        if of_kind(kind):
            return name
    if pa.types.is_integer(kind):
        bits = kind.bit_width + (0 if pa.types.is_signed_integer(kind) else 1)
        return next((t for t, b in (("smallint", 16), ("integer", 32), ("bigint", 64)) if bits <= b), "numeric(20,0)")
    if pa.types.is_decimal(kind):
        return f"numeric({max(kind.precision, kind.scale)},{kind.scale})" if kind.scale >= 0 else "numeric"
    if pa.types.is_timestamp(kind):
        return f"timestamp {'with' if kind.tz is not None else 'without'} time zone"
    binary = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_binary_view, pa.types.is_fixed_size_binary)
    return "bytea" if any(is_one(kind) for is_one in binary) else "text"


def fitted(wanted: str, have: str, values: pa.Array) -> str:
    """`wanted`, or what of it these values really need of a column that has the type `have`."""
    if wanted == "text" and have.startswith("character"):
        return have  # who declares a length wants longer texts refused
    if not (pa.types.is_integer(values.type) and (have in _INTEGERS or have in _FLOATS)):
        return wanted
    least, most = pc.min_max(values).as_py().values()
    if least is None:
        return have
    if have in _EXACT_IN:
        return have if max(-least, most) <= _EXACT_IN[have] else "numeric"
    return next(
        (
            name
            for name, bits in (("smallint", 15), ("integer", 31), ("bigint", 63))
            if -(2**bits) <= least and most < 2**bits
        ),
        "numeric",
    )


def wider(have: str, wanted: str) -> str | None:
    """The type that a column of type `have` must get to hold `wanted` too; None if it holds it, or if there is none."""
    if have == wanted:
        return None
    if have.endswith("[]") and wanted.endswith("[]"):
        element = wider(have[:-2], wanted[:-2])
        return f"{element}[]" if element is not None else None
    if have in _INTEGERS[:3]:
        if wanted in _INTEGERS[:3]:
            return wanted if _INTEGERS.index(wanted) > _INTEGERS.index(have) else None
        return "numeric" if wanted in _FLOATS or wanted.startswith("numeric") else None
    if have in _FLOATS:
        if wanted in _FLOATS:
            return wanted if wanted == "double precision" else None
        whole = {"smallint": _FLOATS, "integer": ("double precision",)}.get(wanted, ())
        return "numeric" if (wanted in _INTEGERS or wanted.startswith("numeric")) and have not in whole else None
    if numeric := _NUMERIC.fullmatch(have):
        return _wider_numeric(int(numeric[1]), int(numeric[2]), wanted)
    if varchar := _VARCHAR.fullmatch(have):
        other = _VARCHAR.fullmatch(wanted)
        longer = wanted in ("text", "character varying") or (other is not None and int(other[1]) > int(varchar[1]))
        return wanted if longer else None
    return wanted if have == "date" and wanted.startswith("timestamp") else None


def _wider_numeric(precision: int, scale: int, wanted: str) -> str | None:
    """Floats do not widen it: who declares a scale wants values rounded to it."""
    if wanted == "numeric":
        return wanted
    digits = {"smallint": 5, "integer": 10, "bigint": 19}.get(wanted, 0)
    more = 0
    if other := _NUMERIC.fullmatch(wanted):
        digits, more = int(other[1]) - int(other[2]), int(other[2])
    whole, fraction = max(precision - scale, digits), max(scale, more)
    if (whole, fraction) == (precision - scale, scale):
        return None
    return f"numeric({whole + fraction},{fraction})" if whole + fraction <= _MOST_DIGITS else "numeric"


def converted(column: str, have: str, to: str) -> str:
    """The expression that brings a column (quoted) from type `have` to `to`, without losing digits."""
    if have.removesuffix("[]") in _FLOATS and to.startswith("numeric"):
        return f"{column}::text{'[]' if to.endswith('[]') else ''}::{to}"
    return f"{column}::{to}"
