"""Kafka in formats that need a schema, on a real broker, a real schema registry and a real PostgreSQL."""

import json
import logging
import threading
import time
from contextlib import closing
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pytest
import yaml
from google.protobuf.timestamp_pb2 import Timestamp
from pydantic import ValidationError

from airflow_provider_connect.cli import main
from airflow_provider_connect.codecs._schema_registry.client import Schema, SchemaRegistry, UnknownSchema
from airflow_provider_connect.connectors.kafka import KafkaSource
from airflow_provider_connect.connectors.kafka.config import KafkaSinkConfig, KafkaSourceConfig
from airflow_provider_connect.engine.batch import documents
from airflow_provider_connect.engine.errors import ConnectError, Fatal, FlowError, InvalidRecord, Retryable
from airflow_provider_connect.engine.flow import DataFlow
from airflow_provider_connect.engine.plan import Limits
from airflow_provider_connect.engine.worker import Worker
from tests.avro_cases import written
from tests.services.keycloak import CONNECTOR, CONNECTOR_SECRET
from tests.services.process import free_port
from tests.services.proxy import TcpProxy
from tests.services.schema_registry_server import Authentication, SchemaRegistryServer

ORDER = {
    "type": "record",
    "name": "Order",
    "namespace": "shop",
    "fields": [
        {"name": "id", "type": "long"},
        {"name": "note", "type": ["null", "string"], "default": None},
        {"name": "price", "type": {"type": "bytes", "logicalType": "decimal", "precision": 10, "scale": 2}},
        {"name": "at", "type": {"type": "long", "logicalType": "timestamp-micros"}},
        {"name": "tags", "type": {"type": "array", "items": "string"}},
    ],
}
AT = datetime(2024, 2, 29, 12, 30, 15, 123456, tzinfo=UTC)


def order(number, **others):
    note = None if number % 3 else f"n{number}\t\\"
    return {
        "id": number,
        "note": note,
        "price": Decimal(number) / 4,
        "at": AT,
        "tags": ["a", "b"][: number % 3],
    } | others


def framed(schema_id, *values):
    return [b"\0" + schema_id.to_bytes(4, "big") + value for value in values]


def flow(source, sink, **spec):
    name = f"f-{time.monotonic_ns()}"
    head = {"apiVersion": "dataflow.dataflow.io/v1", "kind": "DataFlow", "metadata": {"name": name}}
    return DataFlow.load({**head, "spec": {"mode": "drain", "source": source, "sink": sink, **spec}})


def run(source, sink, **spec):
    made = flow(source, sink, **spec)
    return Worker(made.plan(), made.limits()).run()


@pytest.fixture
def kafka_part(kafka):
    def part(topic, **config):
        return {"type": "kafka", "kafka": {"brokers": [kafka.bootstrap_servers], "topic": topic, **config}}

    return part


@pytest.fixture
def avro(schema_registry, kafka_part):
    def part(topic, **config):
        return kafka_part(topic, format="avro", schemaRegistry={"url": schema_registry.url}, **config)

    return part


@pytest.fixture
def table(postgresql):
    made = []

    def create(columns):
        made.append(postgresql.unique_name("formats"))
        postgresql.execute(f"CREATE TABLE {made[-1]} ({columns})")
        config = {"connectionString": postgresql.dsn, "table": made[-1], "batchSize": 500}
        return made[-1], {"type": "postgresql", "postgresql": config}

    yield create
    for name in made:
        postgresql.execute(f"DROP TABLE {name}")


def filled(kafka, schema_registry, schema, values, partitions=2):
    """A topic of framed records; its name and the schema's id."""
    topic = kafka.create_topic(partitions)
    schema_id = schema_registry.register(f"{topic}-value", schema)
    kafka.produce(topic, framed(schema_id, *written(schema, values)))
    return topic, schema_id


# --- from Kafka


def test_into_a_typed_table_and_again_nothing(kafka, schema_registry, postgresql, avro, table):
    topic, _ = filled(kafka, schema_registry, ORDER, [order(n) for n in range(1_000)])
    name, sink = table("id bigint PRIMARY KEY, note text, price numeric(10,2), at timestamptz, tags text[]")
    made = flow(avro(topic), sink, parallelism=2)
    for records in (1_000, 0):  # the second run finds the positions of the first
        assert Worker(made.plan(), made.limits()).run().records == records
    rows = postgresql.execute(f"SELECT id, note, price, at, tags FROM {name} ORDER BY id")
    assert [dict(zip(("id", "note", "price", "at", "tags"), row, strict=True)) for row in rows] == [
        order(n) for n in range(1_000)
    ]


def test_into_documents_with_metadata_around(kafka, schema_registry, postgresql, avro, table):
    topic, _ = filled(kafka, schema_registry, ORDER, [order(3)], partitions=1)
    name, sink = table("data jsonb")
    run(avro(topic), sink)
    run(avro(topic, rawMode=True, consumerGroup=kafka.unique_name("g")), sink)
    plain, raw = (row for (row,) in postgresql.execute(f"SELECT data FROM {name}"))
    wanted = {"id": 3, "note": "n3\t\\", "price": 0.75, "at": "2024-02-29T12:30:15.123456Z", "tags": []}
    assert plain == wanted
    assert raw["value"] == wanted
    assert {"offset": 0, "partition": 0, "key": None, "topic": topic}.items() <= raw["_metadata"].items()
    assert abs(raw["_metadata"]["timestamp"] / 1000 - time.time()) < 600


