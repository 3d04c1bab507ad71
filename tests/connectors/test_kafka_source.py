"""The Kafka source on a real broker: groups and rebalances, where it ends, and what it makes of a record."""

import json
import threading
import time

import pytest
from confluent_kafka import TopicPartition

from airflow_provider_connect.connectors.kafka import KafkaSource
from airflow_provider_connect.connectors.kafka.config import KafkaSourceConfig
from airflow_provider_connect.engine.errors import Fatal, Retryable
from tests.connectors.kafka_worker import FakeWorker, wait_for

PROTOCOLS = [
    {"assignment": "cooperative-sticky"},
    {"assignment": "range"},
    {"group_protocol": "consumer"},
]
IDS = ["cooperative", "eager", "kip-848"]


@pytest.fixture
def make(kafka):
    def make(topic, **settings):
        return KafkaSource(KafkaSourceConfig(brokers=kafka.bootstrap_servers, topic=topic, **settings))

    return make


def values(count, start=0):
    return [json.dumps({"n": n}).encode() for n in range(start, start + count)]


def read_all(worker, seconds=30.0):
    """Everything that a draining worker delivers, on this thread."""
    timer = threading.Timer(seconds, worker.stopping.set)
    timer.start()
    worker.run()
    timer.cancel()
    if worker.error:
        raise worker.error
    assert worker.ended.is_set(), "no end of input"
    return worker.delivered


# --- groups


@pytest.mark.parametrize("protocol", PROTOCOLS, ids=IDS)
def test_partitions_move_between_members_without_loss_or_repetition(kafka, make, protocol):
    topic, group = kafka.create_topic(partitions=6), kafka.unique_name("group")
    ledger, lock = {}, threading.Lock()
    stop = threading.Event()
    sent = []

    def feed():
        producer = kafka.producer(linger_ms=1)
        while not stop.is_set():
            value = b"%d" % len(sent)
            producer.produce(topic, value, partition=len(sent) % 6)
            sent.append(value)
            if len(sent) % 50 == 0:
                producer.poll(0)
                time.sleep(0.01)
        producer.flush()

    feeder = threading.Thread(target=feed)
    feeder.start()
    first = FakeWorker(group, make(topic, **protocol), ledger, lock).start()
    try:
        wait_for(lambda: len(first.owned) == 6, what="owning all partitions")
        second = FakeWorker(group, make(topic, **protocol), ledger, lock).start()
        wait_for(lambda: len(first.owned) == 3 and len(second.owned) == 3, 60, "an even share")
        time.sleep(1.0)
        second.stop()
        wait_for(lambda: len(first.owned) == 6, 60, "getting the partitions back")
        time.sleep(0.5)
    finally:
        stop.set()
        feeder.join()
    first.stop()
    last = FakeWorker(group, make(topic, **protocol), ledger, lock, drain=True)
    read_all(last, 60)
    delivered = [value for worker in (first, second, last) for _, _, value in worker.delivered]
    assert second.delivered, "the second worker read nothing"
    assert len(delivered) == len(set(delivered)), "a record was delivered twice"
    assert set(delivered) == set(sent)
    assert any(kind == "revoked" for kind, _ in first.events)


@pytest.mark.parametrize("protocol", PROTOCOLS, ids=IDS)
def test_a_drained_member_without_partitions_ends_too(kafka, make, protocol):
    topic, group = kafka.create_topic(partitions=1), kafka.unique_name("group")
    kafka.produce(topic, values(10))
    busy = FakeWorker(group, make(topic, **protocol)).start()
    wait_for(lambda: busy.owned, what="owning the partition")
    idle = FakeWorker(group, make(topic, **protocol), drain=True)
    read_all(idle)
    assert idle.delivered == []
    busy.stop()
    assert len(busy.delivered) == 10


