"""Cursor: a position in each of many data, and the steps that move all of them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa

Ints = npt.NDArray[np.int64]
Bytes = npt.NDArray[np.uint8]

_LONGEST_VARINT = 10


class Cursor:
    """Positions in some of the datums: `pos` moves on, `end` is where the datum ends, `rows` which datum it is."""

    __slots__ = ("_flat", "buffer", "data", "end", "errors", "pos", "rows")

    def __init__(self, buffer: pa.Buffer, pos: Ints, end: Ints, rows: Ints, errors: dict[int, str]) -> None:
        self.buffer, self.pos, self.end, self.rows, self.errors = buffer, pos, end, rows, errors
        self.data: Bytes = np.frombuffer(buffer, np.uint8)

    def __len__(self) -> int:
        return len(self.pos)

    def some(self, which: Ints) -> Cursor:
        """A cursor in these datums; `meet` brings its positions back."""
        return Cursor(self.buffer, self.pos[which], self.end[which], self.rows[which], self.errors)

    def meet(self, other: Cursor, which: Ints) -> None:
        """Take the positions of `other`, which went on in the datums `which`."""
        self.pos[which] = other.pos

    def refuse(self, which: Ints, why: str) -> None:
        """These are no datums of the schema; their rest is not looked at."""
        for row in self.rows[which].tolist():
            self.errors.setdefault(row, why)
        self.pos[which] = self.end[which]

    def skip(self, lengths: Ints | int, place: str) -> Ints:
        """Move on by so many bytes; returns where each was. Those that have fewer are refused, and stay at the end."""
        before = self.pos
        self.pos = before + lengths
        over = np.flatnonzero(self.pos > self.end)
        if over.size:
            self.refuse(over, f"the datum ends within {place or 'itself'}")
            before = np.minimum(before, self.end)
        return before

    def byte(self, at: Ints) -> Bytes:
        """The byte at each position; anything beyond the end of the data."""
        return self.data.take(at, mode="clip")

    def varint(self, place: str) -> Ints:
        """The next variable-length zig-zag number."""
        pos = self.pos
        found = self.byte(pos)
        value = (found & 0x7F).astype(np.uint64)
        lengths = np.ones(len(pos), np.int64)
        more = np.flatnonzero(found & 0x80)
        for count in range(1, _LONGEST_VARINT):
            if not more.size:
                break
            found = self.byte(pos[more] + count)
            value[more] |= (found & 0x7F).astype(np.uint64) << np.uint64(7 * count)
            lengths[more] += 1
            more = more[(found & 0x80) != 0]
        if more.size:
            self.refuse(more, f"{place or 'the datum'} has a number of more than {_LONGEST_VARINT} bytes")
            lengths[more] = 0
        self.skip(lengths, place)
        return (value >> np.uint64(1)).view(np.int64) ^ -(value & np.uint64(1)).view(np.int64)

    def span(self, place: str) -> tuple[Ints, Ints]:
        """Begin and length of the next length-prefixed bytes."""
        lengths = self.varint(place)
        wrong = np.flatnonzero((lengths < 0) | (lengths > self.end - self.pos))
        if wrong.size:
            self.refuse(wrong, f"{place or 'the datum'} is longer than the datum, or of negative length")
            lengths[wrong] = 0
        begins = self.pos
        self.pos = begins + lengths
        return begins, lengths

    def cut(self, begins: Ints, lengths: Ints | int) -> pa.BinaryArray:
        """These pieces of the data as one array. Arrow copies them: they are every second value between the gaps."""
        count = len(begins)
        if count == 0:
            return pa.array([], pa.binary())
        bounds = np.empty(2 * count, np.int32)
        bounds[0::2] = begins
        bounds[1::2] = begins + lengths
        between = pa.BinaryArray.from_buffers(pa.binary(), 2 * count - 1, [None, pa.py_buffer(bounds), self.buffer])
        return between.take(pa.array(np.arange(0, 2 * count, 2)))
