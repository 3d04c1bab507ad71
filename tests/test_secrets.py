"""SecretRefs and connections: what they fill, what comes first, and what is said when it is not there."""

import logging
from pathlib import Path

import pytest

from airflow_provider_connect.engine.connections import Connection, MissingConnection
from airflow_provider_connect.engine.errors import FlowError
from airflow_provider_connect.engine.flow import DataFlow, dataflow
from airflow_provider_connect.engine.lint import LintError
from airflow_provider_connect.engine.pem import pem
from tests.flow_types import types

__all__ = ["types"]
pytestmark = pytest.mark.usefixtures("types")

STORE = {
    "q": Connection("q", "queue", "b1,b2:1", 9092, "me", "hush", None, {"client_id": "cid"}),
    "s": Connection(
        "s", extra={"topic": "orders", "brokers": "x:1, y:2", "n": "7", "password": "other", "map": '{"a": "b"}'}
    ),
    "team.s": Connection("team.s", extra={"topic": "theirs"}),
    "bare": Connection("bare"),
}  # fmt: skip


def lookup(conn_id: str) -> Connection:
    if conn_id not in STORE:
        raise MissingConnection(f"there is no connection '{conn_id}'")
    return STORE[conn_id]


def config(block: dict):
    return dataflow("f", source=("queue", block), sink=("board", {})).plan(lookup).source().config


def problems(block: dict) -> list[str]:
    flow = dataflow("f", source=("queue", block), sink=("board", {}))
    with pytest.raises(LintError) as caught:
        flow.plan(lookup)
    return [str(problem) for problem in caught.value.problems]


def ref(key: str, name: str = "s", **more: str) -> dict:
    return {"name": name, "key": key, **more}


@pytest.mark.parametrize("key", ["connection", "connectionId", "connection_id"])
def test_a_connection_fills_what_it_has(key: str):
    found = config({key: "q", "topic": "t"})
    assert found.brokers == ["b1:9092", "b2:1"]
    assert (found.sasl.username, found.sasl.password.get_secret_value()) == ("me", "hush")
    assert found.sasl.mechanism == "plain"
    assert found.client_id == "cid"


def test_direct_values_come_before_the_connection():
    found = config(
        {"connection": "q", "topic": "t", "brokers": ["z"], "client_id": "mine", "sasl": {"mechanism": "digest"}}
    )
    assert found.brokers == ["z"]
    assert found.client_id == "mine"
    assert (found.sasl.username, found.sasl.mechanism) == ("me", "digest")
    assert config({"connection": "q", "topic": "t", "sasl": None}).sasl is None


def test_a_secret_comes_before_both():
    block = {"connection": "q", "topic": "t", "topicSecretRef": ref("topic"), "brokersSecretRef": ref("brokers")}
    found = config({**block, "sasl": {"password": "direct", "password_secret_ref": ref("password")}})
    assert found.topic == "orders"
    assert found.brokers == ["x:1", "y:2"]
    assert found.sasl.password.get_secret_value() == "other"


def test_secrets_at_any_depth():
    block = {
        "brokers": ["a"],
        "topicSecretRef": ref("topic", namespace="team"),
        "retriesSecretRef": ref("n"),
        "routes": [{"to": "a"}, {"to": "b", "tokenSecretRef": ref("port", "q")}],
        "properties": {"x": "y", "a.bSecretRef": ref("topic")},
    }
    found = config(block)
    assert found.topic == "theirs"
    assert found.retries == 7
    assert found.routes[0].token is None
    assert found.routes[1].token.get_secret_value() == "9092"
    assert found.properties == {"x": "y", "a.b": "orders"}


def test_a_mapping_in_a_connection_is_json():
    assert config({"brokers": ["a"], "topic": "t", "propertiesSecretRef": ref("map")}).properties == {"a": "b"}


@pytest.mark.parametrize(
    ("block", "expected"),
    [
        (
            {"connection": "nope", "topic": "t"},
            ["spec.source.queue.connection: there is no connection 'nope'"],
        ),
        (
            {"brokersSecretRef": ref("brokers", "nope"), "topicSecretRef": ref("topik")},
            [
                "spec.source.queue.brokersSecretRef: there is no connection 'nope'",
                "spec.source.queue.topicSecretRef: connection 's' has no 'topik'; did you mean 'topic'? "
                "(it has: topic, brokers, n, password, map)",
            ],
        ),
        ({"connection": "bare", "topic": "t"}, ["spec.source.queue.brokers: required, but missing"]),
        (
            {"brokers": ["a"], "topic": "t", "retriesSecretRef": ref("topic")},
            ["spec.source.queue.retries: must be a whole number, unable to parse string as an integer"],
        ),
        (
            {"brokers": ["a"], "topic": "t", "tableSecretRef": ref("topic"), "query": "q"},
            ["spec.source.queue: 'table' and 'query' exclude each other; keep one"],
        ),
    ],
)
def test_what_is_wrong_with_connections(block: dict, expected: list[str]):
    assert problems(block) == expected


