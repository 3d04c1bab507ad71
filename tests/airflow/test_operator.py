"""DataFlowOperator with a context made by hand and systems in memory."""

import json
import signal
import threading
import time

import pytest
from airflow.sdk import DAG, Asset
from airflow.sdk.exceptions import AirflowException, AirflowFailException, AirflowTaskTimeout
from airflow.serialization.serialized_objects import DagSerialization

from airflow_provider_connect.engine.errors import Fatal, Fenced, Retryable
from airflow_provider_connect.engine.flow import DataFlow
from airflow_provider_connect.operators.dataflow import DataFlowOperator, shares
from airflow_provider_connect.testing.memory import ListLog, Raise


class Events(dict):
    """Stands for Airflow's outlet events."""

    def __missing__(self, asset):
        self[asset] = type("Event", (), {"extra": {}})()
        return self[asset]


class AssetState(dict):
    """Stands for the state of one asset: JSON in, JSON out."""

    def get(self, key, default=None):
        return json.loads(super().get(key, "null")) or default

    def set(self, key, value):
        assert value is not None
        self[key] = json.dumps(value)


@pytest.fixture
def context():
    return {"ds_nodash": "20261120", "outlet_events": Events(), "asset_state_store": {}, "params": {}}


def flow(topic="in", **spec):
    sink = spec.pop("sink", {})
    return {
        "apiVersion": "dataflow.dataflow.io/v1",
        "kind": "DataFlow",
        "metadata": {"name": "orders"},
        "spec": {
            "source": {"type": "memory", "memory": {"topic": topic, **spec.pop("source", {})}},
            "sink": {"type": "memory", "memory": {"target": "out", **sink}},
            **spec,
        },
    }


def fill(memory, *items, topic="in"):
    memory.LOGS[topic] = ListLog({"0": items}, topic)


def numbers(count):
    return [str(number).encode() for number in range(count)]


def run(context, **options):
    return DataFlowOperator(task_id="run", **options).execute(context)


def written(memory):
    return [int(value) for value in memory.TARGETS["out"].values()]


def test_it_drains_and_returns_a_summary_in_json(memory, context):
    fill(memory, *numbers(25))
    summary = json.loads(json.dumps(run(context, flow=flow())))
    assert summary.pop("seconds") >= 0
    assert summary.pop("bytes") > 0
    assert summary == {"records": 25, "dead_letters": 0, "checkpoint": {"0": 25}}
    assert written(memory) == list(range(25))


def test_the_next_run_goes_on(memory, context):
    fill(memory, *numbers(5))
    run(context, flow=flow())
    memory.LOGS["in"].append("0", b"5", b"6")
    assert run(context, flow=flow())["records"] == 2
    assert written(memory) == list(range(7))


def test_the_asset_event_tells_what_was_written(memory, context):
    fill(memory, *numbers(3))
    run(context, flow=flow())
    assert context["outlet_events"][Asset("orders")].extra == {"records": 3, "dead_letters": 0}


@pytest.mark.parametrize("limit", [7, "7", "{{ params.most }}"])
def test_it_stops_after_max_records(memory, context, limit):
    fill(memory, *numbers(25))
    operator = DataFlowOperator(task_id="run", flow=flow(source={"batchRecords": 1}), max_records=limit)
    context["params"] = {"most": 7}
    operator.render_template_fields(context)
    assert operator.execute(context)["records"] == 7


def test_it_stops_after_max_seconds(memory, context):
    fill(memory, *numbers(3))
    began = time.monotonic()
    assert run(context, flow=flow(), mode="continuous", max_seconds="0.5")["records"] == 3
    assert 0.4 < time.monotonic() - began < 10


def test_its_own_limits_go_over_those_of_the_flow(memory, context):
    fill(memory, *numbers(20))
    declared = flow(source={"batchRecords": 1}, maxRecords=8, mode="continuous")
    assert run(context, flow=declared, max_records=4)["records"] == 4
    assert run(context, flow=declared)["records"] == 8


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"max_records": "many"}, r"max_records: must be a number above 0, but is 'many'"),
        ({"max_seconds": -1}, r"max_seconds: must be a number above 0, but is '-1'"),
        ({"mode": "fast"}, r"mode: must be 'drain' or 'continuous', but is 'fast'"),
        ({"share": {"index": 4, "count": 4}}, r"share: index must be from 0 to 3, but is 4"),
        ({"share": {"part": 1}}, r"share: must be \{'index': …, 'count': …\}, but is"),
    ],
)
def test_a_wrong_option_fails_at_once(memory, context, option, message):
    with pytest.raises(AirflowFailException, match=message):
        run(context, flow=flow(), **option)