def test_schemas_that_change_within_a_batch(kafka, schema_registry, postgresql, avro, table):
    topic, first = filled(kafka, schema_registry, ORDER, [order(1)], partitions=1)
    later = json.loads(json.dumps(ORDER))
    later["fields"][0]["type"] = "double"
    later["fields"].insert(0, {"name": "channel", "type": "string", "default": "?"})
    del later["fields"][-1]
    second = schema_registry.register(f"{topic}-value", later)
    newer = [order(n, channel="web") for n in (2, 4)]
    kafka.produce(topic, framed(second, *written(later, newer)))
    kafka.produce(topic, framed(first, *written(ORDER, [order(5)])))
    codec = KafkaSourceConfig.model_validate(avro(topic)["kafka"]).codec()
    values = [*(record.value for record in kafka.consume_all(topic)), None]
    rows = codec.decode(documents(pa.array(values, pa.binary()), "avro"))
    assert rows.schema.names == ["channel", "id", "note", "price", "at", "tags"]
    assert rows.column("channel").to_pylist() == [None, "web", "web", None, None]
    assert rows.column("id").to_pylist() == [1.0, 2.0, 4.0, 5.0, None]
    assert rows.column("tags").to_pylist() == [["a"], None, None, ["a", "b"], None]
    # What was seen once stays, whatever the next batch holds; and another codec sees each record alike.
    assert codec.decode(documents(pa.array(values[:1], pa.binary()), "avro")).schema == rows.schema
    name, sink = table("id numeric, channel text, tags text[]")
    run(avro(topic), sink, transformations=[{"type": "select", "select": {"fields": ["id", "channel", "tags"]}}])
    found = postgresql.execute(f"SELECT id, channel, tags FROM {name} ORDER BY id")
    assert found == [(1, None, ["a"]), (2, "web", None), (4, "web", None), (5, None, ["a", "b"])]


def test_a_schema_to_read_with(kafka, schema_registry, avro):
    topic, _ = filled(kafka, schema_registry, ORDER, [order(7)], partitions=1)
    reader = {"type": "record", "name": "Order", "namespace": "shop", "fields": [
        {"name": "number", "type": "double", "aliases": ["id"]},
        {"name": "channel", "type": "string", "default": "shop"},
    ]}  # fmt: skip
    codec = KafkaSourceConfig.model_validate(avro(topic, avroSchema=json.dumps(reader))["kafka"]).codec()
    (record,) = kafka.consume_all(topic)
    rows = codec.decode(documents(pa.array([record.value]), "avro"))
    assert rows.to_pylist() == [{"number": 7.0, "channel": "shop"}]


def test_one_kind_of_record_after_the_other(schema_registry, avro):
    """Types that nothing holds in common become text."""
    ids = [
        schema_registry.register(
            schema_registry.unique_name(),
            {"type": "record", "name": "R", "fields": [{"name": "id", "type": kind}, {"name": name, "type": "int"}]},
        )
        for kind, name in (("long", "x"), ("string", "y"))
    ]
    codec = KafkaSourceConfig.model_validate(avro("t")["kafka"]).codec()
    values = framed(ids[0], b"\x02\x04") + framed(ids[1], b"\x02a\x06")
    assert codec.decode(documents(pa.array(values), "avro")).to_pylist() == [
        {"id": "1", "y": None, "x": 2},
        {"id": "a", "y": 3, "x": None},
    ]


def test_what_cannot_be_decoded_becomes_a_dead_letter(kafka, schema_registry, postgresql, avro, kafka_part, table):
    topic, schema_id = filled(kafka, schema_registry, ORDER, [order(n) for n in range(50)], partitions=1)
    (good,) = written(ORDER, [order(50)])
    wrong = [
        (b'{"id": 1}', "looks like JSON"),
        (b"\0\0", "too few for the frame"),
        (b"\1" + bytes(16) + good, "in a header"),
        (framed(schema_id, good[:-1])[0], "ends within tags"),
        (framed(schema_id, good + b"x")[0], "1 bytes are left over"),
        (framed(2_000_000_000, good)[0], "no schema with the id 2000000000"),
    ]
    for value, _ in wrong:
        kafka.produce(topic, [value, *framed(schema_id, good)])
    letters = kafka.create_topic()
    name, sink = table("id bigint, note text, price numeric(10,2), at timestamptz, tags text[]")
    summary = run(avro(topic), sink, errors=kafka_part(letters))
    assert (summary.records, summary.dead_letters) == (62, 6)
    assert postgresql.execute(f"SELECT count(*), count(DISTINCT id) FROM {name}") == [(56, 51)]
    told = [json.loads(record.value)["error"] for record in kafka.consume_all(letters)]
    for letter, (_, reason) in zip(told, wrong, strict=True):
        assert reason in letter["message"]
    assert [letter["metadata"]["offset"] for letter in told] == [50, 52, 54, 56, 58, 60]


def test_a_refused_record_in_the_very_first_batch(schema_registry, avro):
    codec = KafkaSourceConfig.model_validate(avro("t")["kafka"]).codec()
    schema_id = schema_registry.register(schema_registry.unique_name(), ORDER)
    (good,) = framed(schema_id, *written(ORDER, [order(1)]))
    with pytest.raises(InvalidRecord) as raised:
        codec.decode(documents(pa.array([good, b"junk!"]), "avro"))
    assert list(raised.value.rows) == [1]
    assert codec.decode(documents(pa.array([good]), "avro")).column("id").to_pylist() == [1]
    assert codec.decode(documents(pa.array([None], pa.binary()), "avro")).column("id").to_pylist() == [None]


