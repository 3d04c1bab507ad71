"""Scanning: the data files of one step of reading, and their rows in an order that never changes."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass

import pyarrow as pa
from pyiceberg.expressions import AlwaysTrue
from pyiceberg.io.pyarrow import ArrowScan, _read_all_delete_files
from pyiceberg.manifest import DataFileContent, ManifestContent, ManifestEntry, ManifestEntryStatus
from pyiceberg.schema import Schema
from pyiceberg.table import FileScanTask, ManifestGroupPlanner, Table
from pyiceberg.table.snapshots import Operation, Snapshot

from airflow_provider_connect.connectors._iceberg.config import TableSourceConfig
from airflow_provider_connect.connectors._iceberg.history import Change
from airflow_provider_connect.engine.errors import Fatal

ALL = -1
"""As a file's number in a position: everything of the snapshot was read."""


@dataclass(frozen=True, slots=True)
class Step:
    """Something to read: all files of a snapshot (`whole`), or those it added to what `base` or its parent had."""

    snapshot: Snapshot
    whole: bool
    base: Snapshot | None = None


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows in a file's order; `row` is the number of the one after them among the file's rows that are delivered."""

    batch: pa.RecordBatch
    file: int
    row: int


class Scan:
    """What a configuration reads of a table as it is now. Its methods open files."""

    def __init__(self, table: Table, config: TableSourceConfig) -> None:
        self._table, self._config = table, config
        self._filter = config.row_filter
        self.schema = self._projection()

    def step(self, change: Change) -> Step | None:
        """What to read of a change; None if it brings no rows. Fatal if it changed rows and that is not wanted."""
        if change.base is not None:
            if self._only_adds(change.snapshot, change.base):
                return Step(change.snapshot, False, change.base)
        elif change.operation == Operation.APPEND:
            return Step(change.snapshot, False)
        elif change.operation == Operation.REPLACE:
            return None
        if self._config.on_overwrite == "fail":
            what = change.operation.value if change.operation is not None else "unknown operation"
            raise Fatal(
                f"snapshot {change.snapshot.snapshot_id} of '{self._config.label}' changed or deleted rows ({what}), "
                "which no reading of appended rows can follow; `onOverwrite: skip` leaves its changes out, `reread` "
                "delivers the whole table again"
            )
        return Step(change.snapshot, True) if self._config.on_overwrite == "reread" else None

    def files(self, step: Step, part: int) -> list[FileScanTask]:
        """The files of a step that belong to a part, the oldest first; always the same for a snapshot."""
        order: dict[str, tuple[int, int]] = {}
        snapshot_id, base = step.snapshot.snapshot_id, self._paths(step.base) if step.base is not None else None

        def wanted(entry: ManifestEntry) -> bool:
            file = entry.data_file
            if file.content == DataFileContent.DATA:
                order[file.file_path] = (entry.sequence_number or 0, len(order))
                if base is not None:
                    return file.file_path not in base
                if not step.whole:
                    return entry.status == ManifestEntryStatus.ADDED and entry.snapshot_id == snapshot_id
            return True

        manifests = step.snapshot.manifests(self._table.io)
        if not step.whole and base is None:
            manifests = [
                manifest
                for manifest in manifests
                if manifest.content == ManifestContent.DATA and manifest.added_snapshot_id == snapshot_id
            ]
        planner = ManifestGroupPlanner(self._table.metadata, self._table.io, self._filter)
        tasks = [
            task
            for task in planner.plan_files(manifests, wanted)
            if zlib.crc32(task.file.file_path.encode()) % self._config.splits == part
        ]
        return sorted(tasks, key=lambda task: order[task.file.file_path])

    def rows(self, files: list[FileScanTask], file: int, row: int) -> Iterator[Rows]:
        """The rows of `files` from row `row` of the file of number `file` on."""
        for number in range(file, len(files)):
            skip = row if number == file else 0
            seen = 0
            for batch in self._batches(files[number]):
                seen += batch.num_rows
                if seen > skip:
                    yield Rows(batch.slice(max(0, skip - (seen - batch.num_rows))), number, seen)

    def count(self, files: list[FileScanTask]) -> int | None:
        """How many rows they hold; None where only reading them would tell."""
        if not isinstance(self._filter, AlwaysTrue) or any(task.delete_files for task in files):
            return None
        return sum(task.file.record_count for task in files)

    def _batches(self, task: FileScanTask) -> Iterator[pa.RecordBatch]:
        # Not `to_record_batches`, which reads a file whole before it gives its first row.
        scan = ArrowScan(self._table.metadata, self._table.io, self.schema, self._filter)
        deletes = _read_all_delete_files(self._table.io, [task])
        return scan._record_batches_from_scan_tasks_and_deletes([task], deletes)

    def _projection(self) -> Schema:
        schema = self._table.schema()
        if not self._config.columns:
            return schema
        try:
            return schema.select(*self._config.columns)
        except ValueError as error:
            there = ", ".join(column.name for column in schema.columns)
            raise Fatal(f"columns: {error}; '{self._config.label}' has {there}") from error

    def _paths(self, snapshot: Snapshot) -> set[str]:
        return {
            entry.data_file.file_path
            for manifest in snapshot.manifests(self._table.io)
            if manifest.content == ManifestContent.DATA
            for entry in manifest.fetch_manifest_entry(self._table.io)
        }

    def _only_adds(self, snapshot: Snapshot, base: Snapshot) -> bool:
        """Whether everything of `base` is still there as it was."""
        deletes = [
            {m.manifest_path for m in each.manifests(self._table.io) if m.content == ManifestContent.DELETES}
            for each in (snapshot, base)
        ]
        return deletes[0] == deletes[1] and self._paths(base) <= self._paths(snapshot)
