"""A connection breaks before COMMIT arrives, or after it has landed and before the answer is back."""

import json
import random

import pytest

from airflow_provider_connect.connectors.kafka import writer as writer_module
from tests.cases.flows import (
    Repeatedly,
    assert_each_once,
    drain,
    from_kafka,
    from_postgresql,
    keyed,
    running,
    to_kafka,
    to_postgresql,
)
from tests.engine.flows import until
from tests.services.kafka import Kafka

COUNT = 1000

END_TXN = b"\x00\x1a\x00\x01"
"""Key and version of Kafka's request to end a transaction, as librdkafka sends it."""


@pytest.fixture
def table(postgresql):
    name = postgresql.unique_name()
    yield name
    postgresql.execute(f"DROP TABLE IF EXISTS {name}")


@pytest.fixture
def documents(postgresql, table):
    postgresql.execute(f"CREATE TABLE {table} (data jsonb)")
    return table


def ids_in(postgresql, table: str) -> list[int]:
    return [i for (i,) in postgresql.execute(f"SELECT (data->>'id')::int FROM {table}")]


@pytest.mark.parametrize("landed", [True, False], ids=["landed", "never arrived"])
def test_commits_of_postgresql(landed, kafka, postgresql, postgresql_proxy, documents):
    """Case 6."""
    topic, proxy = kafka.create_topic(3), postgresql_proxy
    sink = to_postgresql(postgresql.through(proxy), documents)
    rounds = 4
    with running(kafka.unique_name("flow"), from_kafka(kafka, topic), sink) as worker:
        for number in range(rounds):
            (proxy.cut_after_request if landed else proxy.cut_before_request)(b"COMMIT\0") if number else None
            kafka.produce(topic, keyed(number * COUNT, COUNT))
            assert not number or proxy.wait_for_cut(), "no COMMIT came by"
            until(lambda: len(ids_in(postgresql, documents)) >= (number + 1) * COUNT, 30)  # noqa: B023
        until(lambda: worker.worker.metrics.value("connect_records_total", stage="committed") == rounds * COUNT)
        assert worker.worker.metrics.value("connect_retries_total") >= rounds - 1
    assert_each_once(ids_in(postgresql, documents), rounds * COUNT)
    assert worker.summary.records == rounds * COUNT


@pytest.mark.parametrize("source", ["kafka", "file"])
def test_a_connection_to_postgresql_that_breaks_at_any_moment(
    source, kafka, postgresql, postgresql_proxy, documents, tmp_path
):
    """Case 6: also between the statements of a transaction, in the middle of COPY, and while splits are claimed."""
    count, chance, name, rounds, delivered = 20 * COUNT, random.Random(6), kafka.unique_name("flow"), 0, 0
    topic = kafka.create_topic(3)
    read = from_kafka(kafka, topic) if source == "kafka" else ("file", {"path": str(tmp_path), "format": "ndjson"})
    sink = to_postgresql(postgresql.through(postgresql_proxy), documents)
    with Repeatedly(postgresql_proxy.cut, lambda: chance.uniform(0.02, 0.3)) as cuts:
        while cuts.times < 5:  # a quick machine needs more to do
            records = keyed(rounds * count, count)
            if source == "kafka":
                kafka.produce(topic, records)
            else:
                lines = b"".join(value + b"\n" for _, value in records)
                (tmp_path / f"in-{rounds}.ndjson").write_bytes(lines)
            delivered += drain(name, read, sink).records
            rounds += 1
    assert_each_once(ids_in(postgresql, documents), rounds * count)
    assert delivered == rounds * count


