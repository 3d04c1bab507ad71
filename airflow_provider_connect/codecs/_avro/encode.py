"""Arrow arrays to Avro's binary encoding: every field to pieces of bytes for all rows, and Arrow joins the pieces."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from airflow_provider_connect.codecs._avro.schema import Type
from airflow_provider_connect.engine.errors import InvalidRecord

Ints = npt.NDArray[np.int64]
Piece = Any
"""A binary array, or a binary scalar that stands for all rows."""

_EMPTY = pa.scalar(b"", pa.binary())


def encode(record: Type, columns: pa.RecordBatch) -> pa.BinaryArray:
    """Each row as a datum of the record. Columns that it does not have are left out, fields without a column are null.

    InvalidRecord, without telling the rows, for a value that the schema does not take.
    """
    names = columns.schema.names
    pieces: list[Piece] = []
    for field in record.fields:
        if field.name in names:
            values = _cast(columns.column(names.index(field.name)), field.type, field.name)
        else:
            values = pa.nulls(len(columns), field.type.arrow)
        pieces += _pieces(field.type, values, field.name)
    return _joined(pieces, len(columns))


def _cast(values: pa.Array, kind: Type, place: str) -> pa.Array:
    wanted = kind.arrow
    if values.type == wanted:
        return values
    try:
        return _fitted(values, wanted)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowTypeError) as error:
        raise InvalidRecord(f"column '{place}' does not fit the Avro type {wanted}: {error}") from error


def _fitted(values: pa.Array, kind: pa.DataType) -> pa.Array:
    if values.type == kind:
        return values
    if pa.types.is_struct(kind) and pa.types.is_struct(values.type):
        own = {field.name: part for field, part in zip(values.type, values.flatten(), strict=True)}
        parts = [_fitted(own[f.name], f.type) if f.name in own else pa.nulls(len(values), f.type) for f in kind]
        return pa.StructArray.from_arrays(parts, fields=list(kind), mask=values.is_null())
    if pa.types.is_list(kind) and pa.types.is_nested(values.type) and not pa.types.is_map(values.type):
        plain = values.cast(pa.list_(values.type.value_type))
        bounds = _bounds(plain)
        return pa.ListArray.from_arrays(
            bounds, _fitted(plain.flatten(), kind.value_type), type=kind, mask=plain.is_null()
        )
    if pa.types.is_map(kind) and pa.types.is_map(values.type):
        keys, items = _entries(values)
        bounds = _bounds(values)
        found = pa.MapArray.from_arrays(bounds, keys.cast(pa.string()), _fitted(items, kind.item_type))
        return found if not values.null_count else pc.if_else(values.is_valid(), found, pa.scalar(None, found.type))
    if pa.types.is_time(kind) and pa.types.is_time(values.type):
        return values.cast(kind, safe=False)
    if pa.types.is_decimal(kind) and pa.types.is_integer(values.type):  # which alone wants room for every integer
        values = values.cast(pa.decimal128(38, 0))
    return values.cast(kind)


def _bounds(lists: pa.Array) -> pa.Array:
    """The offsets of lists (or maps) whose elements were flattened; null lists have none."""
    return pa.array(np.concatenate([[0], np.cumsum(_lengths(lists))]), pa.int32())


def _lengths(lists: pa.Array) -> Ints:
    plain = lists.cast(pa.list_(pa.struct(_map_fields(lists)))) if pa.types.is_map(lists.type) else lists
    lengths: Ints = pc.fill_null(pc.list_value_length(plain), 0).to_numpy(zero_copy_only=False).astype(np.int64)
    return lengths


def _map_fields(maps: pa.Array) -> list[pa.Field]:
    return [pa.field("key", maps.type.key_type, False), pa.field("value", maps.type.item_type)]


def _entries(maps: pa.Array) -> tuple[pa.Array, pa.Array]:
    """The keys and the values of all maps that are not null."""
    entries = maps.cast(pa.list_(pa.struct(_map_fields(maps)))).flatten()
    keys, values = entries.flatten()
    return keys, values


def _joined(pieces: list[Piece], count: int) -> pa.Array:
    if not pieces:
        return pa.repeat(b"", count).cast(pa.binary())
    if len(pieces) == 1 and isinstance(pieces[0], pa.Array):
        return pieces[0]
    if not any(isinstance(piece, pa.Array) for piece in pieces):
        return pa.repeat(b"".join(piece.as_py() for piece in pieces), count).cast(pa.binary())
    return pc.binary_join_element_wise(*pieces, _EMPTY, null_handling="replace", null_replacement=b"")


def _pieces(kind: Type, values: pa.Array, place: str) -> list[Piece]:
    """What each row's bytes are joined from. `values` have the type `kind.arrow`."""
    if kind.kind == "union":
        return _union(kind, values, place)
    if kind.kind == "null":
        return []
    if values.null_count:
        raise InvalidRecord(f"'{place}' is null, but its Avro type '{kind.kind}' takes no null")
    return _filled(kind, values, place)


