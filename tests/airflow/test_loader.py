"""A folder of flows as DAGs, seen through Airflow's own DagBag and serialization."""

import time

import pytest
import structlog
from airflow.dag_processing.dagbag import DagBag
from airflow.dag_processing.processor import _serialize_dags
from airflow.sdk.definitions.context import Context  # noqa: F401 - the SDK must be whole

LOADER = """\
# an airflow dag file
from airflow_provider_connect.loader import load_dataflows

load_dataflows(globals(), __file__, retries=2)
"""

FLOW = """\
apiVersion: dataflow.dataflow.io/v1
kind: DataFlow
metadata:
  name: {name}
  annotations:
    description: Orders of the shop
spec:
  schedule: "@hourly"
  tags: [shop]
  source:
    type: memory
    memory:
      topic: in
      password: geheim
  sink:
    type: memory
    memory:
      target: out
"""

SECRET = """\
---
apiVersion: v1
kind: Secret
metadata:
  name: credentials
stringData:
  password: verborgen
"""


@pytest.fixture
def folder(tmp_path, memory):
    (tmp_path / "flows.py").write_text(LOADER)

    def write(**files):
        for name, text in files.items():
            (tmp_path / f"{name}.yaml").write_text(text)
        return tmp_path

    return write


def parse(folder):
    """What the DAG processor makes of the folder's only Python file: DAGs by id, errors by file."""
    bag = DagBag(dag_folder=str(folder / "flows.py"), bundle_path=folder, bundle_name="dags")
    serialized, errors = _serialize_dags(bag, structlog.get_logger())
    return {dag.dag_id: bag.dags[dag.dag_id] for dag in serialized}, {**bag.import_errors, **errors}


def test_every_flow_is_a_dag(folder):
    dags, errors = parse(folder(orders=FLOW.format(name="orders"), customers=FLOW.format(name="customers")))
    assert errors == {}
    assert set(dags) == {"orders", "customers"}
    dag = dags["orders"]
    assert dag.schedule == "@hourly"
    assert dag.tags == {"dataflow", "shop"}
    assert dag.max_active_runs == 1
    assert dag.catchup is False
    assert dag.description == "Orders of the shop"
    assert [task.task_id for task in dag.tasks] == ["run"]
    assert dag.task_dict["run"].retries == 2


def test_a_continuous_flow_has_a_second_run(folder):
    from airflow.serialization.serialized_objects import DagSerialization

    dags, _ = parse(folder(orders=FLOW.format(name="orders").replace("@hourly", "@continuous")))
    dag = DagSerialization.from_dict(DagSerialization.to_dict(dags["orders"]))
    first = dag.next_dagrun_info(last_automated_run_info=None)
    second = dag.timetable.next_dagrun_info(
        last_automated_data_interval=first.data_interval, restriction=dag._time_restriction
    )
    assert second.logical_date > first.logical_date


def test_the_page_in_the_ui_has_the_declaration_without_secrets(folder):
    dags, _ = parse(folder(orders=FLOW.format(name="orders") + SECRET))
    page = dags["orders"].doc_md
    assert page.startswith("Orders of the shop")
    assert "topic: in" in page
    assert "password: '***'" in page
    assert "geheim" not in page
    assert "verborgen" not in page
    assert "From orders.yaml." in page


def test_several_flows_of_a_file(folder):
    text = f"{FLOW.format(name='one')}---\n{FLOW.format(name='two')}"
    dags, errors = parse(folder(both=text))
    assert (set(dags), errors) == ({"one", "two"}, {})


def test_a_broken_file_is_an_error_of_its_own(folder):
    broken = FLOW.format(name="broken").replace("topic:", "topik:")
    dags, errors = parse(folder(good=FLOW.format(name="good"), broken=broken))
    assert set(dags) == {"good"}
    assert set(errors) == {"broken.yaml"}
    assert "broken.yaml:13: spec.source.memory.topik: unknown field; did you mean 'topic'?" in errors["broken.yaml"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("kind: [DataFlow", "not valid YAML"),
        ("kind: DataFlow\nkind: DataFlow", "duplicate key"),
        (FLOW.format(name="x").replace("memory\n", "kafkaa\n", 1), "unknown connector type 'kafkaa'"),
        (FLOW.format(name="x").replace("@hourly", "now and then"), "schedule"),
        (FLOW.format(name="x").replace("topic: in", "topic: [in]"), "must be text, but is a list"),
    ],
)
def test_what_is_wrong_is_said(folder, text, message):
    dags, errors = parse(folder(good=FLOW.format(name="good"), wrong=text))
    assert set(dags) == {"good"}
    assert message in errors["wrong.yaml"]


def test_two_files_with_one_name(folder):
    dags, errors = parse(folder(a=FLOW.format(name="orders"), b=FLOW.format(name="orders")))
    assert set(dags) == {"orders"}
    assert "a.yaml has a flow 'orders' already" in errors["b.yaml"]


def test_other_yaml_is_left_alone(folder):
    dags, errors = parse(folder(compose="services: {}\n", empty=""))
    assert (dags, errors) == ({}, {})


def test_a_task_parses_only_its_own_flow(folder, monkeypatch):
    from airflow_provider_connect import loader

    path = folder(a=FLOW.format(name="a"), b=FLOW.format(name="b"), broken="kind: DataFlow\n")
    context = type("Parsing", (), {"dag_id": "b"})()
    monkeypatch.setattr(loader, "get_parsing_context", lambda: context)
    found = {}
    loader.load_dataflows(found, path / "flows.py")
    assert [dag.dag_id for dag in found.values()] == ["b"]


def test_a_hundred_flows_are_quick(folder):
    path = folder(**{f"flow{number}": FLOW.format(name=f"flow{number}") for number in range(100)})
    began = time.process_time()
    dags, errors = parse(path)
    assert len(dags) == 100
    assert errors == {}
    assert time.process_time() - began < 20
