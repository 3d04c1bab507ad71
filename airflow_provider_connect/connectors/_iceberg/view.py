"""View: a table as it is at one moment, and what a reader that stands somewhere has still to read of it."""

from __future__ import annotations

from pyiceberg.table import Table
from pyiceberg.table.snapshots import Snapshot

from airflow_provider_connect.connectors._iceberg.config import TableSourceConfig
from airflow_provider_connect.connectors._iceberg.cursor import Position, beginning
from airflow_provider_connect.connectors._iceberg.history import History
from airflow_provider_connect.connectors._iceberg.scanning import ALL, Scan, Step

Steps = list[tuple[Step | None, Snapshot]]
"""What to read one after the other, with its snapshot; one without a step brings no rows."""


class TableView:
    """Its methods read manifests; none of them changes anything."""

    def __init__(self, table: Table, history: History, config: TableSourceConfig) -> None:
        self._history, self._config = history, config
        self.scan = Scan(table, config)
        self.current = table.current_snapshot()

    def steps(self, at: Position | None, last: int | None, first: int | None = None) -> Steps:
        """What there is after `at`, up to snapshot `last`. At the beginning (None) all rows of `first`, or of now."""
        found: Steps = []
        if at is None:
            if self.current is None:
                return []
            snapshot = self._history.snapshot(first) if first is not None else self.current
            found.append((Step(snapshot, True), snapshot))
            at = beginning(snapshot, snapshot.snapshot_id)
        elif at.file != ALL:
            snapshot = self._history.snapshot(at.snapshot)
            found.append((self._begun(at, snapshot), snapshot))
        return found if at.snapshot == last else found + self._after(at, last)

    def count(self, at: Position | None, part: int) -> int | None:
        """Rows after `at`; None where only reading them would tell."""
        total = 0
        for step, snapshot in self.steps(at, None):
            files = self.scan.files(step, part) if step is not None else []
            begun = at is not None and at.snapshot == snapshot.snapshot_id and at.file != ALL
            rows = self.scan.count(files[at.file :] if begun and at is not None else files)
            if rows is None:
                return None
            total += rows - (at.row if begun and at is not None else 0)
        return total

    def _begun(self, at: Position, snapshot: Snapshot) -> Step | None:
        """The step that `at` lies in."""
        if at.snapshot == at.scan or not self._config.incremental_by_snapshot:
            return Step(snapshot, True)
        return self.scan.step(self._history.change(snapshot))

    def _after(self, at: Position, last: int | None) -> Steps:
        if self.current is not None and self.current.snapshot_id == at.snapshot:
            return []
        if not self._config.incremental_by_snapshot:
            wanted = self.current if last is None else self._history.snapshot(last)
            return [(Step(wanted, True), wanted)] if wanted is not None else []
        steps: Steps = []
        for change in self._history.since(at.snapshot, at.sequence):
            steps.append((self.scan.step(change), change.snapshot))
            if change.snapshot.snapshot_id == last:
                break
        return steps
