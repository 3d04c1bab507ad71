"""Where a transactional sink keeps checkpoints: in the offsets of a consumer group, or in a compacted topic.

Both hold a position and an owner per split, are written within a producer's transaction, and can be read in two ways:
`glance` at whoever may own a split, which never waits, and `read` what is decided, which waits for transactions that
were open when it was called.
"""

from __future__ import annotations

import json
import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import NewTopic  # type: ignore[attr-defined]

from airflow_provider_connect.connectors.kafka.client import Cluster, Trouble, common_properties
from airflow_provider_connect.connectors.kafka.config import KafkaSinkConfig
from airflow_provider_connect.connectors.kafka.errors import E, sorted_error
from airflow_provider_connect.connectors.kafka.source import KafkaSource
from airflow_provider_connect.connectors.kafka.splits import place_of, split_of
from airflow_provider_connect.engine.errors import Fatal, Retryable

log = logging.getLogger(__name__)

_REQUEST_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Entry:
    """What is stored of a split. `owner` is a transactional.id; None: never owned, or released."""

    position: Any = None
    owner: str | None = None


class PositionStore(ABC):
    """Positions and owners of one flow's splits. All calls come from one thread."""

    @abstractmethod
    def glance(self, splits: Iterable[str]) -> set[str]:
        """Everybody who may own one of the splits, were all open transactions to commit. Does not wait for them."""

    @abstractmethod
    def read(self, splits: Iterable[str], seconds: float) -> dict[str, Entry]:
        """What is decided of the splits, after all transactions open at the call have ended; splits without an entry
        are absent. Retryable after `seconds`."""

    @abstractmethod
    def stage(self, producer: Producer, entries: Mapping[str, Entry]) -> None:
        """Write within the producer's open transaction."""

    def close(self) -> None:
        """Free what it holds."""
        return


class GroupOffsets(PositionStore):
    """The offsets of the source's consumer group, for a source on the same cluster; the owner is their metadata.

    The transaction names the group without a member: ownership is guarded by the producers' epochs, per split and
    also where the splits were assigned by hand, so a rebalance that is under way fails no commit.
    """

    def __init__(self, cluster: Cluster, config: KafkaSinkConfig, source: KafkaSource, flow: str) -> None:
        self._cluster, self._source = cluster, source
        self._group = source.group_of(flow)
        consumer = Consumer({**common_properties(config, Trouble()), "group.id": self._group}, logger=log)
        self._metadata = consumer.consumer_group_metadata()
        consumer.close()

    def glance(self, splits: Iterable[str]) -> set[str]:
        # A pending offset is always that of the committed owner, or of nobody.
        places = self._cluster.group_offsets(self._group, splits)
        return {place.metadata for place in places.values() if place.metadata}

    def read(self, splits: Iterable[str], seconds: float) -> dict[str, Entry]:
        places = self._cluster.group_offsets(self._group, splits, stable_within=seconds)
        return {split: Entry(at.offset, at.metadata or None) for split, at in places.items()}

    def stage(self, producer: Producer, entries: Mapping[str, Entry]) -> None:
        # Owning a split that was never read takes an offset: the one at which the source would begin.
        fresh = [split for split, entry in entries.items() if entry.position is None]
        begin = self._source.beginnings(fresh) if fresh else {}
        places = []
        for split, entry in entries.items():
            offset = begin[split] if entry.position is None else int(entry.position)
            places.append(place_of(split, offset, entry.owner or ""))
        producer.send_offsets_to_transaction(places, self._metadata, _REQUEST_SECONDS)


