"""The Kafka sinks on a real broker: what is written, what is refused, and who owns a split after a crash."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import time

import pyarrow as pa
import pytest
from confluent_kafka import Consumer, TopicPartition
from confluent_kafka.admin import AlterConfigOpType, ConfigEntry, ConfigResource, ResourceType

from airflow_provider_connect.connectors.kafka import KafkaSink, KafkaSource, KafkaTransactionalSink
from airflow_provider_connect.connectors.kafka.config import KafkaSinkConfig, KafkaSourceConfig
from airflow_provider_connect.engine.batch import HEADERS, Batch, Checkpoint, documents
from airflow_provider_connect.engine.connector import SinkContext
from airflow_provider_connect.engine.errors import Fatal, Fenced, InvalidRecord, Retryable
from tests.connectors.kafka_worker import FakeWorker


def rows(values, **columns):
    return documents(pa.array(values, pa.binary()), "bytes", **columns)


def batch(values, **columns):
    return Batch(rows(values, **columns), Checkpoint())


@pytest.fixture
def make(kafka):
    made = []

    def make(topic, kind=KafkaTransactionalSink, source=None, flow="f", **settings):
        config = KafkaSinkConfig(
            brokers=kafka.bootstrap_servers, topic=topic, checkpoint_topic=f"{topic}.checkpoints", **settings
        )
        sink = kind(config)
        sink.open(SinkContext(f"{topic}.{flow}", source=source))
        made.append(sink)
        return sink

    yield make
    for sink in made:
        sink.close()


@pytest.mark.parametrize("kind", [KafkaSink, KafkaTransactionalSink])
def test_key_value_headers_and_timestamp_are_kept(kafka, make, kind):
    topic = kafka.create_topic()
    sink = make(topic, kind)
    if kind is KafkaTransactionalSink:
        sink.claim(["s"])
    sink.write(
        batch(
            [b"\x00\xff", None, b""],
            key=pa.array([b"k\x00", b"gone", None], pa.binary()),
            headers=pa.array([[{"key": "a", "value": b"\xff"}, {"key": "a", "value": None}], None, []], HEADERS),
            timestamp=pa.array([1_700_000_000_123, None, -5], pa.timestamp("ms", tz="UTC")),
        )
    )
    sink.flush()
    if kind is KafkaTransactionalSink:
        sink.commit(Checkpoint({"s": 3}))
    found = kafka.consume_all(topic)
    assert [(record.key, record.value) for record in found] == [(b"k\x00", b"\x00\xff"), (b"gone", None), (None, b"")]
    assert found[0].headers == (("a", b"\xff"), ("a", None))
    consumer = Consumer({"bootstrap.servers": kafka.bootstrap_servers, "group.id": "x"})
    consumer.assign([TopicPartition(topic, 0, 0)])
    stamps = [message.timestamp()[1] for message in consumer.consume(3, 10)]
    consumer.close()
    assert stamps[0] == 1_700_000_000_123
    assert all(abs(stamp / 1000 - time.time()) < 60 for stamp in stamps[1:])


def test_more_than_fits_the_queue_arrives_in_order(kafka, make):
    topic = kafka.create_topic()
    sink = make(topic, KafkaSink, properties={"queue.buffering.max.messages": 1_000})
    for start in range(0, 20_000, 4_000):
        sink.write(batch([b"%d" % n for n in range(start, start + 4_000)]))
    sink.flush()
    assert [int(record.value) for record in kafka.consume_all(topic)] == list(range(20_000))


def test_keys_go_where_the_java_client_puts_them(kafka, make):
    topic = kafka.create_topic(partitions=5)
    sink = make(topic, KafkaSink)
    sink.write(batch([b"v"] * 3, key=pa.array([b"21", b"foobar", b"a-little-bit-long-string"], pa.binary())))
    sink.flush()
    # Utils.toPositive(Utils.murmur2(key)) % 5, with the hashes of Kafka's UtilsTest.
    expected = {
        key: (value & 0x7FFFFFFF) % 5
        for key, value in ((b"21", -973932308), (b"foobar", -790332482), (b"a-little-bit-long-string", -985981536))
    }
    assert {record.key: record.partition for record in kafka.consume_all(topic)} == expected


@pytest.mark.parametrize("kind", [KafkaSink, KafkaTransactionalSink])
def test_a_large_message_is_refused_with_its_row(kafka, make, kind):
    topic = kafka.create_topic(max_message_bytes="50000")
    sink = make(topic, kind)
    if kind is KafkaTransactionalSink:
        sink.claim(["s"])
        sink.write(batch([b"before"]))
        sink.flush()
    with pytest.raises(InvalidRecord, match=r"max\.message\.bytes") as raised:
        sink.write(batch([b"ok", b"x" * 60_000, None, b"y" * 49_999]))
    assert set(raised.value.rows) == {1, 3}
    sink.write(batch([b"z" * 49_000]))
    sink.flush()
    if kind is KafkaTransactionalSink:
        sink.commit(Checkpoint({"s": 1}))
        assert [record.value[:6] for record in kafka.consume_all(topic)] == [b"before", b"zzzzzz"]


def test_a_compacted_topic_refuses_records_without_key(kafka, make):
    topic = kafka.create_topic(cleanup_policy="compact")
    sink = make(topic, KafkaSink)
    with pytest.raises(InvalidRecord, match="compacted") as raised:
        sink.write(batch([b"a", b"b"], key=pa.array([b"k", None], pa.binary())))
    assert set(raised.value.rows) == {1}


def test_what_only_the_broker_refuses_leaves_earlier_flushes(kafka, make):
    topic = kafka.create_topic()
    sink = make(topic)
    sink.claim(["s"])
    sink.write(batch([b"kept"]))
    sink.flush()
    admin = kafka.admin()
    small = ConfigEntry("max.message.bytes", "2000", incremental_operation=AlterConfigOpType.SET)
    for altered in admin.incremental_alter_configs(
        [ConfigResource(ResourceType.TOPIC, topic, incremental_configs=[small])]
    ).values():
        altered.result(10)
    time.sleep(0.5)
    sink.write(batch([os.urandom(10_000)]))
    with pytest.raises(InvalidRecord):
        sink.flush()
    sink.write(batch([b"good"]))
    sink.flush()
    sink.commit(Checkpoint({"s": 2}))
    assert [record.value for record in kafka.consume_all(topic)] == [b"kept", b"good"]


def test_an_unknown_topic_is_fatal_or_made(kafka, make):
    topic = kafka.unique_name("nowhere")
    with pytest.raises(Fatal, match="createTopic: true"):
        make(topic, KafkaSink)
    with pytest.raises(Fatal, match="createTopic: true"):
        KafkaSink(KafkaSinkConfig(brokers=kafka.bootstrap_servers, topic=topic)).check()
    sink = make(topic, KafkaSink, create_topic=True)
    sink.write(batch([b"a"]))
    sink.flush()
    assert len(kafka.consume_all(topic)) == 1


def test_brokers_that_are_not_there_are_retryable():
    sink = KafkaTransactionalSink(KafkaSinkConfig(brokers="127.0.0.1:1", topic="t"))
    with pytest.raises(Retryable, match="check `brokers`"):
        sink.open(SinkContext("f"))
    sink.close()


def test_a_checkpoint_topic_that_forgets_is_refused(kafka, make):
    topic = kafka.create_topic()
    kafka.create_topic(name=f"{topic}.checkpoints", cleanup_policy="delete")
    with pytest.raises(Fatal, match="must be 'compact'"):
        make(topic)


# --- transactions


def test_rows_and_checkpoint_appear_together(kafka, make):
    topic = kafka.create_topic()
    sink = make(topic)
    assert sink.claim(["s"]) == {}
    sink.write(batch([b"a"]))
    sink.flush()
    assert kafka.consume_all(topic) == []
    assert json.loads(kafka.consume_all(f"{topic}.checkpoints")[-1].value)["position"] is None
    sink.commit(Checkpoint({"s": [7, "tie"]}))
    assert [record.value for record in kafka.consume_all(topic)] == [b"a"]
    last = kafka.consume_all(f"{topic}.checkpoints")[-1]
    assert json.loads(last.key) == [f"{topic}.f", "s"]
    assert json.loads(last.value)["position"] == [7, "tie"]
    sink.release(["s"])
    assert json.loads(kafka.consume_all(f"{topic}.checkpoints")[-1].value) == {"position": [7, "tie"], "owner": None}


CRASHING = """
    import os, sys, time
    import pyarrow as pa
    from airflow_provider_connect.connectors.kafka import KafkaTransactionalSink
    from airflow_provider_connect.connectors.kafka.config import KafkaSinkConfig
    from airflow_provider_connect.engine.batch import Batch, Checkpoint, documents
    from airflow_provider_connect.engine.connector import SinkContext
    brokers, topic, committed = sys.argv[1:]
    config = KafkaSinkConfig(brokers=brokers, topic=topic, checkpoint_topic=topic + ".checkpoints")
    sink = KafkaTransactionalSink(config)
    sink.open(SinkContext(topic + ".f"))
    sink.claim(["s", "t"])
    rows = documents(pa.array([b"a"], pa.binary()), "bytes")
    if committed == "yes":
        sink.write(Batch(rows, Checkpoint())); sink.flush(); sink.commit(Checkpoint({"s": 1}))
    sink.write(Batch(rows, Checkpoint())); sink.flush()
    # As in the middle of a commit: the checkpoint is produced, the transaction still open.
    from airflow_provider_connect.connectors.kafka.ledgers import Entry
    writer = sink._connect()
    sink._open_store().stage(writer.producer, {"s": Entry(2, sink._id)})
    writer.producer.flush()
    print("ready", flush=True)
    time.sleep(100)
