"""DataFlow: from YAML and Python to a plan; the specification's samples; schema and validator agree."""

import copy
import pickle
from pathlib import Path
from textwrap import indent

import pytest
import yaml
from jsonschema import Draft202012Validator

from airflow_provider_connect.engine.connections import Connection, MissingConnection
from airflow_provider_connect.engine.errors import FlowError
from airflow_provider_connect.engine.flow import DataFlow, dataflow
from airflow_provider_connect.engine.lint import LintError
from airflow_provider_connect.engine.plan import Limits
from airflow_provider_connect.engine.retry import RetryPolicy
from airflow_provider_connect.engine.schema import flow_schema
from tests.flow_types import Board, Keep, OnceBoard, QueueSource, QueueSourceConfig, Ticker, TickerConfig, types

__all__ = ["types"]
SAMPLES = Path(__file__).parent / "data" / "specification"


def nothing(conn_id: str) -> Connection:
    raise MissingConnection(f"no '{conn_id}'")


FULL = """\
apiVersion: dataflow.dataflow.io/v1
kind: DataFlow
metadata:
  name: orders
  namespace: shop
  labels: {team: a}
  annotations: {description: All orders.}
  uid: 1-2-3
spec:
  source: {type: ticker, config: {ticks: ["1"]}}
  sink: {type: board, board: {once: true, batchSize: 7}}
  errors: {type: queue, queue: {brokers: [a], topic: dead}}
  transformations:
    - {type: keep, keep: {above: 1}}
    - {type: keep, config: {above: 2}}
  parallelism: 3
  retry: {attempts: 2, firstSeconds: 1, longestSeconds: 2.5}
  checkpoints: sqlite:///x
  prefetchBytes: 1000
  readRecords: 10
  mode: drain
  maxRecords: 5
  maxSeconds: 1.5
  schedule: "@hourly"
  tags: [a, b]
status: {phase: Running}
"""


@pytest.mark.usefixtures("types")
def test_everything_reaches_the_plan():
    flow = DataFlow.load(FULL)
    assert (flow.name, flow.id, flow.description) == ("orders", "shop.orders", "All orders.")
    assert (flow.schedule, flow.tags) == ("@hourly", ("a", "b"))
    assert flow.limits("continuous") == Limits("drain", 5, 1.5)
    plan = flow.plan(nothing)
    assert plan.flow == "shop.orders"
    assert isinstance(plan.source(), Ticker)
    assert type(plan.sink()) is OnceBoard
    assert plan.sink().config.batch_size == 7
    assert plan.errors().config.topic == "dead"
    assert [(type(each), each.config.above) for each in plan.transforms()] == [(Keep, 1), (Keep, 2)]
    assert plan.parallelism == 3
    assert plan.retry == RetryPolicy(2, 1, 2.5)
    assert (plan.checkpoints, plan.prefetch_bytes, plan.read_records) == ("sqlite:///x", 1000, 10)


@pytest.mark.usefixtures("types")
def test_defaults():
    flow = dataflow("f", source=("ticker", {}), sink=("board", {}))
    plan = flow.plan(nothing)
    assert plan.flow == flow.id == "f"
    assert type(plan.sink()) is Board
    assert plan.errors is None
    assert list(plan.transforms()) == []
    assert plan.retry == RetryPolicy()
    assert flow.limits() == Limits()
    assert flow.limits("drain").mode == "drain"


@pytest.mark.usefixtures("types")
def test_every_lane_gets_its_own():
    plan = DataFlow.load(FULL).plan(nothing)
    assert plan.source() is not plan.source()
    assert plan.sink() is not plan.sink()
    assert plan.transforms()[0] is not plan.transforms()[0]


@pytest.mark.usefixtures("types")
def test_yaml_text_path_mapping_and_flow_load_alike(tmp_path: Path):
    path = tmp_path / "f.yaml"
    path.write_text(FULL)
    loaded = [DataFlow.load(each) for each in (FULL, path, str(path), yaml.safe_load(FULL))]
    assert DataFlow.load(loaded[0]) is loaded[0]
    assert len({repr(flow.as_dict()) for flow in loaded}) == 1
    assert DataFlow.load(loaded[0].as_dict()).as_dict() == loaded[0].as_dict()


