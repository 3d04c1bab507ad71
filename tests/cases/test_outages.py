"""The sink is down for longer than the group waits for a member that is silent, or that does not poll."""

import time

import pytest

from airflow_provider_connect.engine import worker as worker_module
from airflow_provider_connect.engine.errors import Fatal
from tests.cases.flows import (
    Repeatedly,
    assert_each_once,
    drain,
    from_kafka,
    keyed,
    running,
    to_postgresql,
)
from tests.engine.flows import until

LONGER_SECONDS = 10
BOUNDED = {
    "properties": {"session.timeout.ms": 6000, "heartbeat.interval.ms": 500, "max.poll.interval.ms": 8000},
}
ROUND = 500
NO_ROOM = {"prefetchBytes": 1}
"""Nothing is read ahead, so that nothing but keeping the session alive keeps it alive."""

pytestmark = pytest.mark.slow


@pytest.fixture
def table(postgresql):
    name = postgresql.unique_name()
    postgresql.execute(f"CREATE TABLE {name} (data jsonb)")
    yield name
    postgresql.execute(f"DROP TABLE {name}")


def ids_in(postgresql, table: str) -> list[int]:
    return [i for (i,) in postgresql.execute(f"SELECT (data->>'id')::int FROM {table}")]


def members(kafka, group: str) -> list[str]:
    admin = kafka.admin()  # which has to outlive its answer
    description = admin.describe_consumer_groups([group])[group].result(10)
    return sorted(member.member_id for member in description.members)


def test_a_sink_that_does_not_answer_costs_no_membership(kafka, postgresql, postgresql_proxy, table):
    """Case 22: the writer waits for the server, the reader goes on to tell the group that it is alive."""
    topic, name, fed = kafka.create_topic(3), kafka.unique_name("flow"), 0
    sink = to_postgresql(postgresql.through(postgresql_proxy), table)

    def feed() -> None:
        nonlocal fed
        kafka.produce(topic, keyed(fed * ROUND, ROUND))
        fed += 1

    with running(name, from_kafka(kafka, topic, **BOUNDED), sink, **NO_ROOM) as worker:
        feed()
        until(lambda: len(ids_in(postgresql, table)) == ROUND, 30)
        before = members(kafka, name)
        postgresql_proxy.pause()
        with Repeatedly(feed, lambda: 1.0):
            time.sleep(LONGER_SECONDS)
        assert len(ids_in(postgresql, table)) == ROUND, "the sink was to be down"
        assert members(kafka, name) == before
        postgresql_proxy.resume()
        until(lambda: len(ids_in(postgresql, table)) == fed * ROUND, 60)
        assert members(kafka, name) == before
    assert len(before) == 1
    assert worker.worker.metrics.value("connect_retries_total") == 0
    assert_each_once(ids_in(postgresql, table), fed * ROUND)


def test_a_sink_that_refuses_costs_no_membership(kafka, postgresql, postgresql_proxy, table):
    """Case 22: the same while the worker tries to connect, again and again."""
    topic, name = kafka.create_topic(3), kafka.unique_name("flow")
    sink = to_postgresql(postgresql.through(postgresql_proxy), table)
    with running(name, from_kafka(kafka, topic, **BOUNDED), sink, **NO_ROOM) as worker:
        kafka.produce(topic, keyed(0, ROUND))
        until(lambda: len(ids_in(postgresql, table)) == ROUND, 30)
        before = members(kafka, name)
        postgresql_proxy.refuse()
        kafka.produce(topic, keyed(ROUND, ROUND))
        time.sleep(LONGER_SECONDS)
        assert members(kafka, name) == before
        postgresql_proxy.resume()
        until(lambda: len(ids_in(postgresql, table)) == 2 * ROUND, 60)
        assert members(kafka, name) == before
    assert worker.worker.metrics.value("connect_retries_total") > 3
    assert_each_once(ids_in(postgresql, table), 2 * ROUND)


def test_a_worker_that_cannot_write_hands_its_splits_over(kafka, postgresql, postgresql_proxy, table):
    """Case 22: a rebalance is answered while the sink is down; who can write goes on with everything."""
    topic, name = kafka.create_topic(4), kafka.unique_name("flow")
    source = from_kafka(kafka, topic, **BOUNDED)
    with running(name, source, to_postgresql(postgresql.through(postgresql_proxy), table)):
        kafka.produce(topic, keyed(0, ROUND))
        until(lambda: len(ids_in(postgresql, table)) == ROUND, 30)
        postgresql_proxy.refuse()
        kafka.produce(topic, keyed(ROUND, ROUND))
        time.sleep(1)
        with running(name, source, to_postgresql(postgresql, table)) as healthy:
            until(lambda: len(ids_in(postgresql, table)) == 2 * ROUND, 30)
            postgresql_proxy.resume()
            until(lambda: len(members(kafka, name)) == 2, 30)
            kafka.produce(topic, keyed(2 * ROUND, ROUND))
            until(lambda: len(ids_in(postgresql, table)) == 3 * ROUND, 30)
        assert healthy.summary.records >= ROUND
    assert_each_once(ids_in(postgresql, table), 3 * ROUND)


def test_a_worker_cut_off_from_its_sink_is_replaced_and_fenced(kafka, postgresql, postgresql_proxy, table):
    """Cases 2 and 3: it cannot answer the revocation, so the group goes on without it; what it sent late is refused."""
    topic, name = kafka.create_topic(4), kafka.unique_name("flow")
    source = from_kafka(kafka, topic, assignment="range", **BOUNDED)
    with running(name, source, to_postgresql(postgresql.through(postgresql_proxy), table)) as cut_off:
        kafka.produce(topic, keyed(0, ROUND))
        until(lambda: len(ids_in(postgresql, table)) == ROUND, 30)
        postgresql_proxy.pause()
        kafka.produce(topic, keyed(ROUND, ROUND))
        time.sleep(1)
        with running(name, source, to_postgresql(postgresql, table)) as other:
            until(lambda: len(ids_in(postgresql, table)) == 2 * ROUND, 60)
            postgresql_proxy.resume()
            until(lambda: cut_off.worker.metrics.value("connect_errors_total", kind="fenced") > 0, 30)
            until(lambda: len(members(kafka, name)) == 2, 30)
            kafka.produce(topic, keyed(2 * ROUND, ROUND))
            until(lambda: len(ids_in(postgresql, table)) == 3 * ROUND, 30)
        assert other.summary.records >= ROUND
    assert_each_once(ids_in(postgresql, table), 3 * ROUND)


def test_stop_gives_a_sink_up_that_does_not_answer(kafka, postgresql, postgresql_proxy, table, monkeypatch):
    """Case 24: the end has a deadline, and what was under way then is neither lost nor repeated."""
    monkeypatch.setattr(worker_module, "_LEAVE_SECONDS", 2.0)
    topic, name = kafka.create_topic(3), kafka.unique_name("flow")
    source = from_kafka(kafka, topic, **BOUNDED)
    with (
        pytest.raises(Fatal, match="did not leave within 2 s"),
        running(name, source, to_postgresql(postgresql.through(postgresql_proxy), table)),
    ):
        kafka.produce(topic, keyed(0, ROUND))
        until(lambda: len(ids_in(postgresql, table)) == ROUND, 30)
        postgresql_proxy.pause()
        kafka.produce(topic, keyed(ROUND, ROUND))
        time.sleep(1)
    postgresql_proxy.resume()
    drain(name, source, to_postgresql(postgresql, table))
    assert_each_once(ids_in(postgresql, table), 2 * ROUND)
