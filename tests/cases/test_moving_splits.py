"""Splits move between the workers of a consumer group while records flow, in each protocol of assignment."""

import json
import time

import pytest

from tests.cases.flows import assert_each_once, keyed
from tests.crash.victim import Feeder, Victim, write_flow

ROUND = 2000

pytestmark = [pytest.mark.crash, pytest.mark.slow]


@pytest.mark.parametrize(
    ("protocol", "target"),
    [
        ({"assignment": "range"}, "postgresql"),
        ({"assignment": "cooperative-sticky"}, "kafka"),
        ({"groupProtocol": "consumer"}, "postgresql"),
        ({"groupProtocol": "consumer"}, "kafka"),
    ],
    ids=["eager-postgresql", "cooperative-kafka", "kip-848-postgresql", "kip-848-kafka"],
)
def test_exactly_once_while_workers_come_and_go(protocol, target, kafka, postgresql, tmp_path):
    """Cases 1 to 4. Where sessions can be short, one of the workers is killed; the others leave in good order."""
    topic, copied, table = kafka.create_topic(4), kafka.create_topic(4), postgresql.unique_name()
    postgresql.execute(f"CREATE TABLE {table} (data jsonb)")
    sinks = {
        "postgresql": {"connectionString": postgresql.dsn, "table": table},
        "kafka": {"brokers": [kafka.bootstrap_servers], "topic": copied},
    }
    flow = write_flow(
        tmp_path,
        kafka.unique_name("moving"),
        {"type": "kafka", "kafka": {"brokers": [kafka.bootstrap_servers], "topic": topic, **protocol}},
        {"type": target, target: {**sinks[target], "batchSize": 200, "batchFlushIntervalSeconds": 1}},
        readRecords=100,
    )
    with Feeder(lambda number: kafka.produce(topic, keyed(number * ROUND, ROUND))) as feeder:
        first = Victim(flow).wait_until_committing()
        second = Victim(flow).wait_until_committing()
        time.sleep(1.5)
        moved = leave(second)
        third = Victim(flow).wait_until_committing()
        time.sleep(1)
        if "assignment" in protocol:
            first.kill()
        else:
            leave(first)
        time.sleep(1)
        leave(third)
    Victim(flow, "--drain").finish()
    assert 0 < len(moved["checkpoint"]) < 4, "the second worker never had a part of the splits"
    if target == "postgresql":
        ids = [i for (i,) in postgresql.execute(f"SELECT (data->>'id')::int FROM {table}")]
    else:
        ids = [json.loads(record.value)["id"] for record in kafka.consume_all(copied)]
    postgresql.execute(f"DROP TABLE {table}")
    assert_each_once(ids, feeder.rounds * ROUND)


def leave(worker: Victim) -> dict:
    """End a worker in good order; what it did."""
    worker.process.terminate()
    return worker.finish(60)