def test_without_an_errors_sink_the_record_is_named(kafka, schema_registry, avro, table):
    topic, _ = filled(kafka, schema_registry, ORDER, [order(1)], partitions=1)
    kafka.produce(topic, [b"junk, and more"])
    _, sink = table("id bigint, note text, price numeric(10,2), at timestamptz, tags text[]")
    with pytest.raises(Fatal, match=rf"record {topic}:0:1 was refused: .*begins with the byte 106"):
        run(avro(topic), sink)


# --- one schema that is given


@pytest.mark.parametrize("how", ["text", "file", "secret"])
def test_bare_records_of_one_schema(how, kafka, postgresql, kafka_part, table, tmp_path, monkeypatch):
    topic = kafka.create_topic()
    kafka.produce(topic, written(ORDER, [order(n) for n in range(10)]))
    text = json.dumps(ORDER)
    (tmp_path / "order.avsc").write_text(text)
    monkeypatch.setenv("AIRFLOW_CONN_ORDER_SCHEMA", json.dumps({"conn_type": "generic", "extra": {"order.avsc": text}}))
    given = {
        "text": {"avroSchema": text},
        "file": {"avroSchemaFile": str(tmp_path / "order.avsc")},
        "secret": {"avroSchemaSecretRef": {"name": "order_schema", "key": "order.avsc"}},
    }[how]
    name, sink = table("id bigint, note text, price numeric(10,2), at timestamptz, tags text[]")
    run(kafka_part(topic, format="avro", **given), sink)
    assert postgresql.execute(f"SELECT sum(id), sum(price) FROM {name}") == [(45, Decimal("11.25"))]


def test_the_file_is_read_when_rows_are(tmp_path):
    config = KafkaSourceConfig.model_validate(
        {"brokers": "k", "topic": "t", "format": "avro", "avroSchemaFile": str(tmp_path / "none.avsc")}
    )
    codec = KafkaSource(config).codec(config.encoding)
    with pytest.raises(FlowError, match=r"avroSchemaFile: .*none.avsc' cannot be read"):
        codec.decode(documents(pa.array([b"x"]), "avro"))


def test_everything_about_the_registry_may_be_a_secret(
    kafka, schema_registry, postgresql, kafka_part, table, monkeypatch
):
    topic, _ = filled(kafka, schema_registry, ORDER, [order(3)])
    secret = {"conn_type": "generic", "login": "u", "password": "p", "extra": {"url": schema_registry.url}}
    monkeypatch.setenv("AIRFLOW_CONN_REGISTRY", json.dumps(secret))
    name, sink = table("data jsonb")
    registry = {
        "urlSecretRef": {"name": "registry", "key": "url"},
        "basicAuth": {
            "usernameSecretRef": {"name": "registry", "key": "login"},
            "passwordSecretRef": {"name": "registry", "key": "password"},
        },
    }
    run(kafka_part(topic, format="avro", schemaRegistry=registry), sink)
    assert postgresql.execute(f"SELECT data->>'id' FROM {name}") == [("3",)]


# --- to Kafka


def rows_of(postgresql, name, **config):
    return {"type": "postgresql", "postgresql": {"connectionString": postgresql.dsn, "table": name, **config}}


def decoded(kafka, avro, topic):
    values = [record.value for record in kafka.consume_all(topic)]
    codec = KafkaSourceConfig.model_validate(avro(topic)["kafka"]).codec()
    return codec.decode(documents(pa.array(values, pa.binary()), "avro"))


@pytest.mark.parametrize(
    ("strategy", "subject"), [("topic", "{}-value"), ("record", "shop.Row"), ("topic-record", "{}-shop.Row")]
)
def test_columns_are_registered_and_written(strategy, subject, kafka, schema_registry, postgresql, avro, table):
    name, _ = table("id bigint PRIMARY KEY, price numeric(10,2), at timestamptz, ok boolean, tags text[], d date")
    postgresql.execute(
        f"INSERT INTO {name} SELECT n, n / 4.0, timestamptz '2024-02-29 12:00Z', n % 2 = 0, ARRAY['a'],"
        f" date '2024-02-29' FROM generate_series(1, 3) n UNION ALL SELECT 4, NULL, NULL, NULL, NULL, NULL"
    )
    topic = kafka.create_topic()
    record = f"shop.Row{time.monotonic_ns()}" if strategy != "topic" else "shop.Row"
    run(rows_of(postgresql, name), avro(topic, subjectNames=strategy, recordName=record))
    wanted = subject.format(topic).replace("shop.Row", record)
    assert wanted in schema_registry.subjects()
    made = json.loads(schema_registry.ask("GET", f"/subjects/{wanted}/versions/latest")["schema"])
    assert f"{made.get('namespace', '')}.{made['name']}".strip(".") == record
    rows = decoded(kafka, avro, topic).to_pylist()
    assert [row["id"] for row in rows] == [1, 2, 3, 4]
    assert rows[0] == {
        "id": 1,
        "price": Decimal("0.25"),
        "at": datetime(2024, 2, 29, 12, tzinfo=UTC),
        "ok": False,
        "tags": ["a"],
        "d": datetime(2024, 2, 29).date(),
    }
    assert set(rows[3].values()) == {4, None}


