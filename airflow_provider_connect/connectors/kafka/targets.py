"""Targets: the topics that a sink writes: looked up, created where that is wanted, and what each of them refuses."""

from __future__ import annotations

import time

import pyarrow as pa
import pyarrow.compute as pc
from confluent_kafka import KafkaException
from confluent_kafka.admin import NewTopic  # type: ignore[attr-defined]

from airflow_provider_connect.connectors.kafka.client import Cluster
from airflow_provider_connect.connectors.kafka.config import KafkaSinkConfig
from airflow_provider_connect.connectors.kafka.errors import E, sorted_error
from airflow_provider_connect.connectors.kafka.limits import TopicLimits
from airflow_provider_connect.connectors.kafka.routing import Routing
from airflow_provider_connect.engine.errors import Fatal, InvalidRecord

_CREATE_SECONDS = 10.0
_MISSING_SECONDS = 5.0
"""How long a topic that was not there is taken not to be there."""
_REQUEST_BYTES = 1_048_588
"""The largest request to topics that are not known yet: the brokers' default."""


class Targets:
    """Addresses records. The calls of one object come from one thread; they may look at the cluster."""

    def __init__(self, cluster: Cluster, config: KafkaSinkConfig) -> None:
        """Look at the topic, if there is only one. Made if the configuration asks for it; Fatal if it is not there."""
        self._cluster, self._config = cluster, config
        self._routing = Routing(config)
        self._known: dict[str, TopicLimits] = {}
        self._missing: dict[str, float] = {}
        self.largest = int(config.properties.get("message.max.bytes", _REQUEST_BYTES))
        """Bytes of the largest request that any of the topics takes."""
        if (topic := self._routing.topic) is not None:
            if not self._there(topic):
                raise Fatal(
                    f"there is no topic '{topic}' at {', '.join(config.brokers)}; create it, or set `createTopic: true`"
                )
            self._known[topic] = limits = TopicLimits.of(cluster.topic_settings(topic))
            self.largest = limits.message_bytes

    def address(self, rows: pa.RecordBatch) -> pa.RecordBatch:
        """Envelope rows with their keys and topics; InvalidRecord with those that no topic takes."""
        if self._config.format == "json":  # else the codec has done it, while the fields could be read
            rows = self._routing.apply(rows)
        if (topic := self._routing.topic) is not None:
            self._known[topic].check(rows)
            return rows
        refused: dict[int, str] = {}
        names = rows.column("topic")
        for name in pc.unique(names).to_pylist():
            here = pc.indices_nonzero(pc.equal(names, name))
            limits = self._limits(name)
            if limits is None:
                why = f"there is no topic '{name}'; create it, or set `createTopic: true`"
                refused |= dict.fromkeys(here.to_pylist(), why)
                continue
            try:
                limits.check(rows.take(here) if len(here) < len(rows) else rows)
            except InvalidRecord as error:
                refused |= {here[index].as_py(): why for index, why in (error.rows or {}).items()}
        if refused:
            first = min(refused)
            raise InvalidRecord(f"{len(refused)} records refused; row {first}: {refused[first]}", rows=refused)
        return rows

    def _limits(self, topic: str) -> TopicLimits | None:
        """What a topic takes, or None where there is none."""
        if topic not in self._known and self._missing.get(topic, 0.0) < time.monotonic():
            if self._there(topic):
                self._known[topic] = TopicLimits.of(self._cluster.topic_settings(topic)).at_most(self.largest)
            else:
                self._missing[topic] = time.monotonic() + _MISSING_SECONDS
        return self._known.get(topic)

    def _there(self, topic: str) -> bool:
        """Whether there is the topic; made now, if that is wanted."""
        if self._cluster.exists(topic, seconds=0.0 if self._config.create_topic else 0.5):
            return True
        if not self._config.create_topic:
            return False
        new = NewTopic(topic, self._config.partitions, self._config.replication_factor)
        created = self._cluster.admin.create_topics([new], request_timeout=_CREATE_SECONDS)[topic]
        try:
            created.result(_CREATE_SECONDS)
        except KafkaException as error:
            if error.args[0].code() != E.TOPIC_ALREADY_EXISTS:
                raise sorted_error(error.args[0], f"creating topic '{topic}'") from error
        return True


def check_targets(config: KafkaSinkConfig) -> str:
    """Ask whether the topic is there; one line on what answered."""
    cluster, routing = Cluster(config), Routing(config)
    where = f"Kafka at {', '.join(config.brokers)} answers"
    if routing.topic is None:
        found = f"{routing.label} among {len(cluster.topics())}"
    elif cluster.exists(routing.topic):
        count = len(cluster.partitions(routing.topic))
        found = f"{routing.label} has {count} partition{'s' if count != 1 else ''}"
    elif config.create_topic:
        found = f"{routing.label} will be created"
    else:
        raise Fatal(f"{where}, but there is no topic '{routing.topic}'; create it, or set `createTopic: true`")
    return f"{where}; {found}{config.check_registry()}"
