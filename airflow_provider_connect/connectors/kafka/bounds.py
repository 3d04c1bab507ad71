"""Bounds: where reading a partition ends, for a drain or for a range that is read again."""

from __future__ import annotations

from collections.abc import Mapping

import pyarrow as pa
import pyarrow.compute as pc


class Bounds:
    """The offset that each partition is read up to, and which of them have got there. No bounds: read for ever.

    With `until` exactly these; with `drain` what the partition's end was when it was claimed.
    """

    def __init__(self, until: Mapping[int, int] | None = None, *, drain: bool = False) -> None:
        self._until = dict(until or {})
        self.bounded = drain or bool(self._until)
        """Whether reading ends at all."""
        self._ends: dict[int, int] = {}
        self._done: set[int] = set()

    def claimed(self, starts: Mapping[int, int], ends: Mapping[int, int]) -> None:
        """Partitions begin to be read at `starts`; those that `until` does not name end at `ends`."""
        for partition, start in starts.items():
            end = self._until.get(partition, ends.get(partition))
            if end is None:
                continue
            self._ends[partition] = end
            if start >= end:
                self._done.add(partition)

    def forget(self, partition: int) -> None:
        """The partition is not ours any more."""
        self._ends.pop(partition, None)
        self._done.discard(partition)

    def done(self, partition: int) -> bool:
        """Whether the partition has been read up to its bound."""
        return partition in self._done

    def clamp(self, partition: int, offset: int) -> int:
        """`offset`, but not beyond the bound."""
        return min(offset, self._ends.get(partition, offset))

    def finish(self, partition: int, position: int) -> bool:
        """Whether `position` is the bound; the partition is done then."""
        if self._ends.get(partition) != position:
            return False
        self._done.add(partition)
        return True

    def ends_at(self, partition: int, offset: int) -> bool:
        """Whether the bound lies at or before `offset`."""
        return partition in self._ends and offset >= self._ends[partition]

    def reached_by(self, offsets: Mapping[int, int]) -> bool:
        """Whether one of these next offsets lies beyond its bound, or its partition was done before."""
        return any(p in self._ends and (offset > self._ends[p] or p in self._done) for p, offset in offsets.items())

    def cut(self, rows: pa.RecordBatch) -> pa.RecordBatch:
        """The envelope rows that lie before their bound."""
        partitions, offsets = rows.column("partition"), rows.column("offset")
        keep = pa.repeat(True, len(rows))
        for partition, end in self._ends.items():
            outside = pc.and_(pc.equal(partitions, partition), pc.greater_equal(offsets, end))
            keep = pc.and_(keep, pc.invert(outside))
        return rows.filter(keep)