def _filled(kind: Type, values: pa.Array, place: str) -> list[Piece]:
    """The pieces of values without a null."""
    if kind.kind == "boolean":
        return [_fixed(values.cast(pa.uint8()).to_numpy(zero_copy_only=False))]
    if kind.logical == "decimal":
        return _decimal(kind, values, place)
    if kind.kind in ("int", "long"):
        numbers = values.view(pa.int32() if kind.kind == "int" else pa.int64())
        return [_varint(numbers.to_numpy(zero_copy_only=False).astype(np.int64))]
    if kind.kind in ("float", "double"):
        return [_fixed(values.to_numpy(zero_copy_only=False).astype("<f8" if kind.kind == "double" else "<f4"))]
    if kind.kind == "fixed":
        return [_hex_bytes(values, place) if kind.logical == "uuid" else values.cast(pa.binary())]
    if kind.kind in ("string", "bytes"):
        lengths = pc.binary_length(values).to_numpy(zero_copy_only=False).astype(np.int64)
        return [_varint(lengths), values.cast(pa.binary())]
    if kind.kind == "enum":
        index = pc.index_in(values, pa.array(kind.symbols, pa.string()))
        if index.null_count:
            wrong = values.filter(index.is_null())[0].as_py()
            raise InvalidRecord(f"'{place}' is {wrong!r}, which is none of the symbols of the enum '{kind.name}'")
        return [_varint(index.to_numpy(zero_copy_only=False).astype(np.int64))]
    if kind.kind == "record":
        pieces: list[Piece] = []
        for field, part in zip(kind.fields, values.flatten(), strict=True):
            pieces += _pieces(field.type, part, f"{place}.{field.name}")
        return pieces
    assert kind.items is not None
    if kind.kind == "map":
        keys, items = _entries(values)
        inner = [
            *_filled(Type("string", pa.string()), keys, f"{place}{{}}"),
            *_pieces(kind.items, items, f"{place}{{}}"),
        ]
        return _blocks(_lengths(values), _joined(inner, len(keys)))
    items = values.flatten()
    return _blocks(_lengths(values), _joined(_pieces(kind.items, items, f"{place}[]"), len(items)))


def _union(kind: Type, values: pa.Array, place: str) -> list[Piece]:
    none = next((index for index, branch in enumerate(kind.branches) if branch.kind == "null"), None)
    if none is None and values.null_count:
        raise InvalidRecord(f"'{place}' is null, but its Avro union has no branch for null")
    others = kind.others
    if not others:
        return [_varint(np.full(len(values), none or 0))]
    if kind.apart:
        return _apart(kind, values, place, none)
    index = others[-1]
    if len(others) > 1:  # int and long, float and double: all values as the wider one
        index = next(each for each in others if kind.branches[each].arrow == kind.arrow)
    branch = kind.branches[index]
    if not values.null_count:
        return [pa.scalar(_number(index), pa.binary()), *_pieces(branch, values, place)]
    there = values.is_valid()
    inner = _joined(_filled(branch, values.drop_null(), place), len(values) - values.null_count)
    chosen = pc.if_else(there, pa.scalar(_number(index), pa.binary()), pa.scalar(_number(none or 0), pa.binary()))
    return [chosen, _spread(inner, there)]


def _apart(kind: Type, values: pa.Array, place: str, none: int | None) -> list[Piece]:
    """A struct with one field per branch, of which one at most is not null."""
    parts = values.flatten()
    valid = [part.is_valid().to_numpy(zero_copy_only=False) for part in parts]
    many = np.sum(valid, axis=0)
    if (many > 1).any() or (none is None and (many == 0).any()):
        raise InvalidRecord(f"'{place}' must have exactly one of the branches of its Avro union")
    chosen = np.full(len(values), none or 0, np.int64)
    pieces: list[Piece] = []
    for index, part, there in zip(kind.others, parts, valid, strict=True):
        chosen[there] = index
        branch = kind.branches[index]
        inner = _joined(_filled(branch, part.drop_null(), place), int(there.sum()))
        pieces.append(_spread(inner, pa.array(there)))
    return [_varint(chosen), *pieces]


