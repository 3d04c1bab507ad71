"""What a test sees of Kafka: where to connect, topics of its own, and records in and out."""

import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, Message, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

REQUEST_SECONDS = 30.0
Setting = str | int | float | bool


@dataclass(frozen=True)
class Record:
    """A record as it lies in a topic."""

    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, str | bytes | None], ...] = ()


@dataclass(frozen=True)
class Kafka:
    """A Kafka cluster that tests may use."""

    bootstrap_servers: str

    def unique_name(self, prefix: str = "topic") -> str:
        """A name for a topic, group or transactional id that no other test has."""
        return f"{prefix}-{uuid.uuid4().hex[:12]}"

    def create_topic(self, partitions: int = 1, *, name: str | None = None, **config: str) -> str:
        """Create a topic; `config` holds its settings with `_` for `.`. Returns its name."""
        topic = name or self.unique_name()
        settings = {key.replace("_", "."): value for key, value in config.items()}
        admin = self.admin()
        for creation in admin.create_topics([NewTopic(topic, partitions, 1, config=settings)]).values():
            creation.result(REQUEST_SECONDS)
        return topic

    def admin(self) -> AdminClient:
        """A client for anything else about topics and groups."""
        return AdminClient(self._client_config())

    def producer(self, **config: Setting) -> Producer:
        """A producer; `config` holds its settings with `_` for `.`."""
        return Producer({**self._client_config(), **{key.replace("_", "."): value for key, value in config.items()}})

    def produce(
        self, topic: str, records: Iterable[bytes | tuple[bytes | None, bytes | None]], partition: int = -1
    ) -> None:
        """Write records, values or pairs of key and value, and wait until the broker has them all."""
        failures: list[KafkaError] = []
        producer = self.producer()

        def delivered(error: KafkaError | None, _: Message) -> None:
            if error is not None:
                failures.append(error)

        for record in records:
            key, value = (None, record) if isinstance(record, bytes) else record
            while True:
                try:
                    producer.produce(topic, value, key, partition, on_delivery=delivered)
                    break
                except BufferError:
                    producer.poll(0.1)
            producer.poll(0)
        left = producer.flush(REQUEST_SECONDS)
        if failures or left:
            raise AssertionError(f"{len(failures) + left} records were not delivered to {topic}: {failures[:3]}")

    def consume_all(self, topic: str, *, committed_only: bool = True) -> list[Record]:
        """All records in the topic now, in the order of partition and offset."""
        consumer = Consumer(
            {
                **self._client_config(),
                "group.id": self.unique_name("reader"),
                "enable.auto.commit": False,
                "enable.partition.eof": True,
                "fetch.wait.max.ms": 10,  # the end of a partition shows only in an empty answer
                "isolation.level": "read_committed" if committed_only else "read_uncommitted",
            }
        )
        try:
            # Without knowing the partitions' leaders, the first fetch comes up to a second late.
            unfinished = set(consumer.list_topics(topic, REQUEST_SECONDS).topics[topic].partitions)
            consumer.assign([TopicPartition(topic, partition, OFFSET_BEGINNING) for partition in unfinished])
            records: list[Record] = []
            while unfinished:
                message = consumer.poll(REQUEST_SECONDS)
                if message is None:
                    raise AssertionError(f"no answer from {topic} within {REQUEST_SECONDS} s")
                error = message.error()
                if error is None:
                    records.append(_record(message))
                elif error.code() == KafkaError._PARTITION_EOF:
                    unfinished.discard(message.partition())
                else:
                    raise AssertionError(f"cannot read {topic}: {error}")
        finally:
            consumer.close()
        return sorted(records, key=lambda record: (record.partition, record.offset))

    def partitions(self, topic: str) -> set[int]:
        """The numbers of the topic's partitions."""
        return set(self.admin().list_topics(topic, timeout=REQUEST_SECONDS).topics[topic].partitions)

    def committed_offsets(self, topic: str, group: str) -> dict[int, int]:
        """The offset that the group has committed for each partition; partitions without one are left out."""
        consumer = Consumer({**self._client_config(), "group.id": group})
        try:
            wanted = [TopicPartition(topic, partition) for partition in sorted(self.partitions(topic))]
            found: Sequence[TopicPartition] = consumer.committed(wanted, timeout=REQUEST_SECONDS)
            return {place.partition: place.offset for place in found if place.offset >= 0}
        finally:
            consumer.close()

    def _client_config(self) -> dict[str, Setting]:
        # Half of this back-off is how long a new client waits before it connects to a second broker.
        return {"bootstrap.servers": self.bootstrap_servers, "reconnect.backoff.ms": 20}


def _record(message: Message) -> Record:
    partition, offset = message.partition(), message.offset()
    assert partition is not None
    assert offset is not None
    return Record(partition, offset, message.key(), message.value(), tuple(message.headers() or ()))