@pytest.mark.parametrize("protocol", PROTOCOLS, ids=IDS)
def test_drained_members_read_everything_also_what_moves_between_them(kafka, make, protocol):
    """A partition is nobody's for a moment while it moves; no member may leave before the whole topic is read."""
    topic, group = kafka.create_topic(partitions=4), kafka.unique_name("group")
    for partition in range(4):
        kafka.produce(topic, values(3000, partition * 3000), partition=partition)
    ledger, lock = {}, threading.Lock()
    members = [FakeWorker(group, make(topic, **protocol), ledger, lock, drain=True) for _ in range(3)]
    for member in members:
        member.start(max_records=50, pace=0.005)
        time.sleep(0.2)
    for member in members:
        member.thread.join(60)
        assert member.error is None
        assert member.ended.is_set()
    delivered = [value for member in members for _, _, value in member.delivered]
    assert sorted(delivered) == sorted(values(12_000))
    assert {split: at for split, (at, _) in ledger.items()} == {f"{topic}:{p}": 3000 for p in range(4)}


def test_the_ledger_comes_first_then_the_group_then_the_start(kafka, make):
    topic, group = kafka.create_topic(partitions=3), kafka.unique_name("group")
    for partition in range(3):
        kafka.produce(topic, values(10), partition=partition)
    earlier = FakeWorker(group, make(topic), {f"{topic}:2": (10, None)}, drain=True)
    read_all(earlier)
    assert kafka.committed_offsets(topic, group) == {0: 10, 1: 10}
    kafka.produce(topic, values(5, 10), partition=1)
    again = FakeWorker(group, make(topic), {f"{topic}:0": (4, None)}, drain=True)
    read = read_all(again)
    assert [offset for partition, offset, _ in read if partition == 0] == list(range(4, 10)), "the ledger wins"
    assert [offset for partition, offset, _ in read if partition == 1] == list(range(10, 15)), "the group is next"


def test_start_newest_skips_what_is_there(kafka, make):
    topic, group = kafka.create_topic(), kafka.unique_name("group")
    kafka.produce(topic, values(10))
    worker = FakeWorker(group, make(topic, start="newest")).start()
    wait_for(lambda: worker.owned)
    time.sleep(0.5)
    kafka.produce(topic, values(3, 10))
    wait_for(lambda: len(worker.rows) + len(worker.delivered) == 3)
    worker.stop()
    assert [offset for _, offset, _ in worker.delivered] == [10, 11, 12]


def test_acknowledged_offsets_are_seen_by_lag_tools(kafka, make):
    topic, group = kafka.create_topic(partitions=2), kafka.unique_name("group")
    kafka.produce(topic, values(10), partition=0)
    source = make(topic)
    worker = FakeWorker(group, source, drain=True)
    read_all(worker)
    wait_for(lambda: kafka.committed_offsets(topic, group).get(0) == 10, 5, "the commit of the group's offset")
    assert source.lag({}) == 0
    kafka.produce(topic, values(4), partition=0)
    assert source.lag({f"{topic}:0": 10}) == 4
    assert make(topic).lag({}) == 14, "a source that does not know its group counts from the start"
    assert list(source.splits()) == [f"{topic}:0", f"{topic}:1"]


def test_keep_alive_keeps_the_membership_and_loses_nothing(kafka, make):
    topic, group = kafka.create_topic(), kafka.unique_name("group")
    source = make(topic, properties={"max.poll.interval.ms": 6_000, "session.timeout.ms": 6_000})
    worker = FakeWorker(group, source)
    source.open(worker)
    wait_for(lambda: source.read(10, 0.1) or worker.owned)
    kafka.produce(topic, values(100))
    until = time.monotonic() + 8
    while time.monotonic() < until:
        began = time.monotonic()
        source.keep_alive()
        assert time.monotonic() - began < 0.2, "keep_alive must not block"
        time.sleep(0.2)
    while len(worker.rows) < 100 and time.monotonic() < until + 10:
        if batch := source.read(30, 0.2):
            worker.take(batch)
    source.close()
    assert [offset for _, offset, _ in worker.rows] == list(range(100))
    assert worker.events == [("claim", (f"{topic}:0",))]


# --- where it ends


