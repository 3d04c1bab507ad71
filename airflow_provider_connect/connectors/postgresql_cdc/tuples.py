"""Tuples: rows as bytes turned into one Arrow array of texts per column, with no Python per row.

pgoutput and binary COPY both write the number of columns and then, column by column, length and text. So the fields'
bounds are found column by column for all rows at once; an Arrow array over the whole buffer then has each field, and
each gap between two, as an element of its own, and `take` copies out what is wanted.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

Integers = np.ndarray[Any, np.dtype[np.int64]]
Flags = np.ndarray[Any, np.dtype[np.bool_]]

_TEXT, _UNCHANGED = ord("t"), ord("u")
PADDING = b"\0" * 8
"""To be appended to a buffer, as lengths are looked for in all places, also behind its last null."""


@dataclass(frozen=True, slots=True)
class Fields:
    """The columns of some rows; `unavailable` tells for each column which values the WAL does not hold, if any."""

    columns: list[pa.Array]
    unavailable: list[Flags | None]

    def take(self, rows: Integers) -> Fields:
        """Some of the rows."""
        places = pa.array(rows)
        return Fields(
            [column.take(places) for column in self.columns],
            [None if flags is None or not flags[rows].any() else flags[rows] for flags in self.unavailable],
        )


def changes(data: memoryview, at: Integers, tuples: int, columns: int) -> list[Fields]:
    """The tuples of pgoutput's messages: `tuples` in each, one after the other, the first with its kind at `at`.

    `data` ends with PADDING.
    """
    octets = np.frombuffer(data, np.uint8)
    lengths = np.ndarray((len(data) - 3,), ">i4", data, strides=(1,))
    bounds = np.empty((at.size, 2 * columns * tuples), np.int32)
    missing: list[list[Flags]] = []
    unchanged: list[list[Flags | None]] = []
    place = 0
    for _ in range(tuples):
        at = at + 3
        missing.append([])
        unchanged.append([])
        for _ in range(columns):
            kind = octets[at]
            there = kind == _TEXT
            begin = np.where(there, at + 5, at)
            at = np.where(there, begin + lengths[at + 1], at + 1)
            bounds[:, place] = begin
            bounds[:, place + 1] = np.where(there, at, begin)
            place += 2
            missing[-1].append(~there)
            toasted = kind == _UNCHANGED
            unchanged[-1].append(toasted if toasted.any() else None)
    arrays = _texts(data, bounds, [flags for each in missing for flags in each])
    return [Fields(arrays[number * columns : (number + 1) * columns], unchanged[number]) for number in range(tuples)]


def copied(data: memoryview, ends: list[int], columns: int) -> Fields:
    """The tuples of a binary COPY of texts, without its header and trailer. `data` ends with PADDING."""
    at = np.array([0, *ends[:-1]], np.int64)
    lengths = np.ndarray((len(data) - 3,), ">i4", data, strides=(1,))
    bounds = np.empty((at.size, 2 * columns), np.int32)
    missing = []
    at = at + 2
    for column in range(columns):
        length = lengths[at].astype(np.int64)
        at = at + 4
        bounds[:, 2 * column] = at
        at = at + length.clip(0)
        bounds[:, 2 * column + 1] = at
        missing.append(length < 0)
    return Fields(_texts(data, bounds, missing), [None] * columns)


def _texts(data: memoryview, bounds: np.ndarray[Any, np.dtype[np.int32]], missing: list[Flags]) -> list[pa.Array]:
    rows, width = bounds.shape
    flat = pa.Array.from_buffers(
        pa.string(),
        bounds.size,
        [None, pa.py_buffer(np.append(bounds.ravel(), bounds[-1, -1] if bounds.size else 0)), pa.py_buffer(data)],
    )
    first = np.arange(rows, dtype=np.int64) * width
    return [
        flat.take(pa.array(first + 2 * number, mask=nulls) if nulls.any() else pa.array(first + 2 * number))
        for number, nulls in enumerate(missing)
    ]
