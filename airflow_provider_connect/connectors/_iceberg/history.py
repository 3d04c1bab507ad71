"""History: the snapshots of a table, in the order in which they were made."""

from __future__ import annotations

from dataclasses import dataclass

from pyiceberg.table import Table
from pyiceberg.table.snapshots import Operation, Snapshot

from airflow_provider_connect.engine.errors import Fatal


@dataclass(frozen=True, slots=True)
class Change:
    """A snapshot, and what it did to the rows. `base` is the snapshot before, where several lie between unseen."""

    snapshot: Snapshot
    base: Snapshot | None = None

    @property
    def operation(self) -> Operation | None:
        """What it did; None if it does not say, or if that of others is hidden behind it."""
        summary = self.snapshot.summary
        return None if summary is None or self.base is not None else summary.operation


class History:
    """What the table's metadata keeps: all snapshots that were not expired, by their parents."""

    def __init__(self, table: Table) -> None:
        self.table = table

    def snapshot(self, snapshot_id: int) -> Snapshot:
        """The snapshot of this id. Fatal if it is gone."""
        found = self.table.metadata.snapshot_by_id(snapshot_id)
        if found is None:
            raise gone(self.table, snapshot_id)
        return found

    def change(self, snapshot: Snapshot) -> Change:
        """What this snapshot did."""
        return Change(snapshot)

    def since(self, snapshot_id: int, sequence: int) -> list[Change]:
        """What came after this snapshot, which has this sequence number; the oldest first. Fatal if some of it is gone.

        The snapshot itself may be gone.
        """
        changes: list[Change] = []
        at = self.table.metadata.current_snapshot_id
        while at != snapshot_id:
            snapshot = self.table.metadata.snapshot_by_id(at) if at is not None else None
            if snapshot is None:
                # Expiry may take the parent out of the oldest snapshot that is left.
                if sequence and changes and changes[-1].snapshot.sequence_number == sequence + 1:
                    break
                raise gone(self.table, snapshot_id)
            changes.append(Change(snapshot))
            at = snapshot.parent_snapshot_id
        return changes[::-1]


def gone(table: Table, snapshot_id: int) -> Fatal:
    """The error for a snapshot that reading must go on from, and that is not there any more."""
    name = ".".join(table.name())
    return Fatal(
        f"reading '{name}' stopped at snapshot {snapshot_id}, and the snapshots from there to the current one are no "
        "longer kept (expired, rolled back, or the table was made anew), so records would be lost or come again; read "
        "the whole table again under another flow name, and let snapshots live longer than the flow may pause"
    )
