"""kill -9 of a worker that writes to Trino: each record once under tokens, none lost without them; counted by key."""

from __future__ import annotations

import json
from collections import Counter

import pytest

from tests.crash.test_kill import assert_each_once, records
from tests.crash.victim import kill_repeatedly, write_flow

KILLS = 6
ROUND = 1_500

pytestmark = [pytest.mark.crash, pytest.mark.timeout(300)]


def killed(kafka, trino, schemas, folder, catalog: str, kills: int, **settings) -> list[int]:
    """The ids in the table after a flow from Kafka was killed again and again, and then ran to its end."""
    topic, table = kafka.create_topic(2), trino.unique_name("killed")
    place = {"serverURL": trino.url, "catalog": catalog, "schema": schemas[catalog], "table": table}
    flow = write_flow(
        folder,
        kafka.unique_name("k2t"),
        {"type": "kafka", "kafka": {"brokers": [kafka.bootstrap_servers], "topic": topic}},
        {"type": "trino", "trino": {**place, "autoCreateTable": True, "batchSize": 300, **settings}},
        readRecords=150,
    )
    assert kill_repeatedly(flow, lambda number: kafka.produce(topic, records(number, ROUND)), kills, seed=4) == kills
    rows = trino.execute(f"SELECT data FROM {catalog}.{schemas[catalog]}.{table}")
    return [json.loads(text)["id"] for (text,) in rows]


def test_kafka_to_trino_under_tokens(kafka, trino, trino_schemas, tmp_path):
    found = killed(kafka, trino, trino_schemas, tmp_path, "iceberg", KILLS, idempotent=True)
    assert_each_once(found, (KILLS + 1) * ROUND)


def test_kafka_to_trino_at_least_once(kafka, trino, trino_schemas, tmp_path):
    """Repetitions are what is promised here, and no more than the flush that each kill interrupted."""
    kills = 2
    counted = Counter(killed(kafka, trino, trino_schemas, tmp_path, "memory", kills))
    assert set(counted) == set(range((kills + 1) * ROUND)), "lost"
    assert max(counted.values()) <= kills + 1
