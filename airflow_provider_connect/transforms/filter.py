"""filter: keep the records for which one comparison holds."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import model_validator

from airflow_provider_connect.engine.config import Config
from airflow_provider_connect.engine.errors import InvalidRecord
from airflow_provider_connect.engine.transform import Transform

_COMPARE = {
    "==": pc.equal, "!=": pc.not_equal, "<": pc.less, "<=": pc.less_equal, ">": pc.greater, ">=": pc.greater_equal,
}  # fmt: skip


class FilterConfig(Config):
    """One comparison; several filters in a row are its conjunction."""

    field: str
    """The field to compare; dots lead into nested objects (`customer.country`)."""

    op: Literal["==", "!=", "<", "<=", ">", ">=", "in", "exists", "missing"] = "=="
    """`==`, `!=`, `<`, `<=`, `>`, `>=`; `in` a list; `exists`: is not null; `missing`: is null."""

    value: bool | int | float | str | list[bool | int | float | str] | None = None
    """What to compare with: a number, text or boolean, a list of them for `in`; nothing for `exists` and `missing`.
    Dates and timestamps are written as ISO 8601 text."""

    @model_validator(mode="after")
    def _value_fits(self) -> FilterConfig:
        wanted = {"in": list, "exists": type(None), "missing": type(None)}.get(self.op, (bool, int, float, str))
        if not isinstance(self.value, wanted):  # type: ignore[arg-type]
            raise ValueError(f"value does not fit op '{self.op}'; `in` takes a list, `exists` and `missing` take none")
        if isinstance(self.value, list) and len({_kind(one) for one in self.value}) != 1:
            raise ValueError("the list to compare with must hold values of one type, at least one")
        return self


class Filter(Transform[FilterConfig]):
    """Keeps a record if `field op value` is true. Null is neither equal nor unequal to anything, as in SQL."""

    config_type = FilterConfig

    def apply(self, rows: pa.RecordBatch) -> pa.RecordBatch:
        """The rows that pass. A value that cannot be compared, say text with a number, is refused."""
        values, mixed = _values(rows, self.config.field)
        if self.config.op in ("exists", "missing"):
            null = pc.fill_null(pc.equal(values, "null"), True) if mixed else values.is_null()
            return rows.filter(null if self.config.op == "missing" else pc.invert(null))
        if not mixed:
            try:
                return rows.filter(self._holds(values))
            except (pa.ArrowInvalid, pa.ArrowNotImplementedError, TypeError):
                pass
        return rows.filter(self._one_by_one(json.loads(t) if mixed and t else t for t in values.to_pylist()))

    def _holds(self, values: pa.Array) -> pa.Array:
        value = self.config.value
        if pa.types.is_null(values.type):
            return values.cast(pa.bool_())
        for one in value if isinstance(value, list) else [value]:
            if not _comparable(values.type, one):
                raise TypeError(f"{values.type} cannot be compared with {one!r}")
        if isinstance(value, list):
            return pc.is_in(values, pa.array(value).cast(values.type))
        return _COMPARE[self.config.op](values, _scalar(value, values.type))

    def _one_by_one(self, values: Iterable[Any]) -> pa.Array:
        kept, refused = [], {}
        for index, value in enumerate(values):
            try:
                kept.append(value is not None and self._holds(pa.array([value]))[0].as_py())
            except (pa.ArrowInvalid, pa.ArrowNotImplementedError, TypeError) as error:
                refused[index] = f"field '{self.config.field}': {error}"
        if refused:
            raise InvalidRecord(next(iter(refused.values())), rows=refused)
        return pa.array(kept, pa.bool_())


transform = Filter


def _values(rows: pa.RecordBatch, path: str) -> tuple[pa.Array, bool]:
    """The field's values, and whether they are JSON text because their types differ."""
    names = [path] if path in rows.schema.names else path.split(".")
    if names[0] not in rows.schema.names:
        return pa.nulls(rows.num_rows), False
    field, values = rows.schema.field(names[0]), rows.column(names[0])
    for name in names[1:]:
        if not pa.types.is_struct(field.type) or field.type.get_field_index(name) < 0:
            return pa.nulls(rows.num_rows), False
        values, field = pc.struct_field(values, name), field.type.field(name)
    return values, (field.metadata or {}).get(b"json") == b"value"


def _kind(value: Any) -> str:
    return "boolean" if isinstance(value, bool) else "text" if isinstance(value, str) else "number"


def _comparable(type_: pa.DataType, value: Any) -> bool:
    if isinstance(value, bool):
        return bool(pa.types.is_boolean(type_))
    if isinstance(value, str):
        return bool(pa.types.is_string(type_) or pa.types.is_large_string(type_) or pa.types.is_temporal(type_))
    return bool(pa.types.is_integer(type_) or pa.types.is_floating(type_) or pa.types.is_decimal(type_))


def _scalar(value: Any, type_: pa.DataType) -> pa.Scalar:
    scalar = pa.scalar(value)
    return scalar.cast(type_) if pa.types.is_temporal(type_) else scalar