def test_drain_passes_control_records_aborted_records_and_open_transactions(kafka, make):
    topic, group = kafka.create_topic(), kafka.unique_name("group")
    writer = kafka.producer(transactional_id=kafka.unique_name("t"))
    writer.init_transactions(10)
    for round_, finish in enumerate([writer.commit_transaction, writer.abort_transaction, writer.commit_transaction]):
        writer.begin_transaction()
        for value in values(3, 10 * round_):
            writer.produce(topic, value)
        writer.flush()
        finish()
    writer.begin_transaction()
    writer.produce(topic, b"open")
    writer.flush()
    worker = FakeWorker(group, make(topic), drain=True)
    read = read_all(worker)
    assert [json.loads(value)["n"] for _, _, value in read] == [0, 1, 2, 20, 21, 22]
    assert worker.ledger[f"{topic}:0"][0] == 12, "the position is behind the last commit marker"
    assert make(topic).lag({f"{topic}:0": 12}) == 0, "nothing that can be read is left"
    writer.abort_transaction()
    again = FakeWorker(group, make(topic), worker.ledger, drain=True)
    assert read_all(again) == []
    assert again.ledger[f"{topic}:0"][0] == 14


def test_a_quiet_end_of_control_records_moves_the_checkpoint(kafka, make):
    topic, group = kafka.create_topic(), kafka.unique_name("group")
    worker = FakeWorker(group, make(topic)).start()
    wait_for(lambda: worker.owned)
    writer = kafka.producer(transactional_id=kafka.unique_name("t"))
    writer.init_transactions(10)
    writer.begin_transaction()
    writer.produce(topic, b"never seen")
    writer.flush()
    writer.abort_transaction()
    wait_for(lambda: worker.ledger.get(f"{topic}:0", (0,))[0] == 2, 10, "an empty batch behind the abort marker")
    worker.stop()
    assert worker.delivered == []


def test_drain_ends_in_a_compacted_topic(kafka, make):
    topic = kafka.create_topic(
        cleanup_policy="compact", segment_ms="100", min_cleanable_dirty_ratio="0.01", max_compaction_lag_ms="100"
    )
    for n in range(20):
        kafka.produce(topic, [(b"same", b"%d" % n)])
        time.sleep(0.02)
    worker = FakeWorker(kafka.unique_name("group"), make(topic, format="bytes"), drain=True)
    read = read_all(worker)
    assert read[-1] == (0, 19, b"19")
    assert worker.ledger[f"{topic}:0"][0] == 20


@pytest.mark.parametrize("fixed_splits", [True, False])
def test_until_reads_exactly_the_range(kafka, make, fixed_splits):
    topic = kafka.create_topic(partitions=3)
    for partition in range(3):
        kafka.produce(topic, values(20), partition=partition)
    until = {f"{topic}:0": 7, f"{topic}:2": 20}
    worker = FakeWorker(
        kafka.unique_name("group"),
        make(topic),
        {f"{topic}:0": (3, None), f"{topic}:1": (5, None)},
        until=until,
        fixed_splits=fixed_splits,
    )
    read = read_all(worker)
    assert [(p, offset) for p, offset, _ in sorted(read)] == [(0, n) for n in range(3, 7)] + [(2, n) for n in range(20)]
    assert {split: position for split, (position, _) in worker.ledger.items() if split in until} == until


def test_a_drained_range_that_is_empty_ends_at_once(kafka, make):
    topic = kafka.create_topic(partitions=2)
    began = time.monotonic()
    assert read_all(FakeWorker(kafka.unique_name("group"), make(topic), drain=True)) == []
    assert time.monotonic() - began < 10


# --- records


def test_key_headers_timestamp_and_tombstones_are_kept(kafka, make):
    topic = kafka.create_topic(message_timestamp_before_max_ms=str(2**62))
    producer = kafka.producer()
    producer.produce(
        topic, b'{"a": 1}', b"k\xff\x00", timestamp=1_000_000_000_123, headers=[("h", b"\x00"), ("h", None)]
    )
    producer.produce(topic, None, b"gone")
    producer.produce(topic, b"", None)
    producer.flush()
    source = make(topic)
    worker = FakeWorker(kafka.unique_name("group"), source, fixed_splits=True, drain=True)
    source.open(worker)
    batch = None
    while batch is None or not len(batch):
        batch = source.read(10, 1.0)
    source.close()
    rows = batch.rows.to_pylist()
    assert [row["key"] for row in rows] == [b"k\xff\x00", b"gone", None]
    assert [row["value"] for row in rows] == [b'{"a": 1}', None, b""]
    assert rows[0]["headers"] == [{"key": "h", "value": b"\x00"}, {"key": "h", "value": None}]
    assert rows[1]["headers"] is None
    assert rows[0]["timestamp"].timestamp() == 1_000_000_000.123
    assert {row["topic"] for row in rows} == {topic}
    assert [row["offset"] for row in rows] == [0, 1, 2]
    assert batch.checkpoint == {f"{topic}:0": 3}


