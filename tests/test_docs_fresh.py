"""The generated pages are those of the declarations."""

import re
from pathlib import Path

import pytest
import yaml
from jsonschema import Draft202012Validator

from airflow_provider_connect.cli import main
from airflow_provider_connect.docsgen import page, pages
from airflow_provider_connect.engine import registry
from airflow_provider_connect.engine.flow import DataFlow
from airflow_provider_connect.engine.offer import offer
from airflow_provider_connect.engine.schema import flow_schema
from tests.flow_types import types

__all__ = ["types"]
FOLDER = Path(__file__).parent.parent / "docs" / "connectors"


def test_every_connector_has_its_page_and_no_other_is_there():
    assert {path.stem for path in FOLDER.glob("*.md")} == set(registry.names("connectors"))


@pytest.mark.parametrize("name", registry.names("connectors"))
def test_pages_are_fresh(name: str):
    assert (FOLDER / f"{name}.md").read_text() == page(name), "stale; run: make docs"


@pytest.mark.parametrize("name", registry.names("connectors"))
def test_the_examples_of_pages_are_right(name: str):
    blocks = [yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", page(name), re.DOTALL)]
    assert {role for block in blocks for role in block} == set(offer(name).roles)
    spare = {"source": {"type": "kafka", "kafka": {"brokers": ["a"], "topic": "t"}}}
    spare["sink"] = spare["source"]
    for block in blocks:
        head = {"apiVersion": "dataflow.dataflow.io/v1", "kind": "DataFlow", "metadata": {"name": "f"}}
        document = {**head, "spec": {**spare, **block}}
        DataFlow.load(yaml.safe_dump(document)).plan()
        Draft202012Validator(flow_schema()).validate(document)


def test_docs_writes_and_checks(tmp_path: Path, types: None, capsys: pytest.CaptureFixture):
    assert main(["docs", str(tmp_path), "--check"]) == 1
    assert f"{tmp_path}/queue.md is stale" in capsys.readouterr().err
    assert main(["docs", str(tmp_path)]) == 0
    assert {path.name for path in tmp_path.iterdir()} == {"board.md", "queue.md", "ticker.md"}
    capsys.readouterr()
    assert main(["docs", str(tmp_path), "--check"]) == 0
    assert main(["docs", str(tmp_path)]) == 0
    assert capsys.readouterr().out == ""


def test_a_page(types: None):
    text = pages()["queue"]
    for line in (
        "| `brokers` | list of text | **required** | Addresses. |",
        "| `serverURL` | text |  | URL. |",
        "| `sasl.password` | text, *secret* | **required** in `sasl` | Password. |",
        "| `sasl.mechanism` | `plain`, `digest` | `plain` | How. |",
        "| `retries` | whole number ≥ 0 | `3` | Retries. |",
        "| `wait` | number > 0 | `1.0` | Seconds. |",
        "| `routes[].to` | text | **required** in `routes[]` | Where to. |",
        "| Host | `brokers` |",
        "| Extra `client_id` | `clientID` |",
        "| sink | at least once: a crash between flush and checkpoint repeats records |",
    ):
        assert line in text.splitlines()