def test_problems_of_connections_have_lines_and_name_all(tmp_path: Path):
    path = tmp_path / "f.yaml"
    path.write_text(
        "apiVersion: dataflow.dataflow.io/v1\nkind: DataFlow\nmetadata: {name: f}\nspec:\n"
        "  source:\n    type: queue\n    queue:\n      connection: nope\n      topic: t\n"
        "  sink:\n    type: board\n    board:\n      titleSecretRef: {name: s, key: n}\n"
        "  errors:\n    type: queue\n    config: {brokers: [a], topicSecretRef: {name: x, key: y}}\n"
        "  checkpointsSecretRef: {name: z, key: uri}\n"
    )
    with pytest.raises(LintError) as caught:
        DataFlow.load(path).plan(lookup)
    assert str(caught.value).replace(str(path), "f.yaml").splitlines() == [
        "f.yaml:8: spec.source.queue.connection: there is no connection 'nope'",
        "f.yaml:16: spec.errors.config.topicSecretRef: there is no connection 'x'",
        "f.yaml:17: spec.checkpointsSecretRef: there is no connection 'z'",
    ]


def test_each_connection_is_looked_up_once():
    asked = []

    def counted(conn_id: str) -> Connection:
        asked.append(conn_id)
        return lookup(conn_id)

    block = {"connection": "q", "topicSecretRef": ref("topic"), "tableSecretRef": ref("n")}
    dataflow("f", source=("queue", block), sink=("board", {"titleSecretRef": ref("topic")})).plan(counted)
    assert sorted(asked) == ["q", "s"]


def test_connection_ids():
    flow = dataflow(
        "f",
        source=("queue", {"connection": "q", "topicSecretRef": ref("topic", namespace="team")}),
        sink=("board", {"titleSecretRef": ref("topic")}),
        errors=("board", {"titleSecretRef": ref("topic")}),
        checkpoints_secret_ref={"name": "z", "key": "uri"},
    )
    assert flow.connection_ids() == ("q", "team.s", "s", "z")


SECRET = """\
apiVersion: v1
kind: Secret
metadata: {name: creds, namespace: team}
stringData: {topic: from-file}
data: {brokers: YTox, topic: b3RoZXI=}
---
apiVersion: dataflow.dataflow.io/v1
kind: DataFlow
metadata: {name: f}
spec:
  source:
    type: queue
    queue:
      brokersSecretRef: {name: creds, namespace: team, key: brokers}
      topicSecretRef: {name: creds, key: topic}
  sink: {type: board}
"""


def test_secrets_beside_the_flow_come_last(caplog: pytest.LogCaptureFixture):
    flow = DataFlow.load(SECRET)
    with caplog.at_level(logging.WARNING, "airflow_provider_connect"):
        found = flow.plan(lookup).source().config
    assert (found.brokers, found.topic) == (["a:1"], "from-file")
    assert "taking 'creds' from the Secret in the flow's own file" in caplog.text
    assert "from-file" not in caplog.text
    STORE["creds"] = Connection("creds", extra={"topic": "from-airflow"})
    try:
        assert flow.plan(lookup).source().config.topic == "from-airflow"
    finally:
        del STORE["creds"]


def test_repr_of_a_flow_hides_its_values():
    block = {"brokers": ["a"], "topic": "t", "sasl": {"username": "u", "password": "hush"}}
    flow = dataflow("f", source=("queue", block), sink=("board", {}))
    plan = flow.plan(lookup)
    assert "hush" not in repr(flow) + str(flow) + repr(plan) + repr(plan.source().config)
    assert flow.as_dict()["spec"]["source"]["queue"] == block


def test_pem_content(tmp_path: Path):
    text = "-----BEGIN CERTIFICATE-----\nMII\n-----END CERTIFICATE-----\n"
    path = tmp_path / "ca.crt"
    path.write_text(text)
    assert pem(text) == text
    assert pem(str(path)) == text
    assert pem("no such file, so content") == "no such file, so content"
    assert pem("x" * 10_000) == "x" * 10_000
    assert pem("a\0b") == "a\0b"
    assert pem(str(tmp_path)) == str(tmp_path)


def test_pem_files_that_are_none(tmp_path: Path):
    path = tmp_path / "ca.der"
    path.write_bytes(b"\x30\x82\xff\xfe")
    with pytest.raises(FlowError, match=r"ca\.der' is not PEM but binary"):
        pem(str(path))
