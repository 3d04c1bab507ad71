"""kill -9 of a running worker at random moments, on real servers: every record arrives exactly once, counted by key."""

from __future__ import annotations

import json
import time
from collections import Counter

import pytest

from tests.crash.victim import Feeder, Victim, kill_repeatedly, session_milliseconds, write_flow

KILLS = 20
ROUND = 10_000

pytestmark = [pytest.mark.crash, pytest.mark.timeout(600)]

PER_COMMIT = {"batchSize": 200, "batchFlushIntervalSeconds": 1}
SMALL_READS = {"readRecords": 100}


def records(number: int, size: int = ROUND) -> list[tuple[bytes, bytes]]:
    """The records of a round: keys are distinct over all rounds."""
    ids = range(number * size, (number + 1) * size)
    return [(str(i).encode(), json.dumps({"id": i, "text": f"record {i}"}).encode()) for i in ids]


def assert_each_once(ids: list[int], wanted: int) -> None:
    """Counted by key: nothing missing, nothing twice."""
    counted = Counter(ids)
    assert {i: n for i, n in counted.items() if n > 1} == {}, "repeated"
    assert set(range(wanted)) - set(counted) == set(), "lost"
    assert len(counted) == wanted


def test_kafka_to_postgresql(kafka, postgresql, tmp_path):
    topic, table = kafka.create_topic(4), postgresql.unique_name("killed")
    flow = write_flow(
        tmp_path,
        kafka.unique_name("k2p"),
        {"type": "kafka", "kafka": {"brokers": [kafka.bootstrap_servers], "topic": topic}},
        {
            "type": "postgresql",
            "postgresql": {
                "connectionString": postgresql.dsn, "table": table, "autoCreateTable": True, **PER_COMMIT,
            },
        },
        **SMALL_READS,
    )  # fmt: skip
    kills = kill_repeatedly(flow, lambda number: kafka.produce(topic, records(number)), KILLS)
    assert kills == KILLS
    rows = postgresql.execute(f"SELECT (data->>'id')::int FROM {table}")
    postgresql.execute(f"DROP TABLE {table}")
    assert_each_once([i for (i,) in rows], (KILLS + 1) * ROUND)


def test_postgresql_to_kafka(kafka, postgresql, tmp_path):
    topic, table = kafka.create_topic(4), postgresql.unique_name("killed")
    postgresql.execute(f"CREATE TABLE {table} (id int PRIMARY KEY, text text)")

    def feed(number: int) -> None:
        postgresql.execute(
            f"INSERT INTO {table} SELECT i, 'record ' || i FROM generate_series(%s::int, %s::int) i",
            number * ROUND,
            (number + 1) * ROUND - 1,
        )

    flow = write_flow(
        tmp_path,
        kafka.unique_name("p2k"),
        {
            "type": "postgresql",
            "postgresql": {"connectionString": postgresql.dsn, "table": table, "cursor": "id", "pollInterval": 1},
        },
        {"type": "kafka", "kafka": {"brokers": [kafka.bootstrap_servers], "topic": topic, **PER_COMMIT}},
        **SMALL_READS,
    )
    kills = kill_repeatedly(flow, feed, KILLS, seed=2)
    assert kills == KILLS
    postgresql.execute(f"DROP TABLE {table}")
    assert_each_once([json.loads(r.value)["id"] for r in kafka.consume_all(topic)], (KILLS + 1) * ROUND)


def test_kafka_to_kafka(kafka, tmp_path):
    source, target = kafka.create_topic(4), kafka.create_topic(4)
    flow = write_flow(
        tmp_path,
        kafka.unique_name("k2k"),
        {"type": "kafka", "kafka": {"brokers": [kafka.bootstrap_servers], "topic": source}},
        {"type": "kafka", "kafka": {"brokers": [kafka.bootstrap_servers], "topic": target, **PER_COMMIT}},
        **SMALL_READS,
    )
    kills = kill_repeatedly(flow, lambda number: kafka.produce(source, records(number)), KILLS, seed=3)
    assert kills == KILLS
    assert_each_once([int(r.key) for r in kafka.consume_all(target)], (KILLS + 1) * ROUND)


@pytest.mark.parametrize("target", ["postgresql", "kafka"])
def test_two_workers_of_one_group_with_rebalances_kills_and_a_zombie(target, kafka, postgresql, tmp_path):
    """Workers come, go in good order, are killed, and one is paused until the group has given its splits away."""
    source, sink_topic, table = kafka.create_topic(4), kafka.create_topic(4), postgresql.unique_name("killed")
    if target == "postgresql":
        sink = {"connectionString": postgresql.dsn, "table": table, "autoCreateTable": True, **PER_COMMIT}
    else:
        sink = {"brokers": [kafka.bootstrap_servers], "topic": sink_topic, **PER_COMMIT}
    flow = write_flow(
        tmp_path,
        kafka.unique_name("group"),
        {
            "type": "kafka",
            "kafka": {"brokers": [kafka.bootstrap_servers], "topic": source},
        },
        {"type": target, target: sink},
        **SMALL_READS,
    )
    session = session_milliseconds(kafka.bootstrap_servers) / 1000
    with Feeder(lambda number: kafka.produce(source, records(number, 2000))) as feeder:
        first = Victim(flow).wait_until_committing()
        second = Victim(flow).wait_until_committing()  # joins: splits move in good order
        time.sleep(1)
        first.stop()  # leaves in good order
        third = Victim(flow).wait_until_committing()
        time.sleep(1)
        second.kill()  # its splits move when its session times out
        time.sleep(2)
        fourth = Victim(flow).wait_until_committing()
        third.pause()  # a zombie: the group goes on without it
        time.sleep(1.5 * session)
        third.resume()  # whatever it still holds must not land
        time.sleep(3)
        third.kill()
        fourth.stop()
    Victim(flow, "--drain").finish()
    if target == "postgresql":
        ids = [i for (i,) in postgresql.execute(f"SELECT (data->>'id')::int FROM {table}")]
        postgresql.execute(f"DROP TABLE {table}")
    else:
        ids = [int(r.key) for r in kafka.consume_all(sink_topic)]
    assert_each_once(ids, feeder.rounds * 2000)