@pytest.mark.usefixtures("types")
def test_python_objects_may_have_text_for_numbers_but_files_may_not():
    data = yaml.safe_load(FULL)
    data["spec"]["parallelism"] = "4"
    data["spec"]["sink"]["board"]["batchSize"] = "9"
    flow = DataFlow.load(data)
    assert flow.spec.parallelism == 4
    assert flow.plan(nothing).sink().config.batch_size == 9
    with pytest.raises(LintError) as caught:
        DataFlow.load(yaml.safe_dump(data))
    assert [problem.path for problem in caught.value.problems] == ["spec.parallelism", "spec.sink.board.batchSize"]


@pytest.mark.usefixtures("types")
def test_flows_can_be_copied_and_pickled():
    flow = DataFlow.load(FULL)
    for again in (copy.deepcopy(flow), pickle.loads(pickle.dumps(flow))):
        assert again.as_dict() == flow.as_dict()
        assert again.plan(nothing).flow == "shop.orders"


@pytest.mark.usefixtures("types")
def test_a_file_of_two_flows_is_loaded_by_load_all(tmp_path: Path):
    path = tmp_path / "two.yaml"
    path.write_text(FULL + "---\n" + FULL.replace("name: orders", "name: other"))
    assert [flow.name for flow in DataFlow.load_all(path)] == ["orders", "other"]
    with pytest.raises(FlowError, match=r"two\.yaml holds 2 flows \('orders', 'other'\)"):
        DataFlow.load(path)


@pytest.mark.usefixtures("types")
@pytest.mark.parametrize(
    "source",
    [
        ("queue", {"brokers": ["a"], "topic": "t", "server_url": "u"}),
        {"type": "queue", "queue": {"brokers": ["a"], "topic": "t", "serverURL": "u"}},
        QueueSourceConfig(brokers=["a"], topic="t", server_url="u"),
    ],
)
def test_flows_in_python(source):
    flow = dataflow("f", source=source, sink=("board", {}), description="d", namespace="n", tags=("x",))
    made = flow.plan(nothing).source()
    assert isinstance(made, QueueSource)
    assert made.config.server_url == "u"
    assert (flow.id, flow.description, flow.tags) == ("n.f", "d", ("x",))
    assert flow.as_dict()["spec"]["source"]["type"] == "queue"


@pytest.mark.usefixtures("types")
def test_a_config_object_in_the_wrong_place():
    flow = dataflow(
        "f", source=QueueSourceConfig(brokers=["a"], topic="t"), sink=QueueSourceConfig(brokers=["a"], topic="t")
    )
    with pytest.raises(
        LintError, match=r"spec.sink: the sink of 'queue' is configured by QueueSinkConfig, not by QueueSourceConfig"
    ):
        flow.plan(nothing)

    class Stray(TickerConfig):
        pass

    with pytest.raises(FlowError, match="Stray is the configuration of no registered connector"):
        dataflow("f", source=Stray(), sink=("board", {}))


@pytest.mark.usefixtures("types")
def test_wrong_flows_in_python():
    with pytest.raises(LintError, match=r"spec.paralelism: unknown field; did you mean 'parallelism'"):
        dataflow("f", source=("ticker", {}), sink=("board", {}), paralelism=3)
    with pytest.raises(LintError, match=r"spec.sink.type: unknown connector type 'bord'; did you mean 'board'"):
        dataflow("f", source=("ticker", {}), sink=("bord", {}))
    with pytest.raises(LintError, match=r"spec.sink: this title cannot be shown; choose another"):
        dataflow("f", source=("ticker", {}), sink=("board", {"title": "impossible"})).plan(nothing)
    with pytest.raises(LintError, match=r"a flow must be a mapping|required"):
        DataFlow.load({})


# --- the specification's samples, on the real connectors


def completed(name: str) -> str:
    """A sample as it is; what it leaves out is taken from other samples."""
    text = (SAMPLES / f"{name}.yaml").read_text()
    if text.startswith(("source:", "sink:")):
        head = "apiVersion: dataflow.dataflow.io/v1\nkind: DataFlow\nmetadata: {name: sample}\nspec:\n"
        text = head + indent(text, "  ")
    for role in ("source", "sink"):
        if f"  {role}:" not in text:
            text += indent((SAMPLES / f"{role}-postgresql.yaml").read_text(), "  ")
    return text


