"""Which topics a Kafka source reads, and where it begins, on a real broker."""

import json
import sys
import time
from datetime import UTC, datetime, timedelta

import pytest

from airflow_provider_connect.connectors.kafka import KafkaSource
from airflow_provider_connect.connectors.kafka.config import KafkaSourceConfig
from airflow_provider_connect.engine.errors import Fatal
from airflow_provider_connect.engine.flow import DataFlow, dataflow
from airflow_provider_connect.engine.lint import LintError
from airflow_provider_connect.engine.plan import Limits
from airflow_provider_connect.engine.worker import Worker
from tests.connectors.kafka_worker import FakeWorker, wait_for

ZONED = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
def make(kafka):
    def make(**settings):
        return KafkaSource(KafkaSourceConfig.model_validate({"brokers": kafka.bootstrap_servers, **settings}))

    return make


@pytest.fixture
def prefix(kafka):
    return kafka.unique_name("orders")


def values(count, start=0):
    return [json.dumps({"n": n}).encode() for n in range(start, start + count)]


def numbers(worker):
    return sorted(json.loads(value)["n"] for _, _, value in worker.delivered)


def read_all(kafka, source, ledger=None, **how):
    """What a draining worker delivers."""
    worker = FakeWorker(kafka.unique_name("group"), source, ledger, drain=True, **how)
    worker.run()
    if worker.error:
        raise worker.error
    return worker


@pytest.mark.parametrize("fixed_splits", [False, True], ids=["group", "dealt"])
def test_several_topics_are_read_up_to_their_ends(kafka, make, fixed_splits):
    first, second = kafka.create_topic(2), kafka.create_topic(2)
    for number, (topic, partition) in enumerate([(first, 0), (first, 1), (second, 0), (second, 1)]):
        kafka.produce(topic, values(20, 20 * number), partition=partition)
    source = make(topics=[first, second])
    worker = read_all(kafka, source, fixed_splits=fixed_splits)
    assert numbers(worker) == list(range(80))
    assert {split: at for split, (at, _) in worker.ledger.items()} == {
        f"{topic}:{partition}": 20 for topic in (first, second) for partition in (0, 1)
    }
    assert list(make(topics=[second, first]).splits()) == sorted(worker.ledger)
    assert make(topics=[first, second]).lag({f"{first}:0": 15}) == 5 + 60
    kafka.produce(first, values(5, 80), partition=1)
    kafka.produce(second, values(5, 85), partition=0)
    again = read_all(kafka, make(topics=[first, second]), worker.ledger, fixed_splits=fixed_splits)
    assert numbers(again) == list(range(80, 90))


def test_until_reads_exactly_the_range_of_each_topic(kafka, make):
    first, second = kafka.create_topic(), kafka.create_topic()
    kafka.produce(first, values(20))
    kafka.produce(second, values(20, 20))
    until = {f"{first}:0": 5, f"{second}:0": 8}
    worker = FakeWorker(kafka.unique_name("group"), make(topics=[first, second]), until=until, fixed_splits=True)
    worker.run()
    assert worker.error is None
    assert numbers(worker) == [*range(5), *range(20, 28)]
    assert {split: at for split, (at, _) in worker.ledger.items()} == until


@pytest.mark.parametrize(
    "how",
    [{"assignment": "cooperative-sticky"}, {"assignment": "range"}, {"groupProtocol": "consumer"}, None],
    ids=["cooperative", "eager", "kip-848", "dealt"],
)
def test_new_topics_that_match_the_pattern_are_read(kafka, make, prefix, monkeypatch, how):
    monkeypatch.setattr(sys.modules[KafkaSource.__module__], "_LOOK_SECONDS", 0.3)
    kafka.produce(kafka.create_topic(name=f"{prefix}-a"), values(10))
    kafka.create_topic(name=f"{prefix}_other")
    worker = FakeWorker(
        kafka.unique_name("group"), make(topicPattern=f"{prefix}-.*", **(how or {})), fixed_splits=how is None
    ).start()
    wait_for(lambda: numbers(worker) == list(range(10)), what="reading the first topic")
    kafka.produce(kafka.create_topic(2, name=f"{prefix}-b"), values(10, 10), partition=1)
    kafka.produce(f"{prefix}-a", values(10, 20))
    wait_for(lambda: numbers(worker) == list(range(30)), what="reading the second topic")
    worker.stop()
    assert worker.owned <= {f"{prefix}-a:0", f"{prefix}-b:0", f"{prefix}-b:1"}
    assert not any("_other" in split for split in worker.ledger)


