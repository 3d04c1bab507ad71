"""kill -9 of a worker that writes files: what was begun under a token is found, read again and written over."""

import json

import pytest

from tests.cases.flows import assert_each_once, keyed
from tests.crash.victim import kill_repeatedly, write_flow

KILLS, ROUND = 6, 10_000


@pytest.mark.crash
@pytest.mark.slow
def test_every_record_is_in_one_file(kafka, tmp_path):
    """Cases 10 and 13."""
    topic, folder = kafka.create_topic(3), tmp_path / "out"
    flow = write_flow(
        tmp_path,
        kafka.unique_name("files"),
        {"type": "kafka", "kafka": {"brokers": [kafka.bootstrap_servers], "topic": topic}},
        {
            "type": "file",
            "file": {"path": str(folder), "format": "ndjson", "batchSize": 200, "batchFlushIntervalSeconds": 1},
        },
        readRecords=100,
    )
    kills = kill_repeatedly(flow, lambda number: kafka.produce(topic, keyed(number * ROUND, ROUND)), KILLS, seed=10)
    assert kills == KILLS
    files = sorted(folder.glob("[!.]*"))
    lines = [line for path in files for line in path.read_bytes().splitlines()]
    assert_each_once([json.loads(line)["id"] for line in lines], (KILLS + 1) * ROUND)