def test_the_same_registry_passes_bytes_on(kafka, schema_registry, avro):
    topic, _ = filled(kafka, schema_registry, ORDER, [order(n) for n in range(20)], partitions=1)
    kafka.produce(topic, [b"junk", (b"k", None)])
    target = kafka.create_topic()
    run(avro(topic), avro(target))
    given, got = (kafka.consume_all(each) for each in (topic, target))
    assert [(r.key, r.value) for r in got] == [(r.key, r.value) for r in given]
    assert f"{target}-value" not in schema_registry.subjects()


def test_another_registry_gets_schemas_of_its_own(kafka, schema_registry, kafka_part, avro):
    topic, schema_id = filled(kafka, schema_registry, ORDER, [order(n) for n in range(20)], partitions=1)
    target = kafka.create_topic()
    other = schema_registry.url.replace("127.0.0.1", "localhost")
    run(avro(topic), kafka_part(target, format="avro", schemaRegistry={"url": other}))
    values = [record.value for record in kafka.consume_all(target)]
    assert {int.from_bytes(value[1:5], "big") for value in values}.isdisjoint({schema_id})
    assert f"{target}-value" in schema_registry.subjects()
    assert decoded(kafka, avro, target).to_pylist() == decoded(kafka, avro, topic).to_pylist()


def test_json_becomes_avro_with_keys_and_a_schema_that_grows(kafka, schema_registry, avro, kafka_part):
    topic, target = kafka.create_topic(), kafka.create_topic()
    for document in (b'{"a": 1}', b'{"a": 2, "b": "x"}', b'{"b": "y"}'):
        kafka.produce(topic, [(b"k", document)])
        run(kafka_part(topic, consumerGroup=f"g-{topic}"), avro(target))
    assert [record.key for record in kafka.consume_all(target)] == [b"k"] * 3
    assert decoded(kafka, avro, target).to_pylist() == [
        {"a": 1, "b": None},
        {"a": 2, "b": "x"},
        {"a": None, "b": "y"},
    ]
    assert schema_registry.ask("GET", f"/subjects/{target}-value/versions") == [1, 2]


def test_a_given_schema_is_written(kafka, schema_registry, avro, kafka_part):
    topic, target, letters = kafka.create_topic(), kafka.create_topic(), kafka.create_topic()
    given = {"type": "record", "name": "G", "fields": [{"name": "id", "type": "long"}, {"name": "e", "type": {
        "type": "enum", "name": "E", "symbols": ["A", "B"]}}]}  # fmt: skip
    kafka.produce(topic, [b'{"id": 1, "e": "A", "more": 1}', b'{"id": 2, "e": "X"}', b'{"id": 3, "e": "B"}'])
    sink = avro(target, avroSchema=json.dumps(given))
    summary = run(kafka_part(topic), sink, errors=kafka_part(letters))
    assert summary.dead_letters == 1
    assert decoded(kafka, avro, target).to_pylist() == [{"id": 1, "e": "A"}, {"id": 3, "e": "B"}]
    (letter,) = kafka.consume_all(letters)
    assert "'X', which is none of the symbols" in json.loads(letter.value)["error"]["message"]


def test_only_schemas_that_are_there_and_compatible(kafka, schema_registry, avro, kafka_part):
    topic, target = kafka.create_topic(), kafka.create_topic()
    kafka.produce(topic, [b'{"a": 1}'])
    with pytest.raises(Fatal, match=rf"lacks this schema in subject '{target}-value'.*autoRegister"):
        run(kafka_part(topic), avro(target, autoRegister=False))
    schema = {"type": "record", "name": "R", "fields": [{"name": "a", "type": ["null", "long"], "default": None}]}
    schema_registry.register(f"{target}-value", schema)
    run(kafka_part(topic), avro(target, autoRegister=False))
    assert decoded(kafka, avro, target).to_pylist() == [{"a": 1}]
    schema_registry.set_compatibility(f"{target}-value", "FULL")
    other = {"type": "record", "name": "R", "fields": [{"name": "a", "type": "long"}, {"name": "b", "type": "string"}]}
    kafka.produce(topic, [b'{"a": 1, "b": "x"}'])
    with pytest.raises(Fatal, match=r"refuses a new schema of subject .*incompatible with the earlier ones"):
        run(kafka_part(topic), avro(target, avroSchema=json.dumps(other)))
    assert len(kafka.consume_all(target)) == 1


# --- the registry itself


def test_a_registry_that_comes_back(kafka, schema_registry, postgresql, kafka_part, table):
    topic, _ = filled(kafka, schema_registry, ORDER, [order(n) for n in range(30)])
    port = free_port()
    host, own = schema_registry.url.removeprefix("http://").split("/")[0].split(":")
    url = schema_registry.url.replace(f"{host}:{own}", f"127.0.0.1:{port}")
    name, sink = table("data jsonb")
    retry = {"attempts": 20, "firstSeconds": 0.1, "longestSeconds": 0.2}
    made = flow(kafka_part(topic, format="avro", schemaRegistry={"url": url}), sink, retry=retry)
    worker = Worker(made.plan(), made.limits())
    found = []
    thread = threading.Thread(target=lambda: found.append(worker.run()))
    thread.start()
    time.sleep(1.0)
    assert postgresql.execute(f"SELECT count(*) FROM {name}") == [(0,)]
    with TcpProxy((host, int(own)), port=port):
        thread.join(30)
    assert [summary.records for summary in found] == [30]
    assert postgresql.execute(f"SELECT count(*), count(DISTINCT data->>'id') FROM {name}") == [(30, 30)]


