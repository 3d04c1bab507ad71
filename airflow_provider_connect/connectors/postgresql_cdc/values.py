"""Values: texts of PostgreSQL's types as JSON, column by column; the same as `to_jsonb` would write them.

integers, numeric, floats   numbers, every digit kept; NaN and infinities as strings
boolean, json, jsonb        as such
timestamps                  ISO 8601: `2026-11-20T23:54:44.123456`, with `+00:00` where there is a zone
arrays                      arrays of their elements
everything else             strings: bytea as `\\x…`, uuid, date, interval, ranges, enums, composite types, …
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Literal

import pyarrow as pa
import pyarrow.compute as pc

from airflow_provider_connect.codecs import _json_text

BOOL, NUMERIC, TIMESTAMP, TIMESTAMPTZ = 16, 1700, 1114, 1184
_INTEGERS = frozenset((20, 21, 23, 26))
_FLOATS = frozenset((700, 701))
_JSON = frozenset((114, 3802))
_ELEMENTS = {
    1000: 16, 1001: 17, 1002: 18, 1003: 19, 1005: 21, 1007: 23, 1009: 25, 1014: 1042, 1015: 1043, 1016: 20, 1021: 700,
    1022: 701, 1028: 26, 1041: 869, 651: 650, 1040: 829, 1115: 1114, 1182: 1082, 1183: 1083, 1185: 1184, 1187: 1186,
    1231: 1700, 1270: 1266, 199: 114, 2951: 2950, 3807: 3802, 3905: 3904, 3907: 3906, 3909: 3908, 3911: 3910,
    3913: 3912, 3927: 3926,
}  # fmt: skip
"""Built-in array types to the types of their elements."""
_FIRST_OF_USERS = 16384

Numeric = Literal["number", "string"]


def is_built_in(type_: int) -> bool:
    """Whether the type is the same on every server, and known here as far as it has to be."""
    return type_ < _FIRST_OF_USERS


def element_of(type_: int) -> int:
    """The type of a built-in array's elements; 0 if it is no array."""
    return _ELEMENTS.get(type_, 0)


def objects(names: list[str], columns: list[pa.Array], types: list[tuple[int, int]], numeric: Numeric) -> pa.Array:
    """One JSON object per row. `types`: each column's type and, for arrays, that of its elements (else 0)."""
    fields, texts = [], []
    for name, column, (type_, element) in zip(names, columns, types, strict=True):
        text, is_json = _as_json(column, type_, element, numeric)
        fields.append(pa.field(name, pa.string(), metadata={"json": "value"} if is_json else None))
        texts.append(text)
    return _json_text.objects(pa.RecordBatch.from_arrays(texts, schema=pa.schema(fields)))


def _as_json(texts: pa.Array, type_: int, element: int, numeric: Numeric) -> tuple[pa.Array, bool]:
    """The column's texts, and whether they are JSON by now rather than to be quoted."""
    if type_ in _INTEGERS or type_ in _JSON:
        return texts, True
    if type_ == BOOL:
        return pc.if_else(pc.equal(texts, "t"), "true", "false"), True
    if type_ in _FLOATS or (type_ == NUMERIC and numeric == "number"):
        odd = pc.match_substring_regex(texts, "[NI]")
        if pc.any(odd).as_py():
            return pc.if_else(odd, pc.binary_join_element_wise('"', texts, '"', ""), texts), True
        return texts, True
    if type_ == TIMESTAMP:
        return pc.replace_substring(texts, " ", "T", max_replacements=1), False
    if type_ == TIMESTAMPTZ:
        with_t = pc.replace_substring(texts, " ", "T", max_replacements=1)
        if pc.all(pc.ends_with(with_t, "+00"), min_count=0).as_py():
            return pc.binary_join_element_wise(with_t, ":00", ""), False
        return pc.replace_substring_regex(with_t, r"([+-]\d\d)( BC)?$", r"\1:00\2"), False
    if element:
        convert = _element(element, numeric)
        return pa.array(
            [None if text is None else array_json(text, convert) for text in texts.to_pylist()], pa.string()
        ), True
    return texts, False


def _element(type_: int, numeric: Numeric) -> Callable[[str], str]:
    def convert(text: str) -> str:
        made, is_json = _as_json(pa.array([text], pa.string()), type_, 0, numeric)
        value: str = made[0].as_py()
        return value if is_json else json.dumps(value, ensure_ascii=False)

    if type_ in _INTEGERS:
        return str
    if type_ in _JSON or type_ in _FLOATS or type_ in (BOOL, NUMERIC, TIMESTAMP, TIMESTAMPTZ):
        return convert
    return lambda text: json.dumps(text, ensure_ascii=False)


_TOKEN = re.compile(r'([{},])|"((?:[^"\\]|\\.)*)"|([^{},"]+)', re.DOTALL)
_ESCAPED = re.compile(r"\\(.)", re.DOTALL)


def array_json(text: str, convert: Callable[[str], str]) -> str:
    """The JSON of an array's text; bounds (`[0:2]={…}`) are left out."""
    if text.startswith("["):
        text = text[text.index("=") + 1 :]
    found = []
    for mark, quoted, bare in _TOKEN.findall(text):
        if mark:
            found.append("[" if mark == "{" else "]" if mark == "}" else mark)
        elif bare:
            found.append("null" if bare == "NULL" else convert(bare))
        else:
            found.append(convert(_ESCAPED.sub(r"\1", quoted)))
    return "".join(found)
