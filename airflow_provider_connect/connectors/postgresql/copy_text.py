"""Copy text: rows as the server sends them to Arrow, and Arrow to what COPY takes. All by kernels, no loop over rows.

Fields are separated by tabs, NULL is `\\N`, special characters have a backslash before them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from airflow_provider_connect.connectors._postgresql.copy_stream import Buffer

_ESCAPED = ((b"\\n", b"\n"), (b"\\t", b"\t"), (b"\\r", b"\r"), (b"\\b", b"\b"), (b"\\f", b"\f"), (b"\\v", b"\v"))
_NOT_UTF8 = b"\xff"
_SPECIAL = b"\\\n\r\t"


# --- from the server


def split_rows(text: Buffer) -> pa.Array:
    """Rows, each with its newline, to a binary array without."""
    ends = pa.py_buffer(np.array([0, len(text)], np.int32))
    rows = pc.split_pattern(pa.Array.from_buffers(pa.binary(), 1, [None, ends, pa.py_buffer(text)]), b"\n").values
    return rows.slice(0, len(rows) - 1)


def unescaped(values: pa.Array) -> pa.Array:
    """COPY text fields to what they stand for."""
    if not _contains(values, b"\\"):
        return values
    values = pc.if_else(pc.equal(values, pa.scalar(b"\\N", pa.binary())), pa.scalar(None, pa.binary()), values)
    # No UTF-8 text has the byte 0xff, so it can stand for the escaped backslash meanwhile.
    values = pc.replace_substring(values, b"\\\\", _NOT_UTF8)
    if _contains(values, b"\\"):
        for escape, character in _ESCAPED:
            values = pc.replace_substring(values, escape, character)
    return pc.replace_substring(values, _NOT_UTF8, b"\\")


def fields_of(row: bytes, indices: Sequence[int]) -> list[str | None]:
    """Single fields of one row, as text."""
    fields = row.rstrip(b"\n").split(b"\t")
    found = unescaped(pa.array([fields[index] for index in indices], pa.binary())).to_pylist()
    return [value.decode() if value is not None else None for value in found]


# --- to the server


def lines(rows: pa.Array) -> Buffer:
    """A binary or string array of COPY text rows, with a newline after each."""
    rows = rows.cast(pa.binary())
    return parts(pc.binary_join_element_wise(rows, b"", b"\n"))[1]


def text_rows(fields: Sequence[pa.Array]) -> pa.Array:
    """Text fields, already escaped, to COPY text rows; null is `\\N`."""
    if len(fields) == 1:
        return pc.fill_null(fields[0], pa.scalar("\\N"))
    return pc.binary_join_element_wise(*fields, "\t", null_handling="replace", null_replacement="\\N")


def text_field(values: pa.Array, to_json: bool = False) -> pa.Array:
    """A column as escaped COPY text fields (string array); nested values as JSON or as array literals.

    Raises ArrowInvalid for text that is not UTF-8.
    """
    kind = values.type
    if pa.types.is_dictionary(kind):
        return text_field(values.dictionary_decode(), to_json)
    if pa.types.is_null(kind):
        return values.cast(pa.string())
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return _escape(values.cast(pa.string()))
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind):
        return _hex(values.cast(pa.binary()))
    if pa.types.is_nested(kind):
        write = _json if to_json or not _is_list(kind) else _array_literal
        return _escape(pa.array([None if item is None else write(item) for item in values.to_pylist()], pa.string()))
    if pa.types.is_duration(kind):
        micros = values.cast(pa.duration("us")).cast(pa.int64()).cast(pa.string())
        return pc.binary_join_element_wise(micros, "microseconds", " ")
    return values.cast(pa.string())


def _is_list(kind: pa.DataType) -> bool:
    return any(is_one(kind) for is_one in (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list))


def _escape(values: pa.Array) -> pa.Array:
    if not _contains(values, _SPECIAL):
        return values
    values = pc.replace_substring(values, "\\", "\\\\")
    for character, escape in (("\n", "\\n"), ("\r", "\\r"), ("\t", "\\t")):
        values = pc.replace_substring(values, character, escape)
    return values


_DIGITS = np.frombuffer(b"".join(b"%02x" % value for value in range(256)), np.uint16)


def _hex(values: pa.Array) -> pa.Array:
    """Bytes as bytea's hex format, its backslash escaped."""
    nulls = values.is_null()
    offsets, data = parts(pc.fill_null(values, b""))
    digits = _DIGITS[np.frombuffer(data, np.uint8)].tobytes()
    texts = pa.StringArray.from_buffers(len(values), pa.py_buffer((offsets * 2).astype(np.int32)), pa.py_buffer(digits))
    return pc.if_else(nulls, pa.scalar(None, pa.string()), pc.binary_join_element_wise("\\\\x", texts, ""))


def _json(value: Any) -> str:
    return json.dumps(value, default=str, ensure_ascii=False)


def _array_literal(items: list[Any]) -> str:
    """A list as PostgreSQL writes arrays; inner lists are further dimensions."""
    return "{" + ",".join(_element(item) for item in items) + "}"


def _element(item: Any) -> str:
    if item is None:
        return "NULL"
    if isinstance(item, list):
        return _array_literal(item)
    text = "\\x" + item.hex() if isinstance(item, bytes) else _json(item) if isinstance(item, dict) else str(item)
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def parts(values: pa.Array) -> tuple[np.ndarray[Any, Any], memoryview]:
    """Offsets from 0 and the data of a binary or string array, wherever in its buffers it lies."""
    _, offsets, data = values.buffers()
    if len(values) == 0:
        return np.zeros(1, np.int32), memoryview(b"")
    at = np.frombuffer(offsets, np.int32)[values.offset : values.offset + len(values) + 1]
    whole = memoryview(data) if data is not None else memoryview(b"")
    return at - at[0], whole[at[0] : at[-1]]


def _contains(values: pa.Array, any_of: bytes) -> bool:
    """Whether one of these bytes is in the data; one pass in C, cheaper than asking each value."""
    data = parts(values)[1]
    if len(any_of) == 1:
        return re.search(re.escape(any_of), data) is not None  # unlike `in`, it takes a memoryview
    return len(bytes(data).translate(None, any_of)) != len(data)