def test_what_the_registry_answers_is_sorted(schema_registry):
    registry = SchemaRegistry([schema_registry.url])
    assert "subject" in registry.check()
    with pytest.raises(UnknownSchema, match="no schema with the id 1999999999"):
        registry.schema(1_999_999_999)
    began = time.monotonic()
    for unknown in range(1_999_999_900, 1_999_999_910):  # it was waited for the first one
        with pytest.raises(UnknownSchema):
            registry.schema(unknown)
    assert time.monotonic() - began < 5
    assert registry.latest("no-such-subject") is None
    with pytest.raises(Fatal, match=r"schemaRegistry.url"):
        SchemaRegistry([schema_registry.url + "/nowhere"]).check()
    with pytest.raises(Retryable, match="does not answer"):
        SchemaRegistry([f"http://127.0.0.1:{free_port()}"]).check()
    with pytest.raises(Fatal, match="422"):
        registry.register(schema_registry.unique_name(), Schema("AVRO", "{not a schema"))
    # A node that is down is no matter while another one answers.
    assert SchemaRegistry([f"http://127.0.0.1:{free_port()}", schema_registry.url]).check()


def test_schemas_may_refer_to_others(schema_registry):
    inner, outer = (schema_registry.unique_name(name) for name in ("inner", "outer"))
    schema_registry.register(inner, {"type": "enum", "name": "shop.Kind", "symbols": ["A", "B"]})
    schema = {"type": "record", "name": "shop.O", "fields": [{"name": "k", "type": "shop.Kind"}]}
    reference = {"name": "shop.Kind", "subject": inner, "version": 1}
    schema_id = schema_registry.register(outer, schema, references=[reference])
    config = {"brokers": "k", "topic": "t", "format": "avro", "schemaRegistry": {"url": schema_registry.url}}
    codec = KafkaSourceConfig.model_validate(config).codec()
    assert codec.decode(documents(pa.array(framed(schema_id, b"\x02")), "avro")).to_pylist() == [{"k": "B"}]


def test_a_schema_without_columns_stops_the_flow(schema_registry):
    schema = {"type": "record", "name": "Node", "fields": [{"name": "next", "type": ["null", "Node"]}]}
    schema_id = schema_registry.register(schema_registry.unique_name(), schema)
    config = {"brokers": "k", "topic": "t", "format": "avro", "schemaRegistry": {"url": schema_registry.url}}
    codec = KafkaSourceConfig.model_validate(config).codec()
    with pytest.raises(Fatal, match=rf"schema {schema_id} .*'Node' contains itself"):
        codec.decode(documents(pa.array(framed(schema_id, b"\x00")), "avro"))


def test_certificates_are_verified(schema_registry_server, authority, caplog, monkeypatch):
    for name in ("SSL_CERT_FILE", "SSL_CERT_DIR"):
        monkeypatch.delenv(name, raising=False)

    def registry(**tls):
        described = {"url": schema_registry_server.tls_url, **({"tls": tls} if tls else {})}
        config = {"brokers": "k", "topic": "t", "format": "avro", "schemaRegistry": described}
        return KafkaSourceConfig.model_validate(config).schema_registry.client()

    with pytest.raises(Fatal, match=r"not trusted: .*schemaRegistry.tls.ca"):
        registry().check()
    assert registry(ca=authority.cert).check()
    assert registry(caFile=str(authority.cert_file)).check()
    assert registry(insecureSkipVerify=False, caFile=str(authority.cert_file)).check()
    with caplog.at_level(logging.WARNING):
        assert registry(insecureSkipVerify=True).check()
    assert "insecureSkipVerify" in caplog.text
    with pytest.raises(Fatal, match=r"`schemaRegistry.tls` cannot be used"):
        registry(ca="-----BEGIN CERTIFICATE-----\nx\n-----END CERTIFICATE-----\n").check()
    wrong_name = schema_registry_server.tls_url.replace("127.0.0.1", "127.0.0.2")
    client = SchemaRegistry([wrong_name], tls=registry(ca=authority.cert).tls)
    with pytest.raises(ConnectError):
        client.check()


def test_the_test_button_asks_the_registry_too(kafka, schema_registry, avro, kafka_part):
    topic = kafka.create_topic()
    assert "subject" in KafkaSource(KafkaSourceConfig.model_validate(avro(topic)["kafka"])).check()
    closed = f"http://127.0.0.1:{free_port()}"
    for format_ in ("avro", "json"):  # which needs no registry
        part = kafka_part(topic, format=format_, schemaRegistry={"url": closed})
        source = KafkaSource(KafkaSourceConfig.model_validate(part["kafka"]))
        if format_ == "avro":
            with pytest.raises(Retryable, match="schema registry"):
                source.check()
        else:
            assert source.check()


# --- configuration


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"format": "avro"}, "format 'avro' needs 'schemaRegistry', or else 'avroSchema' or 'avroSchemaFile'"),
        ({"format": "avro", "avroSchema": '"int"', "avroSchemaFile": "x"}, "keep one"),
        ({"avroSchema": '"int"'}, "'avroSchema' is for format 'avro'"),
        ({"format": "avro", "schemaRegistry": {"url": "registry:8081"}}, "schemaRegistry.url"),
        ({"format": "avro", "schemaRegistry": {"url": "https://user:secret@registry"}}, "schemaRegistry.url"),
        ({"format": "avro", "schemaRegistry": {}}, "schemaRegistry.url"),
        ({"format": "avro", "schemaRegistry": {"url": "http://r", "basicAuth": {"username": "u"}}}, "password"),
        ({"format": "avro", "schemaRegistry": {"url": "http://r", "tls": {"ca": "a", "caFile": "b"}}}, "'caFile'"),
        ({"format": "avro", "schemaRegistry": {"url": "http://r", "tls": {"certFile": "a"}}}, "'keyFile'"),
        ({"format": "xml"}, "format"),
    ],
)
def test_a_wrong_format_says_what_is_wrong(settings, message):
    for model in (KafkaSourceConfig, KafkaSinkConfig):
        with pytest.raises(ValidationError) as raised:
            model.model_validate({"brokers": "k", "topic": "t", **settings})
        assert message in str(raised.value).replace("\n", " ")
        assert "secret" not in str(raised.value)


