"""Copy binary: tuples as the server sends them to Arrow, and documents to tuples. All by kernels, no loop over rows.

A tuple is an int16 count of fields, then each field with its int32 length before it, -1 for NULL; all big-endian.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from airflow_provider_connect.connectors._postgresql.copy_stream import Buffer, Rows
from airflow_provider_connect.connectors.postgresql.copy_text import parts

Integers = np.ndarray[tuple[int], np.dtype[np.int32]]

HEADER = b"PGCOPY\n\xff\r\n\0" + bytes(8)
TRAILER = b"\xff\xff"


# --- from the server


def tuples(rows: Rows) -> pa.Array:
    """Whole tuples as a binary array, without a copy."""
    return pa.Array.from_buffers(pa.binary(), rows.count, [None, pa.py_buffer(_offsets(rows)), pa.py_buffer(rows.data)])


def split_tuples(rows: Rows, count: int, wanted: Sequence[int]) -> list[pa.Array]:
    """The fields with these indexes of tuples that have `count` each, as binary arrays."""
    offsets = _offsets(rows)
    bounds = np.empty((rows.count, 2 * count), np.int32)
    lengths = _lengths(rows, offsets[:-1], count, bounds)
    if rows.count and not np.array_equal(bounds[:, -1] + lengths[-1].clip(0), offsets[1:]):
        raise ValueError(f"a tuple has not {count} fields")
    # Lengths and fields take turns, so that the array of both lies in the buffer as it is.
    flat = pa.Array.from_buffers(
        pa.binary(),
        bounds.size,
        [None, pa.py_buffer(np.append(bounds.ravel(), offsets[-1])), pa.py_buffer(rows.data)],
    )
    first = np.arange(rows.count, dtype=np.int64) * (2 * count) + 1
    found = []
    for index in wanted:
        nulls = lengths[index] < 0
        places = pa.array(first + 2 * index, mask=nulls) if nulls.any() else pa.array(first + 2 * index)
        found.append(flat.take(places))
    return found


def _lengths(
    rows: Rows,
    starts: Integers,
    count: int,
    bounds: np.ndarray[tuple[int, int], np.dtype[np.int32]],
) -> list[Integers]:
    """The length of each field, -1 for NULL; fills in where the lengths and the fields begin."""
    # Every offset of the buffer seen as the integer that begins there.
    integers = np.ndarray((max(0, len(rows.data) - 3),), ">i4", rows.data, strides=(1,))
    lengths = []
    end = starts
    for index in range(count):
        bounds[:, 2 * index] = end
        at = end + 2 if index == 0 else end
        length = integers[at].astype(np.int32)
        bounds[:, 2 * index + 1] = at + 4
        end = bounds[:, 2 * index + 1] + length.clip(0)
        lengths.append(length)
    return lengths


def _offsets(rows: Rows) -> Integers:
    return np.array([0, *rows.ends], np.int32)


def fields_of(row: bytes, indices: Sequence[int]) -> list[bytes | None]:
    """Single fields of one tuple."""
    (count,) = struct.unpack_from(">h", row)
    fields: list[bytes | None] = []
    at = 2
    for _ in range(count):
        (length,) = struct.unpack_from(">i", row, at)
        at += 4
        fields.append(None if length < 0 else row[at : at + length])
        at += max(0, length)
    return [fields[index] for index in indices]


# --- to the server


def binary_documents(
    documents: pa.Array, jsonb: bool, first_number: int | None = None, gone: pa.Array | None = None
) -> Buffer:
    """Documents (binary array) as rows of a binary COPY into one json(b) column; null stays null.

    With `first_number`, two columns come first: a bigint that numbers the rows from there, and the boolean `gone`
    (default: false).
    """
    count = len(documents)
    version = b"\x01" if jsonb else b""
    before_it = (
        [("eight", ">i4"), ("number", ">i8"), ("one", ">i4"), ("gone", "i1")] if first_number is not None else []
    )
    marked = [("version", "S1")] if jsonb else []
    head = np.dtype([("columns", ">i2"), *before_it, ("length", ">i4"), *marked])
    heads = np.zeros(count, head)
    heads["columns"] = 1 if first_number is None else 3
    if first_number is not None:
        heads["eight"], heads["one"] = 8, 1
        heads["number"] = np.arange(first_number, first_number + count)
        if gone is not None:
            heads["gone"] = gone.cast(pa.int8()).to_numpy(zero_copy_only=False)
    heads["length"] = pc.fill_null(pc.binary_length(documents), -1 - len(version)).to_numpy() + len(version)
    if jsonb:
        heads["version"] = version
    before = pa.FixedSizeBinaryArray.from_buffers(pa.binary(head.itemsize), count, [None, pa.py_buffer(heads)])
    before = before.cast(pa.binary())
    if documents.null_count:
        bare = pc.binary_replace_slice(before, head.itemsize - len(version), head.itemsize, b"")
        before = pc.if_else(documents.is_null(), bare, before)
        documents = pc.fill_null(documents, b"")
    return parts(pc.binary_join_element_wise(before, documents, b""))[1]
