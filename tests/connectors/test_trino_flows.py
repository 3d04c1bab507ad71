"""Whole flows from and to Trino: the specification's sample, the example in dags/, dead letters, PostgreSQL."""

import datetime as dt
import json
from decimal import Decimal
from pathlib import Path

import pytest
import yaml

from airflow_provider_connect.engine.flow import DataFlow
from airflow_provider_connect.engine.plan import Limits
from airflow_provider_connect.engine.worker import Worker
from tests.services.keycloak import CONNECTOR, CONNECTOR_SECRET, PASSWORD, REALM, USER
from tests.services.trino import Trino

ROOT = Path(__file__).parents[2]
SAMPLE = ROOT / "tests" / "data" / "specification" / "kafka-to-trino.yaml"
EXAMPLE = ROOT / "dags" / "kafka-to-trino.yaml"


@pytest.fixture
def place(trino, trino_schemas):
    """A table's place in the catalog `memory`."""
    return {
        "serverURL": trino.url,
        "catalog": "memory",
        "schema": trino_schemas["memory"],
        "table": trino.unique_name(),
    }


def where(place):
    return f"{place['catalog']}.{place['schema']}.{place['table']}"


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


def test_the_sample_of_the_specification_by_http(kafka, trino, keycloak, place, tmp_path):
    """The table is there and has one column for documents; the token is a long-lived one."""
    document = yaml.safe_load(SAMPLE.read_text())
    spec = document["spec"]
    spec["source"]["kafka"] |= {"brokers": [kafka.bootstrap_servers], "topic": produced(kafka)}
    spec["source"]["kafka"]["consumerGroup"] = kafka.unique_name("g")
    spec["sink"]["trino"] |= place
    spec["sink"]["trino"]["keycloak"]["token"] = keycloak.token()
    trino.execute(f"CREATE TABLE {where(place)} (data varchar)")
    assert drained(document, tmp_path).records == 50
    rows = trino.execute(f"SELECT data FROM {where(place)}")
    assert sorted(json.loads(data)["id"] for (data,) in rows) == list(range(50))


def test_the_sample_with_every_secret_from_a_connection(
    kafka, trino_server, keycloak_server, authority, tmp_path, monkeypatch
):
    """All that the specification lists as `…SecretRef`, by the OAuth2 flow, by HTTPS."""
    trino, kept = Trino(trino_server.url), "AIRFLOW_CONN_TRINO_CREDENTIALS"
    schema = trino.create_schema("memory")
    secrets = {"serverURL": trino_server.https_url, "catalog": "memory", "schema": schema, "table": "t"}
    own = {
        "keycloakURL": keycloak_server.https_url,
        "realm": REALM,
        "clientID": CONNECTOR,
        "clientSecret": CONNECTOR_SECRET,
        "username": USER,
        "password": PASSWORD,
    }
    document = yaml.safe_load(SAMPLE.read_text())
    spec = document["spec"]
    spec["source"]["kafka"] |= {"brokers": [kafka.bootstrap_servers], "topic": produced(kafka)}
    spec["source"]["kafka"]["consumerGroup"] = kafka.unique_name("g")
    sink = spec["sink"]["trino"]
    for name in secrets:
        sink.pop(name)
        sink[f"{name}SecretRef"] = {"name": "trino-credentials", "key": name}
    sink["keycloak"] = {
        f"{name}SecretRef": {"name": "trino-credentials", "key": key}
        for name, key in (
            ("serverURL", "keycloakURL"),
            *((name, name) for name in own if name != "keycloakURL"),
        )
    }
    sink |= {"tls": {"ca": authority.cert}, "autoCreateTable": True}
    monkeypatch.setenv(kept, json.dumps({"conn_type": "connect_trino", "extra": {**secrets, **own}}))
    assert drained(document, tmp_path).records == 50
    trino.drop_schema("memory", schema)


def test_the_example_in_dags(kafka, trino_server, keycloak_server, authority, tmp_path, monkeypatch):
    """By HTTPS, with a client at Keycloak that the connection holds."""
    trino = Trino(trino_server.url)
    schema = trino.create_schema("iceberg")
    document = yaml.safe_load(EXAMPLE.read_text())
    brokers = {"conn_type": "connect_kafka", "host": kafka.bootstrap_servers}
    server = {
        "conn_type": "connect_trino",
        "host": "localhost",
        "port": trino_server.https_port,
        "schema": schema,
        "extra": {
            "catalog": "iceberg",
            "ca": authority.cert,
            "keycloak_url": keycloak_server.https_url,
            "keycloak_realm": REALM,
            "keycloak_client_id": CONNECTOR,
            "keycloak_client_secret": CONNECTOR_SECRET,
        },
    }
    monkeypatch.setenv("AIRFLOW_CONN_ORDERS_KAFKA", json.dumps(brokers))
    monkeypatch.setenv("AIRFLOW_CONN_ORDERS_TRINO", json.dumps(server))
    document["spec"]["source"]["kafka"]["topic"] = produced(kafka)
    assert drained(document, tmp_path).records == 50
    assert trino.execute(f"SELECT count(DISTINCT data), count(*) FROM iceberg.{schema}.orders") == [[50, 50]]
    trino.drop_schema("iceberg", schema)


