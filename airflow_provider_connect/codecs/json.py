"""json: one JSON object per document, to typed columns and back.

Types are Arrow's inference over the documents of one batch, made independent of everything else, so that the same
batch always gives the same columns: integers are int64, or decimal128(38, 0) where one is too big for that; text is
text, also where it looks like a timestamp; objects are structs and arrays are lists. A field whose values do not have
one type within the batch is kept as JSON text, marked so that it is written back as it was.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Mapping
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json

from airflow_provider_connect.codecs._json_text import objects
from airflow_provider_connect.engine.batch import documents as envelope
from airflow_provider_connect.engine.codec import Codec
from airflow_provider_connect.engine.errors import InvalidRecord

DEEPEST = 250
"""Levels of nesting beyond which a document is refused; Arrow's parser recurses, and thousands of levels kill it."""

_SAMPLE = 32
_EXACT_FLOAT = 2.0**53
_NESTING = re.compile(rb'"(?:[^"\\]|\\.)*"|([\[{])|([\]}])', re.DOTALL)
_AS_TEXT = {b"json": b"value"}


class Json(Codec):
    """JSON documents to columns and back."""

    def decode(self, documents: pa.RecordBatch) -> pa.RecordBatch:
        """One column per field, in the order of first appearance. A null document (a tombstone) is a row of nulls.

        InvalidRecord: documents that are no JSON object, blank, no UTF-8, or nested more than `DEEPEST` levels.
        """
        texts = documents.column("value")
        if len(texts) == 0:
            return pa.RecordBatch.from_pylist([], pa.schema([]))
        if texts.null_count:
            texts = pc.fill_null(texts, b"{}")
        _refuse_deep(texts)
        try:
            return _parse(texts)
        except (pa.ArrowInvalid, UnicodeDecodeError):
            return _parse_one_by_one(texts)

    def encode(self, columns: pa.RecordBatch) -> pa.RecordBatch:
        """One object per row with every column in it, nulls too; how each type is written tells `_json_text`."""
        return envelope(objects(columns), "json")


def codec() -> Codec:
    """A new codec."""
    return Json()


def read_as(documents: pa.Array, types: Mapping[str, pa.DataType], *, ignore_others: bool = False) -> pa.Table:
    """Documents (binary or string) as columns of exactly these types, null where a field is null or not there.

    pa.ArrowInvalid or InvalidRecord if anything about them is unusual, such as a value of another type, or a field that
    is not named unless `ignore_others`. Then the caller has to look closer.
    """
    _refuse_deep(documents)
    return _read(_objects(documents), dict(types), "ignore" if ignore_others else "error")


def _parse(texts: pa.Array) -> pa.RecordBatch:
    """All documents in one go. ArrowInvalid if anything about them is unusual."""
    texts = _objects(texts)
    sample = _read(texts.slice(0, _SAMPLE), {})
    table = _read(texts, _without_timestamps(sample.schema))
    order = [*sample.schema.names, *(name for name in table.schema.names if name not in set(sample.schema.names))]
    if late := _without_timestamps(table.schema):
        table = _read(texts, _without_timestamps(sample.schema) | late)
    if rounded := _rounded(table):
        with contextlib.suppress(pa.ArrowInvalid):  # fractions beside them: no type holds both
            table = _read(texts, {field.name: field.type for field in table.schema} | rounded)
    return _record_batch(table.select(order))


def _objects(documents: pa.Array) -> pa.Array:
    texts = documents.cast(pa.string())  # refuses what is no UTF-8, which the parser does not
    if not _are_objects(texts):
        texts = pc.ascii_trim(texts, " \t\r\n")
        if not _are_objects(texts):
            # Arrow's parser crashes on a leading `null`, and takes blank documents for none.
            raise pa.ArrowInvalid("not all documents are objects")
    return texts


def _are_objects(texts: pa.Array) -> bool:
    return bool(pc.all(pc.and_(pc.starts_with(texts, "{"), pc.ends_with(texts, "}"))).as_py())


def _read(texts: pa.Array, types: dict[str, pa.DataType], others: str = "infer") -> pa.Table:
    """One row per document. As each begins with `{` and ends with `}`, no other cut gives the same number of rows."""
    lines = pc.binary_join(pa.ListArray.from_arrays(pa.array([0, len(texts)], pa.int32()), texts), "\n")[0].as_buffer()
    table = pyarrow.json.read_json(
        pa.BufferReader(lines),
        read_options=pyarrow.json.ReadOptions(use_threads=False, block_size=max(lines.size + 1, 1024)),
        parse_options=pyarrow.json.ParseOptions(
            explicit_schema=pa.schema(list(types.items())), newlines_in_values=False, unexpected_field_behavior=others
        ),
    )
    if table.num_rows != len(texts):
        raise pa.ArrowInvalid(f"{len(texts)} documents hold {table.num_rows} values")
    return table


