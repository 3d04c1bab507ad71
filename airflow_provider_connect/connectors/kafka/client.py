"""librdkafka: its properties from our configuration, and its metadata calls."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import Future
from typing import Any, TypeVar

from confluent_kafka import (
    Consumer,
    IsolationLevel,
    KafkaError,
    KafkaException,
    TopicPartition,
)
from confluent_kafka.admin import (  # type: ignore[attr-defined]
    AdminClient,
    ClusterMetadata,
    ConfigResource,
    OffsetSpec,
    ResourceType,
)

from airflow_provider_connect.connectors.kafka.access import (
    listens,
    maybe_wrong_access,
    refused_configuration,
    security_properties,
)
from airflow_provider_connect.connectors.kafka.config import KafkaConfig, KafkaSinkConfig, KafkaSourceConfig
from airflow_provider_connect.connectors.kafka.errors import NO_LEADER, UnknownTopic, sorted_error
from airflow_provider_connect.connectors.kafka.splits import place_of, split_of, topic_of
from airflow_provider_connect.engine.errors import ConnectError, Fatal, Retryable

log = logging.getLogger(__name__)

T = TypeVar("T")

_NEW_TOPIC_SECONDS = 0.5
_REQUEST_SECONDS = 10.0
_ASK_SECONDS = 0.5
"""How long the first look waits until it asks whether the brokers have refused us; each further one twice as long."""
_MUTE = (
    "listens, but does not answer as Kafka does here: it may want TLS or SASL, or other than configured; check `tls`, "
    "`sasl` and the port in `brokers`"
)
_UNREACHABLE = "check `brokers`, and whether they are up"
CHECK_SECONDS = 5.0
"""How long a look whether the brokers are there may take."""


class Trouble:
    """What librdkafka's background threads reported: their errors never come back from a call.

    Give `note` as `error_cb`; it is called on the thread that polls. A call that then times out is explained by it.
    """

    def __init__(self) -> None:
        self.last: KafkaError | None = None
        self.refused: KafkaError | None = None
        """The brokers refused us, or we their certificate: nothing will work until a person has acted."""

    def note(self, error: KafkaError) -> None:
        """Remember an error."""
        if isinstance(sorted_error(error, ""), Fatal) and not error.fatal():
            self.refused = error
        if error.code() != KafkaError._ALL_BROKERS_DOWN or self.last is None:
            self.last = error

    def explain(self, error: KafkaError, doing: str, remedy: str = _UNREACHABLE) -> ConnectError:
        """The ConnectError for `error`, by what was reported before if it is only a time-out; then with `remedy`."""
        if self.refused is not None:
            return sorted_error(self.refused, doing)
        if error.code() in (KafkaError._TIMED_OUT, KafkaError._TRANSPORT):
            reason = f" ({self.last.str()})" if self.last is not None else ""
            return Retryable(f"{doing}: {error.str()}{reason}; {maybe_wrong_access(self.last or error) or remedy}")
        return sorted_error(error, doing)


def common_properties(config: KafkaConfig, trouble: Trouble | None = None) -> dict[str, Any]:
    """Where Kafka is and how to get in; the properties of every client."""
    properties: dict[str, Any] = {
        "bootstrap.servers": ",".join(config.brokers),
        "client.id": "airflow-connect",
        "socket.keepalive.enable": True,
        # Half of it is also how long a new client waits until it connects to a second broker.
        "reconnect.backoff.ms": 20,
        "reconnect.backoff.max.ms": 2_000,
        "log.connection.close": False,
    }
    if trouble is not None:
        properties["error_cb"] = trouble.note
    properties |= security_properties(config.tls, config.sasl, tuple(config.brokers))
    return properties | config.properties


def consumer_properties(config: KafkaSourceConfig, group: str, trouble: Trouble) -> dict[str, Any]:
    """For the consumer that reads records. The queue is bounded: 50,000 records or 8 MiB, whatever comes first."""
    properties: dict[str, Any] = {
        "group.id": group,
        "group.protocol": config.group_protocol,
        "enable.auto.commit": False,
        "enable.auto.offset.store": False,
        "enable.partition.eof": True,
        "isolation.level": "read_committed",
        # A position that is gone is an error, unless the configuration says otherwise.
        "auto.offset.reset": "error" if config.out_of_range == "fail" else "earliest",
        # After the queue was full librdkafka waits this long until it fetches again: 1 s costs half the throughput.
        "fetch.queue.backoff.ms": 10,
        "queued.min.messages": 50_000,
        "queued.max.messages.kbytes": 8_192,
        "fetch.wait.max.ms": 100,
    }
    if config.group_protocol == "classic":
        # A killed worker's partitions move after this; a live one answers from a thread of its own.
        properties["session.timeout.ms"] = 10_000
        # A member hears of a rebalance with its next heartbeat; until then the one that joins has nothing to do.
        properties["heartbeat.interval.ms"] = 500
        properties["partition.assignment.strategy"] = config.assignment
    return properties | common_properties(config, trouble)


def introduce(consumer: Consumer, splits: Sequence[str]) -> None:
    """Let a consumer find the splits' leaders and its group's coordinator, so that it then fetches and joins at once.

    Without, its first fetch may come a second later, and members that subscribe together do not join together.
    """
    for topic in sorted(set(map(topic_of, splits))):
        consumer.list_topics(topic, _REQUEST_SECONDS)
    if splits:
        consumer.committed(list(map(place_of, splits)), _REQUEST_SECONDS)


def producer_properties(config: KafkaSinkConfig, trouble: Trouble, limit: int) -> dict[str, Any]:
    """For the producer that writes records, none of them larger than `limit` bytes."""
    milliseconds = config.transaction_timeout_seconds * 1000
    return {
        "enable.idempotence": True,
        "acks": "all",
        "compression.type": config.compression,
        "linger.ms": config.linger_ms,
        "partitioner": "murmur2_random",  # the Java client's
        "message.max.bytes": limit,
        "message.timeout.ms": min(milliseconds, 60_000),
        "queue.buffering.max.messages": 100_000,
        "queue.buffering.max.kbytes": 64 * 1024,
        "delivery.report.only.error": True,
    } | common_properties(config, trouble)


class Cluster:
    """Metadata calls on a client of its own. Thread-safe; connects with the first call."""

    def __init__(self, config: KafkaConfig) -> None:
        self._config = config
        self._trouble = Trouble()
        self._group_clients: dict[tuple[str, bool], Consumer] = {}
        own = {"allow.auto.create.topics": False}  # else asking for a topic would make it
        try:
            self._admin = AdminClient({**common_properties(config, self._trouble), **own}, logger=log)
        except KafkaException as error:
            raise refused_configuration(error.args[0]) from error

    @property
    def admin(self) -> AdminClient:
        """The client itself."""
        return self._admin

    def cluster_id(self) -> str:
        """What the cluster calls itself."""
        asked = self._admin.describe_cluster(request_timeout=CHECK_SECONDS)
        return str(self._result(asked, f"Kafka at {', '.join(self._config.brokers)}").cluster_id)

    def partitions(self, topic: str, *, seconds: float = _NEW_TOPIC_SECONDS) -> list[int]:
        """The topic's partitions in order. UnknownTopic if there is none after so many seconds. Never creates it."""
        until = time.monotonic() + seconds
        doing = f"topic '{topic}' at {', '.join(self._config.brokers)}"
        while True:
            found = self._metadata(doing, topic).topics[topic]
            if found.error is None:
                return sorted(found.partitions)
            refused = self._trouble.explain(found.error, doing)
            if not isinstance(refused, UnknownTopic) or time.monotonic() > until:
                raise refused
            time.sleep(0.05)  # brokers hear of a topic a moment after it was made

    def _metadata(self, doing: str, topic: str | None = None) -> ClusterMetadata:
        """What the brokers say of one topic, or of all. Not `describe_topics`: it waits for a controller, which
        librdkafka's mock cluster never names."""
        until = time.monotonic() + CHECK_SECONDS
        patience = _ASK_SECONDS
        while True:
            try:
                if topic is None:
                    return self._admin.list_topics(timeout=patience)
                return self._admin.list_topics(topic, timeout=patience)
            except KafkaException as error:
                refused = self._explained(error.args[0], doing)
                left = until - time.monotonic()
                if not isinstance(refused, Retryable):
                    raise refused from error
                if left <= 0:
                    raise self._unanswered(error.args[0], doing) from error
                patience = min(2 * patience, left)

    def exists(self, topic: str, *, seconds: float = _NEW_TOPIC_SECONDS) -> bool:
        """Whether there is such a topic, after so many seconds at the latest."""
        try:
            return bool(self.partitions(topic, seconds=seconds))
        except UnknownTopic:
            return False

    def topic_settings(self, topic: str) -> dict[str, str]:
        """The topic's configuration; empty where we are not allowed to see it."""
        resource = ConfigResource(ResourceType.TOPIC, topic)
        asked = self._admin.describe_configs([resource], request_timeout=CHECK_SECONDS)[resource]
        try:
            return {name: entry.value for name, entry in asked.result(CHECK_SECONDS + 1.0).items()}
        except (KafkaException, TimeoutError) as error:
            log.debug("the settings of topic '%s' cannot be read: %s", topic, error)
            return {}

    def topics(self) -> list[str]:
        """The names of all topics that we may see, in order."""
        return sorted(self._metadata(f"topics at {', '.join(self._config.brokers)}").topics)

    def splits(self, topics: Iterable[str]) -> list[str]:
        """The partitions of the topics, in order. UnknownTopic as `partitions` raises it."""
        return [split_of(topic, partition) for topic in topics for partition in self.partitions(topic)]

    def ends(self, splits: Iterable[str], *, committed: bool = True) -> dict[str, int]:
        """The offset after the last record of each split; `committed`: before the first open transaction."""
        isolation = IsolationLevel.READ_COMMITTED if committed else IsolationLevel.READ_UNCOMMITTED
        return self._offsets(splits, OffsetSpec.latest(), isolation)  # type: ignore[no-untyped-call]

    def starts(self, splits: Iterable[str]) -> dict[str, int]:
        """The offset of the oldest record of each split."""
        return self._offsets(splits, OffsetSpec.earliest(), IsolationLevel.READ_UNCOMMITTED)  # type: ignore[no-untyped-call]

    def at(self, splits: Iterable[str], milliseconds: int) -> dict[str, int]:
        """The offset of the first record of each split that is not older than this; -1 where there is none."""
        spec = OffsetSpec.for_timestamp(milliseconds)
        return self._offsets(splits, spec, IsolationLevel.READ_UNCOMMITTED)

    def _offsets(self, splits: Iterable[str], spec: OffsetSpec, isolation: IsolationLevel) -> dict[str, int]:
        wanted = {place_of(split): spec for split in splits}
        if not wanted:
            return {}
        until = time.monotonic() + CHECK_SECONDS
        while True:
            asked = self._admin.list_offsets(wanted, isolation_level=isolation, request_timeout=CHECK_SECONDS)
            try:
                return {
                    split_of(place.topic, place.partition): int(future.result(CHECK_SECONDS + 1.0).offset)
                    for place, future in asked.items()
                }
            except KafkaException as error:
                reason = error.args[0]
                if reason.code() not in NO_LEADER or time.monotonic() > until:
                    topics = ", ".join(f"'{topic}'" for topic in sorted({place.topic for place in wanted}))
                    raise self._explained(reason, f"offsets of topic {topics}") from error
                # A new topic, or an election. librdkafka may keep its old answer for long, unless asked for all topics.
                time.sleep(0.05)
                self._admin.list_topics(timeout=CHECK_SECONDS)

    def group_offsets(
        self, group: str, splits: Iterable[str], *, stable_within: float | None = None
    ) -> dict[str, TopicPartition]:
        """The group's committed offsets with their metadata; splits without one are absent.

        `stable_within`: wait so many seconds for offsets in open transactions, then Retryable. Else they are not seen.
        """
        wanted = [place_of(split) for split in splits]
        if not wanted:
            return {}
        doing, stable = f"offsets of group '{group}'", stable_within is not None
        until = time.monotonic() + (stable_within or 0.0)
        while True:
            try:
                places = self._group_client(group, stable).committed(wanted, CHECK_SECONDS)
            except KafkaException as error:
                raise self._explained(error.args[0], doing) from error
            failed = next((place.error for place in places if place.error is not None), None)
            if failed is None:
                return {split_of(at.topic, at.partition): at for at in places if at.offset >= 0}
            if failed.code() != KafkaError.UNSTABLE_OFFSET_COMMIT or time.monotonic() > until:
                raise self._explained(failed, doing)
            time.sleep(0.02)

    def _group_client(self, group: str, stable: bool) -> Consumer:
        """A consumer that never joins the group. The admin client has a call for the same, which kills the process
        (librdkafka 2.16, a null pointer) when it has to look for the group's coordinator anew."""
        client = self._group_clients.get((group, stable))
        if client is None:
            own = {
                "group.id": group,
                "enable.auto.commit": False,
                "allow.auto.create.topics": False,
                "isolation.level": "read_committed" if stable else "read_uncommitted",
            }
            client = Consumer({**common_properties(self._config, self._trouble), **own}, logger=log)
            self._group_clients[(group, stable)] = client
        return client

    def _result(self, future: Future[T], doing: str) -> T:
        until = time.monotonic() + CHECK_SECONDS
        while True:
            try:
                return future.result(_ASK_SECONDS)
            except KafkaException as error:
                raise self._unanswered(error.args[0], doing) from error
            except TimeoutError as error:
                self._admin.poll(0)
                if self._trouble.refused is not None or time.monotonic() > until:
                    raise self._unanswered(KafkaError(KafkaError._TIMED_OUT), doing) from error

    def _unanswered(self, error: KafkaError, doing: str) -> ConnectError:
        """As `_explained`; where brokers never answered, by whether they listen at all."""
        self._admin.poll(0)
        listening = next(filter(listens, self._config.brokers), None)
        return self._trouble.explain(error, doing, f"{listening} {_MUTE}" if listening else _UNREACHABLE)

    def _explained(self, error: KafkaError, doing: str) -> ConnectError:
        self._admin.poll(0)  # hear what the background threads have to say about it
        return self._trouble.explain(error, doing)
