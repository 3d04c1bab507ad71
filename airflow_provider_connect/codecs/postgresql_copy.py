"""postgresql-copy: rows of PostgreSQL's COPY text format to typed columns, and which Arrow type a PostgreSQL type is.

A document is one row as `COPY ... TO STDOUT` sends it, without the newline: fields separated by tabs, NULL as `\\N`,
backslash escapes, UTF-8. The schema's metadata key `columns` holds `[{"name": ..., "type": ...}]` as JSON, the types
being PostgreSQL's own texts (`format_type()`). The session must use `DateStyle` ISO and `bytea_output` hex, which are
the server's defaults.
"""

from __future__ import annotations

import json
import re
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from airflow_provider_connect.codecs._refused import refused_rows
from airflow_provider_connect.engine.codec import Codec
from airflow_provider_connect.engine.errors import Fatal, FlowError, InvalidRecord

_TYPES = {
    "smallint": pa.int16(),
    "integer": pa.int32(),
    "bigint": pa.int64(),
    "oid": pa.int64(),
    "real": pa.float32(),
    "double precision": pa.float64(),
    "boolean": pa.bool_(),
    "date": pa.date32(),
    "time without time zone": pa.time64("us"),
    "timestamp without time zone": pa.timestamp("us"),
    "timestamp with time zone": pa.timestamp("us", tz="UTC"),
    "bytea": pa.binary(),
}
_JSON_TEXT = {"json": b"value", "jsonb": b"value", "numeric": b"number"}
_NUMERIC = re.compile(r"numeric\((\d+),(-?\d+)\)")
_PRECISION = re.compile(r"\([^)]*\)")

_ESCAPES = {b"\\b": b"\b", b"\\f": b"\f", b"\\n": b"\n", b"\\r": b"\r", b"\\t": b"\t", b"\\v": b"\v"}
_NOT_UTF8 = b"\xff"


def arrow_type(pg_type: str) -> pa.DataType:
    """The Arrow type that holds every value of a PostgreSQL type, named as `format_type()` names it.

    What has no exact counterpart is text: `numeric` without precision (which `numeric(p,s)` beyond 76 digits joins),
    `time with time zone`, `interval`, `uuid`, `json`, enums, ranges, and every type that is not known here. Arrays are
    lists of their element's type. `infinity`, years beyond 9999 or BC, and `NaN` in a `numeric(p,s)` have no Arrow
    value: such rows are refused.
    """
    if pg_type.endswith("[]"):
        return pa.list_(arrow_type(pg_type[:-2]))
    if numeric := _NUMERIC.fullmatch(pg_type):
        return _decimal(int(numeric[1]), int(numeric[2]))
    return _TYPES.get(_PRECISION.sub("", pg_type), pa.string())


def arrow_field(name: str, pg_type: str) -> pa.Field:
    """The Arrow field of a PostgreSQL column. Text that is JSON already (`json`, `jsonb`, `numeric`) is marked as such,
    by the metadata key `json` (`value` or `number`), for the json codec to write it as it is."""
    marked = _JSON_TEXT.get(_PRECISION.sub("", pg_type)) if arrow_type(pg_type) == pa.string() else None
    return pa.field(name, arrow_type(pg_type), metadata={"json": marked} if marked else None)


def _decimal(precision: int, scale: int) -> pa.DataType:
    if scale < 0 or max(precision, scale) > 76:
        return pa.string()
    return (pa.decimal128 if max(precision, scale) <= 38 else pa.decimal256)(max(precision, scale), scale)


