"""Avro's binary encoding to Arrow arrays: one field after the other, each for all datums at once.

Where a field begins in a datum depends on the fields before it, but not on other datums. So NumPy keeps one position
per datum, and every step reads one field of all datums and moves all positions. Elements of arrays are read in rounds:
the first of every datum, then the second of those that have one.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from airflow_provider_connect.codecs._avro.cursor import Cursor, Ints
from airflow_provider_connect.codecs._avro.schema import Field, Type, branch_name
from airflow_provider_connect.codecs._avro.skip import positions

_WORDS = {"float": "<f4", "double": "<f8"}
_DAY: dict[str | None, int] = {"time-millis": 86_400_000, "time-micros": 86_400_000_000}
_FEW, _MANY = 32, 64
"""Datums that are few, with elements that are many."""
_FREE_ITEMS = 10_000
"""Elements without any bytes (nulls) that an array may have."""


def decode(schema: Type, data: pa.Buffer | None, starts: Ints, ends: Ints) -> tuple[pa.Array, dict[int, str]]:
    """The datums `data[start:end]`, given in ascending order, as an array of the schema's Arrow type.

    Also `{index: why}` of those that are not exactly one datum of the schema; what the array has there means nothing.
    """
    errors: dict[int, str] = {}
    buffer = data if data is not None and data.size else pa.py_buffer(b"\0")
    at = Cursor(buffer, starts.astype(np.int64), ends.astype(np.int64), np.arange(len(starts)), errors)
    found = _read(schema, at, "")
    if (left := np.flatnonzero(at.pos != at.end)).size:
        for index in left.tolist():
            errors.setdefault(index, f"{int(at.end[index] - at.pos[index])} bytes are left over after the datum")
    return found, errors


def _read(kind: Type, at: Cursor, place: str) -> pa.Array:
    return _READERS[kind.kind](kind, at, place)


def _null(kind: Type, at: Cursor, place: str) -> pa.Array:
    return pa.nulls(len(at))


def _boolean(kind: Type, at: Cursor, place: str) -> pa.Array:
    found = at.byte(at.skip(1, place))
    if (wrong := np.flatnonzero(found > 1)).size:
        at.refuse(wrong, f"{place or 'the datum'} is neither true nor false")
    return pa.array(found == 1)


def _integer(kind: Type, at: Cursor, place: str) -> pa.Array:
    value = at.varint(place)
    narrow = kind.kind == "int"
    if narrow and (wrong := np.flatnonzero(value != value.astype(np.int32))).size:
        at.refuse(wrong, f"{place or 'the datum'} is too big for an int")
    if (day := _DAY.get(kind.logical)) and (wrong := np.flatnonzero((value < 0) | (value >= day))).size:
        at.refuse(wrong, f"{place or 'the datum'} is no time of a day")
        value[wrong] = 0
    return pa.array(value.astype(np.int32) if narrow else value).view(kind.arrow)


def _floating(kind: Type, at: Cursor, place: str) -> pa.Array:
    begins = at.skip(8 if kind.kind == "double" else 4, place)
    word = np.dtype(_WORDS[kind.kind])
    if len(at.data) < word.itemsize:
        return pa.nulls(len(at), kind.arrow)
    # A word begins at every byte.
    words: Any = np.ndarray((len(at.data) - word.itemsize + 1,), word, at.data.data, strides=(1,))
    return pa.array(words.take(begins, mode="clip"))


def _bytes(kind: Type, at: Cursor, place: str) -> pa.Array:
    if kind.kind == "fixed":
        begins, lengths = at.skip(kind.size, place), np.full(len(at), kind.size, np.int64)
        lengths = np.minimum(lengths, at.end - begins)
    else:
        begins, lengths = at.span(place)
    if kind.logical == "decimal":
        return _decimal(kind, at, begins, lengths, place)
    found = at.cut(begins, lengths)
    if kind.kind == "fixed" and kind.size:
        if kind.logical == "uuid":
            return _uuid(found)
        if (short := np.flatnonzero(lengths < kind.size)).size:
            found = pc.replace_with_mask(found, _mask(short, len(at)), bytes(kind.size))
        return found.cast(kind.arrow)
    return found


def _string(kind: Type, at: Cursor, place: str) -> pa.Array:
    found = at.cut(*at.span(place))
    try:
        return found.cast(pa.string())
    except pa.ArrowInvalid:
        wrong = []
        for index, text in enumerate(found.to_pylist()):
            try:
                text.decode()
            except UnicodeDecodeError:
                wrong.append(index)
        at.refuse(np.array(wrong), f"{place or 'the datum'} is no UTF-8")
        return pc.replace_with_mask(found, _mask(wrong, len(found)), b"").cast(pa.string())


def _decimal(kind: Type, at: Cursor, begins: Ints, lengths: Ints, place: str) -> pa.Array:
    width = kind.arrow.byte_width
    count = len(at)
    last = begins + lengths - 1
    negative = (lengths > 0) & ((at.byte(begins) & 0x80) != 0)
    digits = np.where(negative, 0xFF, 0).astype(np.uint8).repeat(width).reshape(count, width)
    for place_of_byte in range(int(min(lengths.max(initial=0), width))):
        there = np.flatnonzero(lengths > place_of_byte)
        digits[there, place_of_byte] = at.byte(last[there] - place_of_byte)
    long = np.flatnonzero(lengths > width)  # with leading bytes that only repeat the sign, else too big
    for index in long.tolist():
        number = int.from_bytes(at.data[begins[index] : begins[index] + lengths[index]].tobytes(), "big", signed=True)
        if number.bit_length() < 8 * width:
            digits[index] = np.frombuffer(number.to_bytes(width, "little", signed=True), np.uint8)
        else:
            at.refuse(np.array([index]), f"{place or 'the datum'} has more than {kind.arrow.precision} digits")
            digits[index] = 0
    found = pa.Array.from_buffers(kind.arrow, count, [None, pa.py_buffer(np.ascontiguousarray(digits))])
    try:
        found.validate(full=True)
    except pa.ArrowInvalid:
        most = 10**kind.arrow.precision
        wrong = [
            index
            for index in range(count)
            if abs(int.from_bytes(digits[index].tobytes(), "little", signed=True)) >= most
        ]
        at.refuse(np.array(wrong), f"{place or 'the datum'} has more than {kind.arrow.precision} digits")
        digits[wrong] = 0
        found = pa.Array.from_buffers(kind.arrow, count, [None, pa.py_buffer(np.ascontiguousarray(digits))])
    return found


_HEX = np.frombuffer(b"0123456789abcdef", np.uint8)


def _uuid(values: pa.BinaryArray) -> pa.Array:
    """Sixteen bytes each, as the text of UUIDs; shorter ones as anything."""
    count = len(values)
    short = pc.not_equal(pc.binary_length(values), 16)
    if pc.any(short).as_py():
        values = pc.replace_with_mask(values, short, bytes(16))
    raw = np.frombuffer(values.buffers()[2] or b"", np.uint8, 16 * count).reshape(count, 16)
    text = np.full((count, 36), ord("-"), np.uint8)
    where = [place for place in range(36) if place not in (8, 13, 18, 23)]
    text[:, where[0::2]] = _HEX[raw >> 4]
    text[:, where[1::2]] = _HEX[raw & 15]
    bounds = np.arange(0, 36 * count + 1, 36, dtype=np.int32)
    return pa.StringArray.from_buffers(count, pa.py_buffer(bounds), pa.py_buffer(text))


def _enum(kind: Type, at: Cursor, place: str) -> pa.Array:
    return pa.array(kind.symbols, pa.string()).take(pa.array(_choice(at, len(kind.symbols), place, "symbol")))


def _choice(at: Cursor, count: int, place: str, what: str) -> Ints:
    found = at.varint(place)
    wrong = np.flatnonzero((found < 0) | (found >= count))
    if wrong.size:
        at.refuse(wrong, f"{place or 'the datum'} has the {what} {int(found[wrong[0]])} of {count}")
        found[wrong] = 0
    return found


def _record(kind: Type, at: Cursor, place: str) -> pa.Array:
    columns = [_read(each.type, at, f"{place}.{each.name}" if place else each.name) for each in kind.fields]
    if not columns:
        return pa.array([{}] * len(at), kind.arrow)
    return pa.StructArray.from_arrays(columns, fields=list(kind.arrow))


def _union(kind: Type, at: Cursor, place: str) -> pa.Array:
    chosen = _choice(at, len(kind.branches), place, "branch")
    columns = {}
    for index, branch in enumerate(kind.branches):
        if branch.kind != "null":
            columns[index] = _where(chosen == index, branch, at, place)
    if not columns:
        return pa.nulls(len(at))
    if len(columns) == 1:
        return next(iter(columns.values()))
    if not kind.apart:
        return pc.coalesce(*(column.cast(kind.arrow) for column in columns.values()))
    none = np.isin(chosen, [index for index in range(len(kind.branches)) if index not in columns])
    fields = [pa.field(branch_name(kind.branches[index]), column.type) for index, column in columns.items()]
    return pa.StructArray.from_arrays(list(columns.values()), fields=fields, mask=pa.array(none))


def _where(chosen: npt.NDArray[np.bool_], branch: Type, at: Cursor, place: str) -> pa.Array:
    """The branch where it was chosen, null elsewhere."""
    which = np.flatnonzero(chosen)
    if len(which) == len(at):
        return _read(branch, at, place)
    if not len(which):
        return pa.nulls(len(at), branch.arrow)
    part = at.some(which)
    found = _read(branch, part, place)
    at.meet(part, which)
    return found.take(pa.array(np.cumsum(chosen) - 1, mask=~chosen))


def _array(kind: Type, at: Cursor, place: str) -> pa.Array:
    assert kind.items is not None
    bounds, items = _items(kind.items, at, place)
    return pa.ListArray.from_arrays(pa.array(bounds, pa.int32()), items)


def _map(kind: Type, at: Cursor, place: str) -> pa.Array:
    assert kind.items is not None
    bounds, entries = _items(_entry(kind.items), at, place)
    return pa.MapArray.from_arrays(pa.array(bounds, pa.int32()), *entries.flatten())


def _entry(values: Type) -> Type:
    arrow = pa.struct([pa.field("key", pa.string()), pa.field("value", values.arrow)])
    fields = (Field("key", Type("string", pa.string(), smallest=1)), Field("value", values))
    return Type("record", arrow, fields=fields, smallest=1 + values.smallest)


def _items(item: Type, at: Cursor, place: str) -> tuple[Ints, pa.Array]:
    """All elements of all datums, in order, and where those of each datum begin."""
    counts = np.zeros(len(at), np.int64)
    parts: list[pa.Array] = []
    owners: list[Ints] = []
    going = np.arange(len(at))
    left = np.zeros(len(at), np.int64)
    while going.size:
        ask = going[left[going] == 0]
        if ask.size:
            left[ask] = _block(item, at, ask, counts, place)
            going = going[left[going] > 0]
            if not going.size:
                break
        if len(going) < _FEW and left[going].max() > _MANY:
            part, whose = _all_of(item, at, going, left, place)
            parts.append(_read(item, part, f"{place}[]"))
            owners.append(whose)
            counts += np.bincount(whose, minlength=len(at))
            left[going] = 0
            continue
        part = at.some(going)
        parts.append(_read(item, part, f"{place}[]"))
        at.meet(part, going)
        owners.append(going)
        counts[going] += 1
        left[going] -= 1
    bounds = np.concatenate([[0], np.cumsum(counts)])
    if not parts:
        return bounds, pa.array([], item.arrow)
    order = np.argsort(np.concatenate(owners), kind="stable")
    return bounds, pa.concat_arrays(parts).take(pa.array(order))


def _all_of(item: Type, at: Cursor, going: Ints, left: Ints, place: str) -> tuple[Cursor, Ints]:
    """A cursor at each of the elements that are left in the blocks of these datums, and whose they are.

    Rounds are slow where few datums have many elements.
    """
    begins: list[Ints] = []
    for row in going.tolist():
        try:
            found, end = positions(item, at.data.data, int(at.pos[row]), int(at.end[row]), int(left[row]))
        except ValueError:
            at.refuse(np.array([row]), f"the datum ends within {place or 'itself'}")
            found = []
        else:
            at.pos[row] = end
        begins.append(np.array(found, np.int64))
    whose = np.repeat(going, [len(each) for each in begins])
    return Cursor(at.buffer, np.concatenate(begins), at.end[whose], at.rows[whose], at.errors), whose


def _block(item: Type, at: Cursor, which: Ints, counts: Ints, place: str) -> Ints:
    """How many elements the next block has in these datums; 0 where there is none."""
    part = at.some(which)
    found = part.varint(place)
    sized = np.flatnonzero(found < 0)
    if sized.size:
        inner = part.some(sized)
        inner.varint(place)  # the block's bytes, for those who skip it
        part.meet(inner, sized)
        found[sized] = -found[sized]
    room = (part.end - part.pos) // item.smallest if item.smallest else np.full(len(which), _FREE_ITEMS)
    wrong = np.flatnonzero((found < 0) | (found > room) | (counts[which] > np.int64(2**31 - 2) - np.maximum(found, 0)))
    if wrong.size:
        part.refuse(wrong, f"{place or 'the datum'} has more elements than the datum has bytes")
        found[wrong] = 0
    at.meet(part, which)
    return found


def _mask(which: Any, count: int) -> pa.Array:
    mask = np.zeros(count, bool)
    mask[which] = True
    return pa.array(mask)


_READERS = {
    "null": _null,
    "boolean": _boolean,
    "int": _integer,
    "long": _integer,
    "float": _floating,
    "double": _floating,
    "bytes": _bytes,
    "fixed": _bytes,
    "string": _string,
    "enum": _enum,
    "record": _record,
    "union": _union,
    "array": _array,
    "map": _map,
}