def test_a_pattern_that_nothing_matches_waits_for_a_topic(kafka, make, prefix, monkeypatch):
    monkeypatch.setattr(sys.modules[KafkaSource.__module__], "_LOOK_SECONDS", 0.3)
    source = make(topicPattern=f"{prefix}-.*")
    assert source.check().endswith("have 0 partitions")
    assert read_all(kafka, make(topicPattern=f"{prefix}-.*")).delivered == [], "a drain has nothing to wait for"
    worker = FakeWorker(kafka.unique_name("group"), source).start()
    time.sleep(0.5)
    kafka.produce(kafka.create_topic(name=f"{prefix}-a"), values(3))
    wait_for(lambda: numbers(worker) == [0, 1, 2])
    worker.stop()


def test_the_topic_of_each_record_is_passed_on(kafka, make):
    first, second = kafka.create_topic(), kafka.create_topic()
    for topic in (first, second):
        kafka.produce(topic, [b'{"a": 1}'])
    worker = read_all(kafka, make(topics=[first, second], rawMode=True))
    metadata = [json.loads(value)["_metadata"] for _, _, value in worker.delivered]
    assert sorted(found["topic"] for found in metadata) == sorted([first, second])


def test_a_flow_of_several_topics_into_one_is_exactly_once_on_one_cluster(kafka, prefix):
    target = kafka.create_topic()
    for letter in "ab":
        kafka.produce(kafka.create_topic(2, name=f"{prefix}-{letter}"), [(b"%c" % n, b"{}") for n in range(97, 107)])
    name = kafka.unique_name("flow")

    def drain():
        flow = dataflow(
            name,
            source=("kafka", {"brokers": kafka.bootstrap_servers, "topicPattern": f"{prefix}-[a-z]"}),
            sink=("kafka", {"brokers": kafka.bootstrap_servers, "topic": target}),
        )
        return Worker(flow.plan(), Limits(mode="drain")).run().records

    assert [drain(), drain()] == [20, 0]
    assert len(kafka.consume_all(target)) == 20
    assert sum(kafka.committed_offsets(f"{prefix}-b", name).values()) == 10, "positions are in the group's offsets"


def test_tombstones_keys_and_headers_go_from_end_to_end_also_through_transformations(kafka):
    source, copied, renamed = (kafka.create_topic() for _ in range(3))
    producer = kafka.producer()
    producer.produce(source, b'{"a":1}', b"k1", headers=[("h", b"1"), ("h", None)])
    producer.produce(source, None, b"k2", headers=[("why", b"deleted")])
    producer.flush()
    steps = [{"type": "rename", "config": {"fields": {"a": "b"}}}]
    for target, transformations in ((copied, []), (renamed, steps)):
        flow = dataflow(
            kafka.unique_name("flow"),
            source=("kafka", {"brokers": kafka.bootstrap_servers, "topic": source}),
            sink=("kafka", {"brokers": kafka.bootstrap_servers, "topic": target}),
            transformations=transformations,
        )
        assert Worker(flow.plan(), Limits(mode="drain")).run().records == 2
    for target, value in ((copied, b'{"a":1}'), (renamed, b'{"b":1}')):
        first, second = kafka.consume_all(target)
        assert (first.key, first.value, first.headers) == (b"k1", value, (("h", b"1"), ("h", None)))
        assert (second.key, second.value, second.headers) == (b"k2", None, (("why", b"deleted"),))


# --- where it begins


def test_start_at_a_timestamp(kafka, make):
    topic = kafka.create_topic(2, message_timestamp_before_max_ms=str(2**62))
    producer = kafka.producer()
    for n in range(10):
        at = ZONED + timedelta(hours=n)
        producer.produce(topic, values(1, n)[0], partition=0, timestamp=int(at.timestamp() * 1000))
    producer.produce(topic, values(1, 99)[0], partition=1, timestamp=int(ZONED.timestamp() * 1000))
    producer.flush()
    for start in (
        "2026-01-01T04:00:00Z",
        {"timestamp": "2026-01-01T05:00:00+01:00"},
        {"timestamp": "2026-01-01T04:00"},
    ):
        assert numbers(read_all(kafka, make(topic=topic, start=start))) == [4, 5, 6, 7, 8, 9], start
    assert make(topic=topic, start="2026-01-01T08:30:00Z").lag({}) == 1
    assert numbers(read_all(kafka, make(topic=topic, start="2030-01-01"))) == []