class CheckpointTopic(PositionStore):
    """A compacted topic: key `[flow, split]`, value `{"position": …, "owner": …}`. Only its partition 0 is used."""

    def __init__(self, cluster: Cluster, config: KafkaSinkConfig, flow: str) -> None:
        self._cluster, self._topic, self._flow = cluster, config.checkpoint_topic, flow
        self._create(config)
        common = {
            **common_properties(config, Trouble()),
            "group.id": f"{flow}.checkpoints",  # librdkafka wants one; nothing is committed to it
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "fetch.wait.max.ms": 10,  # the end of the log shows only in an empty answer
            "auto.offset.reset": "earliest",
        }
        self._committed = Consumer({**common, "isolation.level": "read_committed"}, logger=log)
        self._uncommitted = Consumer({**common, "isolation.level": "read_uncommitted"}, logger=log)
        for consumer in (self._committed, self._uncommitted):
            # Without knowing the partition's leader, the first fetch comes a second late.
            consumer.list_topics(self._topic, _REQUEST_SECONDS)
        self._entries: dict[str, Entry] = {}
        self._next = 0

    def _create(self, config: KafkaSinkConfig) -> None:
        if not self._cluster.exists(self._topic, seconds=0.0):
            topic = NewTopic(
                self._topic,
                1,
                config.checkpoint_replication,
                config={
                    "cleanup.policy": "compact",
                    # It is read from its beginning whenever a flow starts, so it has to stay short.
                    "segment.bytes": str(16 * 1024 * 1024),
                    "min.cleanable.dirty.ratio": "0.1",
                    "max.compaction.lag.ms": str(3_600_000),
                },
            )
            created = self._cluster.admin.create_topics([topic], request_timeout=_REQUEST_SECONDS)[self._topic]
            try:
                created.result(_REQUEST_SECONDS)
            except KafkaException as error:
                if error.args[0].code() != E.TOPIC_ALREADY_EXISTS:
                    raise sorted_error(error.args[0], f"creating the checkpoint topic '{self._topic}'") from error
        policy = self._cluster.topic_settings(self._topic).get("cleanup.policy", "compact")
        if policy != "compact":
            raise Fatal(
                f"the checkpoint topic '{self._topic}' would lose checkpoints: its cleanup.policy is '{policy}', "
                "but must be 'compact'; alter it, or set `checkpointTopic` to another name"
            )

    def glance(self, splits: Iterable[str]) -> set[str]:
        wanted = set(splits)
        end = self._end()
        self._catch_up()
        owners = {entry.owner for split, entry in self._entries.items() if split in wanted}
        tail: dict[str, Entry] = {}
        for split, entry in self._scan(self._uncommitted, self._next, end, time.monotonic() + _REQUEST_SECONDS)[0]:
            if split in wanted:
                tail[split] = entry
                owners.add(entry.owner)
        return {owner for owner in owners if owner}

    def read(self, splits: Iterable[str], seconds: float) -> dict[str, Entry]:
        self._catch_up(self._end(), seconds)
        return {split: self._entries[split] for split in splits if split in self._entries}

    def stage(self, producer: Producer, entries: Mapping[str, Entry]) -> None:
        for split, entry in entries.items():
            producer.produce(
                self._topic,
                json.dumps({"position": entry.position, "owner": entry.owner}).encode(),
                json.dumps([self._flow, split]).encode(),
                0,
            )

    def close(self) -> None:
        self._committed.close()
        self._uncommitted.close()

    def _end(self) -> int:
        only = split_of(self._topic, 0)
        return self._cluster.ends([only], committed=False)[only]

    def _catch_up(self, end: int | None = None, seconds: float = _REQUEST_SECONDS) -> None:
        """Read on what is committed: up to `end`, or as far as it goes without waiting."""
        found, self._next = self._scan(self._committed, self._next, end, time.monotonic() + seconds)
        self._entries.update(found)

    def _scan(
        self, consumer: Consumer, start: int, end: int | None, deadline: float
    ) -> tuple[list[tuple[str, Entry]], int]:
        """This flow's entries from `start` to `end` (None: to the first end of the log), and where it stopped."""
        found: list[tuple[str, Entry]] = []
        if end is not None and start >= end:
            return found, start
        consumer.assign([TopicPartition(self._topic, 0, start)])
        try:
            while end is None or start < end:
                for message in consumer.consume(1000, 0.02):
                    error = message.error()
                    if error is None:
                        start = (message.offset() or 0) + 1
                        if entry := self._entry(message.key(), message.value()):
                            found.append(entry)
                    elif error.code() == KafkaError._PARTITION_EOF:
                        start = max(start, message.offset() or 0)
                        if end is None:
                            return found, start
                    else:
                        raise sorted_error(error, f"checkpoint topic '{self._topic}'")
                if time.monotonic() > deadline:
                    raise Retryable(
                        f"checkpoint topic '{self._topic}': an open transaction hides what comes after offset {start}"
                    )
        finally:
            consumer.unassign()
        return found, start

    def _entry(self, key: bytes | None, value: bytes | None) -> tuple[str, Entry] | None:
        if not key or value is None:
            return None
        flow, split = json.loads(key)
        if flow != self._flow:
            return None
        stored = json.loads(value)
        return split, Entry(stored["position"], stored["owner"])