def test_refused_records_become_dead_letters(kafka, trino, place, tmp_path):
    """Also the dead letters go to Trino."""
    trino.execute(f"CREATE TABLE {where(place)} (id bigint, day date)")
    topic = kafka.create_topic(2)
    days = ["2026-02-30" if n in {3, 70, 71} else "2026-02-28" for n in range(100)]
    kafka.produce(topic, [(b"k", json.dumps({"id": n, "day": day}).encode()) for n, day in enumerate(days)])
    dead = {**place, "table": f"{place['table']}_dead", "autoCreateTable": True}
    summary = drained(
        flow(
            {"type": "kafka", "kafka": {"brokers": [kafka.bootstrap_servers], "topic": topic}},
            {"type": "trino", "trino": {**place, "batchSize": 1000}},
            errors={"type": "trino", "trino": dead},
        ),
        tmp_path,
    )
    assert (summary.records, summary.dead_letters) == (100, 3)
    letters = [json.loads(text) for (text,) in trino.execute(f"SELECT data FROM {where(dead)}")]
    assert sorted(letter["original_message"]["id"] for letter in letters) == [3, 70, 71]
    assert all("2026-02-30" in letter["error"]["message"] for letter in letters)
    found = [row[0] for row in trino.execute(f"SELECT id FROM {where(place)}")]
    assert set(found) == set(range(100)) - {3, 70, 71}


def test_to_and_from_postgresql(trino, trino_schemas, postgresql, tmp_path):
    columns = "id bigint PRIMARY KEY, text text, price numeric(10,2), flag boolean, at timestamptz, tags text[]"
    source, target = postgresql.unique_name("src"), postgresql.unique_name("dst")
    for name in (source, target):
        postgresql.execute(f"CREATE TABLE {name} ({columns})")
    postgresql.execute(
        f"INSERT INTO {source} SELECT n, CASE WHEN n % 3 > 0 THEN E'a\\tb\"\\\\' || n END, n / 7.0, n % 2 = 0,"
        " timestamptz '2026-01-01 00:00:00.123456+00' + n * interval '1 hour', ARRAY['x', 'y']"
        " FROM generate_series(1, 100) n"
    )
    place = {
        "serverURL": trino.url,
        "catalog": "iceberg",
        "schema": trino_schemas["iceberg"],
        "table": trino.unique_name(),
    }
    trino.execute(
        f"CREATE TABLE {where(place)} (id bigint, text varchar, price decimal(10, 2), flag boolean,"
        " at timestamp(6) with time zone, tags array(varchar))"
    )
    here = {"connectionString": postgresql.dsn}
    there = {**place, "batchSize": 1000}
    first = flow({"type": "postgresql", "postgresql": {**here, "table": source}}, {"type": "trino", "trino": there})
    assert drained(first, tmp_path).records == 100
    (row,) = trino.execute(f"SELECT * FROM {where(place)} WHERE id = 50")
    at = dt.datetime(2026, 1, 3, 2, 0, 0, 123456, tzinfo=dt.UTC)
    assert row == [50, 'a\tb"\\50', Decimal("7.14"), True, at, ["x", "y"]]
    back = flow(
        {"type": "trino", "trino": {**place, "cursor": ["at"], "tieBreak": "id"}},
        {"type": "postgresql", "postgresql": {**here, "table": target}},
    )
    back["metadata"]["name"] = "back"
    assert drained(back, tmp_path).records == 100
    same = f"SELECT count(*) FROM {source} s JOIN {target} t ON s.id = t.id AND s IS NOT DISTINCT FROM t"
    assert postgresql.execute(same) == [(100,)]
    postgresql.execute(f"DROP TABLE {source}, {target}")


def test_documents_with_metadata(trino, place, kafka, tmp_path):
    """Raw mode: `_metadata` tells where a row is from."""
    trino.execute(f"CREATE TABLE {where(place)} AS SELECT x AS id, 'text ' || CAST(x AS varchar) AS text FROM"
                  " UNNEST(sequence(1, 20)) AS t(x)")  # fmt: skip
    topic = kafka.create_topic()
    read = {**place, "rawMode": True, "cursor": "id", "tieBreak": "id"}
    drained(
        flow(
            {"type": "trino", "trino": read},
            {"type": "kafka", "kafka": {"brokers": [kafka.bootstrap_servers], "topic": topic}},
        ),
        tmp_path,
    )
    found = [json.loads(record.value) for record in kafka.consume_all(topic)]
    metadata = {"catalog": "memory", "schema": place["schema"], "table": place["table"]}
    assert found == [
        {"value": {"id": n, "text": f"text {n}"}, "_metadata": {**metadata, "id": n}} for n in range(1, 21)
    ]


def test_without_a_cursor_every_poll_delivers_all(trino, place, kafka, tmp_path):
    trino.execute(f"CREATE TABLE {where(place)} AS SELECT 1 AS id")
    topic = kafka.create_topic()
    for number in (1, 2):
        document = flow(
            {"type": "trino", "trino": place},
            {"type": "kafka", "kafka": {"brokers": [kafka.bootstrap_servers], "topic": topic}},
        )
        drained(document, tmp_path)
        assert len(kafka.consume_all(topic)) == number