def _spread(values: pa.Array, there: pa.Array) -> pa.Array:
    """The values where there is one, null elsewhere."""
    mask = there.to_numpy(zero_copy_only=False)
    return values.take(pa.array(np.cumsum(mask) - 1, mask=~mask))


def _blocks(lengths: Ints, items: pa.Array) -> list[Piece]:
    """Lists of these lengths, as one block and the end, or as the end alone."""
    bounds = pa.array(np.concatenate([[0], np.cumsum(lengths)]), pa.int32())
    bodies = pc.binary_join(pa.ListArray.from_arrays(bounds, items), _EMPTY)
    counts = pc.if_else(pa.array(lengths > 0), _varint(lengths), _EMPTY)
    return [counts, bodies, pa.scalar(b"\0", pa.binary())]


def _varint(values: Ints) -> pa.Array:
    """Zig-zag numbers of variable length."""
    unsigned = ((values << 1) ^ (values >> 63)).view(np.uint64)
    lengths = np.ones(len(values), np.int64)
    for bits in range(7, 64, 7):
        more = unsigned >= np.uint64(1 << bits)
        if not more.any():
            break
        lengths += more
    begins = np.zeros(len(values) + 1, np.int32)
    np.cumsum(lengths, out=begins[1:])
    out = np.empty(int(begins[-1]), np.uint8)
    for place in range(int(lengths.max(initial=0))):
        there = np.flatnonzero(lengths > place)
        digit = (unsigned[there] >> np.uint64(7 * place)) & np.uint64(0x7F)
        out[begins[there] + place] = digit.astype(np.uint8) | ((lengths[there] > place + 1) * 0x80).astype(np.uint8)
    return pa.BinaryArray.from_buffers(pa.binary(), len(values), [None, pa.py_buffer(begins), pa.py_buffer(out)])


def _number(value: int) -> bytes:
    found: bytes = _varint(np.array([value]))[0].as_py()
    return found


def _fixed(words: Any) -> pa.Array:
    """Words of one width as bytes."""
    words = np.ascontiguousarray(words)
    bounds = np.arange(len(words) + 1, dtype=np.int32) * words.itemsize
    return pa.BinaryArray.from_buffers(pa.binary(), len(words), [None, pa.py_buffer(bounds), pa.py_buffer(words)])


def _hex_bytes(values: pa.Array, place: str) -> pa.Array:
    try:
        found = [bytes.fromhex(text.replace("-", "")) for text in values.to_pylist()]
    except ValueError as error:
        raise InvalidRecord(f"'{place}' is no UUID: {error}") from error
    if any(len(each) != 16 for each in found):
        raise InvalidRecord(f"'{place}' is no UUID")
    return pa.array(found, pa.binary())


def _decimal(kind: Type, values: pa.Array, place: str) -> list[Piece]:
    """Two's complement, big end first: as short as can be, or of the fixed type's size."""
    width, count = kind.arrow.byte_width, len(values)
    raw = np.frombuffer(values.buffers()[1], np.uint8)[values.offset * width : (values.offset + count) * width]
    digits = raw.reshape(count, width)[:, ::-1]
    sign = np.where(digits[:, :1] & 0x80, 0xFF, 0).astype(np.uint8)
    differs = digits != sign
    first = np.where(differs.any(axis=1), differs.argmax(axis=1), width)
    # One byte more where the first one's upper bit does not tell the sign.
    at = np.minimum(first, width - 1)
    bare = (digits[np.arange(count), at] & 0x80) != (sign[:, 0] & 0x80)
    first = np.minimum(np.where((first == width) | bare, first - 1, first), width - 1)
    lengths = (width - first).astype(np.int64)
    if kind.kind == "fixed":
        if (lengths > kind.size).any():
            raise InvalidRecord(f"'{place}' needs more than the {kind.size} bytes of its Avro type '{kind.name}'")
        extended = np.concatenate([np.repeat(sign, max(kind.size - width, 0), axis=1), digits], axis=1)
        fixed = np.ascontiguousarray(extended[:, extended.shape[1] - kind.size :])
        bounds = np.arange(count + 1, dtype=np.int32) * kind.size
        return [pa.BinaryArray.from_buffers(pa.binary(), count, [None, pa.py_buffer(bounds), pa.py_buffer(fixed)])]
    bounds = np.zeros(count + 1, np.int32)
    np.cumsum(lengths, out=bounds[1:])
    kept = np.ascontiguousarray(digits[np.arange(width) >= first[:, None]])
    return [
        _varint(lengths),
        pa.BinaryArray.from_buffers(pa.binary(), count, [None, pa.py_buffer(bounds), pa.py_buffer(kept)]),
    ]
