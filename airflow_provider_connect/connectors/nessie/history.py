"""History of a table in Nessie: its metadata has the current snapshot only, the branch's commits have all others."""

from __future__ import annotations

from functools import lru_cache

from pyiceberg.serializers import FromInputFile
from pyiceberg.table import Table
from pyiceberg.table.snapshots import Snapshot

from airflow_provider_connect.connectors._iceberg.history import Change, History, gone
from airflow_provider_connect.connectors.nessie.branches import Branch, TableState


class BranchHistory(History):
    """The snapshots that the table had on the branch.

    What a merge brought is one commit, however many snapshots were made on the other branch; their sequence numbers
    tell it, and then the two ends are compared.
    """

    def __init__(self, table: Table, branch: Branch, identifier: tuple[str, ...]) -> None:
        super().__init__(table)
        self._branch, self._identifier = branch, identifier
        self._loaded = lru_cache(maxsize=10_000)(self._load)

    def snapshot(self, snapshot_id: int) -> Snapshot:
        current = self.table.current_snapshot()
        if current is not None and current.snapshot_id == snapshot_id:
            return current
        for state in self._branch.states(self._identifier):
            if state.snapshot_id == snapshot_id:
                return self._loaded(state)
        raise gone(self.table, snapshot_id)

    def change(self, snapshot: Snapshot) -> Change:
        states = self._branch.states(self._identifier)
        for state in states:
            if state.snapshot_id == snapshot.snapshot_id:
                break
        for state in states:
            if state.snapshot_id not in (snapshot.snapshot_id, -1):
                return _change(snapshot, self._loaded(state))
        return Change(snapshot)

    def since(self, snapshot_id: int, sequence: int) -> list[Change]:
        current = self.table.current_snapshot()
        if current is None:
            raise gone(self.table, snapshot_id)
        found = [current]
        begun = False
        for state in self._branch.states(self._identifier):
            # Commits after we loaded the table are for the next look.
            begun = begun or state.snapshot_id == current.snapshot_id
            if begun and state.snapshot_id != found[-1].snapshot_id:
                found.append(self._loaded(state))
            if begun and state.snapshot_id == snapshot_id:
                return [_change(after, before) for before, after in zip(found[:0:-1], found[-2::-1], strict=True)]
        raise gone(self.table, snapshot_id)

    def _load(self, state: TableState) -> Snapshot:
        metadata = FromInputFile.table_metadata(self.table.io.new_input(state.metadata_location))
        snapshot = metadata.snapshot_by_id(state.snapshot_id)
        if snapshot is None or metadata.table_uuid != self.table.metadata.table_uuid:
            raise gone(self.table, state.snapshot_id)
        return snapshot


def _change(snapshot: Snapshot, before: Snapshot) -> Change:
    next_to = (snapshot.sequence_number or 0) == (before.sequence_number or 0) + 1
    return Change(snapshot) if next_to else Change(snapshot, before)
