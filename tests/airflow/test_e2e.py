"""Flows in a real Airflow: scheduler, API server, DAG processor, triggerer and worker, all started once."""

import json
import os
import subprocess
import sys
import time
from contextlib import closing

import psycopg
import pytest

from tests.services.airflow_server import AirflowServer, airflow_environment

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(600)]

LOADER = """\
# an airflow dag file
from airflow_provider_connect.loader import load_dataflows

load_dataflows(globals(), __file__)
"""

TO_POSTGRESQL = """\
apiVersion: dataflow.dataflow.io/v1
kind: DataFlow
metadata:
  name: {name}
  annotations:
    description: Orders into PostgreSQL
spec:
  source:
    type: kafka
    kafka:
      connection: e2e_kafka
      topic: {topic}
      consumerGroup: {name}
  sink:
    type: postgresql
    postgresql:
      connection: e2e_postgresql
      table: {table}
      autoCreateTable: true
      batchSize: 500
      batchFlushIntervalSeconds: {interval}
"""

TO_FILES = """\
apiVersion: dataflow.dataflow.io/v1
kind: DataFlow
metadata:
  name: {name}
spec:
  source:
    type: kafka
    kafka:
      connection: e2e_kafka
      topic: {topic}
      consumerGroup: {name}
  sink:
    type: file
    file:
      path: {folder}
"""

BROKEN = TO_POSTGRESQL.replace("topic:", "topik:")


@pytest.fixture(scope="session")
def connections(kafka, postgresql):
    """Airflow's connections to the servers, as environment variables."""
    values = {
        "E2E_KAFKA": {"conn_type": "connect_kafka", "host": kafka.bootstrap_servers},
        "E2E_POSTGRESQL": {"conn_type": "connect_postgresql", "extra": {"uri": postgresql.dsn}},
    }
    return {f"AIRFLOW_CONN_{name}": json.dumps(value) for name, value in values.items()}


class Place:
    """A topic, a table or folder, and the flow between them."""

    def __init__(self, kafka, name, dags, text, **values):
        self.name, self.kafka = name, kafka
        self.topic = kafka.create_topic(2)
        (dags / f"{name}.yaml").write_text(text.format(name=name, topic=self.topic, **values))
        self.sent = 0

    def produce(self, count):
        """Add so many records, each with a number of its own."""
        numbers = range(self.sent, self.sent + count)
        self.kafka.produce(self.topic, [(str(n).encode(), b'{"number": %d}' % n) for n in numbers])
        self.sent += count


@pytest.fixture(scope="session")
def site(kafka, postgresql, connections, python_path, tmp_path_factory):
    """The folder of DAGs, with a flow for each test, and the Airflow that runs it."""
    dags = tmp_path_factory.mktemp("dags")
    out = tmp_path_factory.mktemp("out")
    (dags / "flows.py").write_text(LOADER)
    unique = postgresql.unique_name("e2e")
    places = {
        "drain": Place(kafka, f"{unique}-drain", dags, TO_POSTGRESQL, table=f"{unique}_drain", interval=1),
        "kill": Place(kafka, f"{unique}-kill", dags, TO_POSTGRESQL, table=f"{unique}_kill", interval=1),
        "files": Place(kafka, f"{unique}-files", dags, TO_FILES, folder=out),
    }
    continuous = dags / f"{places['kill'].name}.yaml"
    continuous.write_text(continuous.read_text() + "  mode: continuous\n")
    (dags / "broken.yaml").write_text(BROKEN.format(name="broken", topic="t", table="t", interval=1))
    home = tmp_path_factory.mktemp("airflow")
    environment = {**connections, "PYTHONPATH": python_path}
    with closing(AirflowServer(home, dags, environment)) as airflow:
        airflow.dags, airflow.home, airflow.places, airflow.out, airflow.unique = dags, home, places, out, unique
        yield airflow
    for name in ("drain", "kill"):
        postgresql.execute(f"DROP TABLE IF EXISTS {unique}_{name}")


def numbers(postgresql, table):
    return [row[0] for row in postgresql.execute(f"SELECT (data->>'number')::int FROM {table} ORDER BY 1")]


def log_of(site, dag_id, run_id):
    folder = site.home / "logs" / f"dag_id={dag_id}" / f"run_id={run_id}"
    return "\n".join(path.read_text() for path in sorted(folder.rglob("*.log")))


def run(site, place, **conf):
    """Run a flow's DAG to its end; returns the state and the XCom of its task."""
    site.wait_for_dag(place.name)
    run_id = site.trigger(place.name, conf)
    state = site.wait_for_run(place.name, run_id)
    assert state == "success", log_of(site, place.name, run_id)[-6000:]
    xcom = f"/dags/{place.name}/dagRuns/{run_id}/taskInstances/run/xcomEntries/return_value?deserialize=true"
    return run_id, site.api("GET", xcom)["value"]


