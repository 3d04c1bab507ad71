"""Types: those of Trino, as the server describes them, and the Arrow types that hold their values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from airflow_provider_connect.connectors.trino.names import quoted

_ZONE = " with time zone"
_NUMBERS = {
    "tinyint": pa.int8(),
    "smallint": pa.int16(),
    "integer": pa.int32(),
    "bigint": pa.int64(),
    "real": pa.float32(),
    "double": pa.float64(),
}


@dataclass(frozen=True, slots=True)
class Type:
    """A type: its name without parameters, numbers such as precision and scale, and the types within with names."""

    name: str
    numbers: tuple[int, ...] = ()
    inner: tuple[tuple[str | None, Type], ...] = ()

    @classmethod
    def read(cls, signature: Mapping[str, Any]) -> Type:
        """From the `typeSignature` of a column in an answer of the server."""
        numbers: list[int] = []
        inner: list[tuple[str | None, Type]] = []
        for argument in signature.get("arguments", ()):
            kind, value = argument["kind"], argument["value"]
            if kind == "LONG":
                numbers.append(int(value))
            elif kind == "TYPE":
                inner.append((None, cls.read(value)))
            elif kind == "NAMED_TYPE":
                inner.append(((value.get("fieldName") or {}).get("name"), cls.read(value["typeSignature"])))
        name = str(signature["rawType"])
        if name == "varchar" and numbers == [2**31 - 1]:
            numbers = []
        return cls(name, tuple(numbers), tuple(inner))

    @property
    def sql(self) -> str:
        """The type as a CAST wants it."""
        if self.inner:
            parts = [f"{quoted(name)} {kind.sql}" if name is not None else kind.sql for name, kind in self.inner]
            return f"{self.name}({', '.join(parts)})"
        if not self.numbers:
            return self.name
        numbers = f"({', '.join(map(str, self.numbers))})"
        if self.name.endswith(_ZONE):
            return self.name.removesuffix(_ZONE) + numbers + _ZONE
        return self.name + numbers

    @property
    def has_zone(self) -> bool:
        """Whether values carry a time zone."""
        return self.name.endswith(_ZONE)

    @property
    def precision(self) -> int:
        """Digits of the seconds' fraction, for times."""
        return self.numbers[0] if self.numbers else 3


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table or result."""

    name: str
    type: Type


def arrow_type(kind: Type) -> pa.DataType:
    """The Arrow type that keeps every value of a Trino type; text where there is none."""
    if kind.name in _NUMBERS:
        return _NUMBERS[kind.name]
    if kind.name == "boolean":
        return pa.bool_()
    if kind.name == "decimal":
        return pa.decimal128(*kind.numbers)
    if kind.name == "varbinary":
        return pa.binary()
    if kind.name == "date":
        return pa.date32()
    if kind.name == "time" and kind.precision <= 9:
        return pa.time64("us" if kind.precision <= 6 else "ns")
    if kind.name == "timestamp" and kind.precision <= 9:
        return pa.timestamp("us" if kind.precision <= 6 else "ns")
    if kind.name == f"timestamp{_ZONE}" and kind.precision <= 9:
        return pa.timestamp("us" if kind.precision <= 6 else "ns", tz="UTC")
    if kind.name == "array":
        return pa.list_(arrow_type(kind.inner[0][1]))
    if kind.name == "map":
        return pa.map_(arrow_type(kind.inner[0][1]), arrow_type(kind.inner[1][1]))
    if kind.name == "row":
        return pa.struct([pa.field(name, arrow_type(of)) for name, of in field_names(kind)])
    if kind.name == "unknown":
        return pa.null()
    return pa.string()


def arrow_field(column: Column) -> pa.Field:
    """The Arrow field of a column; JSON is marked as such, so that it is written back as it is."""
    marked = {b"json": b"value"} if column.type.name == "json" else None
    return pa.field(column.name, arrow_type(column.type), metadata=marked)


def field_names(row: Type) -> list[tuple[str, Type]]:
    """The fields of a row type; those without a name are `field0`, `field1`, ..."""
    return [(name if name is not None else f"field{at}", of) for at, (name, of) in enumerate(row.inner)]


def trino_type(field: pa.Field) -> str | None:
    """The type, in SQL, of a column for an Arrow field; None where Trino has none."""
    kind, marked = field.type, (field.metadata or {}).get(b"json")
    if pa.types.is_dictionary(kind):
        return trino_type(field.with_type(kind.value_type))
    if marked == b"value" or pa.types.is_null(kind):
        return "varchar"
    if pa.types.is_map(kind):
        return _nested("map({}, {})", kind.key_field, kind.item_field)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        return _nested("array({})", kind.value_field)
    if pa.types.is_struct(kind):
        found = [trino_type(of) for of in kind]
        if None in found or not found:
            return None
        return f"row({', '.join(f'{quoted(of.name)} {made}' for of, made in zip(kind, found, strict=True))})"
    return _plain_type(kind)


def _plain_type(kind: pa.DataType) -> str | None:
    for name, arrow in _NUMBERS.items():
        if kind == arrow:
            return name
    if pa.types.is_integer(kind):  # without a sign
        return {8: "smallint", 16: "integer", 32: "bigint", 64: "decimal(20, 0)"}[kind.bit_width]
    if pa.types.is_decimal(kind):
        return f"decimal({kind.precision}, {kind.scale})" if kind.precision <= 38 and kind.scale >= 0 else None
    if pa.types.is_time(kind):
        return f"time({_digits(kind.unit)})"
    if pa.types.is_timestamp(kind):
        return f"timestamp({_digits(kind.unit)})" + (_ZONE if kind.tz is not None else "")
    for fits, name in (
        (pa.types.is_floating(kind), "real"),
        (pa.types.is_boolean(kind), "boolean"),
        (pa.types.is_date(kind), "date"),
        (_is_binary(kind), "varbinary"),
        (_is_text(kind), "varchar"),
    ):
        if fits:
            return name
    return None


def _nested(form: str, *fields: pa.Field) -> str | None:
    found = [trino_type(field) for field in fields]
    return None if None in found else form.format(*found)


def _digits(unit: str) -> int:
    """Iceberg knows microseconds and nothing else."""
    return 9 if unit == "ns" else 6


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _is_binary(kind: pa.DataType) -> bool:
    variable = pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind)
    return bool(variable or pa.types.is_fixed_size_binary(kind))
