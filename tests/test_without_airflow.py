"""The engine, the connectors and the command line in a virtual environment that has no Airflow."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def bare(tmp_path_factory) -> Path:
    """A new environment with the project and its drivers, as a worker pod has it; the folder of its programs."""
    folder = tmp_path_factory.mktemp("bare")
    uv = Path(sys.executable).with_name("uv")
    if not uv.exists():
        pytest.skip("uv, which `make venv` installs, is not there")
    source = folder / "source"
    shutil.copytree(
        ROOT, source, ignore=shutil.ignore_patterns(".git", ".venv", "build", "dist", "__pycache__", ".*_cache")
    )
    environment = folder / "venv"
    subprocess.run([uv, "venv", "--quiet", "--python", sys.executable, environment], check=True)
    install = [uv, "pip", "install", "--quiet", "--python", environment / "bin" / "python"]
    extras = "kafka,schema-registry,postgresql,clickhouse,trino,iceberg,nessie"
    subprocess.run([*install, "--constraint", ROOT / "constraints.txt", f"{source}[{extras}]"], check=True)
    return environment / "bin"


def connect(bare: Path, *arguments: object, cwd: Path) -> str:
    """Run the command line there; returns what it printed."""
    environment = {name: text for name, text in os.environ.items() if not name.startswith("PYTHON")}
    run = subprocess.run(
        [bare / "airflow-connect", *map(str, arguments)],
        check=False,
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    return run.stdout


def test_airflow_is_not_there(bare):
    run = subprocess.run([bare / "python", "-c", "import airflow"], check=False, capture_output=True, text=True)
    assert "No module named 'airflow'" in run.stderr


def test_every_connector_can_be_used(bare, tmp_path):
    types = json.loads(connect(bare, "types", "--json", cwd=tmp_path))
    assert {entry["type"] for entry in types} >= {
        "clickhouse",
        "file",
        "iceberg",
        "kafka",
        "nessie",
        "postgresql",
        "postgresql-cdc",
        "trino",
    }
    assert [entry["type"] for entry in types if not entry["available"]] == []


def test_a_flow_runs_from_kafka_to_postgresql(bare, tmp_path, kafka, postgresql):
    topic, table = kafka.create_topic(2), postgresql.unique_name("bare")
    kafka.produce(topic, [json.dumps({"id": i}).encode() for i in range(100)])
    flow = tmp_path / "flow.yaml"
    flow.write_text(
        json.dumps(
            {
                "apiVersion": "dataflow.dataflow.io/v1",
                "kind": "DataFlow",
                "metadata": {"name": kafka.unique_name("bare")},
                "spec": {
                    "source": {"type": "kafka", "kafka": {"brokers": kafka.bootstrap_servers, "topic": topic}},
                    "sink": {
                        "type": "postgresql",
                        "postgresql": {"connectionString": postgresql.dsn, "table": table, "autoCreateTable": True},
                    },
                },
            }
        )
    )
    summary = json.loads(connect(bare, "run", flow, "--drain", "--json", cwd=tmp_path))
    assert summary["records"] == 100
    assert postgresql.execute(f"SELECT count(DISTINCT data->>'id') FROM {table}") == [(100,)]
    postgresql.execute(f"DROP TABLE {table}")