"""


@pytest.mark.crash
@pytest.mark.parametrize("committed", ["no", "yes"])
def test_a_claim_after_kill_9_does_not_wait_for_the_transaction(kafka, make, committed):
    topic = kafka.create_topic()
    victim = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(CRASHING), kafka.bootstrap_servers, topic, committed],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert victim.stdout.readline().strip() == "ready"
    victim.send_signal(signal.SIGKILL)
    victim.wait()
    heir = make(topic)
    began = time.monotonic()
    assert heir.claim(["s", "t"]) == ({"s": 1} if committed == "yes" else {})
    assert time.monotonic() - began < 5, "the claim waited for the dead worker's transaction"
    heir.write(batch([b"b"]))
    heir.flush()
    heir.commit(Checkpoint({"s": 2, "t": 1}))
    assert [record.value for record in kafka.consume_all(topic)] == [b"a"] * (committed == "yes") + [b"b"]


def test_a_paused_worker_is_fenced_and_its_other_splits_go_on(kafka, make):
    topic = kafka.create_topic()
    old, new = make(topic), make(topic)
    old.claim(["moves", "stays"])
    old.write(batch([b"of the old"]))
    old.flush()
    assert new.claim(["moves"]) == {}
    new.write(batch([b"of the new"]))
    new.flush()
    new.commit(Checkpoint({"moves": 1}))
    with pytest.raises(Fenced) as raised:
        old.commit(Checkpoint({"moves": 1, "stays": 1}))
    assert raised.value.splits == ("moves",)
    old.abort()
    old.write(batch([b"of the old again"]))
    old.flush()
    old.commit(Checkpoint({"stays": 1}))
    assert {record.value for record in kafka.consume_all(topic)} == {b"of the new", b"of the old again"}


def test_a_transaction_that_the_brokers_timed_out_is_written_again(kafka, make):
    topic = kafka.create_topic()
    sink = make(topic, transaction_timeout_seconds=1, batch_flush_interval_seconds=0.5)
    sink.claim(["s"])
    sink.write(batch([b"a"]))
    sink.flush()
    time.sleep(14)  # the brokers look every ten seconds
    try:
        sink.commit(Checkpoint({"s": 1}))
    except Retryable:
        sink.abort()
        assert sink.positions(["s"]) == {}
        sink.write(batch([b"a"]))
        sink.flush()
        sink.commit(Checkpoint({"s": 1}))
    assert [record.value for record in kafka.consume_all(topic)] == [b"a"]
    assert sink.positions(["s"]) == {"s": 1}


# --- the same cluster on both sides


@pytest.mark.parametrize(
    "protocol", [{"assignment": "cooperative-sticky"}, {"assignment": "range"}, {"group_protocol": "consumer"}]
)
def test_on_one_cluster_the_groups_offsets_are_the_checkpoint(kafka, make, protocol):
    origin, target, group = kafka.create_topic(partitions=2), kafka.create_topic(), kafka.unique_name("group")
    for partition in range(2):
        kafka.produce(origin, [b"%d" % n for n in range(10)], partition=partition)
    source = KafkaSource(
        KafkaSourceConfig(
            brokers=kafka.bootstrap_servers, topic=origin, consumer_group=group, format="bytes", **protocol
        )
    )
    sink = make(target, source=source)
    assert not kafka.admin().list_topics(timeout=10).topics.keys() & {f"{target}.checkpoints"}
    worker = FakeWorker("f", source, drain=True)
    worker.claim = sink.claim
    worker.revoked = lambda splits: None

    def take(found):
        if len(found):
            sink.write(found)
        sink.flush()
        sink.commit(found.checkpoint)
        source.acknowledge(found.checkpoint)

    worker.take = take
    worker.run()
    assert worker.error is None and worker.ended.is_set()
    assert len(kafka.consume_all(target)) == 20
    assert kafka.committed_offsets(origin, group) == {0: 10, 1: 10}
    sink.release([f"{origin}:0"])
    heir = make(target, source=source)
    assert heir.claim([f"{origin}:0", f"{origin}:1"]) == {f"{origin}:0": 10, f"{origin}:1": 10}
    with pytest.raises(Fenced):
        sink.commit(Checkpoint({f"{origin}:1": 11}))
    heir.commit(Checkpoint({f"{origin}:1": 12}))
    assert kafka.committed_offsets(origin, group) == {0: 10, 1: 12}
