"""What can be configured about Kafka."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from airflow_provider_connect.connectors.kafka.access import Property, Sasl, Tls
from airflow_provider_connect.connectors.kafka.formats import ReadFormat, WriteFormat
from airflow_provider_connect.connectors.kafka.topics import Start, TopicName
from airflow_provider_connect.engine.config import Config, FromConnection, SinkConfig, spec_key

_TRANSLATED = {"bootstrap.servers": "brokers", "group.id": "consumer_group"}
_OLDEST = ("earliest", "beginning", "smallest")
_NEWEST = ("latest", "end", "largest")

_OWNED = {
    "acks": "it is always 'all'",
    "request.required.acks": "it is always 'all'",
    "compression.type": "use `compression`",
    "compression.codec": "use `compression`",
    "enable.auto.commit": "offsets are committed after delivery",
    "enable.auto.offset.store": "offsets are committed after delivery",
    "enable.idempotence": "it is always on",
    "enable.partition.eof": "it is needed to see the end of a partition",
    "group.protocol": "use `groupProtocol`",
    "isolation.level": "it is always 'read_committed'",
    "linger.ms": "use `lingerMs`",
    "metadata.broker.list": "use `brokers`",
    "partition.assignment.strategy": "use `assignment`",
    "queue.buffering.max.ms": "use `lingerMs`",
    "transaction.timeout.ms": "use `transactionTimeoutSeconds`",
    "transactional.id": "it is made from the flow's name",
}
"""librdkafka properties that the guarantees depend on, and why or how instead."""

_HARMLESS = {"enable.auto.commit": ("false", "False", False), "isolation.level": ("read_committed",)}


def _split(value: Any) -> Any:
    """A list of brokers may be written with commas."""
    return [part for text in value.split(",") if (part := text.strip())] if isinstance(value, str) else value


class KafkaConfig(Config):
    """What source and sink have in common: where Kafka is, and how to get in."""

    brokers: Annotated[list[str], FromConnection("host", "Bootstrap servers"), BeforeValidator(_split)] = Field(
        min_length=1, examples=["kafka1:9092,kafka2:9092"]
    )
    """Addresses `host:port` of some brokers, as a list or with commas between; the others are found through them."""
    tls: Tls | None = None
    """Speak TLS, with these certificates; `{}` means TLS with the system's."""
    sasl: Sasl | None = None
    """Authenticate with user name and password, or with a token."""
    properties: Annotated[
        dict[str, Property], FromConnection("extra.properties", "librdkafka properties", whole_extra_of="kafka")
    ] = Field(default_factory=dict, repr=False)
    """More librdkafka properties, such as `client.rack`; those that the guarantees depend on are refused.
    `bootstrap.servers`, `group.id` and `auto.offset.reset` are understood, as in Airflow's own Kafka connections,
    whose extra is taken as properties."""

    @model_validator(mode="before")
    @classmethod
    def _translate(cls, data: Any) -> Any:
        """The properties that have a field of their own become that field."""
        properties = data.get("properties") if isinstance(data, dict) else None
        if not isinstance(properties, dict):
            return data
        data, properties = dict(data), dict(properties)
        for name, field in _TRANSLATED.items():
            value = properties.pop(name, None)
            if value is None or field not in cls.model_fields:
                continue
            alias = cls.model_fields[field].alias or field
            if field not in data and alias not in data:
                data[field] = value
        reset = str(properties.pop("auto.offset.reset", "")).lower()
        if "start" in cls.model_fields and "start" not in data and reset in (*_OLDEST, *_NEWEST):
            data["start"] = "oldest" if reset in _OLDEST else "newest"
        data["properties"] = properties
        return data

    @field_validator("properties")
    @classmethod
    def _not_ours(cls, properties: dict[str, Property]) -> dict[str, Property]:
        for name, value in properties.items():
            if name in _OWNED and value not in _HARMLESS.get(name, ()):
                raise ValueError(f"'{name}' cannot be set: {_OWNED[name]}")
        return {name: value for name, value in properties.items() if name not in _OWNED}

    @model_validator(mode="after")
    def _either(self) -> KafkaConfig:
        own = {"tls": ("ssl.", "enable.ssl."), "sasl": ("sasl.",)}
        for field, prefixes in own.items():
            twice = [name for name in self.properties if name.startswith(prefixes)]
            if getattr(self, field) is not None and twice:
                raise ValueError(f"'properties.{twice[0]}' and '{field}' are two ways to say the same; keep one")
        return self


