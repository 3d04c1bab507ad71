"""Topic and key from the fields of records, topics made on the way: on a real broker."""

import json

import pyarrow as pa
import pytest

from airflow_provider_connect.connectors.kafka import KafkaSink, KafkaTransactionalSink
from airflow_provider_connect.connectors.kafka.config import KafkaSinkConfig
from airflow_provider_connect.connectors.kafka.fields import Fields
from airflow_provider_connect.connectors.kafka.routing import Routing
from airflow_provider_connect.engine.batch import HEADERS, Batch, Checkpoint, documents
from airflow_provider_connect.engine.connector import SinkContext
from airflow_provider_connect.engine.errors import Fatal, InvalidRecord
from airflow_provider_connect.engine.flow import dataflow
from airflow_provider_connect.engine.lint import LintError
from airflow_provider_connect.engine.plan import Limits
from airflow_provider_connect.engine.worker import Worker

SIZES = [("any", 1, 5000), ("small", 2, 5000), ("keyed", None, 1), ("small", 3, 1), ("keyed", 4, 1)]


def rows(*values, **columns):
    texts = [value if isinstance(value, bytes | None) else json.dumps(value).encode() for value in values]
    return documents(pa.array(texts, pa.binary()), "json", **columns)


def routed(*values, keys=None, **settings):
    """Envelope rows after routing."""
    config = KafkaSinkConfig.model_validate({"brokers": "k", **settings})
    columns = {"key": pa.array(keys, pa.binary())} if keys else {}
    return Routing(config).apply(rows(*values, **columns))


@pytest.fixture
def prefix(kafka):
    return kafka.unique_name("orders")


@pytest.fixture
def make(kafka):
    made = []

    def make(kind=KafkaTransactionalSink, **settings):
        config = {"brokers": kafka.bootstrap_servers, "checkpointTopic": kafka.unique_name("checkpoints"), **settings}
        sink = kind(KafkaSinkConfig.model_validate(config))
        sink.open(SinkContext(kafka.unique_name("flow")))
        made.append(sink)
        return sink

    yield make
    for sink in made:
        sink.close()


def written(sink, batch, at=1):
    if isinstance(sink, KafkaTransactionalSink):
        sink.claim(["s"])
    sink.write(Batch(batch, Checkpoint()))
    sink.flush()
    if isinstance(sink, KafkaTransactionalSink):
        sink.commit(Checkpoint({"s": at}))


# --- what routing makes of a record


def test_a_template_takes_fields_of_any_depth():
    found = routed(
        {"country": "de", "customer": {"tier": 1, "name": "x"}, "other": [1]},
        {"country": "fr", "customer": {"tier": 2}},
        topic="orders-{country}.{customer.tier}",
    )
    assert found.column("topic").to_pylist() == ["orders-de.1", "orders-fr.2"]


def test_a_field_may_hold_the_topic():
    assert routed({"to": "a"}, {"to": "b"}, topicField="to").column("topic").to_pylist() == ["a", "b"]


@pytest.mark.parametrize(
    ("value", "key"),
    [
        ('äö\n"quoted"', 'äö\n"quoted"'),
        (5, "5"),
        (-(2**63), str(-(2**63))),
        (2**70, str(2**70)),
        (1.5, "1.5"),
        (b'{"id": 1.50}', "1.50"),
        (b'{"id": 1e3}', "1e3"),
        (True, "true"),
        ("2026-01-01T00:00:00Z", "2026-01-01T00:00:00Z"),
        (None, None),
        (b"{}", None),
    ],
)
def test_a_scalar_key_is_plain_text_whatever_is_in_the_batch(value, key):
    one = value if isinstance(value, bytes) else {"id": value}
    expected = key.encode() if key is not None else None
    for others in ([], [{"id": "text"}], [{"id": 7}], [{"id": 0.25}, {"id": "x"}], [{"id": False}]):
        for batch in ([one, *others], [*others, one]):
            keys = routed(*batch, topic="t", keyField="id").column("key").to_pylist()
            assert keys[batch.index(one)] == expected, batch


def test_several_key_fields_are_a_json_object_in_their_order():
    batch = ({"a": 'x"y', "b": 1, "c": {"d": True}}, {"b": 2.50, "a": "z"}, {"c": {}}, {"a": "1", "b": "1"})
    for order in (batch, batch[::-1], batch[:1], batch[1:2]):
        keys = routed(*order, topic="t", keyFields=["b", "a", "c.d"]).column("key").to_pylist()
        for value, key in zip(order, keys, strict=True):
            expected = {"b": value.get("b"), "a": value.get("a"), "c.d": value.get("c", {}).get("d")}
            assert key == json.dumps(expected, separators=(",", ":")).encode()