def test_a_timestamp_in_a_flow_needs_no_quotes(kafka):
    topic = kafka.create_topic(message_timestamp_before_max_ms=str(2**62))
    producer = kafka.producer()
    for n in (1, 2):
        producer.produce(topic, values(1, n)[0], timestamp=int(ZONED.replace(day=n).timestamp() * 1000))
    producer.flush()
    target = kafka.create_topic()
    text = f"""
apiVersion: dataflow.dataflow.io/v1
kind: DataFlow
metadata: {{name: {kafka.unique_name("flow")}}}
spec:
  source:
    type: kafka
    kafka: {{brokers: "{kafka.bootstrap_servers}", topic: {topic}, start: {{timestamp: 2026-01-02T00:00:00Z}}}}
  sink:
    type: kafka
    kafka: {{brokers: "{kafka.bootstrap_servers}", topic: {target}}}
"""
    assert Worker(DataFlow.load(text).plan(), Limits(mode="drain")).run().records == 1
    assert [record.value for record in kafka.consume_all(target)] == values(1, 2)


def test_start_at_explicit_positions(kafka, make):
    topic = kafka.create_topic(3)
    for partition in range(3):
        kafka.produce(topic, values(10, 10 * partition), partition=partition)
    source = make(topic=topic, start={"positions": {f"{topic}:0": 8, f"{topic}:2": 10}})
    assert source.lag({}) == 2 + 10
    assert numbers(read_all(kafka, source)) == [8, 9, *range(10, 20)]
    stored = {f"{topic}:{partition}": (9, None) for partition in range(3)}
    again = read_all(kafka, make(topic=topic, start={"positions": {f"{topic}:0": 2}}), stored)
    assert numbers(again) == [9, 19, 29], "positions that were stored come first"


@pytest.mark.parametrize(
    ("positions", "message"),
    [
        ({"{topic}:0": 11}, r"start\.positions: 11 is beyond the end of .*:0, which is 10"),
        ({"{topic}:3": 0}, r"start\.positions: there is no partition .*:3 in what is read"),
        ({"other:0": 0}, r"start\.positions: there is no partition other:0"),
        ({"{topic}:0": 2}, r"start\.positions: 2 of .*:0 is deleted; the oldest record there is 5"),
    ],
)
def test_explicit_positions_that_are_not_there_are_fatal(kafka, make, positions, message):
    from confluent_kafka import TopicPartition

    topic = kafka.create_topic()
    kafka.produce(topic, values(10))
    admin = kafka.admin()
    for deleted in admin.delete_records([TopicPartition(topic, 0, 5)]).values():
        deleted.result(10)
    named = {split.format(topic=topic): at for split, at in positions.items()}
    with pytest.raises(Fatal, match=message):
        read_all(kafka, make(topic=topic, start={"positions": named}))


# --- what is refused without a broker


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "needs exactly one of `topic`, `topics` and `topicPattern`"),
        ({"topic": "a", "topics": ["b"]}, "but there are `topic` and `topics`"),
        ({"topic": "a", "topicPattern": "b"}, "but there are `topic` and `topicPattern`"),
        ({"topics": []}, "topics"),
        ({"topics": ["a:b"]}, "topics"),
        ({"topicPattern": "("}, "topicPattern: no regular expression"),
        ({"topic": "a", "start": "middle"}, "start"),
        ({"topic": "a", "start": {}}, "needs either 'timestamp' or 'positions'"),
        ({"topic": "a", "start": {"timestamp": "yesterday"}}, "start.timestamp"),
        ({"topic": "a", "start": {"positions": {"a": 1}}}, "'a' is no partition; write 'topic:0'"),
        ({"topic": "a", "start": {"positions": {"a:0": -1}}}, "start.positions"),
        ({"topic": "a", "start": {"positions": {"a:0": 1}, "timestamp": "2026-01-01"}}, "needs either"),
    ],
)
def test_a_wrong_choice_of_topics_or_beginnings_says_what_is_wrong(settings, message):
    with pytest.raises(LintError) as raised:
        dataflow(
            "f", source=("kafka", {"brokers": ["k:9092"], **settings}), sink=("kafka", {"brokers": ["k"], "topic": "t"})
        )
    assert message in str(raised.value)
