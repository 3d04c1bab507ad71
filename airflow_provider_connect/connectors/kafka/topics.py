"""Topics: which ones a source reads, and where it begins in partitions that were never read."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from airflow_provider_connect.engine.config import Config
from airflow_provider_connect.engine.errors import Fatal

if TYPE_CHECKING:
    from airflow_provider_connect.connectors.kafka.client import Cluster
    from airflow_provider_connect.connectors.kafka.config import KafkaSourceConfig

TOPIC = r"^[A-Za-z0-9._-]+$"

TopicName = Annotated[str, Field(min_length=1, max_length=249, pattern=TOPIC)]

_INTERNAL = "__"


def _moment(value: Any) -> Any:
    return datetime.fromisoformat(value) if isinstance(value, str) else value


Moment = Annotated[datetime, BeforeValidator(_moment)]
"""A point in time; ISO text also where types are strict."""


class StartAt(Config):
    """A place to begin at: a point in time, or an offset for each partition."""

    timestamp: Moment | None = None
    """Begin at the first record that is not older, at the end where there is none. Without a zone it is UTC."""
    positions: dict[str, Annotated[int, Field(ge=0)]] | None = Field(default=None, min_length=1)
    """Begin at these offsets, `{"topic:0": 42}`; in partitions that are not named at the oldest record."""

    @model_validator(mode="after")
    def _one(self) -> StartAt:
        if (self.timestamp is None) == (self.positions is None):
            raise ValueError("needs either 'timestamp' or 'positions'")
        for split in self.positions or {}:
            topic, _, partition = split.rpartition(":")
            if not re.match(TOPIC, topic) or not partition.isdecimal():
                raise ValueError(f"positions: '{split}' is no partition; write 'topic:0'")
        return self


Start = Literal["oldest", "newest"] | Moment | StartAt


class Topics:
    """The topics that a source reads: one, several, or all that match a pattern; internal ones (`__…`) never do."""

    def __init__(self, config: KafkaSourceConfig) -> None:
        self._names = [config.topic] if config.topic else sorted(set(config.topics or ()))
        self._pattern = re.compile(config.topic_pattern) if config.topic_pattern else None
        self.one: str | None = self._names[0] if len(self._names) == 1 else None
        """The topic, if there can only ever be one."""
        self.growing = self._pattern is not None
        """Whether there may be more later."""
        where = ", ".join(config.brokers)
        if self._pattern is not None:
            self.label = f"topics like '{self._pattern.pattern}' at {where}"
        else:
            listed = ", ".join(f"'{name}'" for name in self._names)
            self.label = f"topic{'s' if len(self._names) > 1 else ''} {listed} at {where}"

    def names(self, cluster: Cluster) -> list[str]:
        """The topics' names now, in order."""
        if self._pattern is None:
            return self._names
        matches = self._pattern.fullmatch
        return [name for name in cluster.topics() if matches(name) and not name.startswith(_INTERNAL)]

    def answer(self, splits: list[str]) -> str:
        """What answered, for people."""
        what, _, where = self.label.partition(" at ")
        have = "has" if self.one else "have"
        return f"Kafka at {where} answers; {what} {have} {len(splits)} partition{'s' if len(splits) != 1 else ''}"


def beginnings(cluster: Cluster, start: Start, splits: Iterable[str]) -> dict[str, int]:
    """The offsets that `start` means now. Fatal for explicit positions that lie outside of their partition."""
    wanted = list(splits)
    if start == "newest":
        return cluster.ends(wanted)
    if isinstance(start, datetime):
        return _at(cluster, start, wanted)
    if isinstance(start, StartAt):
        if start.timestamp is not None:
            return _at(cluster, start.timestamp, wanted)
        return cluster.starts(wanted) | _explicit(cluster, start.positions or {}, wanted)
    return cluster.starts(wanted)


def check_start(start: Start, splits: Iterable[str]) -> None:
    """Fatal for explicit positions of partitions that there are not."""
    if isinstance(start, StartAt) and (unknown := sorted(set(start.positions or ()) - set(splits))):
        raise Fatal(f"start.positions: there is no partition {', '.join(unknown)} in what is read")


def _at(cluster: Cluster, moment: datetime, splits: list[str]) -> dict[str, int]:
    aware = moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
    found = cluster.at(splits, int(aware.timestamp() * 1000))
    later = [split for split, offset in found.items() if offset < 0]
    return found | cluster.ends(later)


def _explicit(cluster: Cluster, positions: Mapping[str, int], splits: list[str]) -> dict[str, int]:
    named = [split for split in splits if split in positions]
    # Before the first open transaction is not where a partition ends for a position that somebody wrote down.
    ends, starts = cluster.ends(named, committed=False), cluster.starts(named)
    for split in named:
        at = positions[split]
        if at > ends[split]:
            raise Fatal(f"start.positions: {at} is beyond the end of {split}, which is {ends[split]}")
        if at < starts[split]:
            raise Fatal(f"start.positions: {at} of {split} is deleted; the oldest record there is {starts[split]}")
    return {split: positions[split] for split in named}
