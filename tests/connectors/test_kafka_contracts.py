"""The Kafka source and sinks keep their contracts."""

import json
from pathlib import Path
from typing import ClassVar

import pytest

import airflow_provider_connect.connectors.kafka as kafka_connector
from airflow_provider_connect.connectors.kafka import KafkaSink, KafkaSource, KafkaTransactionalSink
from airflow_provider_connect.connectors.kafka.config import KafkaSinkConfig, KafkaSourceConfig
from airflow_provider_connect.engine.batch import Checkpoint
from airflow_provider_connect.testing.crash import deaths
from airflow_provider_connect.testing.sink import Record, SinkContract
from airflow_provider_connect.testing.sink_rows import numbered
from airflow_provider_connect.testing.source import SourceContract
from airflow_provider_connect.testing.transactional_sink import TransactionalSinkContract
from tests.connectors.kafka_deaths import without_time

NOBODY = "127.0.0.1:1"


class TestKafkaSource(SourceContract):
    @pytest.fixture(autouse=True)
    def _topic(self, kafka):
        self.kafka, self.topic, self.produced = kafka, kafka.create_topic(partitions=3), 0

    def make(self):
        return KafkaSource(KafkaSourceConfig(brokers=self.kafka.bootstrap_servers, topic=self.topic))

    def make_unreachable(self):
        return KafkaSource(KafkaSourceConfig(brokers=NOBODY, topic=self.topic))

    def produce(self, count):
        found = {}
        for number in range(self.produced, self.produced + count):
            value = json.dumps({"n": number}).encode()
            self.kafka.produce(self.topic, [value], partition=number % 3)
            found.setdefault(f"{self.topic}:{number % 3}", []).append(value)
        self.produced += count
        return found


class KafkaTarget:
    poison = Record(9, "x" * 2_000_000)

    @pytest.fixture(autouse=True)
    def _topic(self, kafka):
        self.kafka, self.topic = kafka, kafka.create_topic(partitions=2)

    def config(self, brokers, guarantee):
        return KafkaSinkConfig(
            brokers=brokers, topic=self.topic, guarantee=guarantee, checkpoint_topic=f"{self.topic}.checkpoints"
        )

    def rows(self, records, format):
        return without_time(records, format)

    def stored(self):
        return [Record(**json.loads(record.value)) for record in self.kafka.consume_all(self.topic)]


class TestKafkaSink(KafkaTarget, SinkContract):
    exempt: ClassVar = {
        "test_good_rows_can_be_written_after_a_refused_batch": "what brokers have accepted without a transaction stays",
    }

    def make(self):
        return KafkaSink(self.config(self.kafka.bootstrap_servers, "at-least-once"))

    def make_unreachable(self):
        return KafkaSink(self.config(NOBODY, "at-least-once"))


class TestKafkaTransactionalSink(KafkaTarget, TransactionalSinkContract):
    def make(self):
        return KafkaTransactionalSink(self.config(self.kafka.bootstrap_servers, "exactly-once"))

    def make_unreachable(self):
        return KafkaTransactionalSink(self.config(NOBODY, "exactly-once"))

    def deaths(self, work):
        # librdkafka's threads do not survive a fork, so the dying is done elsewhere.
        modules = [Path(kafka_connector.__file__).parent / name for name in ("ownership.py", "transactional.py")]
        arguments = {
            "brokers": self.kafka.bootstrap_servers,
            "topic": self.topic,
            "flow": self.flow,
            "split": self.split,
        }
        return deaths("tests.connectors.kafka_deaths:deliver", modules, arguments=arguments)

    def test_two_lanes_with_open_transactions_both_commit(self):
        # As in the contract, but a reader only sees a partition up to its oldest open transaction.
        first, second = self.owner("a"), self.owner("b", lane=1)
        self.pass_on(first, numbered(0, 3))
        self.pass_on(second, numbered(3, 6))
        second.commit(Checkpoint({"b": 3}))
        first.commit(Checkpoint({"a": 3}))
        self.assert_stored(numbered(0, 6))
        assert self.claimed("a", "b") == {"a": 3, "b": 3}

    @pytest.mark.slow
    @pytest.mark.crash
    @pytest.mark.timeout(1800)
    def test_death_at_any_line_leaves_rows_and_checkpoint_both_old_or_both_new(self):
        super().test_death_at_any_line_leaves_rows_and_checkpoint_both_old_or_both_new()