def test_what_the_bytes_mean_is_in_the_name():
    def encoding(model=KafkaSourceConfig, **settings):
        return model.model_validate({"brokers": "k", "topic": "t", "format": "avro", **settings}).encoding

    account = {"username": "u", "password": "secret"}
    a = encoding(schemaRegistry={"url": "https://a/", "basicAuth": account})
    assert a == "avro@https://a" == encoding(KafkaSinkConfig, schemaRegistry={"url": "https://a"})
    own = encoding(KafkaSinkConfig, schemaRegistry={"url": "https://a"}, avroSchema='"int"')
    names = {
        a,
        own,
        encoding(schemaRegistry={"url": "https://b"}),
        encoding(avroSchema='"int"'),
        encoding(avroSchema='"long"'),
    }
    names |= {encoding(avroSchemaFile="x.avsc"), encoding(schemaRegistry={"url": "https://a"}, rawMode=True)}
    assert len(names) == 7
    with pytest.raises(InvalidRecord):
        KafkaSourceConfig.model_validate(
            {"brokers": "k", "topic": "t", "format": "avro", "avroSchema": '"int"'}
        ).codec().decode(documents(pa.array([b""]), "avro"))


def test_a_connection_fills_the_registry(monkeypatch):
    extra = {
        "schema_registry_url": "https://r",
        "schema_registry_username": "u",
        "schema_registry_password": "secret",
        "schema_registry_ca": "-----BEGIN CERTIFICATE-----",
    }
    monkeypatch.setenv("AIRFLOW_CONN_K", json.dumps({"conn_type": "connect_kafka", "host": "k:9092", "extra": extra}))
    made = flow(
        {"type": "kafka", "kafka": {"connection": "k", "topic": "t", "format": "avro"}},
        {"type": "kafka", "kafka": {"connection": "k", "topic": "u"}},
    )
    registry = made.plan().source().config.schema_registry
    assert (registry.url, registry.basic_auth.username) == ("https://r", "u")
    assert registry.basic_auth.password.get_secret_value() == "secret"
    assert "secret" not in repr(registry)


# --- Protobuf and JSON Schema

PROTO = """syntax = "proto3";
package shop;
import "google/protobuf/timestamp.proto";
message Order { int64 id = 1; optional string note = 2; google.protobuf.Timestamp at = 3; repeated string tags = 4; }
"""


@pytest.mark.parametrize("format_", ["protobuf", "json-schema"])
def test_other_formats_there_and_back(format_, kafka, schema_registry, postgresql, kafka_part, table):
    """PostgreSQL → Kafka → PostgreSQL, typed."""
    first, _ = table("id bigint PRIMARY KEY, note text, at timestamptz, price double precision, tags text[]")
    postgresql.execute(
        f"INSERT INTO {first} SELECT n, CASE WHEN n % 3 > 0 THEN 'n\"' || n END,"
        f" timestamptz '2024-02-29 12:30:15.123456Z', n / 8.0, ARRAY['a', n::text] FROM generate_series(1, 500) n"
    )
    topic = kafka.create_topic(2)
    registry = {"format": format_, "schemaRegistry": {"url": schema_registry.url}}
    run(rows_of(postgresql, first), kafka_part(topic, **registry))
    kind = schema_registry.ask("GET", f"/subjects/{topic}-value/versions/latest")["schemaType"]
    assert kind == {"protobuf": "PROTOBUF", "json-schema": "JSON"}[format_]
    second, sink = table("id bigint, note text, at timestamptz, price double precision, tags text[]")
    validated = {"validateDocuments": True} if format_ == "json-schema" else {}
    assert run(kafka_part(topic, **registry, **validated), sink).records == 500
    rows = postgresql.execute(f"SELECT * FROM {second} ORDER BY id")
    assert rows == postgresql.execute(f"SELECT * FROM {first} ORDER BY id")
    # The same registry: bytes pass.
    target = kafka.create_topic()
    run(kafka_part(topic, consumerGroup=kafka.unique_name("g"), **registry), kafka_part(target, **registry))
    assert {r.value for r in kafka.consume_all(target)} == {r.value for r in kafka.consume_all(topic)}
    # Another column: the schema grows, and is found compatible.
    postgresql.execute(f"ALTER TABLE {first} ADD ok boolean; UPDATE {first} SET ok = true WHERE id = 500")
    run(rows_of(postgresql, first), kafka_part(topic, **registry))
    assert schema_registry.ask("GET", f"/subjects/{topic}-value/versions") == [1, 2]


