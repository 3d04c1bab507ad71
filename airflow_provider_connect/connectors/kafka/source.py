"""KafkaSource: a topic's partitions, shared with the other members of a consumer group or dealt out."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Sequence

import pyarrow.compute as pc
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from airflow_provider_connect.connectors.kafka.bounds import Bounds
from airflow_provider_connect.connectors.kafka.client import Cluster, Trouble, consumer_properties
from airflow_provider_connect.connectors.kafka.config import KafkaSourceConfig
from airflow_provider_connect.connectors.kafka.errors import classified, sorted_error
from airflow_provider_connect.connectors.kafka.progress import GroupDrain, lag
from airflow_provider_connect.connectors.kafka.records import envelope, nothing
from airflow_provider_connect.connectors.kafka.splits import partition_of, split_of
from airflow_provider_connect.engine.batch import Batch, Checkpoint
from airflow_provider_connect.engine.codec import Codec
from airflow_provider_connect.engine.connector import Source, SourceContext, dealt
from airflow_provider_connect.engine.errors import ConnectError, EndOfInput, Fatal, Retryable

log = logging.getLogger(__name__)

_GATHER_SECONDS = 0.002
"""How long a first record waits for company: what keeps batches from being tiny costs this much latency."""
_DARK_SECONDS = 10.0
"""How long no broker may be reachable before the reader says so."""
_HELD = 16
"""Messages that may arrive while nobody wants them, before fetching is paused."""
_REQUEST_SECONDS = 10.0


class KafkaSource(Source[KafkaSourceConfig]):
    """Reads a topic. A split is `topic:partition`, its position the next offset.

    Normally the splits are negotiated with all other members of the consumer group, so the context's share is not
    looked at; with `fixed_splits` or `until` they are assigned by hand and the group is only told the offsets.
    """

    config_type = KafkaSourceConfig

    def __init__(self, config: KafkaSourceConfig) -> None:
        super().__init__(config)
        self.transactional_offsets = False
        """Set by a sink that commits the group's offsets in its own transactions; then `acknowledge` must not."""
        self._consumer: Consumer | None = None
        self._cluster: Cluster | None = None
        self._group: str | None = config.consumer_group
        self._grouped = True
        self._clear()

    def _clear(self) -> None:
        self._positions: dict[int, int] = {}
        self._held: list[Message] = []
        self._paused = False
        self._closing = False
        self._gone: set[int] = set()
        self._dark_since: float | None = None
        self._bounds = Bounds()
        self._drain: GroupDrain | None = None
        self._settled = False

    # --- what it is

    @property
    def negotiated(self) -> bool:
        """True unless the splits were assigned by hand."""
        return self._grouped

    def formats(self) -> tuple[str, ...]:
        """The configured format, nothing else: nobody but the user knows what the bytes are."""
        return (self.config.encoding,)

    def codec(self, encoding: str) -> Codec | None:
        """The codec of a format that needs a schema."""
        return self.config.codec() if encoding == self.config.encoding else None

    def group_of(self, flow: str) -> str:
        """The consumer group in which this source reads for a flow."""
        return self.config.consumer_group or flow

    def classify(self, error: Exception) -> ConnectError:
        """librdkafka's errors by their code."""
        return classified(error)

    # --- life cycle

    def open(self, context: SourceContext) -> None:
        """Join the group, or assign and claim the splits that are dealt to us."""
        self.close()
        self._clear()
        self._context = context
        self._group = group = self.group_of(context.flow)
        self._grouped = not (context.fixed_splits or context.until)
        self._bounds = Bounds(
            until={partition_of(split): position for split, position in context.until.items()},
            drain=context.drain,
        )
        partitions = self._observer().partitions(self.config.topic)
        self._trouble = Trouble()
        self._consumer = consumer = Consumer(consumer_properties(self.config, group, self._trouble), logger=log)
        if self._grouped:
            if context.drain:
                self._drain = GroupDrain(self._observer(), group, self.config.topic)
            consumer.subscribe(
                [self.config.topic], on_assign=self._on_assign, on_revoke=self._on_revoke, on_lost=self._on_lost
            )
            return
        wanted = [split_of(self.config.topic, partition) for partition in partitions]
        if missing := sorted(set(context.until) - set(wanted)):
            raise Fatal(f"topic '{self.config.topic}' has no {', '.join(missing)} any more; was it made anew?")
        mine = [partition_of(split) for split in dealt(context, wanted)]
        if mine:
            consumer.list_topics(self.config.topic, _REQUEST_SECONDS)  # without, the first fetch comes a second later
            consumer.assign(self._claim(consumer, mine))

    def close(self) -> None:
        """Leave the group and free the clients. Nothing is committed."""
        self._closing = True
        consumer, self._consumer = self._consumer, None
        cluster, self._cluster = self._cluster, None
        del cluster
        self._held = []
        if consumer is not None:
            consumer.close()

    def check(self) -> str:
        """Ask for the topic's partitions."""
        cluster = Cluster(self.config)
        partitions = cluster.partitions(self.config.topic)
        return (
            f"Kafka at {', '.join(self.config.brokers)} answers; topic '{self.config.topic}' has "
            f"{len(partitions)} partition{'s' if len(partitions) != 1 else ''}{self.config.check_registry()}"
        )

    # --- reading

    def read(self, max_records: int, timeout: float) -> Batch | None:
        """What has arrived, at once if there is something; see Source."""
        consumer = self._open_consumer()
        if self._paused:
            consumer.resume(self._assigned(p for p in self._positions if not self._bounds.done(p)))
            self._paused = False
        owned = set(self._positions)
        self._gone.clear()
        messages = self._fetch(consumer, max_records, timeout)
        if self._gone:
            messages = self._still_ours(consumer, messages, owned)
        errors = list(map(Message.error, messages))
        advanced: dict[int, int] = {}
        if any(errors):
            for message, error in zip(messages, errors, strict=True):
                if error is not None:
                    self._notice(message, error, advanced)
            messages = [message for message, error in zip(messages, errors, strict=True) if error is None]
        if messages:
            self._dark_since = None
            return self._batch(consumer, messages, advanced)
        if advanced:
            return Batch(nothing(self.config.encoding), self._advance(consumer, advanced))
        self._end_or_trouble()
        return None

    def _fetch(self, consumer: Consumer, wanted: int, timeout: float) -> list[Message]:
        """consume() waits for all that it is asked for; so take what is there, and only wait if that is nothing."""
        messages, self._held = self._held, []
        messages += consumer.consume(max(1, wanted - len(messages)), 0)
        if not messages and timeout > 0:
            messages += consumer.consume(1, timeout)
        if messages and (short := wanted - len(messages)) > wanted // 2 and timeout > 0:
            messages += consumer.consume(short, min(_GATHER_SECONDS, timeout))
        return messages

    def _batch(self, consumer: Consumer, messages: list[Message], advanced: dict[int, int]) -> Batch | None:
        rows = envelope(messages, self.config.topic, self.config.encoding, self.config.wraps_text)
        lasts: dict[int, int] = {}
        runs = pc.run_end_encode(rows.column("partition"))
        offsets = rows.column("offset")
        for partition, end in zip(runs.values.to_pylist(), runs.run_ends.to_pylist(), strict=True):
            lasts[partition] = offsets[end - 1].as_py() + 1
        if self._bounds.reached_by(lasts):
            rows = self._bounds.cut(rows)
        # The end of a partition comes after its records, so it is the later one of the two.
        lasts |= {partition: max(offset, lasts.get(partition, offset)) for partition, offset in advanced.items()}
        checkpoint = self._advance(consumer, lasts)
        return Batch(rows, checkpoint) if checkpoint else None

    def _advance(self, consumer: Consumer, offsets: dict[int, int]) -> Checkpoint:
        """Take note of what was read; returns the checkpoint. A partition that reached its bound is paused there."""
        checkpoint = Checkpoint()
        for partition, offset in offsets.items():
            position = self._bounds.clamp(partition, offset)
            before = self._positions.get(partition)
            if before is not None and position >= before and not self._bounds.done(partition):
                self._positions[partition] = position
                checkpoint[split_of(self.config.topic, partition)] = position
                if self._bounds.finish(partition, position):
                    consumer.pause(self._assigned([partition]))
        return checkpoint

    def _notice(self, message: Message, error: KafkaError, advanced: dict[int, int]) -> None:
        code, partition = error.code(), message.partition()
        if code == KafkaError._PARTITION_EOF:
            # All below this offset is delivered or holds no records: control records, aborted or compacted ones.
            offset = message.offset()
            if partition is not None and offset is not None and self._news(partition, offset):
                advanced[partition] = offset
            return
        if code == KafkaError._MAX_POLL_EXCEEDED:
            raise Retryable(f"{self._subject()}: {error.str()}")
        where = f"partition {message.topic()}:{partition}" if (partition or 0) >= 0 else self._subject()
        if code == KafkaError._AUTO_OFFSET_RESET:
            where += f", position {self._positions.get(partition or 0)}"
        raise self._trouble.explain(error, where)

    def _news(self, partition: int, offset: int) -> bool:
        known = self._positions.get(partition)
        return (
            known is not None
            and not self._bounds.done(partition)
            and (offset > known or self._bounds.ends_at(partition, offset))
        )

    def _still_ours(self, consumer: Consumer, messages: list[Message], owned: set[int]) -> list[Message]:
        """The messages without those of partitions that were taken from us while they were collected.

        One that came back in the same call is read again from where it was claimed.
        """
        back = {p for p in self._gone if p in owned and p in self._positions}
        if back:
            places = [TopicPartition(self.config.topic, p, self._positions[p]) for p in back]
            if self._cooperative:
                consumer.incremental_unassign(places)
                consumer.incremental_assign(places)
            else:
                consumer.assign(self._assigned(self._positions))
        kept = [m for m in messages if m.partition() in self._positions and m.partition() not in back]
        return kept if self._cooperative or not back else []

    def _end_or_trouble(self) -> None:
        if self._trouble.refused is not None:
            raise sorted_error(self._trouble.refused, self._subject())
        if self._bounds.bounded and all(map(self._bounds.done, self._positions)) and self._group_is_done():
            raise EndOfInput
        last = self._trouble.last
        if last is not None and last.code() == KafkaError._ALL_BROKERS_DOWN:
            self._trouble.last = None
            self._dark_since = self._dark_since or time.monotonic()
        if self._dark_since is not None and time.monotonic() - self._dark_since > _DARK_SECONDS:
            self._observer().partitions(self.config.topic)  # raises Retryable if it is still dark
            self._dark_since = None

    def _group_is_done(self) -> bool:
        """Whether the other members, too, have read what there was; before we ask we say so of our own partitions."""
        if self._drain is None or not self._drain.others(self._positions):
            return True
        if not self._settled:
            self._context.settle()
            self._settled = True
            self.acknowledge(Checkpoint({split_of(self.config.topic, p): at for p, at in self._positions.items()}))
        return self._drain.complete(self._positions)

    def keep_alive(self) -> None:
        """Serve rebalances; a message that turns up is kept for the next read."""
        consumer = self._open_consumer()
        if len(self._held) >= _HELD and not self._paused:
            consumer.pause(self._assigned(self._positions))
            self._paused = True
        message = consumer.poll(0)
        if message is not None:
            self._held.append(message)

    def acknowledge(self, checkpoint: Checkpoint) -> None:
        """Commit the group's offsets, for tools that show lag; nothing of ours depends on them once it has run."""
        if self.transactional_offsets or self._consumer is None:
            return
        places = [
            TopicPartition(self.config.topic, partition_of(split), position)
            for split, position in checkpoint.items()
            if partition_of(split) in self._positions
        ]
        if places:
            try:
                self._consumer.commit(offsets=places, asynchronous=True)
            except KafkaException as error:
                log.debug("offsets of group '%s' were not committed: %s", self._group, error)

    # --- ownership, called by librdkafka within consume() and poll()

    @property
    def _cooperative(self) -> bool:
        return self.config.group_protocol == "consumer" or self.config.assignment == "cooperative-sticky"

    def _on_assign(self, consumer: Consumer, places: list[TopicPartition]) -> None:
        if self._closing:
            return
        self._settled = False
        claimed = self._claim(consumer, [place.partition for place in places])
        if self._cooperative:
            consumer.incremental_assign(claimed)
        else:
            consumer.assign(claimed)

    def _on_revoke(self, consumer: Consumer, places: list[TopicPartition]) -> None:
        partitions = [place.partition for place in places if place.partition in self._positions]
        try:
            if partitions and not self._closing:
                self._drop_held(partitions)
                self._context.revoked([split_of(self.config.topic, partition) for partition in partitions])
        finally:
            self._unassign(consumer, places)

    def _on_lost(self, consumer: Consumer, places: list[TopicPartition]) -> None:
        partitions = [place.partition for place in places if place.partition in self._positions]
        try:
            if partitions and not self._closing:
                self._drop_held(partitions)
                self._context.lost([split_of(self.config.topic, partition) for partition in partitions])
        finally:
            self._unassign(consumer, places)

    def _drop_held(self, partitions: Sequence[int]) -> None:
        self._held = [message for message in self._held if message.partition() not in partitions]

    def _unassign(self, consumer: Consumer, places: list[TopicPartition]) -> None:
        for place in places:
            self._positions.pop(place.partition, None)
            self._bounds.forget(place.partition)
            self._gone.add(place.partition)
        if self._cooperative and self._grouped:
            consumer.incremental_unassign(places)
        else:
            consumer.unassign()

    def _claim(self, consumer: Consumer, partitions: Sequence[int]) -> list[TopicPartition]:
        """Claim partitions; returns where to read them from."""
        if not partitions:
            return []
        topic = self.config.topic
        found = self._context.claim([split_of(topic, partition) for partition in partitions])
        starts = {p: int(found[split_of(topic, p)]) for p in partitions if split_of(topic, p) in found}
        unknown = [partition for partition in partitions if partition not in starts]
        if unknown:
            starts |= self._first_positions(consumer, unknown)
        self._positions |= starts
        self._bounds.claimed(starts, self._observer().ends(topic, partitions) if self._context.drain else {})
        return [TopicPartition(topic, partition, starts[partition]) for partition in partitions]

    def _first_positions(self, consumer: Consumer, partitions: Sequence[int]) -> dict[int, int]:
        """Where to begin in partitions that were never committed: the group's offset, else the configured start."""
        topic = self.config.topic
        places = consumer.committed([TopicPartition(topic, p) for p in partitions], timeout=_REQUEST_SECONDS)
        found = {place.partition: place.offset for place in places if place.offset >= 0}
        if fresh := [partition for partition in partitions if partition not in found]:
            found |= self.beginnings(fresh)
        return found

    def beginnings(self, partitions: Sequence[int]) -> dict[int, int]:
        """The offsets that `start` means now."""
        cluster = self._observer()
        look = cluster.starts if self.config.start == "oldest" else cluster.ends
        return look(self.config.topic, partitions)

    # --- looking on, from any thread

    def splits(self) -> Sequence[str]:
        """The topic's partitions now."""
        topic = self.config.topic
        return [split_of(topic, partition) for partition in self._observer().partitions(topic)]

    def lag(self, checkpoint: Checkpoint) -> int | None:
        """Offsets up to the end of the last finished transaction; control records count, so it is an upper bound.

        A partition that the checkpoint does not know counts from the group's offset, else from the configured start.
        """
        positions = {partition_of(split): int(position) for split, position in checkpoint.items()}
        return lag(self._observer(), self.config.topic, self._group, positions, self.beginnings)

    def _observer(self) -> Cluster:
        cluster = self._cluster
        if cluster is None:
            cluster = self._cluster = Cluster(self.config)
        return cluster

    # --- small things

    def _assigned(self, partitions: Iterable[int]) -> list[TopicPartition]:
        return [TopicPartition(self.config.topic, p, self._positions[p]) for p in partitions]

    def _open_consumer(self) -> Consumer:
        if self._consumer is None:
            raise RuntimeError("the source is not open")
        return self._consumer

    def _subject(self) -> str:
        return f"topic '{self.config.topic}' at {', '.join(self.config.brokers)}"