def test_mapped_tasks_share_the_splits(memory, context):
    memory.LOGS["in"] = ListLog({str(split): [str(split).encode()] for split in range(4)}, "in")
    for share in shares(3):
        run(context, flow=flow(), share=share)
    assert sorted(written(memory)) == [0, 1, 2, 3]
    assert shares(2) == [{"index": 0, "count": 2}, {"index": 1, "count": 2}]


YAML = """\
apiVersion: dataflow.dataflow.io/v1
kind: DataFlow
metadata:
  name: orders
spec:
  source:
    type: memory
    memory:
      topic: in-{{ ds_nodash }}
  sink:
    type: memory
    memory:
      target: out
"""


def test_texts_in_a_file_are_templates(memory, context, tmp_path):
    (tmp_path / "orders.yaml").write_text(YAML)
    fill(memory, *numbers(3), topic="in-20261120")
    operator = DataFlowOperator(task_id="run", flow=str(tmp_path / "{{ params.name }}.yaml"), outlets=[])
    context["params"] = {"name": "orders"}
    operator.render_template_fields(context)
    assert operator.flow == str(tmp_path / "orders.yaml")  # a path stays a path
    assert operator.execute(context)["records"] == 3


def test_a_relative_path_is_beside_the_dag(memory, context, tmp_path):
    (tmp_path / "orders.yaml").write_text(YAML)
    fill(memory, b"1", topic="in-20261120")
    with DAG("d") as dag:
        operator = DataFlowOperator(task_id="run", flow="orders.yaml")
    dag.fileloc = str(tmp_path / "dag.py")
    assert operator.execute(context)["records"] == 1


def test_any_value_of_a_mapping_is_a_template(memory, context):
    fill(memory, *numbers(3), topic="in-20261120")
    declared = flow("in-{{ ds_nodash }}", source={"batchRecords": "{{ 1 + 1 }}"})
    assert run(context, flow=declared)["records"] == 3
    assert memory.LOGS["in-20261120"].config.batch_records == 2


def test_a_wrong_file_fails_at_once_with_its_line(memory, context, tmp_path):
    path = tmp_path / "orders.yaml"
    path.write_text(YAML.replace("topic:", "topik:"))
    with pytest.raises(AirflowFailException, match=r"orders.yaml:9: .*topik: unknown field; did you mean 'topic'"):
        run(context, flow=path)
    with pytest.raises(AirflowFailException, match="there is no such file"):
        run(context, flow=tmp_path / "missing.yaml")


def test_a_missing_connection_fails_at_once(memory, context):
    with pytest.raises(AirflowFailException, match="there is no Airflow connection 'nowhere'"):
        run(context, flow=flow(source={"connection": "nowhere"}))


def test_the_connection_is_airflows(memory, context, monkeypatch):
    monkeypatch.setenv("AIRFLOW_CONN_SECRET_ONE", json.dumps({"conn_type": "generic", "password": "geheim"}))
    fill(memory, b"1")
    run(context, flow=flow(source={"connection": "secret_one"}))
    assert memory.LOGS["in"].config.password.get_secret_value() == "geheim"


@pytest.mark.parametrize("declared", ["mapping", "object"])
def test_what_airflow_shows_of_a_flow_is_its_name(memory, declared):
    content = flow(source={"password": "geheim"})
    with DAG("d") as dag:
        operator = DataFlowOperator(task_id="run", flow=content if declared == "mapping" else DataFlow.load(content))
    shown = json.dumps(DagSerialization.to_dict(dag))
    assert "DataFlow orders" in shown
    assert "geheim" not in shown
    assert "geheim" not in repr(operator.flow)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (Retryable("away"), AirflowException),
        (Fatal("disk full"), AirflowException),
        (Fenced("taken over"), AirflowFailException),
    ],
)
def test_which_errors_airflow_may_retry(memory, context, error, kind):
    fill(memory, *[Raise(error)] * 3, b"1")
    with pytest.raises(AirflowException, match=str(error)) as raised:
        run(context, flow=flow(retry={"attempts": 2, "firstSeconds": 0}))
    assert type(raised.value) is kind