def test_protobuf_of_others(kafka, schema_registry, postgresql, kafka_part, table):
    topic, letters = kafka.create_topic(), kafka.create_topic()
    schema_id = schema_registry.register(f"{topic}-value", PROTO, "PROTOBUF")
    at = Timestamp(seconds=1709209815, nanos=123456789).SerializeToString()
    body = b"\0\x08\x2a\x1a" + bytes([len(at)]) + at + b"\x22\x01a"
    kafka.produce(topic, [*framed(schema_id, body, b"\0"), framed(schema_id, b"\0\x08")[0], b"{}"])
    name, sink = table("id bigint, note text, at timestamptz, tags text[]")
    part = kafka_part(topic, format="protobuf", schemaRegistry={"url": schema_registry.url})
    assert run(part, sink, errors=kafka_part(letters)).dead_letters == 2
    assert postgresql.execute(f"SELECT * FROM {name} ORDER BY id") == [
        (0, None, None, []),
        (42, None, datetime(2024, 2, 29, 12, 30, 15, 123456, tzinfo=UTC), ["a"]),
    ]


def test_json_schema_of_others(kafka, schema_registry, postgresql, kafka_part, table):
    topic, letters = kafka.create_topic(), kafka.create_topic()
    schema = {"type": "object", "properties": {"id": {"type": "integer"}}, "required": ["id"]}
    schema_id = schema_registry.register(f"{topic}-value", schema, "JSON")
    kafka.produce(
        topic,
        [
            *framed(schema_id, b'{"id": 1}', b'{"id": "x"}', b"{", b'{"more": [1]}'),
            *framed(1_999_999_998, b'{"id": 2}'),
            b'{"id": 3}',
            (b"k", None),
        ],
    )
    name, sink = table("data jsonb")
    part = kafka_part(topic, format="json-schema", validateDocuments=True, schemaRegistry={"url": schema_registry.url})
    assert run(part, sink, errors=kafka_part(letters)).dead_letters == 5
    assert postgresql.execute(f"SELECT data->>'id' FROM {name} WHERE data->>'id' IS NOT NULL") == [("1",)]
    told = " ".join(json.loads(record.value)["error"]["message"] for record in kafka.consume_all(letters))
    for reason in (
        "$.id: 'x' is not of type 'integer'",
        "is not JSON",
        "'id' is a required",
        "no schema with the id",
        "looks",
    ):
        assert reason in told
    # Without validation only what is no JSON, or has no frame, is set aside.
    again = kafka_part(
        topic, format="json-schema", consumerGroup="other", rawMode=True, schemaRegistry={"url": schema_registry.url}
    )
    assert run(again, sink, errors=kafka_part(letters)).dead_letters == 2


def test_a_format_that_is_not_what_the_registry_has(schema_registry, kafka_part):
    schema_id = schema_registry.register(schema_registry.unique_name(), PROTO, "PROTOBUF")
    part = kafka_part("t", format="avro", schemaRegistry={"url": schema_registry.url})
    codec = KafkaSourceConfig.model_validate(part["kafka"]).codec()
    with pytest.raises(InvalidRecord, match=r"of the kind PROTOBUF, not AVRO; check `format`"):
        codec.decode(documents(pa.array(framed(schema_id, b"\0")), "avro"))
    for format_ in ("protobuf", "json-schema"):
        with pytest.raises(ValidationError, match=f"format '{format_}' needs 'schemaRegistry'"):
            KafkaSourceConfig.model_validate({"brokers": "k", "topic": "t", "format": format_})
    with pytest.raises(ValidationError, match="validateDocuments is for format 'json-schema'"):
        KafkaSourceConfig.model_validate({"brokers": "k", "topic": "t", "validateDocuments": True})


# --- the example


def test_the_example_runs(kafka, schema_registry, postgresql, monkeypatch):
    text = (Path(__file__).parents[2] / "dags" / "kafka-avro-to-postgresql.yaml").read_text()
    topic, _ = filled(kafka, schema_registry, ORDER, [order(n) for n in range(20)])
    kafka.produce(topic, [b"no Avro"])
    name, letters = postgresql.unique_name("orders"), kafka.unique_name("refused")
    for given, own in (("orders-avro", topic), ("orders_typed", name), ("orders-refused", letters)):
        text = text.replace(given, own)
    extra = {"schema_registry_url": schema_registry.url}
    host, port = kafka.bootstrap_servers.split(":")
    broker = {"conn_type": "connect_kafka", "host": host, "port": int(port), "extra": extra}
    monkeypatch.setenv("AIRFLOW_CONN_ORDERS_KAFKA", json.dumps(broker))
    monkeypatch.setenv("AIRFLOW_CONN_ORDERS_POSTGRESQL", postgresql.dsn)
    postgresql.execute(f"CREATE TABLE {name} (id bigint, note text, price numeric(10,2), at timestamptz, tags text[])")
    try:
        summary = Worker(DataFlow.load(text).plan(), Limits("drain")).run()
        assert (summary.records, summary.dead_letters) == (21, 1)
        assert postgresql.execute(f"SELECT count(*), sum(price) FROM {name}") == [(20, Decimal("47.50"))]
        assert len(kafka.consume_all(letters)) == 1
    finally:
        postgresql.execute(f"DROP TABLE {name}")


# --- a registry that wants to know who asks


@pytest.fixture(scope="module")
def guarded(keycloak):
    """A registry whose accounts are the clients of Keycloak."""
    authentication = Authentication(keycloak.issuer, keycloak.token_url, CONNECTOR, CONNECTOR_SECRET)
    with closing(SchemaRegistryServer(authentication=authentication)) as server:
        yield server


