"""Splits: a partition's name in a flow, `topic:partition`. A topic's name has no colon."""

from __future__ import annotations

from collections.abc import Iterable

from confluent_kafka import OFFSET_INVALID, Message, TopicPartition


def split_of(topic: str | None, partition: int | None) -> str:
    """The name of a partition as a split."""
    return f"{topic}:{partition}"


def place_of(split: str, offset: int = OFFSET_INVALID, metadata: str | None = None) -> TopicPartition:
    """The partition that a split names, as the client library takes it."""
    topic, _, partition = split.rpartition(":")
    if metadata is None:
        return TopicPartition(topic, int(partition), offset)
    return TopicPartition(topic, int(partition), offset, metadata)


def topic_of(split: str) -> str:
    """The topic of the partition that a split names."""
    return split.rpartition(":")[0]


def split_of_message(message: Message) -> str:
    """The split that a message, or an error in its place, belongs to."""
    return split_of(message.topic(), message.partition())


def splits_of(places: Iterable[TopicPartition]) -> list[str]:
    """The names of partitions as splits."""
    return [split_of(place.topic, place.partition) for place in places]