@pytest.mark.parametrize("guarantee", ["at-least-once", "effectively-once"])
def test_checkpoints_of_a_sink_without_any_are_in_the_state_of_the_asset(memory, context, guarantee):
    state = context["asset_state_store"][Asset("orders")] = AssetState()
    fill(memory, *numbers(3))
    declared = flow(sink={"guarantee": guarantee})
    run(context, flow=declared)
    memory.LOGS["in"].append("0", b"3")
    assert run(context, flow=declared)["records"] == 1
    assert written(memory) == [0, 1, 2, 3]
    assert state.get("connect/orders/split/0")["position"] == 4


def test_a_sink_without_checkpoints_and_without_outlet_is_refused(memory, context):
    with pytest.raises(AirflowFailException, match=r"give the task outlets=\[Asset\('orders'\)\], or the flow `spec"):
        run(context, flow=flow(sink={"guarantee": "at-least-once"}), outlets=[])


def test_the_flows_own_checkpoint_store_comes_first(memory, context, tmp_path):
    fill(memory, *numbers(3))
    declared = flow(sink={"guarantee": "at-least-once"}, checkpoints=str(tmp_path / "checkpoints.db"))
    run(context, flow=declared, outlets=[])
    assert (tmp_path / "checkpoints.db").exists()


def test_on_kill_commits_and_leaves(memory, context):
    fill(memory, *numbers(5))
    operator = DataFlowOperator(
        task_id="run", flow=flow(sink={"batchSize": 0, "batchFlushIntervalSeconds": 60}), mode="continuous"
    )
    threading.Timer(0.7, operator.on_kill).start()
    with pytest.raises(AirflowException, match="was stopped from outside after 5 records, all of them committed"):
        operator.execute(context)
    assert written(memory) == list(range(5))


def test_on_kill_before_the_first_record(memory, context):
    operator = DataFlowOperator(task_id="run", flow=flow(), mode="continuous")
    operator.on_kill()
    with pytest.raises(AirflowException, match="was stopped from outside after 0 records"):
        operator.execute(context)


def test_a_timeout_commits_and_leaves(memory, context):
    fill(memory, *numbers(5))

    def expire(*_):
        raise AirflowTaskTimeout("too long")

    before = signal.signal(signal.SIGALRM, expire)
    signal.setitimer(signal.ITIMER_REAL, 0.7)
    try:
        with pytest.raises(AirflowTaskTimeout):
            run(context, flow=flow(sink={"batchSize": 0, "batchFlushIntervalSeconds": 60}), mode="continuous")
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert written(memory) == list(range(5))
    assert not [thread for thread in threading.enumerate() if thread.name == "flow"]


def test_outlets():
    assert DataFlowOperator(task_id="run", flow="flows/orders.yaml").outlets == [Asset("orders")]
    assert DataFlowOperator(task_id="run", flow=flow()).outlets == [Asset("orders")]
    assert DataFlowOperator(task_id="run", flow="{{ params.path }}").outlets == []
    assert DataFlowOperator(task_id="run", flow=flow(), outlets=[Asset("mine")]).outlets == [Asset("mine")]


def test_a_dag_with_the_operator_survives_serialization(memory):
    with DAG("d") as dag:
        DataFlowOperator(task_id="one", flow="orders.yaml", mode="continuous", max_seconds=5)
        DataFlowOperator.partial(task_id="many", flow="orders.yaml").expand(share=shares(4))
    restored = DagSerialization.from_dict(json.loads(json.dumps(DagSerialization.to_dict(dag))))
    assert set(restored.task_ids) == {"one", "many"}
    assert restored.get_task("one").template_fields == ["flow", "max_records", "max_seconds"]
    assert restored.get_task("many").is_mapped
