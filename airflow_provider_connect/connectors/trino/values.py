"""Values: columns of a page of results, which are JSON, as Arrow arrays."""

from __future__ import annotations

import base64
import datetime
import re
import zoneinfo
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from airflow_provider_connect.connectors.trino.types import Column, Type, arrow_field, arrow_type, field_names
from airflow_provider_connect.engine.errors import Fatal

_FLOATS = {"NaN": float("nan"), "Infinity": float("inf"), "-Infinity": float("-inf")}
_MOMENT = re.compile(r"(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d)(\.\d+)? (.+)")
_OFFSET = re.compile(r"([+-])(\d\d):(\d\d)")


def record_batch(columns: Sequence[Column], rows: Sequence[Sequence[Any]], metadata: dict[str, str]) -> pa.RecordBatch:
    """The rows of a page as typed columns."""
    schema = pa.schema([arrow_field(column) for column in columns], metadata=metadata)
    transposed = list(zip(*rows, strict=True)) if rows else [()] * len(columns)
    arrays = [array(values, column.type) for values, column in zip(transposed, columns, strict=True)]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def array(values: Sequence[Any], kind: Type) -> pa.Array:
    """Values of one type, as the server writes them in JSON."""
    wanted = arrow_type(kind)
    if kind.name in ("real", "double"):
        if any(type(value) is str for value in values):
            values = [_FLOATS[value] if type(value) is str else value for value in values]
        return pa.array(values, wanted)
    if kind.name == "varbinary":
        return pa.array([None if value is None else base64.b64decode(value) for value in values], wanted)
    if pa.types.is_decimal(wanted) or pa.types.is_date(wanted):
        return pa.array(values, pa.string()).cast(wanted)
    if pa.types.is_time(wanted):  # Arrow reads no text as a time, but as a moment of some day
        moments = pc.binary_join_element_wise("1970-01-01", pa.array(values, pa.string()), " ")
        return moments.cast(pa.timestamp(wanted.unit)).cast(wanted)
    if pa.types.is_timestamp(wanted):
        return _moments(values, wanted) if kind.has_zone else _timestamps(pa.array(values, pa.string()), wanted)
    if kind.name == "array":
        offsets, items = _flattened(values)
        return pa.ListArray.from_arrays(offsets, array(items, kind.inner[0][1]), type=wanted)
    if kind.name == "map":
        return _maps(values, kind, wanted)
    if kind.name == "row":
        return _rows(values, kind, wanted)
    return pa.array(values, wanted)


def _timestamps(texts: pa.Array, wanted: pa.DataType) -> pa.Array:
    """Dates beyond Arrow's range of nanoseconds are an error, not another date."""
    try:
        return texts.cast(pa.timestamp(wanted.unit))
    except pa.ArrowInvalid as error:
        raise Fatal(
            f"a timestamp does not fit ({error}); cast it in `query`: to timestamp(6), or to varchar before the year 1"
            " or after 9999"
        ) from None


def _moments(values: Sequence[str | None], wanted: pa.DataType) -> pa.Array:
    """Each text ends with its zone, nearly always UTC."""
    texts = pa.array(values, pa.string())
    if not pc.all(pc.ends_with(texts, " UTC")).as_py():
        texts = pa.array([None if value is None else _in_utc(value) for value in values], pa.string())
    plain = pc.utf8_slice_codeunits(texts, 0, -4)
    return _timestamps(plain, wanted).cast(wanted)


def _in_utc(text: str) -> str:
    found = _MOMENT.fullmatch(text)
    if found is None:
        raise Fatal(f"cannot read the timestamp '{text}'; cast it to varchar in `query`")
    local, fraction, zone = datetime.datetime.fromisoformat(found[1]), found[2] or "", found[3]
    offset = _OFFSET.fullmatch(zone)
    if offset is not None:
        shift = datetime.timedelta(hours=int(offset[2]), minutes=int(offset[3]))
        moment = local - shift if offset[1] == "+" else local + shift
    else:
        # In the hour that comes twice the server does not tell which one it is.
        aware = local.replace(tzinfo=zoneinfo.ZoneInfo(zone))
        moment = aware.astimezone(datetime.UTC).replace(tzinfo=None)
    return f"{moment.isoformat(' ')}{fraction} UTC"


def _flattened(values: Sequence[Any]) -> tuple[pa.Array, list[Any]]:
    """The offsets of lists, a null one as a null offset, and what is in all of them."""
    offsets: list[int | None] = []
    items: list[Any] = []
    for value in values:
        offsets.append(None if value is None else len(items))
        items.extend(value or ())
    return pa.array([*offsets, len(items)], pa.int32()), items


def _maps(values: Sequence[dict[str, Any] | None], kind: Type, wanted: pa.DataType) -> pa.Array:
    """Keys are texts, whatever their type."""
    (_, key), (_, item) = kind.inner
    pairs = [None if value is None else list(value.items()) for value in values]
    offsets, entries = _flattened(pairs)
    texts = [entry[0] for entry in entries]
    if pa.types.is_integer(arrow_type(key)) or pa.types.is_floating(arrow_type(key)) or key.name == "boolean":
        keys = pa.array(texts, pa.string()).cast(arrow_type(key))
    else:
        keys = array(texts, key)
    items = array([entry[1] for entry in entries], item)
    return pa.MapArray.from_arrays(offsets, keys, items, type=wanted)


def _rows(values: Sequence[Sequence[Any] | None], kind: Type, wanted: pa.DataType) -> pa.Array:
    fields = field_names(kind)
    empty = (None,) * len(fields)
    columns = list(zip(*(empty if value is None else value for value in values), strict=True))
    columns = columns or [()] * len(fields)
    arrays = [array(column, of) for column, (_, of) in zip(columns, fields, strict=True)]
    nulls = pa.array([value is None for value in values], pa.bool_())
    return pa.StructArray.from_arrays(arrays, fields=list(wanted), mask=nulls)
