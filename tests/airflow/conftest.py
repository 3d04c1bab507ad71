"""Airflow for the tests of this folder: a home of its own, set before anything imports Airflow."""

import os
import subprocess
import sys
import tempfile
import tomllib
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest

from tests.services.airflow_server import airflow_environment

ROOT = Path(__file__).parents[2]
HOME = tempfile.TemporaryDirectory(prefix="connect-test-airflow-")

os.environ.update(airflow_environment(Path(HOME.name), Path(HOME.name) / "dags"))
os.environ["AIRFLOW__CORE__UNIT_TEST_MODE"] = "False"


@pytest.fixture(scope="session")
def python_path(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A PYTHONPATH with which another process finds this provider, installed or not."""
    paths = [str(ROOT)]
    try:
        distribution("airflow-provider-connect")
    except PackageNotFoundError:
        project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
        folder = tmp_path_factory.mktemp("site")
        info = folder / f"airflow_provider_connect-{project['version']}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
        )
        (info / "entry_points.txt").write_text(
            "".join(
                f"[{group}]\n" + "".join(f"{name} = {value}\n" for name, value in points.items())
                for group, points in project["entry-points"].items()
            )
        )
        paths.append(str(folder))
    return os.pathsep.join(paths)


@pytest.fixture
def run_python(python_path):
    """Run a Python program in a process of its own; returns what it prints."""

    def run(program: str, **environment: str) -> str:
        result = subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONPATH": python_path, **environment},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert result.returncode == 0, result.stderr[-4000:]
        return result.stdout

    return run


@pytest.fixture
def memory(monkeypatch):
    """The connector type `memory`, with empty systems."""
    from airflow_provider_connect.engine import registry
    from tests.airflow import memory

    known, load = registry.names, registry.module
    own = ("connectors", "memory")
    monkeypatch.setattr(registry, "names", lambda kind: (*known(kind), *(["memory"] if kind == own[0] else [])))
    monkeypatch.setattr(registry, "module", lambda *key: memory.MODULE if key == own else load(*key))
    monkeypatch.setattr(memory, "LOGS", {})
    monkeypatch.setattr(memory, "TARGETS", {})
    return memory
