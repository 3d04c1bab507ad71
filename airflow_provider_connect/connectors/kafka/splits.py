"""Splits: a partition's name in a flow, `topic:partition`. A topic's name has no colon."""

from __future__ import annotations


def split_of(topic: str, partition: int) -> str:
    """The name of a partition as a split."""
    return f"{topic}:{partition}"


def partition_of(split: str) -> int:
    """The partition that a split names."""
    return int(split.rpartition(":")[2])
