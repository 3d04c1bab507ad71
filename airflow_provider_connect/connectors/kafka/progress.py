"""Progress: how far a consumer group has come, seen from outside: its lag, and whether it has read what there was."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence

from airflow_provider_connect.connectors.kafka.client import Cluster

ASK_SECONDS = 0.05


class GroupDrain:
    """Whether a group has read a topic up to where it ended at the beginning, whichever member reads which partition.

    A member that has read all of its own must not leave before that: a partition may be on its way between two
    members, and would be nobody's if both took their leave.
    """

    def __init__(self, cluster: Cluster, group: str, topic: str, partitions: Sequence[int]) -> None:
        self._cluster, self._group, self._topic = cluster, group, topic
        starts, ends = cluster.starts(topic, partitions), cluster.ends(topic, partitions)
        self._missing = {partition: end for partition, end in ends.items() if end > starts[partition]}
        self._ask_at = 0.0

    def others(self, own: Iterable[int]) -> set[int]:
        """The partitions that somebody else has to read to their end, as far as we know."""
        return set(self._missing) - set(own)

    def complete(self, own: Iterable[int]) -> bool:
        """Whether the group's offsets say that all partitions but our own are read. Asks every 50 ms at most."""
        others = self.others(own)
        if others and time.monotonic() >= self._ask_at:
            self._ask_at = time.monotonic() + ASK_SECONDS
            offsets = self._cluster.group_offsets(self._group, self._topic, sorted(others))
            for partition, place in offsets.items():
                if place.offset >= self._missing[partition]:
                    del self._missing[partition]
            others = self.others(own)
        return not others


def lag(
    cluster: Cluster,
    topic: str,
    group: str | None,
    positions: Mapping[int, int],
    beginnings: Callable[[list[int]], Mapping[int, int]],
) -> int:
    """Offsets from `positions` up to the end of the last finished transaction, over all partitions of the topic.

    A partition without a position counts from the group's offset, else from its beginning.
    """
    partitions = cluster.partitions(topic)
    ends = cluster.ends(topic, partitions)
    known = dict(positions)
    unknown = [partition for partition in partitions if partition not in known]
    if unknown and group is not None:
        known |= {p: place.offset for p, place in cluster.group_offsets(group, topic, unknown).items()}
        unknown = [partition for partition in unknown if partition not in known]
    if unknown:
        known |= beginnings(unknown)
    return sum(max(0, ends[partition] - known[partition]) for partition in partitions)
