"""kill -9 of a worker that writes files: what was begun under a token is found, read again and written over."""

import json
import time

import pytest

from tests.cases.flows import assert_each_once, keyed
from tests.crash.victim import Victim, write_flow

KILLS, ROUND = 8, 10_000


def kill_when_a_file_appears(victim: Victim, folder) -> None:
    """Kill -9 between the end of a file and the commit of its checkpoint, as nearly as can be from outside."""
    before, end = set(folder.glob("[!.]*")), time.monotonic() + 30
    while set(folder.glob("[!.]*")) <= before:
        assert time.monotonic() < end, victim.tail()
    assert victim.kill(), "it had ended"


@pytest.mark.crash
@pytest.mark.slow
def test_every_record_is_in_one_file(kafka, tmp_path):
    """Cases 10 and 13."""
    topic, folder = kafka.create_topic(3), tmp_path / "out"
    sink = {"path": str(folder), "format": "ndjson", "batchSize": 200, "batchBytes": 20_000}
    flow = write_flow(
        tmp_path,
        kafka.unique_name("files"),
        {"type": "kafka", "kafka": {"brokers": [kafka.bootstrap_servers], "topic": topic}},
        {"type": "file", "file": sink},
        readRecords=100,
    )
    for number in range(KILLS):
        kafka.produce(topic, keyed(number * ROUND, ROUND))
        kill_when_a_file_appears(Victim(flow).wait_until_committing(), folder)
    Victim(flow, "--drain").finish()
    lines = [line for path in folder.glob("[!.]*") for line in path.read_bytes().splitlines()]
    assert_each_once([json.loads(line)["id"] for line in lines], KILLS * ROUND)
    logs = "".join(path.read_text() for path in tmp_path.glob("*.log"))
    assert logs.count("repeating ") >= 1, "no kill came between a file and its commit"