def test_raw_mode_wraps_the_value(kafka, make):
    topic = kafka.create_topic(message_timestamp_before_max_ms=str(2**62))
    producer = kafka.producer()
    for key in (b"plain", b'quo"te\\', "zażółć".encode(), b"\xff", None):
        producer.produce(topic, b'{"a": [1]}', key, timestamp=1_700_000_000_000)
    producer.produce(topic, None, b"tombstone", timestamp=1_700_000_000_000)
    producer.flush()
    worker = FakeWorker(kafka.unique_name("group"), make(topic, raw_mode=True), drain=True)
    found = [json.loads(value) for _, _, value in read_all(worker)]
    assert found[0] == {
        "value": {"a": [1]},
        "_metadata": {"offset": 0, "partition": 0, "timestamp": 1_700_000_000_000, "key": "plain", "topic": topic},
    }
    keys = [document["_metadata"]["key"] for document in found]
    assert keys == ["plain", 'quo"te\\', "zażółć", "�", None, "tombstone"]
    assert found[5]["value"] is None


def test_a_lone_record_does_not_wait_for_company(kafka, make):
    topic = kafka.create_topic()
    source = make(topic)
    worker = FakeWorker(kafka.unique_name("group"), source)
    source.open(worker)
    wait_for(lambda: source.read(10, 0.1) or worker.owned)
    producer = kafka.producer(linger_ms=0)
    waits = []
    for _ in range(20):
        began = time.monotonic()
        producer.produce(topic, b"{}")
        producer.poll(0)
        batch = None
        while batch is None or not len(batch):
            batch = source.read(5_000, 1.0)
        waits.append(time.monotonic() - began)
    source.close()
    assert sorted(waits)[10] < 0.1, f"half of all records took longer than {sorted(waits)[10]:.3f} s"


# --- what goes wrong


def test_an_unknown_topic_is_fatal(kafka, make):
    source = make(kafka.unique_name("nowhere"))
    with pytest.raises(Fatal, match="create the topic"):
        source.open(FakeWorker("f", source))
    with pytest.raises(Fatal, match="create the topic"):
        source.check()


def test_brokers_that_are_not_there_are_retryable_and_named(make):
    source = KafkaSource(KafkaSourceConfig(brokers="127.0.0.1:1", topic="t"))
    with pytest.raises(Retryable, match=r"127\.0\.0\.1:1.*check `brokers`"):
        source.check()


def test_a_position_that_retention_deleted_is_fatal_unless_configured(kafka, make):
    topic = kafka.create_topic()
    kafka.produce(topic, values(10))
    admin = kafka.admin()
    for deleted in admin.delete_records([TopicPartition(topic, 0, 6)]).values():
        deleted.result(10)
    stored = {f"{topic}:0": (2, None)}
    with pytest.raises(Fatal, match="outOfRange: oldest"):
        read_all(FakeWorker(kafka.unique_name("group"), make(topic), dict(stored), drain=True))
    read = read_all(FakeWorker(kafka.unique_name("g"), make(topic, out_of_range="oldest"), dict(stored), drain=True))
    assert [offset for _, offset, _ in read] == [6, 7, 8, 9]


def test_an_error_of_the_worker_passes_through(kafka, make):
    topic = kafka.create_topic()
    source = make(topic)
    worker = FakeWorker(kafka.unique_name("group"), source)

    def refuse(splits):
        raise Retryable("the ledger is down")

    worker.claim = refuse
    source.open(worker)
    with pytest.raises(Retryable, match="the ledger is down"):
        wait_for(lambda: source.read(10, 0.1))
    source.close()
