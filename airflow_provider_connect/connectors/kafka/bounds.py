"""Bounds: where reading a partition ends, for a drain or for a range that is read again."""

from __future__ import annotations

from collections.abc import Mapping

import pyarrow as pa
import pyarrow.compute as pc

from airflow_provider_connect.connectors.kafka.splits import place_of


class Bounds:
    """The offset that each partition is read up to, and which of them have got there. No bounds: read for ever.

    With `until` exactly these; with `drain` what the partition's end was when it was claimed.
    """

    def __init__(self, until: Mapping[str, int] | None = None, *, drain: bool = False) -> None:
        self._until = dict(until or {})
        self.bounded = drain or bool(self._until)
        """Whether reading ends at all."""
        self._ends: dict[str, int] = {}
        self._done: set[str] = set()

    def claimed(self, starts: Mapping[str, int], ends: Mapping[str, int]) -> None:
        """Splits begin to be read at `starts`; those that `until` does not name end at `ends`."""
        for split, start in starts.items():
            end = self._until.get(split, ends.get(split))
            if end is None:
                continue
            self._ends[split] = end
            if start >= end:
                self._done.add(split)

    def forget(self, split: str) -> None:
        """The split is not ours any more."""
        self._ends.pop(split, None)
        self._done.discard(split)

    def done(self, split: str) -> bool:
        """Whether the split has been read up to its bound."""
        return split in self._done

    def clamp(self, split: str, offset: int) -> int:
        """`offset`, but not beyond the bound."""
        return min(offset, self._ends.get(split, offset))

    def finish(self, split: str, position: int) -> bool:
        """Whether `position` is the bound; the split is done then."""
        if self._ends.get(split) != position:
            return False
        self._done.add(split)
        return True

    def ends_at(self, split: str, offset: int) -> bool:
        """Whether the bound lies at or before `offset`."""
        return split in self._ends and offset >= self._ends[split]

    def reached_by(self, offsets: Mapping[str, int]) -> bool:
        """Whether one of these next offsets lies beyond its bound, or its split was done before."""
        return any(p in self._ends and (offset > self._ends[p] or p in self._done) for p, offset in offsets.items())

    def cut(self, rows: pa.RecordBatch) -> pa.RecordBatch:
        """The envelope rows that lie before their bound."""
        topics, partitions, offsets = rows.column("topic"), rows.column("partition"), rows.column("offset")
        keep = pa.repeat(True, len(rows))
        for split, end in self._ends.items():
            place = place_of(split)
            here = pc.and_(pc.equal(topics, place.topic), pc.equal(partitions, place.partition))
            keep = pc.and_(keep, pc.invert(pc.and_(here, pc.greater_equal(offsets, end))))
        return rows.filter(keep)
