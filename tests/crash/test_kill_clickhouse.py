"""kill -9 on the way to ClickHouse: of the worker at random moments, and of the server; every record arrives once."""

from __future__ import annotations

import time

import pytest

from tests.crash.test_kill import PER_COMMIT, SMALL_READS, assert_each_once, records
from tests.crash.victim import Feeder, Victim, kill_repeatedly, write_flow
from tests.services.clickhouse import ClickHouse

KILLS = 8
ROUND = 3_000

pytestmark = [pytest.mark.crash, pytest.mark.timeout(300)]


def flow_to(folder, kafka, topic, url, table):
    """From Kafka to a table of documents."""
    return write_flow(
        folder,
        kafka.unique_name("k2c"),
        {"type": "kafka", "kafka": {"brokers": [kafka.bootstrap_servers], "topic": topic}},
        {
            "type": "clickhouse",
            "clickhouse": {"connectionString": url, "table": table, "autoCreateTable": True, **PER_COMMIT},
        },
        **SMALL_READS,
    )


def ids_in(clickhouse, table):
    return [i for (i,) in clickhouse.execute(f"SELECT JSONExtractInt(data, 'id') FROM {table}")]


@pytest.mark.parametrize("protocol", ["http", "native"])
def test_kafka_to_clickhouse(protocol, kafka, clickhouse, tmp_path):
    topic, table = kafka.create_topic(4), clickhouse.unique_name("killed")
    flow = flow_to(tmp_path, kafka, topic, clickhouse.url(protocol), table)
    kills = kill_repeatedly(
        flow, lambda number: kafka.produce(topic, records(number, ROUND)), KILLS // 2, seed=len(protocol)
    )
    assert kills == KILLS // 2
    ids = ids_in(clickhouse, table)
    clickhouse.execute(f"DROP TABLE {table}")
    assert_each_once(ids, (KILLS // 2 + 1) * ROUND)


def test_the_server_is_killed_while_the_worker_goes_on(kafka, clickhouse_server, tmp_path):
    clickhouse = ClickHouse.at(clickhouse_server.address)
    topic, table = kafka.create_topic(4), clickhouse.unique_name("killed")
    flow = flow_to(tmp_path, kafka, topic, clickhouse.url("http"), table)
    with Feeder(lambda number: kafka.produce(topic, records(number, 1000))) as feeder:
        victim = Victim(flow).wait_until_committing()
        for _ in range(3):
            time.sleep(0.7)
            clickhouse_server.kill()
            time.sleep(0.3)
            clickhouse_server.start()
        time.sleep(1)
        victim.stop()
    Victim(flow, "--drain").finish()
    ids = ids_in(clickhouse, table)
    clickhouse.execute(f"DROP TABLE {table}")
    assert_each_once(ids, feeder.rounds * 1000)
