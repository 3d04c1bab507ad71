"""Cursor: how far one part of a table has been read, and what comes next."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

import pyarrow as pa
from pyiceberg.table.snapshots import Snapshot

from airflow_provider_connect.connectors._iceberg.scanning import ALL, Rows, Scan, Step
from airflow_provider_connect.engine.errors import Fatal


@dataclass(frozen=True, slots=True)
class Position:
    """The next row: of snapshot `snapshot`, file `file` (or ALL), row `row`. `scan` is the snapshot that was read whole
    at the beginning; `sequence`, the snapshot's number, tells what came next where expiry has cut the chain."""

    scan: int
    snapshot: int
    sequence: int
    file: int = 0
    row: int = 0

    @classmethod
    def read(cls, stored: Any) -> Position:
        """From a checkpoint."""
        try:
            return cls(*(int(stored[key]) for key in ("scan", "snapshot", "sequence", "file", "row")))
        except (TypeError, KeyError, ValueError) as error:
            raise Fatal(f"{stored!r} is no position in an Iceberg table; was the flow's source another one?") from error

    def json(self) -> dict[str, int]:
        """For a checkpoint."""
        return asdict(self)

    def at(self, file: int, row: int = 0) -> Position:
        """Another place in the same snapshot."""
        return replace(self, file=file, row=row)


def beginning(snapshot: Snapshot, scan: int) -> Position:
    """The first row of a snapshot."""
    return Position(scan, snapshot.snapshot_id, snapshot.sequence_number or 0)


@dataclass(frozen=True, slots=True)
class Stretch:
    """Rows, maybe none, and the position after them."""

    rows: pa.RecordBatch | None
    position: Position


class Cursor:
    """Reads the steps that it is given, one after the other. `at` is the position reached, None before the first."""

    def __init__(self, split: str, part: int, at: Position | None, until: Position | None) -> None:
        self.split, self.part, self.until = split, part, until
        self.at = at
        self.target: int | None = None
        """Snapshot to end after; None to go on."""
        self._steps: deque[tuple[Step | None, Snapshot]] = deque()
        self._reading: Iterator[Rows] | None = None
        self._ahead: Rows | None = None

    @property
    def idle(self) -> bool:
        """Whether there is nothing to read."""
        return self._reading is None and not self._steps

    @property
    def snapshot_done(self) -> bool:
        """Whether the snapshot of `at` was read to its end, or as far as it is wanted."""
        return self.at is not None and (self.at.file == ALL or self.at == self.until)

    @property
    def ended(self) -> bool:
        """Whether all that is wanted was read."""
        if self.until is not None:
            return self.at == self.until
        return self.idle and self.target is not None and self.snapshot_done and self.at.snapshot == self.target  # type: ignore[union-attr]

    def follow(self, steps: Iterable[tuple[Step | None, Snapshot]]) -> None:
        """What comes next: steps with their snapshots; a snapshot without a step brings no rows."""
        self._steps.extend(steps)

    def read(self, scan: Scan, max_rows: int) -> Stretch | None:
        """The next rows; None if nothing is left."""
        if self._reading is None and not self._begin(scan):
            return None
        assert self.at is not None
        limit = self._limit()
        if self._ahead is None:
            return self._finish(limit)
        found, self._ahead = self._ahead, None
        first = found.row - found.batch.num_rows
        count = min(max_rows, found.batch.num_rows)
        if limit is not None:
            if (found.file, first) >= limit:
                return self._finish(limit)
            if found.file == limit[0]:
                count = min(count, limit[1] - first)
        if count < found.batch.num_rows:
            self._ahead = Rows(found.batch.slice(count), found.file, found.row)
        else:
            assert self._reading is not None
            self._ahead = next(self._reading, None)
        end = self.at.at(found.file, first + count)
        rows = found.batch.slice(0, count)
        if limit is not None and (end.file, end.row) == limit:
            return Stretch(rows, self._finish(limit).position)
        if self._ahead is None:
            return Stretch(rows, self._finish(None).position)
        self.at = end
        return Stretch(rows, end)

    def _begin(self, scan: Scan) -> bool:
        if not self._steps:
            return False
        step, snapshot = self._steps.popleft()
        if self.at is None:
            first = self.until.scan if self.until is not None else snapshot.snapshot_id
            self.at = beginning(snapshot, first)
        elif self.at.snapshot != snapshot.snapshot_id:
            self.at = beginning(snapshot, self.at.scan)
        files = scan.files(step, self.part) if step is not None else []
        self._reading = scan.rows(files, self.at.file, self.at.row)
        self._ahead = next(self._reading, None)
        return True

    def _limit(self) -> tuple[int, int] | None:
        until = self.until
        if until is None or self.at is None or until.snapshot != self.at.snapshot or until.file == ALL:
            return None
        return until.file, until.row

    def _finish(self, limit: tuple[int, int] | None) -> Stretch:
        """The end of a step: all of it, or as far as it is wanted."""
        assert self.at is not None
        self._reading = self._ahead = None
        if limit is not None:
            assert self.until is not None
            self._steps.clear()
            self.at = self.until
        else:
            self.at = self.at.at(ALL)
        return Stretch(None, self.at)
