"""KafkaSource: the partitions of topics, shared with the other members of a consumer group or dealt out."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Sequence

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from airflow_provider_connect.connectors.kafka.bounds import Bounds
from airflow_provider_connect.connectors.kafka.client import Cluster, Trouble, consumer_properties, introduce
from airflow_provider_connect.connectors.kafka.config import KafkaSourceConfig
from airflow_provider_connect.connectors.kafka.errors import classified, sorted_error
from airflow_provider_connect.connectors.kafka.progress import ASK_SECONDS, GroupDrain, lag
from airflow_provider_connect.connectors.kafka.records import envelope, next_offsets, nothing
from airflow_provider_connect.connectors.kafka.splits import place_of, split_of, split_of_message, splits_of
from airflow_provider_connect.connectors.kafka.topics import Topics, beginnings, check_start
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
_LOOK_SECONDS = 10.0
"""How often it is looked for new topics that match a pattern."""


class KafkaSource(Source[KafkaSourceConfig]):
    """Reads topics. A split is `topic:partition`, its position the next offset.

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
        self._topics = Topics(config)
        self._grouped = True
        self._clear()

    def _clear(self) -> None:
        self._names: list[str] = []
        self._look_at = time.monotonic() + _LOOK_SECONDS
        self._positions: dict[str, int] = {}
        self._held: list[Message] = []
        self._paused = False
        self._closing = False
        self._gone: set[str] = set()
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
        self._bounds = Bounds(context.until, drain=context.drain)
        self._trouble = Trouble()
        # First of all: it connects while the topics are looked up.
        self._consumer = consumer = Consumer(consumer_properties(self.config, group, self._trouble), logger=log)
        self._names = self._topics.names(self._observer())
        splits = self._observer().splits(self._names)
        check_start(self.config.start, splits)
        if self._grouped:
            if context.drain:
                self._drain = GroupDrain(self._observer(), group, splits)
            introduce(consumer, splits)
            context.gather()
            self._subscribe(consumer)
            return
        if missing := sorted(set(context.until) - set(splits)):
            raise Fatal(f"{self._topics.label} has no {', '.join(missing)} any more; was it made anew?")
        if mine := dealt(context, splits):
            introduce(consumer, mine)
            consumer.assign(self._claim(consumer, mine))

    def _subscribe(self, consumer: Consumer) -> None:
        if self._names:
            consumer.subscribe(self._names, on_assign=self._on_assign, on_revoke=self._on_revoke, on_lost=self._on_lost)

    def _look(self, consumer: Consumer) -> None:
        """Look for topics that are new, or gone."""
        self._look_at = time.monotonic() + _LOOK_SECONDS
        try:
            names = self._topics.names(self._observer())
            if names == self._names:
                return
            splits = self._observer().splits(names)
        except Retryable as error:
            log.info("looking for new topics failed, and is tried again: %s", error)
            return
        self._names = names
        if self._grouped:
            self._subscribe(consumer)
        elif self._context.share.count > 1:
            log.warning("this run goes on without new topics: its splits were dealt out when it began")
        elif fresh := [split for split in splits if split not in self._positions]:
            self._claim(consumer, fresh)
            self._held = []  # what is assigned anew is read again from its position
            consumer.assign(self._assigned(self._positions))

    def close(self) -> None:
        """Leave the group and free the clients. Nothing is committed."""
        self._closing = True
        consumer, self._consumer = self._consumer, None
        self._cluster = None
        self._held = []
        if consumer is not None:
            consumer.close()

    def check(self) -> str:
        """Ask for the partitions."""
        cluster = Cluster(self.config)
        splits = cluster.splits(self._topics.names(cluster))
        return f"{self._topics.answer(splits)}{self.config.check_registry()}"

    # --- reading

    def read(self, max_records: int, timeout: float) -> Batch | None:
        """What has arrived, at once if there is something; see Source."""
        consumer = self._open_consumer()
        if self._paused:
            consumer.resume(self._assigned(p for p in self._positions if not self._bounds.done(p)))
            self._paused = False
        if self._topics.growing and not self._bounds.bounded and time.monotonic() >= self._look_at:
            self._look(consumer)
        owned = set(self._positions)
        self._gone.clear()
        messages = self._fetch(consumer, max_records, min(timeout, ASK_SECONDS) if self._settled else timeout)
        if self._gone:
            messages = self._still_ours(consumer, messages, owned)
        errors = list(map(Message.error, messages))
        advanced: dict[str, int] = {}
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

    def _batch(self, consumer: Consumer, messages: list[Message], advanced: dict[str, int]) -> Batch | None:
        rows = envelope(messages, self._topics.one, self.config.encoding, self.config.wraps_text)
        lasts = next_offsets(rows)
        if self._bounds.reached_by(lasts):
            rows = self._bounds.cut(rows)
        # The end of a partition comes after its records, so it is the later one of the two.
        lasts |= {split: max(offset, lasts.get(split, offset)) for split, offset in advanced.items()}
        checkpoint = self._advance(consumer, lasts)
        return Batch(rows, checkpoint) if checkpoint else None

    def _advance(self, consumer: Consumer, offsets: dict[str, int]) -> Checkpoint:
        """Take note of what was read; returns the checkpoint. A partition that reached its bound is paused there."""
        checkpoint = Checkpoint()
        for split, offset in offsets.items():
            position = self._bounds.clamp(split, offset)
            before = self._positions.get(split)
            if before is not None and position >= before and not self._bounds.done(split):
                self._positions[split] = checkpoint[split] = position
                if self._bounds.finish(split, position):
                    consumer.pause(self._assigned([split]))
        return checkpoint

    def _notice(self, message: Message, error: KafkaError, advanced: dict[str, int]) -> None:
        code, split = error.code(), split_of_message(message)
        if code == KafkaError._PARTITION_EOF:
            # All below this offset is delivered or holds no records: control records, aborted or compacted ones.
            offset = message.offset()
            if offset is not None and self._news(split, offset):
                advanced[split] = offset
            return
        if code == KafkaError._MAX_POLL_EXCEEDED:
            raise Retryable(f"{self._topics.label}: {error.str()}")
        where = f"partition {split}" if (message.partition() or 0) >= 0 else self._topics.label
        if code == KafkaError._AUTO_OFFSET_RESET:
            where += f", position {self._positions.get(split)}"
        raise self._trouble.explain(error, where)

    def _news(self, split: str, offset: int) -> bool:
        known = self._positions.get(split)
        return (
            known is not None
            and not self._bounds.done(split)
            and (offset > known or self._bounds.ends_at(split, offset))
        )

    def _still_ours(self, consumer: Consumer, messages: list[Message], owned: set[str]) -> list[Message]:
        """The messages without those of partitions that were taken from us while they were collected.

        One that came back in the same call is read again from where it was claimed.
        """
        back = {split for split in self._gone if split in owned and split in self._positions}
        if back:
            if self._cooperative:
                places = self._assigned(back)
                consumer.incremental_unassign(places)
                consumer.incremental_assign(places)
            else:
                consumer.assign(self._assigned(self._positions))
        kept = [m for m in messages if (split := split_of_message(m)) in self._positions and split not in back]
        return kept if self._cooperative or not back else []

    def _end_or_trouble(self) -> None:
        if self._trouble.refused is not None:
            raise sorted_error(self._trouble.refused, self._topics.label)
        if self._bounds.bounded and all(map(self._bounds.done, self._positions)) and self._group_is_done():
            raise EndOfInput
        last = self._trouble.last
        if last is not None and last.code() == KafkaError._ALL_BROKERS_DOWN:
            self._trouble.last = None
            self._dark_since = self._dark_since or time.monotonic()
        if self._dark_since is not None and time.monotonic() - self._dark_since > _DARK_SECONDS:
            self._observer().splits(self._names)  # raises Retryable if it is still dark
            self._dark_since = None

    def _group_is_done(self) -> bool:
        """Whether the other members, too, have read what there was; before we ask we say so of our own partitions."""
        if self._drain is None or not self._drain.others(self._positions):
            return True
        if not self._settled:
            self._context.settle()
            self._settled = True
            self.acknowledge(Checkpoint(self._positions))
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
        places = [place_of(split, position) for split, position in checkpoint.items() if split in self._positions]
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
        claimed = self._claim(consumer, splits_of(places))
        if self._cooperative:
            consumer.incremental_assign(claimed)
        else:
            consumer.assign(claimed)

    def _on_revoke(self, consumer: Consumer, places: list[TopicPartition]) -> None:
        self._part(consumer, places, self._context.revoked)

    def _on_lost(self, consumer: Consumer, places: list[TopicPartition]) -> None:
        self._part(consumer, places, self._context.lost)

    def _part(self, consumer: Consumer, places: list[TopicPartition], tell: Callable[[list[str]], None]) -> None:
        splits = [split for split in splits_of(places) if split in self._positions]
        try:
            if splits and not self._closing:
                self._held = [message for message in self._held if split_of_message(message) not in splits]
                tell(splits)
        finally:
            self._unassign(consumer, places)

    def _unassign(self, consumer: Consumer, places: list[TopicPartition]) -> None:
        for split in splits_of(places):
            self._positions.pop(split, None)
            self._bounds.forget(split)
            self._gone.add(split)
        if self._cooperative and self._grouped:
            consumer.incremental_unassign(places)
        else:
            consumer.unassign()

    def _claim(self, consumer: Consumer, splits: Sequence[str]) -> list[TopicPartition]:
        """Claim splits; returns where to read them from."""
        if not splits:
            return []
        found = self._context.claim(splits)
        starts = {split: int(found[split]) for split in splits if split in found}
        if unknown := [split for split in splits if split not in starts]:
            starts |= self._first_positions(consumer, unknown)
        self._positions |= starts
        self._bounds.claimed(starts, self._observer().ends(splits) if self._context.drain else {})
        return self._assigned(splits)

    def _first_positions(self, consumer: Consumer, splits: Sequence[str]) -> dict[str, int]:
        """Where to begin in splits that were never committed: the group's offset, else the configured start."""
        places = consumer.committed(list(map(place_of, splits)), timeout=_REQUEST_SECONDS)
        found = {split_of(place.topic, place.partition): place.offset for place in places if place.offset >= 0}
        return found | self.beginnings([split for split in splits if split not in found])

    def beginnings(self, splits: Sequence[str]) -> dict[str, int]:
        """The offsets that `start` means now."""
        return beginnings(self._observer(), self.config.start, splits)

    # --- looking on, from any thread

    def splits(self) -> Sequence[str]:
        """The partitions there are now."""
        return self._observer().splits(self._topics.names(self._observer()))

    def lag(self, checkpoint: Checkpoint) -> int | None:
        """Offsets up to the end of the last finished transaction; control records count, so it is an upper bound.

        A split that the checkpoint does not know counts from the group's offset, else from the configured start.
        """
        return lag(self._observer(), self.splits(), self._group, checkpoint, self.beginnings)

    def _observer(self) -> Cluster:
        cluster = self._cluster
        if cluster is None:
            cluster = self._cluster = Cluster(self.config)
        return cluster

    # --- small things

    def _assigned(self, splits: Iterable[str]) -> list[TopicPartition]:
        return [place_of(split, self._positions[split]) for split in splits]

    def _open_consumer(self) -> Consumer:
        if self._consumer is None:
            raise RuntimeError("the source is not open")
        return self._consumer
