"""Whole flows from PostgreSQL's changes: the example in dags/ and a table that follows another, with metrics."""

import json
from pathlib import Path

import pytest
import yaml

from airflow_provider_connect.engine.flow import DataFlow
from airflow_provider_connect.engine.plan import Limits
from airflow_provider_connect.engine.worker import Worker

EXAMPLE = Path(__file__).parents[2] / "dags" / "postgresql-cdc-to-kafka.yaml"


@pytest.fixture
def schema(postgresql, monkeypatch):
    name = postgresql.create_schema()
    connection = {"conn_type": "connect_postgresql", "extra": {"uri": postgresql.dsn}}
    monkeypatch.setenv("AIRFLOW_CONN_ORDERS_POSTGRESQL", json.dumps(connection))
    yield name
    postgresql.drop_replication(name)
    postgresql.execute(f"DROP SCHEMA {name} CASCADE")


def worker(document):
    return Worker(DataFlow.load(yaml.safe_dump(document)).plan(), Limits(mode="drain"))


def test_the_example_in_dags(schema, postgresql, kafka, monkeypatch):
    monkeypatch.setenv(
        "AIRFLOW_CONN_ORDERS_KAFKA", json.dumps({"conn_type": "connect_kafka", "host": kafka.bootstrap_servers})
    )
    document = yaml.safe_load(EXAMPLE.read_text())
    topic = kafka.create_topic(2)
    document["metadata"]["name"] = f"example-{schema}"
    document["spec"]["source"]["postgresql-cdc"] |= {
        "tables": [f"{schema}.orders", f"{schema}.customers"],
        "slot": schema,
    }
    document["spec"]["sink"]["kafka"]["topic"] = topic
    for table in ("orders", "customers"):
        postgresql.execute(f"CREATE TABLE {schema}.{table} (id int PRIMARY KEY, text text)")
        postgresql.execute(f"INSERT INTO {schema}.{table} VALUES (1, 'there')")
    assert worker(document).run().records == 2
    postgresql.execute(f"UPDATE {schema}.orders SET text = 'changed'")
    postgresql.execute(f"DELETE FROM {schema}.customers")
    assert worker(document).run().records == 2
    events = [json.loads(record.value) for record in kafka.consume_all(topic)]
    assert sorted((event["op"], event["source"]["table"]) for event in events) == [
        ("d", "customers"), ("r", "customers"), ("r", "orders"), ("u", "orders"),
    ]  # fmt: skip


def test_a_table_follows_another_with_large_values(schema, postgresql):
    """Flat rows into an upsert: values that are not in the WAL keep what they are, deletes delete."""
    name = f"{schema}.items"
    postgresql.execute(f"CREATE TABLE {name} (id int, part text, small int, large text, PRIMARY KEY (id, part))")
    postgresql.execute(f"ALTER TABLE {name} ALTER large SET STORAGE EXTERNAL")
    postgresql.execute(f"CREATE TABLE {name}_target (LIKE {name} INCLUDING ALL)")
    postgresql.execute(
        f"INSERT INTO {name} SELECT i, 'a''\"', 0, repeat(md5(random()::text), 300) FROM generate_series(1, 9) i"
    )
    document = {
        "apiVersion": "dataflow.dataflow.io/v1",
        "kind": "DataFlow",
        "metadata": {"name": f"follow-{schema}"},
        "spec": {
            "source": {
                "type": "postgresql-cdc",
                "postgresql-cdc": {
                    "connection": "orders_postgresql", "tables": name, "slot": schema, "envelope": "flat",
                },
            },
            "sink": {
                "type": "postgresql",
                "postgresql": {"connection": "orders_postgresql", "table": f"{name}_target", "upsertMode": True},
            },
        },
    }  # fmt: skip
    worker(document).run()
    postgresql.execute(f"UPDATE {name} SET small = id WHERE id < 4")
    postgresql.execute(f"UPDATE {name} SET large = NULL WHERE id = 5")
    postgresql.execute(f"UPDATE {name} SET id = 70 WHERE id = 7")
    postgresql.execute(f"DELETE FROM {name} WHERE id = 6")
    assert worker(document).run().records > 5
    wanted = postgresql.execute(f"SELECT * FROM {name} ORDER BY id")
    found = postgresql.execute(f"SELECT * FROM {name}_target ORDER BY id")
    # A row whose key changed comes whole, except for what is not in the WAL.
    moved = [row for row in found if row[0] == 70]
    assert [row for row in found if row[0] != 70] == [row for row in wanted if row[0] != 70]
    assert len(moved) == 1
    assert moved[0][:3] == (70, "a'\"", 0)
    assert moved[0][3] is None, "the server did not send it"


def test_what_the_server_keeps_for_the_flow_is_a_metric(schema, postgresql, tmp_path, monkeypatch):
    monkeypatch.setattr("airflow_provider_connect.engine.worker._LAG_SECONDS", 0.2)
    postgresql.execute(f"CREATE TABLE {schema}.t (id int PRIMARY KEY)")
    postgresql.execute(f"INSERT INTO {schema}.t VALUES (1)")
    document = {
        "apiVersion": "dataflow.dataflow.io/v1",
        "kind": "DataFlow",
        "metadata": {"name": f"lag-{schema}"},
        "spec": {
            "source": {
                "type": "postgresql-cdc",
                "postgresql-cdc": {"connection": "orders_postgresql", "tables": f"{schema}.t", "slot": schema},
            },
            "sink": {"type": "file", "file": {"path": str(tmp_path)}},
            "checkpoints": str(tmp_path / "checkpoints.db"),
        },
    }
    running = Worker(
        DataFlow.load(yaml.safe_dump(document)).plan(),
        Limits(max_seconds=2),
        on_progress=lambda progress: None,
    )
    assert running.run().records == 1
    behind = running.metrics.value("connect_lag_bytes")
    assert behind is not None and 0 <= behind < 100_000_000
    assert running.metrics.value("connect_lag_records") is None