@pytest.fixture
def kubernetes_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their keys are those of the extra, as whoever moves a Secret into a connection would write it."""
    monkeypatch.setenv(
        "AIRFLOW_CONN_KAFKA_CREDENTIALS",
        '{"login": "kafka-user", "password": "from-environment", '
        '"extra": {"brokers": "k1:9092,k2:9092", "topic": "in", "consumerGroup": "group"}}',
    )
    monkeypatch.setenv(
        "AIRFLOW_CONN_POSTGRES_CREDENTIALS", '{"extra": {"connectionString": "postgres://u:pw@h/db", "table": "t"}}'
    )


def test_sample_kafka_with_sasl(kubernetes_secrets: None):
    config = DataFlow.load(completed("kafka-sasl-secrets")).plan().source().config
    assert config.brokers == ["k1:9092", "k2:9092"]
    assert (config.topic, config.consumer_group) == ("in", "group")
    assert config.sasl.username == "kafka-user"
    assert config.sasl.password.get_secret_value() == "from-environment"
    assert config.sasl.mechanism == "scram-sha-256"


def test_sample_kafka_with_sasl_from_the_secret_beside_it():
    config = DataFlow.load(completed("kafka-sasl-secrets")).plan().source().config
    assert config.brokers == ["kafka1:9092", "kafka2:9092", "kafka3:9092"]
    assert config.sasl.password.get_secret_value() == "kafka-password"


def test_sample_postgresql(kubernetes_secrets: None):
    config = DataFlow.load(completed("postgresql-secrets")).plan().source().config
    assert config.connection_string.get_secret_value() == "postgres://u:pw@h/db"
    assert config.table == "t"


def test_sample_kafka_with_tls():
    config = DataFlow.load(completed("kafka-tls-secrets")).plan().source().config
    assert config.tls.ca.startswith("-----BEGIN CERTIFICATE-----")
    assert config.tls.key.get_secret_value().startswith("-----BEGIN PRIVATE KEY-----")


@pytest.mark.parametrize("name", ["sink-kafka", "source-postgresql", "sink-postgresql"])
def test_sample_blocks(name: str):
    flow = DataFlow.load(completed(name))
    plan = flow.plan(nothing)
    assert name.endswith((flow.spec.source.type, flow.spec.sink.type))
    if name == "sink-postgresql":
        config = plan.sink().config
        assert (config.batch_size, config.upsert_mode, config.conflict_key) == (100, True, "id")


def test_sample_kafka_to_clickhouse():
    config = DataFlow.load(completed("kafka-to-clickhouse")).plan(nothing).sink().config
    assert (config.access.protocol, config.access.host, config.access.port) == ("native", "clickhouse", 9000)
    assert (config.table, config.batch_size, config.auto_create_table) == ("output_table", 100, True)
    assert config.batch_flush_interval_seconds == 10


def test_sample_kafka_to_trino():
    config = DataFlow.load(completed("kafka-to-trino")).plan(nothing).sink().config
    assert (config.server_url, config.catalog, config.schema_name) == ("http://trino:8080", "hive", "default")
    assert (config.table, config.batch_size, config.batch_flush_interval_seconds) == ("output_table", 100, 10)
    assert config.keycloak.token.get_secret_value().startswith("eyJ")


def test_sample_kafka_to_nessie():
    config = DataFlow.load(completed("kafka-to-nessie")).plan(nothing).sink().config
    assert (config.base_url, config.branch, config.namespace) == ("http://nessie:19120", "main", "analytics")
    assert (config.table, config.batch_size, config.batch_flush_interval_seconds) == ("events", 100, 10)
    assert config.auto_create_table is True


# --- schema and validator

HEAD = {"apiVersion": "dataflow.dataflow.io/v1", "kind": "DataFlow", "metadata": {"name": "f"}}
QUEUE = {"brokers": ["a"], "topic": "t"}
REF = {"name": "s", "key": "k"}


def queue(**changes) -> dict:
    block = {key: value for key, value in {**QUEUE, **changes}.items() if value is not ...}
    return {"source": {"type": "queue", "queue": block}, "sink": {"type": "board"}}


SPECS = [
    queue(),
    queue(topic=...),
    queue(brokers=...),
    queue(topic=3),
    queue(topic="T"),
    queue(brokers=[]),
    queue(brokers="a,b"),
    queue(brokers=3),
    queue(serverURL="u"),
    queue(server_url="u"),
    queue(server_url=None),
    queue(serverUrl="u"),
    queue(serverURL="u", server_url="u"),
    queue(rawMode="true"),
    queue(raw_mode=True),
    queue(retries=1.5),
    queue(retries=True),
    queue(retries="1"),
    queue(wait=1),
    queue(wait=0),
    queue(wait="1"),
    queue(properties={"a": "b"}),
    queue(properties={"a": 1}),
    queue(properties={"aSecretRef": REF}),
    queue(properties={"a_secret_ref": {"name": "s"}}),
    queue(sasl={}),
    queue(sasl=None),
    queue(sasl={"username": "u", "password": "p"}),
    queue(sasl={"username": "u", "password": "p", "mechanism": "x"}),
    queue(sasl={"username": "u", "passwordSecretRef": REF}),
    queue(sasl={"username": "u", "password_secret_ref": REF}),
    queue(sasl={"username": "u", "passwordSecretRef": REF, "password_secret_ref": REF}),
    queue(sasl={"username": "u", "passwordSecretRef": {"name": "s"}}),
    queue(sasl={"username": "u", "passwordSecretRef": {"name": "s", "key": "k", "namespace": "n"}}),
    queue(sasl={"username": "u", "passwordSecretRef": {"name": "", "key": "k"}}),
    queue(sasl={"username": "u", "passwordSecretRef": "k"}),
    queue(sasl={}, connection="c"),
    queue(sasl={"mechanism": "x"}, connection="c"),
    queue(brokers=..., connection="c"),
    queue(brokers=..., connectionId="c"),
    queue(brokers=..., connection_id="c"),
    queue(brokers=..., connection=""),
    queue(brokers=..., connection=None),
    queue(brokers=..., connection="c", connectionId="c"),
    queue(brokers=..., topic=..., connection="c"),
    queue(topic=..., topicSecretRef=REF),
    queue(topic=..., topic_secret_ref=REF),
    queue(topikSecretRef=REF),
    queue(serverURLSecretRef=REF),
    queue(server_url_secret_ref=REF),
    queue(server_urlSecretRef=REF),
    queue(serverURLSecretRef=REF, server_url_secret_ref=REF),
    queue(routes=[{"to": "a"}]),
    queue(routes=[{}]),
    queue(routes=[{"toSecretRef": REF}]),
    queue(routes=[{"to": "a", "token": None}]),
    queue(routes=[{"to": "a", "token": 1}]),
    queue(routes={}),
    {**queue(), "source": {"type": "queue", "config": QUEUE}},
    {**queue(), "source": {"type": "queue", "config": QUEUE, "queue": QUEUE}},
    {**queue(), "source": {"type": "queue", "config": None}},
    {**queue(), "source": {"type": "queue"}},
    {**queue(), "source": {"type": "ticker"}},
    {**queue(), "source": {"type": "ticker", "ticker": None}},
    {**queue(), "source": {"type": "ticker", "queue": QUEUE}},
    {**queue(), "source": {"type": "ticker", "ticker": {"connection": "c"}}},
    {**queue(), "source": {"type": "board"}},
    {**queue(), "source": {"type": "nope"}},
    {**queue(), "source": {}},
    {**queue(), "source": None},
    {**queue(), "source": "queue"},
    {**queue(), "sink": {"type": "ticker"}},
    {**queue(), "errors": {"type": "board"}},
    {**queue(), "errors": None},
    {**queue(), "errors": {"type": "ticker"}},
    {**queue(), "errors": {"type": "board", "ackPolicy": "never"}},
    {**queue(), "errors": {"type": "board", "ack_policy": "afterMainSinkSuccess"}},
    {**queue(), "errors": {"type": "board", "ackPolicy": "sometimes"}},
    {**queue(), "errors": {"type": "board", "ackPolicy": None}},
    {**queue(), "errors": {"type": "board", "ackPolicy": "never", "ack_policy": "never"}},
    {**queue(), "sink": {"type": "board", "ackPolicy": "never"}},
    {**queue(), "transformations": []},
    {**queue(), "transformations": None},
    {**queue(), "transformations": [{"type": "keep", "keep": {"above": 1}}]},
    {**queue(), "transformations": [{"type": "keep"}]},
    {**queue(), "transformations": {"type": "keep"}},
    {**queue(), "parallelism": 2},
    {**queue(), "parallelism": 0},
    {**queue(), "parallelism": "2"},
    {**queue(), "paralelism": 2},
    {**queue(), "retry": {"attempts": 1, "first_seconds": 1}},
    {**queue(), "retry": {"firstSeconds": 1, "first_seconds": 1}},
    {**queue(), "retry": {"attempts": 0}},
    {**queue(), "retry": {"attemptsSecretRef": REF}},
    {**queue(), "checkpointsSecretRef": REF},
    {**queue(), "checkpoints_secret_ref": REF},
    {**queue(), "checkpointsSecretRef": {"name": "s"}},
    {**queue(), "mode": "drain", "maxRecords": 1, "max_seconds": 2},
    {**queue(), "mode": None, "maxRecords": None},
    {**queue(), "mode": "fast"},
    {**queue(), "maxSeconds": 0},
    {**queue(), "tags": ["a"], "schedule": "@daily"},
    {**queue(), "tags": "a"},
    {},
]  # fmt: skip

DOCUMENTS = [{**HEAD, "spec": spec} for spec in SPECS] + [
    {},
    {**HEAD, "spec": None},
    {**HEAD, "spec": queue(), "status": 3},
    {**HEAD, "spec": queue(), "extra": 3},
    {**HEAD, "spec": queue(), "apiVersion": "v2"},
    {**HEAD, "spec": queue(), "kind": "Dataflow"},
    {**HEAD, "spec": queue(), "metadata": {}},
    {**HEAD, "spec": queue(), "metadata": {"name": "a b"}},
    {**HEAD, "spec": queue(), "metadata": {"name": "a" * 129}},
    {**HEAD, "spec": queue(), "metadata": {"name": "a", "nmespace": "b"}},
    {**HEAD, "spec": queue(), "metadata": {"name": "a", "uid": "b", "labels": {"a": "b"}}},
    {**HEAD, "spec": queue(), "metadata": {"name": "a", "labels": {"a": 1}}},
    {key: value for key, value in {**HEAD, "spec": queue()}.items() if key != "kind"},
]


@pytest.mark.usefixtures("types")
def test_schema_and_validator_agree():
    schema = flow_schema()
    Draft202012Validator.check_schema(schema)
    validator = Draft202012Validator(schema)
    accepted = 0
    for document in DOCUMENTS:
        try:
            DataFlow.load(yaml.safe_dump(document, sort_keys=False))
            problems = []
        except LintError as error:
            problems = [str(problem) for problem in error.problems]
        errors = [error.message for error in validator.iter_errors(document)]
        assert bool(problems) == bool(errors), f"{document}\nlint: {problems}\nschema: {errors}"
        accepted += not problems
    assert 35 < accepted < len(DOCUMENTS) - 35


@pytest.mark.parametrize(
    "name", ["kafka-sasl-secrets", "postgresql-secrets", "kafka-tls-secrets", "sink-kafka", "sink-postgresql"]
)
def test_the_schema_takes_the_samples(name: str):
    flow = list(yaml.safe_load_all(completed(name)))[-1]
    Draft202012Validator(flow_schema()).validate(flow)


@pytest.mark.usefixtures("types")
def test_secrets_in_the_schema():
    route = flow_schema()["$defs"]["queue.source.Route"]["properties"]["token"]
    assert route["type"] == ["string", "null"]
    assert route["format"] == "password"


def test_every_reference_of_the_schema_has_a_target():
    schema = flow_schema()
    found = set()

    def walk(node):
        if isinstance(node, dict):
            found.update([node["$ref"]] if isinstance(node.get("$ref"), str) else [])
            for value in node.values():
                walk(value)
        elif isinstance(node, list):
            for value in node:
                walk(value)

    walk(schema)
    assert found == {f"#/$defs/{name}" for name in schema["$defs"]}
