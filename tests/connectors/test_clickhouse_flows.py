"""Whole flows from and to ClickHouse: the specification's sample, the example in dags/, dead letters, PostgreSQL."""

import datetime as dt
import json
from pathlib import Path

import pytest
import yaml

from airflow_provider_connect.engine.flow import DataFlow
from airflow_provider_connect.engine.plan import Limits
from airflow_provider_connect.engine.worker import Worker
from tests.services.clickhouse import PROTOCOLS

ROOT = Path(__file__).parents[2]
SAMPLE = ROOT / "tests" / "data" / "specification" / "kafka-to-clickhouse.yaml"
EXAMPLE = ROOT / "dags" / "kafka-to-clickhouse.yaml"


@pytest.fixture
def table(clickhouse):
    name = clickhouse.unique_name("flow")
    yield name
    clickhouse.execute(f"DROP TABLE IF EXISTS {name}")


def drained(document, tmp_path):
    """Run a flow until all is delivered that is there."""
    document["spec"].setdefault("checkpoints", str(tmp_path / "checkpoints.db"))
    document["metadata"]["name"] += f"-{tmp_path.name}"
    return Worker(DataFlow.load(yaml.safe_dump(document)).plan(), Limits(mode="drain")).run()


def flow(source, sink, **spec):
    kinds = {"source": source, "sink": sink, **spec}
    return {"apiVersion": "dataflow.dataflow.io/v1", "kind": "DataFlow", "metadata": {"name": "f"}, "spec": kinds}


def produced(kafka, count=50):
    topic = kafka.create_topic(2)
    kafka.produce(topic, [(str(n).encode(), json.dumps({"id": n, "text": f"no. {n}"}).encode()) for n in range(count)])
    return topic


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_the_sample_of_the_specification(protocol, kafka, clickhouse, table, tmp_path):
    document = yaml.safe_load(SAMPLE.read_text())
    spec = document["spec"]
    spec["source"]["kafka"] |= {"brokers": [kafka.bootstrap_servers], "topic": produced(kafka)}
    spec["source"]["kafka"]["consumerGroup"] = kafka.unique_name("g")
    spec["sink"]["clickhouse"] |= {"connectionString": clickhouse.url(protocol), "table": table}
    assert drained(document, tmp_path).records == 50
    rows = clickhouse.execute(f"SELECT data, created_at > now() - 60 FROM {table}")
    assert sorted((json.loads(data)["id"], recent) for data, recent in rows) == [(n, 1) for n in range(50)]