def test_a_flow_runs_and_tells_what_it_did(site, postgresql):
    place = site.places["drain"]
    place.produce(3000)
    run_id, summary = run(site, place)
    assert summary["records"] == 3000
    assert summary["dead_letters"] == 0
    assert sum(summary["checkpoint"].values()) == 3000
    assert numbers(postgresql, f"{site.unique}_drain") == list(range(3000))
    assert "records=3000" in log_of(site, place.name, run_id)

    place.produce(500)
    assert run(site, place)[1]["records"] == 500
    assert numbers(postgresql, f"{site.unique}_drain") == list(range(3500))


def test_the_flow_is_an_asset_with_events(site):
    place = site.places["drain"]
    place.produce(7)
    run(site, place)
    (asset,) = site.api("GET", f"/assets?name_pattern={place.name}")["assets"]
    events = site.api("GET", f"/assets/events?asset_id={asset['id']}&order_by=-timestamp")["asset_events"]
    assert events[0]["extra"]["records"] >= 7


def test_checkpoints_in_the_state_of_the_asset(site):
    place = site.places["files"]
    place.produce(1000)
    assert run(site, place)[1]["records"] == 1000
    place.produce(10)
    assert run(site, place)[1]["records"] == 10
    lines = [json.loads(line) for path in site.out.iterdir() for line in path.read_text().splitlines()]
    assert sorted(line["number"] for line in lines) == list(range(1010))


def test_a_task_marked_failed_leaves_in_good_order(site, postgresql):
    place, table = site.places["kill"], f"{site.unique}_kill"
    place.produce(2000)
    site.wait_for_dag(place.name)
    run_id = site.trigger(place.name)
    wait_for(lambda: exists(postgresql, table) and len(numbers(postgresql, table)) == 2000)
    place.produce(100)
    path = f"/dags/{place.name}/dagRuns/{run_id}"
    site.api("PATCH", f"{path}/taskInstances/run", {"new_state": "failed"})
    wait_for(lambda: "was stopped from outside" in log_of(site, place.name, run_id))
    assert site.wait_for_run(place.name, run_id) == "failed"

    place.produce(100)
    run_id = site.trigger(place.name)
    wait_for(lambda: len(numbers(postgresql, table)) >= 2200)
    site.api("PATCH", f"/dags/{place.name}/dagRuns/{run_id}/taskInstances/run", {"new_state": "failed"})
    site.wait_for_run(place.name, run_id)
    assert numbers(postgresql, table) == list(range(2200))


def test_a_broken_file_is_an_import_error_and_no_other_dag_suffers(site):
    def error():
        errors = site.api("GET", "/importErrors")["import_errors"]
        return next((each for each in errors if each["filename"] == "broken.yaml"), None)

    wait_for(error)
    assert "spec.source.kafka.topik: unknown field" in error()["stack_trace"]
    for place in site.places.values():
        assert site.api("GET", f"/dags/{place.name}")["is_stale"] is False


def test_the_page_of_a_dag(site):
    details = site.api("GET", f"/dags/{site.places['drain'].name}/details")
    assert "Orders into PostgreSQL" in details["doc_md"]
    assert "connection: e2e_kafka" in details["doc_md"]
    assert {tag["name"] for tag in details["tags"]} == {"dataflow"}
    assert details["max_active_runs"] == 1


def test_the_form_and_its_test_button(site, kafka, postgresql):
    forms = {form["connection_type"]: form for form in site.call("GET", "/ui/connections/hook_meta")}
    assert forms["connect_kafka"]["standard_fields"]["host"]["title"] == "Bootstrap servers"
    body = {"connection_id": "x", "conn_type": "connect_kafka", "host": kafka.bootstrap_servers}
    answer = site.api("POST", "/connections/test", body)
    assert answer["status"], answer
    body = {"connection_id": "x", "conn_type": "connect_postgresql", "extra": json.dumps({"uri": postgresql.dsn})}
    answer = site.api("POST", "/connections/test", body)
    assert answer["status"], answer
    assert answer["message"].startswith("PostgreSQL ")
    body = {"connection_id": "x", "conn_type": "connect_kafka", "host": "127.0.0.1:1"}
    assert site.api("POST", "/connections/test", body)["status"] is False


def test_dags_test_without_any_server_of_airflow(kafka, postgresql, connections, python_path, tmp_path):
    dags = tmp_path / "dags"
    dags.mkdir()
    (dags / "flows.py").write_text(LOADER)
    table = postgresql.unique_name("dagstest")
    place = Place(kafka, table, dags, TO_POSTGRESQL, table=table, interval=1)
    place.produce(50)
    environment = {
        **os.environ,
        **airflow_environment(tmp_path, dags),
        **connections,
        "PYTHONPATH": python_path,
    }
    for command in (["db", "migrate"], ["dags", "test", place.name, "-f", str(dags / "flows.py")]):
        result = subprocess.run(
            [sys.executable, "-m", "airflow", *command],
            env=environment,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert result.returncode == 0, (result.stdout + result.stderr)[-4000:]
    try:
        assert numbers(postgresql, table) == list(range(50))
    finally:
        postgresql.execute(f"DROP TABLE IF EXISTS {table}")


def exists(postgresql, table):
    try:
        return bool(postgresql.execute(f"SELECT 1 FROM {table} LIMIT 1"))
    except psycopg.errors.UndefinedTable:
        return False


def wait_for(condition, timeout=90):
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.5)
