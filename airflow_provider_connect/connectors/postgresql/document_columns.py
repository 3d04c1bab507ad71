"""Document columns: JSON documents read into a table's columns here, several times faster than on the server.

It is done where it is certain to say the same as `jsonb_populate_record` does on the server. Where it is not (a value
of another type than its column, an array or an object, a field that is null in some documents and absent in others
where that makes a difference), the documents are left to the server, which also names those that it refuses.
"""

from __future__ import annotations

import json
import re

import pyarrow as pa
import pyarrow.compute as pc

from airflow_provider_connect.codecs.json import read_as
from airflow_provider_connect.connectors.postgresql.table import Column
from airflow_provider_connect.connectors.postgresql.target import Target
from airflow_provider_connect.engine.errors import InvalidRecord

_READ_AS = {
    "smallint": pa.int64(),
    "integer": pa.int64(),
    "bigint": pa.int64(),
    "real": pa.float32(),
    "double precision": pa.float64(),
    "boolean": pa.bool_(),
    "numeric": pa.decimal128(38, 0),  # fractions keep their digits on the server only
    "text": pa.string(),
    "character varying": pa.string(),
    "character": pa.string(),
    "uuid": pa.string(),
    "date": pa.string(),
    "time without time zone": pa.string(),
    "time with time zone": pa.string(),
    "timestamp without time zone": pa.string(),
    "timestamp with time zone": pa.string(),
    "interval": pa.string(),
    "inet": pa.string(),
    "cidr": pa.string(),
    "macaddr": pa.string(),
    "bytea": pa.string(),
}
"""Types, as `format_type()` names them without precision, whose values are numbers, booleans, or texts that the server
reads the same from a document and from COPY."""
_EXACT = {"smallint": pa.int16(), "integer": pa.int32()}
_EXACT_FLOAT = 2.0**53
_NUMERIC = re.compile(r"numeric\((\d+),(\d+)\)")
_PRECISION = re.compile(r"\([^)]*\)")


def columns_of(documents: pa.Array, target: Target) -> list[tuple[Column, pa.Array]] | None:
    """The columns of documents (a binary array without nulls), or None if the server had better read them.

    A column is not among them if no document has a field for it.
    """
    types: dict[str, pa.DataType] = {}
    others: list[str] = []
    for column in target.table.columns:
        kind = None if column.generated else _read_as(column.type, target.evolving)
        if kind is not None:
            types[column.name] = kind
        elif not column.generated or not target.ignore_unknown:
            others.append(column.name)
    if target.ignore_unknown and any(_names_it(documents, name, any_=True) for name in others):
        return None
    try:
        table = read_as(documents, types, ignore_others=target.ignore_unknown)
    except (pa.ArrowInvalid, InvalidRecord):
        return None
    found: list[tuple[Column, pa.Array]] = []
    for column in (column for column in target.table.columns if column.name in types):
        values = table.column(column.name)
        given = _given(documents, column, values, target)
        if given is None or (pa.types.is_floating(values.type) and not _certain(values, target.evolving)):
            return None
        if given:
            found.append((column, _whole(values)))
    names = {column.name for column, _ in found}
    upsert = target.upsert
    needed = {*upsert.key, *((upsert.version,) if upsert.version is not None else ())} if upsert is not None else set()
    if not found or not needed <= names or any(values.null_count for c, values in found if c.name in target.key):
        return None
    return found


def _read_as(pg_type: str, exact: bool) -> pa.DataType | None:
    """What to read values of a type as; `exact`: not as something wider. None: only the server can."""
    if exact and pg_type in _EXACT:
        return _EXACT[pg_type]
    if numeric := _NUMERIC.fullmatch(pg_type):
        precision, scale = int(numeric[1]), int(numeric[2])
        return pa.decimal128(precision, scale) if scale <= precision <= 38 else None
    bare = _PRECISION.sub("", pg_type)
    return _READ_AS.get(bare) if bare != "numeric" or bare == pg_type else None


def _given(documents: pa.Array, column: Column, values: pa.ChunkedArray, target: Target) -> bool | None:
    """Whether the documents say what the column holds; None if some do and some do not, and it matters."""
    if not values.null_count:
        return True
    if values.null_count == len(values) and not _names_it(documents, column.name, any_=True):
        return False
    if target.upsert is None and not column.has_default:
        return True  # null and absent are the same
    return True if _names_it(documents, column.name, any_=False) else None


def _names_it(documents: pa.Array, name: str, any_: bool) -> bool:
    """Whether any document may have a field of this name, or whether all of them certainly have."""
    written = {json.dumps(name), json.dumps(name, ensure_ascii=False)}
    if any_:
        if any(pc.any(pc.match_substring(documents, text.encode())).as_py() for text in written):
            return True
        escaped = documents.filter(pc.match_substring(documents, b"\\u"))
        return bool(pc.any(pc.match_substring_regex(escaped, rb'\\u[^"]*"[ \t\r\n]*:')).as_py())
    if len(written) > 1 or pc.max(pc.count_substring(documents, b"{")).as_py() > 1:
        return False  # a field within a field, or a brace in a text
    # A quote in a text has a backslash before it, so this is the beginning of a field's name.
    field = rf"(^|[^\\]){re.escape(json.dumps(name))}[ \t\r\n]*:"
    return bool(pc.all(pc.match_substring_regex(documents, field)).as_py())


def _whole(values: pa.ChunkedArray) -> pa.Array:
    return values.chunk(0) if values.num_chunks == 1 else pa.concat_arrays(values.chunks)


def _certain(values: pa.ChunkedArray, evolving: bool) -> bool:
    """JSON has no NaN and no Infinity, though Arrow reads them. Integers beyond what is exact may widen the column."""
    if not pc.all(pc.is_finite(values)).as_py() and values.null_count < len(values):
        return False
    least, most = pc.min_max(values).as_py().values()
    return not evolving or least is None or max(-least, most) < _EXACT_FLOAT