def test_the_example_in_dags(kafka, clickhouse, table, tmp_path, monkeypatch):
    document = yaml.safe_load(EXAMPLE.read_text())
    brokers = {"conn_type": "connect_kafka", "host": kafka.bootstrap_servers}
    server = {"conn_type": "connect_clickhouse", "extra": {"uri": clickhouse.url()}}
    monkeypatch.setenv("AIRFLOW_CONN_ORDERS_KAFKA", json.dumps(brokers))
    monkeypatch.setenv("AIRFLOW_CONN_ORDERS_CLICKHOUSE", json.dumps(server))
    document["spec"]["source"]["kafka"]["topic"] = produced(kafka)
    document["spec"]["sink"]["clickhouse"]["table"] = table
    assert drained(document, tmp_path).records == 50
    assert clickhouse.execute(f"SELECT uniqExact(data) FROM {table}") == [(50,)]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_refused_records_become_dead_letters(protocol, kafka, clickhouse, table, tmp_path):
    """Also the dead letters go to ClickHouse."""
    clickhouse.execute(
        f"CREATE TABLE {table} (id Int64, kind Enum8('good' = 1)) ENGINE = MergeTree ORDER BY id"
        " SETTINGS non_replicated_deduplication_window = 100"
    )
    topic = kafka.create_topic(2)
    kinds = ["bad" if n in {3, 70, 71} else "good" for n in range(100)]
    kafka.produce(topic, [(b"k", json.dumps({"id": n, "kind": kind}).encode()) for n, kind in enumerate(kinds)])
    url = clickhouse.url(protocol)
    try:
        summary = drained(
            flow(
                {"type": "kafka", "kafka": {"brokers": [kafka.bootstrap_servers], "topic": topic}},
                {"type": "clickhouse", "clickhouse": {"connectionString": url, "table": table}},
                errors={
                    "type": "clickhouse",
                    "clickhouse": {"connectionString": url, "table": f"{table}_dead", "autoCreateTable": True},
                },
            ),
            tmp_path,
        )
        assert (summary.records, summary.dead_letters) == (100, 3)
        dead = [json.loads(data) for (data,) in clickhouse.execute(f"SELECT data FROM {table}_dead")]
        assert sorted(letter["original_message"]["id"] for letter in dead) == [3, 70, 71]
        assert all("bad" in letter["error"]["message"] for letter in dead)
        assert clickhouse.execute(f"SELECT count(), uniqExact(id) FROM {table}") == [(97, 97)]
    finally:
        clickhouse.execute(f"DROP TABLE IF EXISTS {table}_dead")


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("shape", ["documents", "columns"])
def test_to_and_from_postgresql(protocol, shape, clickhouse, postgresql, table, tmp_path):
    columns = "id bigint PRIMARY KEY, text text, price numeric(10,2), flag boolean, at timestamptz, tags text[]"
    made = "INSERT INTO {} SELECT n, CASE WHEN n % 3 > 0 THEN E'a\\tb\"\\\\' || n END, n / 7.0, n % 2 = 0,"
    made += " timestamptz '2025-01-01 00:00:00.123456+00' + n * interval '1 hour', ARRAY['x', 'y']"
    source, target = postgresql.unique_name("src"), postgresql.unique_name("dst")
    postgresql.execute(f"CREATE TABLE {source} ({columns})")
    postgresql.execute(f"{made.format(source)} FROM generate_series(1, 100) n")
    if shape == "columns":
        clickhouse.execute(
            f"CREATE TABLE {table} (id Int64, text Nullable(String), price Decimal(10, 2), flag Bool,"
            f" at DateTime64(6, 'UTC'), tags Array(String)) ENGINE = MergeTree ORDER BY id"
            " SETTINGS non_replicated_deduplication_window = 100"
        )
        postgresql.execute(f"CREATE TABLE {target} ({columns})")
    else:
        postgresql.execute(f"CREATE TABLE {target} (data jsonb)")
    url = clickhouse.url(protocol)
    here = {"connectionString": postgresql.dsn}
    there = {"connectionString": url, "table": table}
    try:
        first = drained(
            flow(
                {"type": "postgresql", "postgresql": {**here, "table": source}},
                {"type": "clickhouse", "clickhouse": {**there, "autoCreateTable": shape == "documents"}},
            ),
            tmp_path,
        )
        assert first.records == 100
        if shape == "columns":
            ((row),) = clickhouse.execute(f"SELECT id, text, toString(price), flag, tags FROM {table} WHERE id = 50")
            assert row == (50, 'a\tb"\\50', "7.14", True, ["x", "y"])
        document = flow(
            {"type": "clickhouse", "clickhouse": {**there, "lateRowsSeconds": 0}},
            {"type": "postgresql", "postgresql": {**here, "table": target}},
        )
        document["metadata"]["name"] = "back"
        assert drained(document, tmp_path).records == 100
        if shape == "columns":
            same = f"SELECT count(*) FROM {source} s JOIN {target} t ON s.id = t.id AND s IS NOT DISTINCT FROM t"
            assert postgresql.execute(same) == [(100,)]
        else:
            rows = postgresql.execute(f"SELECT data FROM {target}")
            documents = [json.loads(row["data"]) for (row,) in rows]
            assert sorted(document["id"] for document in documents) == list(range(1, 101))
            (fifty,) = [document for document in documents if document["id"] == 50]
            assert fifty["text"] == 'a\tb"\\50'
            at = dt.datetime.fromisoformat(fifty["at"])
            assert at == dt.datetime(2025, 1, 3, 2, 0, 0, 123456, tzinfo=dt.UTC)
    finally:
        postgresql.execute(f"DROP TABLE {source}, {target}")
