"""NDJSON: the lines of a file as documents, found by Arrow's kernels a block at a time."""

from __future__ import annotations

import json
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from airflow_provider_connect.engine.errors import Fatal

BLOCK = 1024 * 1024
"""Bytes read at once."""

LONGEST_LINE = 256 * 1024 * 1024
"""Bytes of a line beyond which a file is taken for something else."""

_BOM = b"\xef\xbb\xbf"


class Piece(NamedTuple):
    """Records of a file: `places` is where each begins, `after` where the next one does, `end` if there is none."""

    rows: pa.Array | pa.RecordBatch
    places: pa.Array
    after: int
    end: bool


class Lines:
    """Reads the lines of one file from a byte offset on; blank lines are passed over, and CRLF ends a line too.

    `stop`   an exact bound: no byte at or beyond it is looked at, and what stands before it is whole.
    `limit`  a line that begins at or beyond it is not read.
    `grows`  the file may be appended to: without a newline, the last line counts once it is a whole JSON object.
    """

    def __init__(
        self, stream: pa.NativeFile, name: str, start: int, stop: int | None, limit: int | None, grows: bool
    ) -> None:
        self._stream, self._name, self._stop, self._limit, self._grows = stream, name, stop, limit, grows
        self._at = start
        self._next = start  # of the bytes to read
        self._rest = b""
        self._lines: pa.Array = pa.array([], pa.binary())
        self._starts: pa.Array = pa.array([], pa.int64())
        self._exhausted = False
        _skip(stream, start)

    def read(self, max_records: int) -> Piece | None:
        """The next lines; None if there are none, at least for now. `end` is only told of a file that cannot grow."""
        if len(self._lines) == 0 and not self._exhausted:
            self._load()
        if len(self._lines) == 0:
            if self._exhausted:
                return None
            return Piece(self._lines, self._starts, self._at, False)  # blank lines only
        count = min(max_records, len(self._lines))
        lines, starts = self._lines.slice(0, count), self._starts.slice(0, count)
        self._lines, self._starts = self._lines.slice(count), self._starts.slice(count)
        if len(self._lines):
            return Piece(lines, starts, self._starts[0].as_py(), False)
        after = self._at
        if not self._grows and not self._exhausted:
            self._load()
        end = not self._grows and self._exhausted and len(self._lines) == 0
        return Piece(lines, starts, self._at if end else after, end)

    def close(self) -> None:
        """Close the file."""
        self._stream.close()

    def _load(self) -> None:
        """Fill `_lines` with those of the next block, which ends at `_at`; none left sets `_exhausted`."""
        if self._limit is not None and self._at >= self._limit:
            self._exhausted = True
            return
        blocks = [self._rest]
        size = len(self._rest)
        while True:
            block = self._read_block()
            blocks.append(block)
            size += len(block)
            if not block or b"\n" in block:
                break
            if size > LONGEST_LINE:
                raise Fatal(f"file '{self._name}' has no newline within {size} bytes from {self._at}; it is no NDJSON")
        data = b"".join(blocks)
        whole = data.rfind(b"\n") + 1
        if not block:
            self._exhausted = True
            whole = len(data) if self._is_whole(data) else 0
        self._rest = data[whole:]
        if whole:
            self._split(data[:whole])

    def _read_block(self) -> bytes:
        size = BLOCK if self._stop is None else min(BLOCK, self._stop - self._next)
        block: bytes = self._stream.read(size) if size > 0 else b""
        self._next += len(block)
        return block

    def _is_whole(self, last: bytes) -> bool:
        """Whether the last line, which no newline ends, is taken."""
        if not self._grows or (self._stop is not None and self._next >= self._stop):
            return True
        try:
            return isinstance(json.loads(last), dict)
        except (ValueError, RecursionError):
            return False

    def _split(self, data: bytes) -> None:
        ended = data.endswith(b"\n")
        lines = pc.split_pattern(pa.array([data[:-1] if ended else data], pa.binary()), b"\n").flatten()
        ends = pc.add(pc.cumulative_sum(pc.add(pc.binary_length(lines).cast(pa.int64()), 1)), self._at)
        starts = pa.concat_arrays([pa.array([self._at], pa.int64()), ends.slice(0, len(ends) - 1)])
        if self._at == 0 and data.startswith(_BOM):
            lines = pa.concat_arrays([pa.array([lines[0].as_py()[len(_BOM) :]], pa.binary()), lines.slice(1)])
        self._at += len(data)
        if b"\r" in data:
            lines = pc.replace_substring_regex(lines, rb"\r+$", b"")
        if not pc.all(pc.starts_with(lines, b"{")).as_py():
            written = pc.invert(pc.match_substring_regex(lines, rb"^[ \t\r]*$"))
            lines, starts = lines.filter(written), starts.filter(written)
        self._lines, self._starts = lines, starts


def _skip(stream: pa.NativeFile, count: int) -> None:
    if stream.seekable():
        stream.seek(count)
        return
    while count > 0:
        block = stream.read(min(BLOCK, count))
        if not block:
            return
        count -= len(block)