def test_with_user_name_and_password(guarded, kafka, postgresql, kafka_part, table, monkeypatch):
    def part(topic, secret, **config):
        registry = {"url": guarded.url, "basicAuth": {"username": CONNECTOR, **secret}}
        return kafka_part(topic, format="avro", schemaRegistry=registry, **config)

    monkeypatch.setenv("AIRFLOW_CONN_REGISTRY", json.dumps({"conn_type": "generic", "password": CONNECTOR_SECRET}))
    secret = {"passwordSecretRef": {"name": "registry", "key": "password"}}
    source, topic = kafka.create_topic(), kafka.create_topic()
    kafka.produce(source, [b'{"a": 1}'])
    run(kafka_part(source), part(topic, secret))
    name, sink = table("a bigint")
    run(part(topic, secret), sink)
    assert postgresql.execute(f"SELECT a FROM {name}") == [(1,)]
    for wrong in ({"password": "wrong-one"}, None):
        registry = {"url": guarded.url, **({"basicAuth": {"username": CONNECTOR, **wrong}} if wrong else {})}
        refused = kafka_part(topic, format="avro", consumerGroup=kafka.unique_name("g"), schemaRegistry=registry)
        with pytest.raises(Fatal, match=r"401.*check `schemaRegistry.basicAuth`") as raised:
            run(refused, sink)
        assert "wrong-one" not in str(raised.value)


# --- keys and topics from fields


@pytest.mark.parametrize("format_", ["avro", "protobuf", "json-schema"])
def test_keys_and_topics_from_fields(format_, kafka, schema_registry, kafka_part):
    source, letters, prefix = kafka.create_topic(), kafka.create_topic(), kafka.unique_name("routed")
    rows = [
        {"id": 1, "to": {"country": "de"}},
        {"id": 2, "to": {"country": "fr"}},
        {"to": {"country": "de"}},
        {"id": 4},
    ]
    for row in rows:
        kafka.produce(source, [(b"before", json.dumps(row).encode())])
    registry = {"format": format_, "schemaRegistry": {"url": schema_registry.url}, "subjectNames": "record"}
    name = f"shop.R{time.monotonic_ns()}"
    routed = {"keyField": "id", "createTopic": True, "recordName": name, **registry}
    sink = kafka_part(f"{prefix}-{{to.country}}", **routed)
    assert run(kafka_part(source), sink, errors=kafka_part(letters)).dead_letters == 1
    found = {country: kafka.consume_all(f"{prefix}-{country}") for country in ("de", "fr")}
    assert [record.key for record in found["de"]] == [b"1", None]  # not the key that it came with
    assert [record.key for record in found["fr"]] == [b"2"]
    assert name in schema_registry.subjects()
    (letter,) = kafka.consume_all(letters)
    assert "'to.country' is missing or null" in json.loads(letter.value)["error"]["message"]
    # From the same registry bytes would pass, but here the fields are needed.
    again = kafka.create_topic()
    read = {key: value for key, value in registry.items() if key != "subjectNames"}
    run(kafka_part(f"{prefix}-de", **read), kafka_part(again, keyFields=["to.country"], **registry, recordName=name))
    assert [record.key for record in kafka.consume_all(again)] == [b'{"to.country":"de"}'] * 2


def test_subjects_of_topics_from_fields():
    config = {"brokers": "k", "topic": "a-{b}", "format": "avro", "schemaRegistry": {"url": "http://r"}}
    with pytest.raises(ValidationError, match="subjectNames: record"):
        KafkaSinkConfig.model_validate(config)
    assert KafkaSinkConfig.model_validate({**config, "subjectNames": "record"})


def test_the_source_of_the_specification():
    """Every field that it names, as it writes them."""
    text = """
brokers:
  - kafka1:9092
topic: input-topic
consumerGroup: my-group
format: json
rawMode: true
schemaRegistry:
  url: https://schema-registry:8081
  basicAuth:
    username: schema-user
    password: schema-password
  tls:
    insecureSkipVerify: false
    caFile: /path/to/schema-registry-ca.crt
avroSchema: |
  {
    "type": "record",
    "name": "MyRecord",
    "fields": [
      {"name": "id", "type": "long"},
      {"name": "name", "type": "string"}
    ]
  }
"""
    both = yaml.safe_load(text)
    alone = {key: value for key, value in both.items() if key != "avroSchema"}
    for format_ in ("json", "avro"):
        config = KafkaSourceConfig.model_validate({**alone, "format": format_})
        assert config.schema_registry.basic_auth.password.get_secret_value() == "schema-password"
    config = KafkaSourceConfig.model_validate({**both, "format": "avro", "schemaRegistry": None, "rawMode": False})
    rows = config.codec().decode(documents(pa.array([b"\x02\x04hi"]), "avro"))
    assert rows.to_pylist() == [{"id": 1, "name": "hi"}]


def test_preview_shows_what_the_bytes_hold(kafka, schema_registry, avro, tmp_path, capsys):
    topic, _ = filled(kafka, schema_registry, ORDER, [order(3)], partitions=1)
    kafka.produce(topic, [b"no Avro"])
    head = {"apiVersion": "dataflow.dataflow.io/v1", "kind": "DataFlow", "metadata": {"name": "preview"}}
    sink = {"type": "file", "file": {"path": str(tmp_path)}}
    (tmp_path / "flow.yaml").write_text(yaml.safe_dump({**head, "spec": {"source": avro(topic), "sink": sink}}))
    assert main(["preview", str(tmp_path / "flow.yaml")]) == 0
    refused, source, _ = map(json.loads, capsys.readouterr().out.splitlines())
    assert (refused["step"], refused["record"]["offset"]) == ("source", 1) and "begins with the byte" in refused[
        "rejected"
    ]
    assert (source["record"]["id"], source["record"]["note"]) == (3, "n3\t\\")
