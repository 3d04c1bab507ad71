"""JSON text of Arrow values, made column by column with Arrow's kernels.

integers, decimals       numbers, every digit kept; floats as the shortest text that reads back, NaN and Infinity null
timestamps               ISO 8601 text with the unit's precision; with a zone in UTC and `Z`, without one bare
dates, times             `2024-02-29`, `12:34:56.789000`
binary                   base64 text
structs, lists, maps     objects, arrays, objects (keys as text)
text marked as JSON      as it is: field metadata `json` = `value`, or `number` (NaN and Infinity become null)
durations                integers in their unit
"""

from __future__ import annotations

import base64
import json

import pyarrow as pa
import pyarrow.compute as pc

from airflow_provider_connect.engine.errors import FlowError

_TO_ESCAPE = bytes(range(0x20)) + b'"\\'
_TO_ESCAPE_PATTERN = r'["\\\x00-\x1f]'


def objects(columns: pa.RecordBatch) -> pa.Array:
    """One JSON object per row, as text. FlowError if two columns have the same name."""
    names = columns.schema.names
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise FlowError(f"two columns are named '{twice}'; JSON needs distinct names, so rename one (AS in a query)")
    return _objects(list(columns.schema), columns.columns, columns.num_rows)


def texts(values: pa.Array, field: pa.Field) -> pa.Array:
    """The JSON text of each value; null stays null."""
    pieces = _pieces(values, field)
    return pieces[0] if len(pieces) == 1 else pc.binary_join_element_wise(*pieces, "", null_handling="emit_null")


def _objects(fields: list[pa.Field], columns: list[pa.Array], rows: int) -> pa.Array:
    if not fields:
        return pa.repeat("{}", rows)
    parts: list[pa.Array | str] = []
    before = "{"
    for field, column in zip(fields, columns, strict=True):
        before += json.dumps(field.name, ensure_ascii=False) + ":"
        pieces = _pieces(column, field)
        if len(pieces) == 3 and column.null_count:  # the quotes must vanish with the value
            pieces = [pc.binary_join_element_wise(*pieces, "", null_handling="emit_null")]
        if len(pieces) == 3:
            parts += [before + pieces[0], pieces[1]]
            before = pieces[2] + ","
        else:
            parts += [before, pieces[0]]
            before = ","
    parts.append(before[:-1] + "}")
    return pc.binary_join_element_wise(*parts, "", null_handling="replace", null_replacement="null")


def _pieces(values: pa.Array, field: pa.Field) -> list[pa.Array | str]:
    """The JSON text as `[text]`, or `[before, text, after]` so that quotes cost no copy of their own."""
    kind = values.type
    if pa.types.is_dictionary(kind):
        return _pieces(values.cast(kind.value_type), field.with_type(kind.value_type))
    if _is_text(kind):
        marked = (field.metadata or {}).get(b"json")
        return [_marked(values.cast(pa.string()), marked)] if marked else ['"', _escaped(values.cast(pa.string())), '"']
    if pa.types.is_floating(kind):
        finite = pc.if_else(pc.is_finite(values), values, pa.scalar(None, kind))
        return [finite.cast(pa.string())]
    if pa.types.is_integer(kind) or pa.types.is_boolean(kind) or pa.types.is_decimal(kind):
        return [values.cast(pa.string())]
    if pa.types.is_timestamp(kind):
        # Without its zone, for casting text of zoned values takes 30 times as long.
        plain = values.cast(pa.timestamp(kind.unit)).cast(pa.string())
        return ['"', pc.replace_substring(plain, " ", "T", max_replacements=1), '"' if kind.tz is None else 'Z"']
    if pa.types.is_date(kind) or pa.types.is_time(kind):
        return ['"', values.cast(pa.string()), '"']
    if pa.types.is_duration(kind):
        return [values.cast(pa.int64()).cast(pa.string())]
    if pa.types.is_struct(kind):
        return [_where_valid(values, _objects(list(kind), values.flatten(), len(values)))]
    if pa.types.is_map(kind):
        return [_map(values)]
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        plain = values.cast(pa.list_(kind.value_field))
        return [_enclosed(plain, "[", texts(plain.flatten(), kind.value_field), "]")]
    if pa.types.is_null(kind):
        return [pa.nulls(len(values), pa.string())]
    if _is_binary(kind):
        encoded = [None if value is None else base64.b64encode(value).decode() for value in values.to_pylist()]
        return ['"', pa.array(encoded, pa.string()), '"']
    raise FlowError(f"column '{field.name}' of type {kind} has no JSON form; select other columns or cast it before")


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _is_binary(kind: pa.DataType) -> bool:
    variable = pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind)
    return bool(variable or pa.types.is_fixed_size_binary(kind))


def _marked(values: pa.Array, marked: bytes) -> pa.Array:
    if marked == b"number":
        return pc.if_else(pc.match_substring_regex(values, "[0-9]"), values, pa.scalar(None, pa.string()))
    for newline in ("\n", "\r"):  # white space between tokens, which would cut a line of NDJSON
        if pc.any(pc.match_substring(values, newline)).as_py():
            values = pc.replace_substring(values, newline, " ")
    return values


def _escaped(values: pa.Array) -> pa.Array:
    """What may not stand between quotes replaced; only values that need it are touched."""
    if not _needs_escape(values):
        return values
    where = pc.fill_null(pc.match_substring_regex(values, _TO_ESCAPE_PATTERN), False)
    some = pc.replace_substring(pc.replace_substring(values.filter(where), "\\", "\\\\"), '"', '\\"')
    if pc.any(pc.match_substring_regex(some, r"[\x00-\x1f]")).as_py():
        for code in range(0x20):
            some = pc.replace_substring(some, chr(code), json.dumps(chr(code))[1:-1])
    return pc.replace_with_mask(values, where, some)


def _needs_escape(values: pa.Array) -> bool:
    """Whether anything in the text of these values does, found without looking at them one by one."""
    _, offsets, data = values.buffers()
    if data is None or len(values) == 0:
        return False
    ends = pa.Array.from_buffers(pa.int32(), len(values) + 1, [None, offsets], offset=values.offset)
    start, end = ends[0].as_py(), ends[-1].as_py()
    text = data.slice(start, end - start).to_pybytes()
    return len(text.translate(None, _TO_ESCAPE)) < len(text)


def _where_valid(values: pa.Array, made: pa.Array) -> pa.Array:
    return pc.if_else(values.is_valid(), made, pa.scalar(None, pa.string())) if values.null_count else made


def _enclosed(lists: pa.Array, before: str, items: pa.Array, after: str) -> pa.Array:
    """The texts of a list's flattened items, joined by commas."""
    lengths = pc.fill_null(pc.list_value_length(lists), 0)
    offsets = pa.concat_arrays([pa.array([0], pa.int32()), pc.cumulative_sum(lengths).cast(pa.int32())])
    joined = pc.binary_join(pa.ListArray.from_arrays(offsets, pc.fill_null(items, "null")), ",")
    return _where_valid(lists, pc.binary_join_element_wise(before, joined, after, ""))


def _map(values: pa.Array) -> pa.Array:
    plain = values.cast(
        pa.list_(pa.struct([pa.field("k", values.type.key_type), pa.field("v", values.type.item_type)]))
    )
    entries = plain.flatten()
    keys, items = entries.flatten()
    names = pc.binary_join_element_wise('"', _escaped(keys.cast(pa.string())), '":', "")
    pairs = pc.binary_join_element_wise(names, pc.fill_null(texts(items, values.type.item_field), "null"), "")
    return _enclosed(plain, "{", pairs, "}")