def test_a_tombstone_keeps_its_key():
    keys = routed({"id": 1}, None, topic="t", keyField="id", keys=[b"old", b"gone"]).column("key").to_pylist()
    assert keys == [b"1", b"gone"]


def test_records_that_can_go_nowhere_are_named():
    values = [
        {"c": "ok"}, {"c": None}, {}, {"c": "a b"}, {"c": ""}, {"c": "../x"}, None, {"c": [1]}, b"no json",
        {"c": "x" * 250}, {"c": "__consumer_offsets"}, {"c": ".."},
    ]  # fmt: skip
    with pytest.raises(InvalidRecord) as raised:
        routed(*values, topicField="c")
    assert set(raised.value.rows) == {7, 8}, "first what cannot be read"
    assert "'c' is no text" in raised.value.rows[7]
    assert "not JSON" in raised.value.rows[8]
    readable = [value for index, value in enumerate(values) if index not in (7, 8)]
    with pytest.raises(InvalidRecord) as raised:
        routed(*readable, topicField="c")
    assert set(raised.value.rows) == set(range(1, 10))
    assert "'c' is missing or null" in raised.value.rows[1]
    assert "'a b' is no name of a topic" in raised.value.rows[3]


def test_without_routing_rows_pass_as_they_are():
    batch = rows({"a": 1})
    assert Routing(KafkaSinkConfig(brokers="k", topic="t")).apply(batch) is batch


def test_fields_are_read_at_once_if_their_types_stay(monkeypatch):
    fields = Fields(["id", "name"])
    monkeypatch.setattr(Fields, "_one_by_one", lambda *_: pytest.fail("record by record"))
    for start in (0, 10):
        batch = rows(*({"id": n, "name": f"n{n}", "more": {"x": n}} for n in range(start, start + 10)))
        found = fields.read(batch.column("value"))
        assert found["id"].plain.to_pylist() == [str(n) for n in range(start, start + 10)]


# --- on the broker


@pytest.mark.parametrize("kind", [KafkaSink, KafkaTransactionalSink])
def test_topics_are_made_on_the_way(kafka, make, prefix, kind):
    sink = make(kind, topic=f"{prefix}-{{country}}", createTopic=True, partitions=3, replicationFactor=1, keyField="id")
    headers = pa.array([[{"key": "h", "value": b"1"}], None, None], HEADERS)
    batch = rows({"country": "de", "id": 1}, {"country": "fr", "id": 2}, {"country": "de", "id": 3}, headers=headers)
    written(sink, batch)
    german = kafka.consume_all(f"{prefix}-de")
    assert sorted(record.key for record in german) == [b"1", b"3"]
    assert {record.headers for record in german} == {(("h", b"1"),), ()}
    assert [record.key for record in kafka.consume_all(f"{prefix}-fr")] == [b"2"]
    assert len(kafka.partitions(f"{prefix}-de")) == 3


def test_keys_from_fields_go_where_the_java_client_puts_them(kafka, make):
    topic = kafka.create_topic(5)
    written(make(topic=topic, keyField="id"), rows({"id": "21"}, {"id": "foobar"}, {"id": "a-little-bit-long-string"}))
    expected = {
        key: (value & 0x7FFFFFFF) % 5
        for key, value in ((b"21", -973932308), (b"foobar", -790332482), (b"a-little-bit-long-string", -985981536))
    }
    assert {record.key: record.partition for record in kafka.consume_all(topic)} == expected


def test_topics_that_are_not_there_refuse_their_records_only(kafka, make, prefix):
    kafka.create_topic(name=f"{prefix}-de")
    sink = make(topic=f"{prefix}-{{country}}")
    sink.claim(["s"])
    with pytest.raises(
        InvalidRecord, match=f"there is no topic '{prefix}-fr'; create it, or set `createTopic"
    ) as raised:
        sink.write(Batch(rows({"country": "de"}, {"country": "fr"}), Checkpoint()))
    assert set(raised.value.rows) == {1}
    sink.write(Batch(rows({"country": "de"}), Checkpoint()))
    sink.flush()
    sink.commit(Checkpoint({"s": 1}))
    assert len(kafka.consume_all(f"{prefix}-de")) == 1


