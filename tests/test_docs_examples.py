"""The code in the documentation runs."""

import json
import os
import re
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from airflow_provider_connect.engine.flow import DataFlow

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", page.read_text(), re.S | re.M)


def named_blocks(page: Path) -> dict[str, str]:
    """Blocks whose file name stands in the paragraph before them."""
    found = re.findall(r"^`([\w.-]+\.\w+)`:\n\n```\w+\n(.*?)^```$", page.read_text(), re.S | re.M)
    return dict(found)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """The connector of the page, as its author would have it installed."""
    page = ROOT / "docs" / "write-a-connector.md"
    for name, code in named_blocks(page).items():
        (tmp_path / name).write_text(code)
    (toml,) = blocks(page, "toml")
    group, *entries = toml.strip().splitlines()
    info = tmp_path / "shop-0.1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: shop\nVersion: 0.1\n")
    group = re.fullmatch(r'\[project\.entry-points\."(.+)"\]', group)[1]
    (info / "entry_points.txt").write_text("\n".join([f"[{group}]", *(line.replace('"', "") for line in entries)]))
    (flow,) = blocks(page, "yaml")
    (tmp_path / "flow.yaml").write_text(flow)
    return tmp_path


def run(project: Path, *command: str) -> subprocess.CompletedProcess:
    environment = {**os.environ, "PYTHONPATH": f"{project}{os.pathsep}{ROOT}", "AIRFLOW_CONNECT_STATE": "state.db"}
    return subprocess.run(
        [sys.executable, *command], cwd=project, env=environment, capture_output=True, text=True, check=False
    )


def connect(project: Path, *arguments: str) -> subprocess.CompletedProcess:
    return run(project, "-m", "airflow_provider_connect", *arguments)


def test_the_source_of_the_page_keeps_the_contract(project):
    done = run(project, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_sqlite_table.py")
    assert done.returncode == 0, done.stdout[-5000:]
    assert int(re.search(r"(\d+) passed", done.stdout)[1]) >= 20
    assert "skipped" not in done.stdout


def test_the_connectors_of_the_page_are_found(project):
    done = connect(project, "types", "--json")
    assert done.returncode == 0, done.stderr
    found = {entry["type"]: entry for entry in json.loads(done.stdout)}
    assert found["sqlite-table"]["roles"] == ["source"]
    assert found["sqlite-table"]["replayable"] is True
    assert found["sqlite-table-sink"]["guarantee"] == "at least once"


def test_the_flow_of_the_page_runs_and_goes_on(project):
    with sqlite3.connect(project / "shop.db") as shop:
        shop.execute("CREATE TABLE orders (id INTEGER PRIMARY KEY AUTOINCREMENT, note TEXT)")
        shop.executemany("INSERT INTO orders (note) VALUES (?)", [('say "hello"\n',), ("ü",)])
    assert connect(project, "lint", "flow.yaml").returncode == 0
    first = connect(project, "run", "flow.yaml", "--drain", "--json")
    assert first.returncode == 0, first.stderr
    assert json.loads(first.stdout)["records"] == 2
    with sqlite3.connect(project / "shop.db") as shop:
        shop.execute("INSERT INTO orders (note) VALUES ('later')")
    second = connect(project, "run", "flow.yaml", "--drain", "--json")
    assert json.loads(second.stdout)["checkpoint"] == {"orders": 4}
    with sqlite3.connect(project / "copy.db") as copy:
        documents = [json.loads(text) for (text,) in copy.execute("SELECT data FROM documents ORDER BY rowid")]
    assert documents == [
        {"id": 1, "note": 'say "hello"\n'},
        {"id": 2, "note": "ü"},
        {"id": 3, "note": "later"},
    ]


FLOWS = [
    pytest.param(text, id=f"{page.relative_to(ROOT)}-{number}")
    for page in PAGES
    if page.name != "write-a-connector.md" and "connectors" not in page.parts
    for number, text in enumerate(blocks(page, "yaml"))
    if "kind: DataFlow" in text
]


@pytest.mark.parametrize("text", FLOWS)
def test_flows_in_the_documentation_are_right(text):
    assert DataFlow.load(text).name == yaml.safe_load(text)["metadata"]["name"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\((?!https?:|#)([^)#\s]+)", page.read_text()):
        assert (page.parent / target).exists(), f"{page}: {target}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_python_in_the_documentation_compiles(page):
    for code in blocks(page, "python"):
        compile(code, str(page), "exec")
