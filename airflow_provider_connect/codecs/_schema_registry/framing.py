"""Framing: a zero byte and the schema's id (four bytes, big end first) before each value."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

Ints = npt.NDArray[np.int64]

HEADER = 5


@dataclass(frozen=True, slots=True)
class Values:
    """Where values lie in a buffer: `data[starts[i]:ends[i]]` is the value of row `rows[i]`. Nulls have none."""

    data: pa.Buffer | None
    rows: Ints
    starts: Ints
    ends: Ints

    @classmethod
    def of(cls, values: pa.Array) -> Values:
        """The values of a binary array that are not null."""
        bounds = np.frombuffer(values.buffers()[1], np.int32)[values.offset : values.offset + len(values) + 1]
        found = cls(
            values.buffers()[2], np.arange(len(values)), bounds[:-1].astype(np.int64), bounds[1:].astype(np.int64)
        )
        return (
            found.some(np.flatnonzero(values.is_valid().to_numpy(zero_copy_only=False))) if values.null_count else found
        )

    def some(self, which: Ints) -> Values:
        """These of them."""
        return Values(self.data, self.rows[which], self.starts[which], self.ends[which])

    def array(self) -> pa.Array:
        """The values themselves."""
        if not len(self.rows):
            return pa.array([], pa.binary())
        bounds = np.empty(2 * len(self.rows), np.int32)
        bounds[0::2], bounds[1::2] = self.starts, self.ends
        buffers = [None, pa.py_buffer(bounds), self.data or pa.py_buffer(b"")]
        between = pa.BinaryArray.from_buffers(pa.binary(), len(bounds) - 1, buffers)
        return between.take(pa.array(np.arange(0, len(bounds), 2)))


def unframe(values: Values) -> tuple[dict[int, Values], dict[int, str]]:
    """The values without their frames, by schema id in ascending order, and `{row: why}` of those that have none."""
    refused: dict[int, str] = {}
    short = values.ends - values.starts < HEADER
    data = (
        np.frombuffer(values.data, np.uint8) if values.data is not None and values.data.size else np.zeros(1, np.uint8)
    )
    head = data.take(values.starts, mode="clip")
    wrong = np.flatnonzero(short | (head != 0))
    for index in wrong.tolist():
        refused[int(values.rows[index])] = _reason(int(head[index]), int(values.ends[index] - values.starts[index]))
    rest = values.some(np.flatnonzero(~short & (head == 0))) if wrong.size else values
    ids = np.zeros(len(rest.rows), np.int64)
    for place in range(1, HEADER):
        ids = ids << 8 | data.take(rest.starts + place, mode="clip")
    inner = Values(rest.data, rest.rows, rest.starts + HEADER, rest.ends)
    kinds = np.unique(ids)
    if len(kinds) == 1:
        return {int(kinds[0]): inner}, refused
    return {int(schema_id): inner.some(np.flatnonzero(ids == schema_id)) for schema_id in kinds}, refused


def frame(schema_id: int, values: pa.Array) -> pa.Array:
    """The values, each with its frame; nulls stay."""
    head = pa.scalar(b"\0" + schema_id.to_bytes(4, "big"), pa.binary())
    return pc.binary_join_element_wise(head, values, pa.scalar(b"", pa.binary()), null_handling="emit_null")


def _reason(first: int, length: int) -> str:
    if length < HEADER:
        return f"the value has {length} bytes, too few for the frame of a schema registry (5)"
    hint = ""
    if first == 1:
        hint = ": it may have its schema id in a header, which is not supported"
    elif first in b"{[":
        hint = ": it looks like JSON; use `format: json`"
    return f"the value begins with the byte {first}, not with the 0 of a schema registry's frame{hint}"
