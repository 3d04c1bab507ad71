"""Commits to Iceberg: answers that are lost, writers that meet, a zombie; on Nessie and through its REST catalog."""

import json
import time

import pyarrow as pa
import pytest
from pyiceberg.exceptions import CommitFailedException, ValidationException

from tests.cases.flows import PER_COMMIT, assert_each_once, drain, from_kafka, keyed, running
from tests.crash.victim import Victim, write_flow
from tests.engine.flows import until
from tests.services.proxy import TcpProxy

COUNT = 300
ZOMBIES = 8_000
COMMIT = b'"add-snapshot"'
"""Only commits have it."""


@pytest.fixture
def table(nessie):
    return f"{nessie.create_namespace()}.{nessie.unique_name()}"


@pytest.fixture
def nessie_proxy(nessie):
    host, _, port = nessie.url.removeprefix("http://").rpartition(":")
    with TcpProxy((host, int(port))) as proxy:
        yield proxy


def to_nessie(url: str, table: str, **settings) -> tuple:
    namespace, _, name = table.rpartition(".")
    where = {"baseURL": url, "namespace": namespace, "table": name, "autoCreateTable": True}
    return "nessie", {**where, **PER_COMMIT, **settings}


def ids_in(nessie, table: str) -> list[int]:
    return [json.loads(row["data"])["id"] for row in nessie.rows(table)]


@pytest.mark.parametrize("landed", [True, False], ids=["landed", "never arrived"])
def test_a_commit_whose_answer_is_lost(landed, kafka, nessie, nessie_proxy, table):
    """Case 7."""
    topic, proxy = kafka.create_topic(2), nessie_proxy
    sink = to_nessie(f"http://{proxy.address}", table, batchSize=COUNT)
    rounds = 4
    with running(kafka.unique_name("flow"), from_kafka(kafka, topic), sink) as worker:
        for number in range(rounds):
            (proxy.cut_after_request if landed else proxy.cut_before_request)(COMMIT) if number else None
            kafka.produce(topic, keyed(number * COUNT, COUNT))
            assert not number or proxy.wait_for_cut(), "no commit came by"
            until(lambda: len(ids_in(nessie, table)) >= (number + 1) * COUNT, 60)  # noqa: B023
        until(lambda: worker.worker.metrics.value("connect_records_total", stage="committed") == rounds * COUNT)
        assert worker.worker.metrics.value("connect_retries_total") >= rounds - 1
    assert_each_once(ids_in(nessie, table), rounds * COUNT)


def test_two_flows_and_a_stranger_into_one_table(kafka, nessie, table):
    """Case 7: commits that meet are made again, and all land."""
    rounds, size = 8, 30
    topics = [kafka.create_topic(1) for _ in range(2)]
    sink = to_nessie(nessie.url, table, batchSize=10)
    drain(kafka.unique_name("first"), from_kafka(kafka, kafka.create_topic(1)), sink)
    with (
        running(kafka.unique_name("flow"), from_kafka(kafka, topics[0]), sink, readRecords=10),
        running(kafka.unique_name("flow"), from_kafka(kafka, topics[1]), sink, readRecords=10),
    ):
        for number in range(rounds):
            for flow, topic in enumerate(topics):
                kafka.produce(topic, keyed((2 * number + flow) * size, size))
            until(lambda: strangers_append(nessie, table, 2 * rounds * size + number), 60)  # noqa: B023
        until(lambda: len(ids_in(nessie, table)) >= 2 * rounds * size + rounds, 60)
    assert_each_once(ids_in(nessie, table), 2 * rounds * size + rounds)


def strangers_append(nessie, table: str, number: int) -> bool:
    """Whether another client could append a record; it gives up when commits meet, which ours do not."""
    try:
        nessie.table(table).append(pa.table({"data": [json.dumps({"id": number})]}))
    except (CommitFailedException, ValidationException):
        return False
    return True


def test_a_paused_worker_is_fenced(kafka, nessie, table, tmp_path):
    """Cases 2 and 7."""
    topic = kafka.create_topic(1)
    kafka.produce(topic, keyed(0, ZOMBIES))
    kind, sink = to_nessie(nessie.url, table, batchSize=500)
    source = {"brokers": [kafka.bootstrap_servers], "topic": topic, "properties": {"session.timeout.ms": 6000}}
    flow = write_flow(
        tmp_path,
        kafka.unique_name("zombie"),
        {"type": "kafka", "kafka": source},
        {"type": kind, kind: sink},
        readRecords=250,
    )
    zombie = Victim(flow).wait_until_committing()
    zombie.pause()
    Victim(flow, "--drain").finish()
    zombie.resume()
    time.sleep(3)
    zombie.kill()
    Victim(flow, "--drain").finish()
    assert_each_once(ids_in(nessie, table), ZOMBIES)