def test_each_topic_refuses_what_it_does_not_take(kafka, make, prefix):
    kafka.create_topic(name=f"{prefix}-small", max_message_bytes="2000")
    kafka.create_topic(name=f"{prefix}-keyed", cleanup_policy="compact")
    kafka.create_topic(name=f"{prefix}-any")
    sink = make(topicField="to", keyField="id")
    values = [
        {"to": to, "id": key, "text": "x" * size}
        for to, key, size in (
            ("any", 1, 5000),
            ("small", 2, 5000),
            ("keyed", None, 1),
            ("small", 3, 1),
            ("keyed", 4, 1),
        )
    ]
    values = [{**value, "to": f"{prefix}-{value['to']}"} for value in values]
    with pytest.raises(InvalidRecord) as raised:
        sink.write(Batch(rows(*values), Checkpoint()))
    assert set(raised.value.rows) == {1, 2}
    assert "max.message.bytes" in raised.value.rows[1]
    assert "compacted" in raised.value.rows[2]


def test_a_topic_that_cannot_be_made_is_fatal(make, prefix):
    with pytest.raises(Fatal, match="replicationFactor"):
        make(topic=f"{prefix}-a", createTopic=True, replicationFactor=100)


def test_check_says_where_records_go(kafka, make, prefix):
    def answer(**settings):
        return KafkaSink(KafkaSinkConfig.model_validate({"brokers": kafka.bootstrap_servers, **settings})).check()

    assert f"topics '{prefix}-{{country}}' among" in answer(topic=f"{prefix}-{{country}}")
    assert "will be created" in answer(topic=prefix, createTopic=True)


def test_a_flow_into_several_topics_is_exactly_once_and_sets_aside_what_goes_nowhere(kafka, prefix, tmp_path):
    source, errors = kafka.create_topic(2), kafka.create_topic()
    for number in range(3):
        kafka.create_topic(2, name=f"{prefix}-{number}")
    values = [{"id": n, "to": f"{prefix}-{n % 3}" if n % 10 else "no such name!"} for n in range(60)]
    name = kafka.unique_name("flow")

    def drain():
        sink = {"topicField": "to", "keyFields": ["id"], "batchSize": 7}
        flow = dataflow(
            name,
            source=("kafka", {"brokers": kafka.bootstrap_servers, "topic": source}),
            sink=("kafka", {"brokers": kafka.bootstrap_servers, **sink}),
            errors=("kafka", {"brokers": kafka.bootstrap_servers, "topic": errors}),
        )
        return Worker(flow.plan(), Limits(mode="drain")).run()

    for part in (values[:30], values[30:]):
        kafka.produce(source, [json.dumps(value).encode() for value in part])
        drain()
    drain()
    found = [json.loads(r.value) for n in range(3) for r in kafka.consume_all(f"{prefix}-{n}")]
    assert sorted(value["id"] for value in found) == [n for n in range(60) if n % 10]
    assert all(json.loads(r.key) == {"id": json.loads(r.value)["id"]} for r in kafka.consume_all(f"{prefix}-1")), (
        "the key is made of the field"
    )
    refused = [json.loads(record.value) for record in kafka.consume_all(errors)]
    assert sorted(json.loads(json.dumps(r["original_message"]))["id"] for r in refused) == [0, 10, 20, 30, 40, 50]


# --- what is refused without a broker


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "needs either `topic` or `topicField`"),
        ({"topic": "a", "topicField": "b"}, "needs either `topic` or `topicField`"),
        ({"topic": "a b"}, "sink.kafka.topic"),
        ({"topic": "a-{}"}, "sink.kafka.topic"),
        ({"topic": "a-{b"}, "sink.kafka.topic"),
        ({"topic": "a", "keyField": "b", "keyFields": ["c"]}, "`keyField` and `keyFields`"),
        ({"topic": "a", "keyFields": []}, "keyFields"),
        ({"topic": "a", "partitions": 3}, "set `createTopic: true`"),
        ({"topic": "a", "partitions": 0, "createTopic": True}, "`partitions` must be at least 1"),
        ({"topic": "a", "replicationFactor": 3}, "set `createTopic: true`"),
        ({"topic": "a-{b}", "format": "avro", "schemaRegistry": {"url": "http://r"}}, "set `subjectNames: record`"),
    ],
)
def test_a_wrong_route_says_what_is_wrong(settings, message):
    with pytest.raises(LintError) as raised:
        dataflow(
            "f", source=("kafka", {"brokers": ["k"], "topic": "t"}), sink=("kafka", {"brokers": ["k:9092"], **settings})
        )
    assert message in str(raised.value)


def test_fields_of_opaque_bytes_are_refused_before_anything_is_read(kafka):
    flow = dataflow(
        "f",
        source=("kafka", {"brokers": kafka.bootstrap_servers, "topic": kafka.create_topic(), "format": "bytes"}),
        sink=("kafka", {"brokers": kafka.bootstrap_servers, "topic": kafka.create_topic(), "keyField": "id"}),
    )
    with pytest.raises(Fatal, match="format: json"):
        Worker(flow.plan(), Limits(mode="drain")).run()
