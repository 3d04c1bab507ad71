"""kill -9 of a worker that writes to Nessie: every record arrives exactly once, counted by key."""

import json

import pytest

from tests.crash.test_kill import assert_each_once, records
from tests.crash.victim import kill_repeatedly, write_flow

KILLS = 8
ROUND = 2_000

pytestmark = [pytest.mark.crash, pytest.mark.timeout(300)]


def test_kafka_to_nessie(kafka, nessie, tmp_path):
    topic, table = kafka.create_topic(4), nessie.unique_name("killed")
    namespace = nessie.create_namespace()
    flow = write_flow(
        tmp_path,
        kafka.unique_name("k2n"),
        {"type": "kafka", "kafka": {"brokers": [kafka.bootstrap_servers], "topic": topic}},
        {
            "type": "nessie",
            "nessie": {
                "baseURL": nessie.url, "namespace": namespace, "table": table, "autoCreateTable": True,
                "batchSize": 500, "batchFlushIntervalSeconds": 1,
            },
        },
        readRecords=250,
    )  # fmt: skip
    kills = kill_repeatedly(flow, lambda number: kafka.produce(topic, records(number, ROUND)), KILLS)
    assert kills == KILLS
    rows = nessie.rows(f"{namespace}.{table}")
    assert_each_once([json.loads(row["data"])["id"] for row in rows], (KILLS + 1) * ROUND)