class PostgresqlCopy(Codec):
    """COPY text rows to columns. There is no way back: sinks that take COPY text make it themselves."""

    def decode(self, documents: pa.RecordBatch) -> pa.RecordBatch:
        """One column per entry of the schema's `columns`; a null document is refused."""
        described = (documents.schema.metadata or {}).get(b"columns")
        if described is None:
            raise Fatal("postgresql-copy documents need the list of columns in the schema metadata key 'columns'")
        fields = [arrow_field(column["name"], column["type"]) for column in json.loads(described)]
        try:
            return _decode(documents, fields)
        except (pa.ArrowInvalid, ValueError) as error:
            rows = refused_rows(lambda part: _decode(part, fields), documents, error)
            rows = {index: _reason(documents.slice(index, 1), fields) or reason for index, reason in rows.items()}
            first = next(iter(rows.values()), str(error))
            message = f"{len(rows)} of {documents.num_rows} rows cannot be read as {_names(fields)}: {first}"
            raise InvalidRecord(message, rows=rows or None) from error

    def encode(self, columns: pa.RecordBatch) -> pa.RecordBatch:
        """Not possible: FlowError."""
        raise FlowError("columns cannot be written as 'postgresql-copy'; it is a format to read from PostgreSQL only")


def codec() -> Codec:
    """A new codec."""
    return PostgresqlCopy()


def _names(fields: list[pa.Field]) -> str:
    return ", ".join(f"'{field.name}'" for field in fields)


def _reason(row: pa.RecordBatch, fields: list[pa.Field]) -> str | None:
    """Which value of a refused row is the wrong one, where it is that."""
    value = row.column("value")[0].as_py()
    texts = value.split(b"\t") if value is not None else []
    if len(texts) != len(fields):
        return f"the row has {len(texts)} fields, not {len(fields)}" if value is not None else None
    for field, text in zip(fields, texts, strict=True):
        try:
            _decode(row.set_column(row.schema.get_field_index("value"), "value", pa.array([text])), [field])
        except (pa.ArrowInvalid, ValueError):
            shown = text[:40].decode(errors="replace")
            return (
                f"column '{field.name}' holds {shown!r}, which {field.type} has no value for; to have such values,"
                f" select the column as text (`{field.name}::text` in `query`)"
            )
    return None


def _decode(documents: pa.RecordBatch, fields: list[pa.Field]) -> pa.RecordBatch:
    rows = documents.column("value")
    schema = pa.schema(fields)
    if len(rows) == 0:
        return pa.RecordBatch.from_pylist([], schema)
    if rows.null_count:
        raise ValueError("the document is null")
    ends = pa.ListArray.from_arrays(pa.array([0, len(rows)], pa.int32()), rows)
    lines = pc.binary_join(ends, b"\n")[0].as_buffer().to_pybytes() + b"\n"
    # Position instead of name, because names may repeat in a query.
    keys = [str(index) for index in range(len(fields))]
    table = pyarrow.csv.read_csv(
        pa.BufferReader(lines),
        read_options=pyarrow.csv.ReadOptions(column_names=keys, use_threads=False, block_size=len(lines) + 1),
        parse_options=pyarrow.csv.ParseOptions(
            delimiter="\t", quote_char=False, double_quote=False, escape_char=False, ignore_empty_lines=False
        ),
        convert_options=pyarrow.csv.ConvertOptions(
            column_types={key: _read_as(field.type) for key, field in zip(keys, fields, strict=True)},
            null_values=["\\N"],
            strings_can_be_null=True,
            true_values=["t"],
            false_values=["f"],
            timestamp_parsers=[pyarrow.csv.ISO8601],
        ),
    )
    if table.num_rows != len(rows):
        raise ValueError(f"{len(rows)} documents hold {table.num_rows} rows")
    arrays = [_finish(table.column(key).combine_chunks(), field) for key, field in zip(keys, fields, strict=True)]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def _read_as(type_: pa.DataType) -> pa.DataType:
    beyond_csv = pa.types.is_binary(type_) or pa.types.is_list(type_) or pa.types.is_decimal256(type_)
    return pa.string() if beyond_csv else type_


def _finish(values: pa.Array, field: pa.Field) -> pa.Array:
    if isinstance(values, pa.ChunkedArray):
        values = pa.concat_arrays(values.chunks)
    if pa.types.is_binary(field.type):
        return _bytea(values)
    if not pa.types.is_string(values.type):
        return values
    values = _unescape(values)
    if pa.types.is_decimal256(field.type):
        return values.cast(field.type)
    if pa.types.is_list(field.type):
        return _lists(values, field)
    return values