@pytest.mark.parametrize("landed", [True, False], ids=["landed", "never arrived"])
@pytest.mark.parametrize("source", ["postgresql", "kafka"])
def test_commits_of_kafka(source, landed, kafka_server, kafka_proxy, postgresql, table):
    """Case 8, with the checkpoint in a topic, or in the group's offsets when the source is on the same cluster."""
    kafka, proxy, rounds = Kafka(kafka_server.bootstrap_servers), kafka_proxy, 4
    topic, target = kafka.create_topic(3), kafka.create_topic(3)
    if source == "postgresql":
        postgresql.execute(f"CREATE TABLE {table} (id int PRIMARY KEY)")
        read = from_postgresql(postgresql, table)
    else:
        read = from_kafka(kafka, topic)

    def feed(number: int) -> None:
        if source == "kafka":
            kafka.produce(topic, keyed(number * COUNT, COUNT))
        else:
            first, last = number * COUNT, number * COUNT + COUNT - 1
            postgresql.execute(f"INSERT INTO {table} SELECT generate_series({first}, {last})")

    sink = to_kafka(proxy.address, target, checkpointTopic=kafka.unique_name("checkpoints"))
    with running(kafka.unique_name("flow"), read, sink) as worker:
        for number in range(rounds):
            (proxy.cut_after_request if landed else proxy.cut_before_request)(END_TXN) if number else None
            feed(number)
            assert not number or proxy.wait_for_cut(), "no EndTxn came by"
            committed = lambda: worker.worker.metrics.value("connect_records_total", stage="committed")  # noqa: E731
            until(lambda: committed() == (number + 1) * COUNT, 40)  # noqa: B023
    assert_each_once([json.loads(record.value)["id"] for record in kafka.consume_all(target)], rounds * COUNT)


@pytest.mark.parametrize("landed", [True, False], ids=["landed", "never arrived"])
def test_a_commit_of_kafka_that_is_given_up(landed, kafka_server, kafka_proxy, monkeypatch):
    """Case 8: the brokers stay away, so that the client library cannot find out by itself what became of it."""
    monkeypatch.setattr(writer_module, "CALL_SECONDS", 1.0)
    kafka, proxy = Kafka(kafka_server.bootstrap_servers), kafka_proxy
    topic, target = kafka.create_topic(3), kafka.create_topic(3)
    sink = to_kafka(proxy.address, target)
    with running(kafka.unique_name("flow"), from_kafka(kafka, topic), sink) as worker:
        committed = lambda: worker.worker.metrics.value("connect_records_total", stage="committed")  # noqa: E731
        kafka.produce(topic, keyed(0, COUNT))
        until(lambda: committed() == COUNT, 30)
        (proxy.cut_after_request if landed else proxy.cut_before_request)(END_TXN)
        kafka.produce(topic, keyed(COUNT, COUNT))
        assert proxy.wait_for_cut(), "no EndTxn came by"
        proxy.refuse()
        until(lambda: worker.worker.metrics.value("connect_retries_total") > 0, 30)
        proxy.resume()
        until(lambda: committed() == 2 * COUNT, 60)
    assert_each_once([int(record.key) for record in kafka.consume_all(target)], 2 * COUNT)


def test_connections_to_kafka_that_break_at_any_moment(kafka_server, kafka_proxy, tmp_path):
    """Case 8."""
    kafka, count, chance = Kafka(kafka_server.bootstrap_servers), 20 * COUNT, random.Random(8)
    source, target, name, rounds, delivered = (
        kafka.create_topic(3),
        kafka.create_topic(3),
        kafka.unique_name("flow"),
        0,
        0,
    )
    sink = to_kafka(kafka_proxy.address, target)
    with Repeatedly(kafka_proxy.cut, lambda: chance.uniform(0.05, 0.6)) as cuts:
        while cuts.times < 10:  # a quick machine needs more to do
            kafka.produce(source, keyed(rounds * count, count))
            delivered += drain(name, from_kafka(kafka, source), sink).records
            rounds += 1
    assert_each_once([int(record.key) for record in kafka.consume_all(target)], rounds * count)
    assert delivered == rounds * count


def test_the_last_version_of_every_key_wins_whatever_breaks(kafka, postgresql, postgresql_proxy, table):
    """Case 12: an upsert that is written again must not bring an older version back."""
    topic, keys, versions, chance = kafka.create_topic(3), 50, 200, random.Random(12)
    name, rounds = kafka.unique_name("flow"), 0
    postgresql.execute(f"CREATE TABLE {table} (key int PRIMARY KEY, version int)")
    sink = to_postgresql(postgresql.through(postgresql_proxy), table, upsertMode=True)
    with Repeatedly(postgresql_proxy.cut, lambda: chance.uniform(0.02, 0.3)) as cuts:
        while cuts.times < 3:  # a quick machine needs more to do
            records = [
                (b"%d" % key, json.dumps({"key": key, "version": version}).encode())
                for version in range(rounds * versions, (rounds + 1) * versions)
                for key in range(keys)
            ]
            kafka.produce(topic, records)
            drain(name, from_kafka(kafka, topic), sink)
            rounds += 1
    assert postgresql.execute(f"SELECT key, version FROM {table} ORDER BY 1") == [
        (k, rounds * versions - 1) for k in range(keys)
    ]