class KafkaSourceConfig(ReadFormat, KafkaConfig):
    """What to read from topics, and how."""

    topic: TopicName | None = None
    """Name of the topic; or use `topics` or `topicPattern`."""
    topics: list[TopicName] | None = Field(default=None, min_length=1)
    """Names of several topics."""
    topic_pattern: str | None = Field(default=None, min_length=1, examples=["orders-.*"])
    """Regular expression (Python's) for the whole names of topics. New ones that match are found within seconds, and
    read from `start` on; topics that begin with `__` are left out."""
    consumer_group: str | None = Field(default=None, min_length=1)
    """Consumer group whose members share the partitions. Default: the flow's name."""
    start: Start = "oldest"
    """Where to begin in a partition that neither the flow nor its consumer group has read before: `oldest`, `newest`,
    an ISO timestamp, `{timestamp: …}`, or `{positions: {"topic:0": 42}}`."""
    out_of_range: Literal["fail", "oldest"] = "fail"
    """What to do when the position has been deleted by the topic's retention: stop, or go on at the oldest record."""
    group_protocol: Literal["classic", "consumer"] = "classic"
    """Protocol of the consumer group; `consumer` is KIP-848 (Kafka 4), where the brokers assign the partitions."""
    assignment: Literal["cooperative-sticky", "range", "roundrobin"] = "cooperative-sticky"
    """How the classic protocol assigns partitions. All members of a group must use the same."""

    @field_validator("topic_pattern")
    @classmethod
    def _regular(cls, value: str | None) -> str | None:
        try:
            re.compile(value or "")
        except re.error as error:
            raise ValueError(f"no regular expression: {error}") from None
        return value

    @model_validator(mode="after")
    def _which_topics(self) -> KafkaSourceConfig:
        given = [name for name in ("topic", "topics", "topic_pattern") if getattr(self, name)]
        if len(given) != 1:
            found = f", but there are {' and '.join(f'`{spec_key(name)}`' for name in given)}" if given else ""
            raise ValueError(f"needs exactly one of `topic`, `topics` and `topicPattern`{found}")
        return self


class KafkaSinkConfig(WriteFormat, KafkaConfig, SinkConfig):
    """Where to write, and how surely."""

    topic: str | None = Field(
        default=None,
        min_length=1,
        max_length=249,
        pattern=r"^[A-Za-z0-9._-]*(\{[^{}]+\}[A-Za-z0-9._-]*)*$",
        examples=["orders", "orders-{country}", "{customer.country}.orders"],
    )
    """Name of the topic, or a template with fields of the record in braces (`orders-{country}`). A record whose topic
    has no valid name, begins with `__`, or is not there (see `createTopic`), is refused as an invalid record."""
    topic_field: str | None = Field(default=None, min_length=1)
    """Field of the record that holds the name of its topic; instead of `topic`."""
    key_field: str | None = Field(default=None, min_length=1)
    """Field of the record that becomes its key, as plain text; null where there is none. Without, records keep the key
    they came with. The partition follows from the key as with the Java client."""
    key_fields: list[str] | None = Field(default=None, min_length=1)
    """Fields of the record that together become its key, as a JSON object in this order; instead of `keyField`."""
    guarantee: Literal["exactly-once", "at-least-once"] = "exactly-once"
    """`exactly-once` writes transactions, which readers see whole if they read `read_committed` (librdkafka's default,
    but not the Java client's); `at-least-once` writes without, and may repeat records after a crash."""
    compression: Literal["none", "gzip", "snappy", "lz4", "zstd"] = "lz4"
    """Compression of the records."""
    linger_ms: int = Field(default=5, ge=0, le=900_000)
    """Milliseconds to wait for more records before a request is sent."""
    create_topic: bool = False
    """Create topics that are not there."""
    partitions: int = Field(default=-1, ge=-1)
    """Partitions of a topic that is created. -1: the brokers' default."""
    replication_factor: int = Field(default=-1, ge=-1, le=32_767)
    """Replicas of a topic that is created. -1: the brokers' default."""
    transaction_timeout_seconds: int = Field(default=60, ge=1)
    """Seconds until the brokers abort an open transaction. The brokers limit it (`transaction.max.timeout.ms`)."""
    checkpoint_topic: TopicName = "__airflow_connect_checkpoints"
    """Compacted topic that holds the checkpoints, in the transactions of their records; made when needed, with one
    partition. A source on the same Kafka cluster keeps them in its consumer group's offsets instead."""
    checkpoint_replication: int = Field(default=-1, ge=-1, le=32_767)
    """Replicas of a checkpoint topic that is made. -1: the brokers' default."""

    @model_validator(mode="after")
    def _routed(self) -> KafkaSinkConfig:
        if bool(self.topic) == bool(self.topic_field):
            raise ValueError("needs either `topic` or `topicField`")
        if self.key_field and self.key_fields:
            raise ValueError("`keyField` and `keyFields` are two ways to say the same; keep one")
        names = {"partitions": self.partitions, "replicationFactor": self.replication_factor}
        for name, value in names.items():
            if value == 0:
                raise ValueError(f"`{name}` must be at least 1, or -1 for the brokers' default")
            if value > 0 and not self.create_topic:
                raise ValueError(f"`{name}` is for topics that are created; set `createTopic: true`")
        many = self.topic_field or "{" in (self.topic or "")
        if many and self.format != "json" and self.schema_registry and self.subject_names != "record":
            raise ValueError("topics from fields have schemas of their record's name; set `subjectNames: record`")
        return self

    @model_validator(mode="after")
    def _in_time(self) -> KafkaSinkConfig:
        if self.guarantee == "exactly-once" and self.batch_flush_interval_seconds >= self.transaction_timeout_seconds:
            raise ValueError(
                f"transactionTimeoutSeconds ({self.transaction_timeout_seconds}) must be longer than "
                f"batchFlushIntervalSeconds ({self.batch_flush_interval_seconds:g}), else transactions time out"
            )
        return self