def _unescape(values: pa.Array) -> pa.Array:
    """Escapes resolved by replacing; the byte that stands for an escaped backslash meanwhile is none of UTF-8."""
    if not pc.any(pc.match_substring(values, "\\")).as_py():
        return values
    raw = pc.replace_substring(values.cast(pa.binary()), b"\\\\", _NOT_UTF8)
    for escape, character in _ESCAPES.items():
        raw = pc.replace_substring(raw, escape, character)
    return pc.replace_substring(raw, _NOT_UTF8, b"\\").cast(pa.string())


def _bytea(values: pa.Array) -> pa.Array:
    """Hex text to bytes, all values in one go."""
    if not pc.all(pc.starts_with(values, "\\\\x")).as_py() and values.null_count < len(values):
        raise ValueError("a bytea value is not in hex format; set bytea_output to hex in the session")
    digits = pc.replace_substring(values.cast(pa.binary()), b"\\\\x", b"", max_replacements=1).fill_null(b"")
    if pc.any(pc.not_equal(pc.bit_wise_and(pc.binary_length(digits), 1), 0)).as_py():
        raise ValueError("a bytea value has an odd number of hex digits")
    whole = bytes.fromhex(pc.binary_join(pa.ListArray.from_arrays([0, len(digits)], digits), b"")[0].as_py().decode())
    lengths = pc.shift_right(pc.binary_length(digits), 1)
    ends = pc.cumulative_sum(lengths).cast(pa.int32())
    offsets = pa.concat_arrays([pa.array([0], pa.int32()), ends])
    packed = pa.BinaryArray.from_buffers(pa.binary(), len(digits), [None, offsets.buffers()[1], pa.py_buffer(whole)])
    return pc.if_else(values.is_valid(), packed, pa.scalar(None, pa.binary()))


def _lists(values: pa.Array, field: pa.Field) -> pa.Array:
    """Array literals, parsed one by one: PostgreSQL nests quotes in them that no kernel reads."""
    element = field.type.value_type
    texts = [None if text is None else _array_items(text) for text in values.to_pylist()]
    flat = pa.array([item for items in texts if items is not None for item in items], pa.string())
    offsets: list[int] = [0]
    for items in texts:
        offsets.append(offsets[-1] + len(items or ()))
    mask = pa.array([items is None for items in texts])
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), _elements(flat, element), mask=mask).cast(field.type)


def _elements(texts: pa.Array, type_: pa.DataType) -> pa.Array:
    if pa.types.is_binary(type_):
        return _bytea(pc.replace_substring(texts, "\\x", "\\\\x", max_replacements=1))
    if pa.types.is_boolean(type_):
        return pc.equal(texts, "t")
    if pa.types.is_timestamp(type_) and type_.tz is not None:
        # The cast, unlike the CSV reader, wants minutes in the offset.
        texts = pc.replace_substring_regex(texts, r"([+-]\d\d)$", r"\1:00")
    return texts.cast(type_)


_ITEM = re.compile(r'"((?:[^"\\]|\\.)*)"|((?:[^"{},\\]|\\.)+)', re.DOTALL)
_BACKSLASH = re.compile(r"\\(.)", re.DOTALL)


def _array_items(literal: str) -> list[Any]:
    """The elements of a one-dimensional array literal, as text or None."""
    if not (literal.startswith("{") and literal.endswith("}")):
        raise ValueError(f"array {literal[:40]!r} is no plain literal; arrays with own bounds are not supported")
    items: list[Any] = []
    at, end = 1, len(literal) - 1
    while at < end:
        item = _ITEM.match(literal, at, end)
        if item is None:
            raise ValueError(f"array {literal[:40]!r} has more than one dimension, which a list column cannot hold")
        quoted, plain = item.groups()
        if quoted is None:
            items.append(None if plain == "NULL" else _BACKSLASH.sub(r"\1", plain))
        else:
            items.append(_BACKSLASH.sub(r"\1", quoted))
        at = item.end() + 1
    return items
