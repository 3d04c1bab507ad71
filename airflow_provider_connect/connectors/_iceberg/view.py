"""View: a table as it is at one moment, and what a reader that stands somewhere has still to read of it."""

from __future__ import annotations

from pyiceberg.table import Table

from airflow_provider_connect.connectors._iceberg.config import TableSourceConfig
from airflow_provider_connect.connectors._iceberg.cursor import Position
from airflow_provider_connect.connectors._iceberg.history import History
from airflow_provider_connect.connectors._iceberg.scanning import ALL, Scan, Step

Steps = list[tuple[Step | None, int]]
"""What to read one after the other, with the ids of the snapshots; one without a step brings no rows."""


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
            beginning = self._history.snapshot(first) if first is not None else self.current
            found.append((Step(beginning, True), beginning.snapshot_id))
            at = Position(beginning.snapshot_id, beginning.snapshot_id, ALL)
        elif at.file != ALL:
            found.append((self._begun(at), at.snapshot))
        return found if at.snapshot == last else found + self._after(at.snapshot, last)

    def count(self, at: Position | None, part: int) -> int | None:
        """Rows after `at`; None where only reading them would tell."""
        total = 0
        for step, snapshot_id in self.steps(at, None):
            files = self.scan.files(step, part) if step is not None else []
            begun = at is not None and at.snapshot == snapshot_id and at.file != ALL
            rows = self.scan.count(files[at.file :] if begun and at is not None else files)
            if rows is None:
                return None
            total += rows - (at.row if begun and at is not None else 0)
        return total

    def _begun(self, at: Position) -> Step | None:
        """The step that `at` lies in."""
        snapshot = self._history.snapshot(at.snapshot)
        if at.snapshot == at.scan or not self._config.incremental_by_snapshot:
            return Step(snapshot, True)
        return self.scan.step(self._history.change(snapshot))

    def _after(self, snapshot_id: int, last: int | None) -> Steps:
        if self.current is not None and self.current.snapshot_id == snapshot_id:
            return []
        if not self._config.incremental_by_snapshot:
            wanted = self.current if last is None else self._history.snapshot(last)
            return [(Step(wanted, True), wanted.snapshot_id)] if wanted is not None else []
        steps: Steps = []
        for change in self._history.since(snapshot_id):
            steps.append((self.scan.step(change), change.snapshot.snapshot_id))
            if change.snapshot.snapshot_id == last:
                break
        return steps
