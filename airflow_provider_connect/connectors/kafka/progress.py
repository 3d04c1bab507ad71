"""Progress: how far a consumer group has come, seen from outside: its lag, and whether it has read what there was."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence

from airflow_provider_connect.connectors.kafka.client import Cluster

ASK_SECONDS = 0.05


class GroupDrain:
    """Whether a group has read its splits up to where they ended at the beginning, whichever member reads which.

    A member that has read all of its own must not leave before that: a split may be on its way between two members,
    and would be nobody's if both took their leave.
    """

    def __init__(self, cluster: Cluster, group: str, splits: Sequence[str]) -> None:
        self._cluster, self._group = cluster, group
        starts, ends = cluster.starts(splits), cluster.ends(splits)
        self._missing = {split: end for split, end in ends.items() if end > starts[split]}
        self._ask_at = 0.0

    def others(self, own: Iterable[str]) -> set[str]:
        """The splits that somebody else has to read to their end, as far as we know."""
        return set(self._missing) - set(own)

    def complete(self, own: Iterable[str]) -> bool:
        """Whether the group's offsets say that all splits but our own are read. Asks every 50 ms at most."""
        others = self.others(own)
        if others and time.monotonic() >= self._ask_at:
            self._ask_at = time.monotonic() + ASK_SECONDS
            for split, place in self._cluster.group_offsets(self._group, sorted(others)).items():
                if place.offset >= self._missing[split]:
                    del self._missing[split]
            others = self.others(own)
        return not others


def lag(
    cluster: Cluster,
    splits: Sequence[str],
    group: str | None,
    positions: Mapping[str, int],
    beginnings: Callable[[list[str]], Mapping[str, int]],
) -> int:
    """Offsets from `positions` up to the end of the last finished transaction, over all `splits`.

    A split without a position counts from the group's offset, else from its beginning.
    """
    ends = cluster.ends(splits)
    known = dict(positions)
    unknown = [split for split in splits if split not in known]
    if unknown and group is not None:
        known |= {split: place.offset for split, place in cluster.group_offsets(group, unknown).items()}
        unknown = [split for split in unknown if split not in known]
    if unknown:
        known |= beginnings(unknown)
    return sum(max(0, ends[split] - known[split]) for split in splits)