def _without_timestamps(schema: pa.Schema) -> dict[str, pa.DataType]:
    """The fields that Arrow took for timestamps, as the text they are."""
    plain = {field.name: _as_text(field.type) for field in schema}
    return {field.name: plain[field.name] for field in schema if plain[field.name] != field.type}


def _as_text(type_: pa.DataType) -> pa.DataType:
    if pa.types.is_timestamp(type_):
        return pa.string()
    if pa.types.is_struct(type_):
        return pa.struct([pa.field(field.name, _as_text(field.type)) for field in type_])
    return pa.list_(_as_text(type_.value_type)) if pa.types.is_list(type_) else type_


def _rounded(table: pa.Table) -> dict[str, pa.DataType]:
    """Columns of floats that may have been integers too big for int64."""
    suspects = {}
    for field, column in zip(table.schema, table.columns, strict=True):
        if pa.types.is_floating(field.type):
            least, most = pc.min_max(column).as_py().values()
            if most is not None and max(-least, most) >= _EXACT_FLOAT:
                suspects[field.name] = pa.decimal128(38, 0)
    return suspects


def _refuse_deep(texts: pa.Array) -> None:
    """Only a document of many brackets can be deep, and only a long one has many."""
    long = pc.greater_equal(pc.binary_length(texts), 2 * DEEPEST)
    if not pc.any(long).as_py():
        return
    suspects = pc.indices_nonzero(long)
    brackets = pc.add(*(pc.count_substring(texts.take(suspects), bracket) for bracket in ("[", "{")))
    deep = {}
    for index in suspects.filter(pc.greater(brackets, DEEPEST)).to_pylist():
        if _depth(texts[index].as_py()) > DEEPEST:
            deep[index] = f"the document is nested more than {DEEPEST} levels deep"
    if deep:
        raise InvalidRecord(f"{len(deep)} documents are nested too deep", rows=deep)


def _depth(text: bytes) -> int:
    depth = deepest = 0
    for found in _NESTING.finditer(text):
        depth += 1 if found[1] else -1 if found[2] else 0
        deepest = max(deepest, depth)
    return deepest


def _parse_one_by_one(texts: pa.Array) -> pa.RecordBatch:
    """The slow path: each document by Python's parser, each field by Arrow's, for what `_parse` does not manage."""
    found: list[dict[str, Any]] = []
    refused: dict[int, str] = {}
    for index, text in enumerate(texts.to_pylist()):
        try:
            document = json.loads(text, parse_constant=_refuse_constant)
            if isinstance(document, dict):
                found.append(document)
            else:
                refused[index] = f"the document is {_kind(document)}, not an object"
        except (ValueError, RecursionError) as error:
            refused[index] = f"the document is not JSON: {error}" if text.strip() else "the document is blank"
    if refused:
        first = min(refused)
        raise InvalidRecord(f"{len(refused)} documents cannot be decoded, e.g. {refused[first]}", rows=refused)
    names = list(dict.fromkeys(name for document in found for name in document))
    columns = [_column(name, found) for name in names]
    if not names:
        return _record_batch(pa.table({}), len(found))
    return pa.RecordBatch.from_arrays([c[1] for c in columns], schema=pa.schema([c[0] for c in columns]))


def _column(name: str, documents: list[dict[str, Any]]) -> tuple[pa.Field, pa.Array]:
    single = [json.dumps({"": document[name]}) if name in document else "{}" for document in documents]
    try:
        parsed = _parse(pa.array(single))
    except pa.ArrowInvalid:
        values = [json.dumps(d[name], ensure_ascii=False) if name in d else None for d in documents]
        return pa.field(name, pa.string(), metadata=_AS_TEXT), pa.array(values, pa.string())
    return pa.field(name, parsed.schema.field(0).type), parsed.column(0)


def _record_batch(table: pa.Table, rows: int = 0) -> pa.RecordBatch:
    if table.num_columns == 0:  # a batch made of arrays would forget how many rows it has
        return pa.RecordBatch.from_struct_array(pa.array([{}] * (rows or table.num_rows), pa.struct([])))
    return table.combine_chunks().to_batches()[0]


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON number")


def _kind(value: Any) -> str:
    if value is None:
        return "null"
    return {bool: "a boolean", str: "text", list: "an array"}.get(type(value), "a number")
