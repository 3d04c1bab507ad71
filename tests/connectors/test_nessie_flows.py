"""Whole flows to Nessie: the specification's sample and the example in dags/."""

import json
from collections import Counter
from pathlib import Path

import pytest
import yaml

from airflow_provider_connect.engine.flow import DataFlow
from airflow_provider_connect.engine.plan import Limits
from airflow_provider_connect.engine.worker import Worker

ROOT = Path(__file__).parents[2]
SAMPLE = ROOT / "tests" / "data" / "specification" / "kafka-to-nessie.yaml"
EXAMPLE = ROOT / "dags" / "kafka-to-nessie.yaml"
RECORDS = [json.dumps({"id": number}).encode() for number in range(50)]


@pytest.fixture
def gone(nessie):
    """Drops the tables that it is called with."""
    names = []
    yield names.append
    for name in names:
        nessie.catalog().drop_table(name)


def drained(document, kafka):
    """Run a flow on a topic of ours until all is delivered that is there, twice: the second run finds nothing new."""
    topic = kafka.create_topic(2)
    kafka.produce(topic, RECORDS)
    source = document["spec"]["source"]["kafka"]
    source |= {"topic": topic, **({"consumerGroup": topic} if "consumerGroup" in source else {})}
    document["metadata"]["name"] += f"-{topic}"
    counts = []
    for _ in range(2):
        plan = DataFlow.load(yaml.safe_dump(document)).plan()
        counts.append(Worker(plan, Limits(mode="drain")).run().records)
    return counts


def assert_all_there(nessie, table):
    rows = nessie.rows(table)
    assert {tuple(row) for row in rows} == {("data",)}
    assert Counter(row["data"].encode() for row in rows) == Counter(RECORDS)


def test_the_sample_of_the_specification(kafka, nessie, gone):
    document = yaml.safe_load(SAMPLE.read_text())
    document["spec"]["source"]["kafka"]["brokers"] = [kafka.bootstrap_servers]
    document["spec"]["sink"]["nessie"]["baseURL"] = nessie.url
    gone("analytics.events")
    assert drained(document, kafka) == [50, 0]
    assert_all_there(nessie, "analytics.events")


def test_the_example_in_dags(kafka, nessie, gone, monkeypatch):
    connections = {
        "ORDERS_KAFKA": {"conn_type": "connect_kafka", "host": kafka.bootstrap_servers},
        "ORDERS_NESSIE": {"conn_type": "connect_nessie", "host": nessie.url},
    }
    for name, connection in connections.items():
        monkeypatch.setenv(f"AIRFLOW_CONN_{name}", json.dumps(connection))
    gone("analytics.orders")
    assert drained(yaml.safe_load(EXAMPLE.read_text()), kafka) == [50, 0]
    assert_all_there(nessie, "analytics.orders")
