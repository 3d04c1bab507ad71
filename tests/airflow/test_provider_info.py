"""What Airflow learns about the provider before it imports anything of it."""

import json
import tomllib
from pathlib import Path

import airflow
import jsonschema
import pytest

from airflow_provider_connect import get_provider_info as module
from airflow_provider_connect.get_provider_info import connection_types, get_provider_info
from airflow_provider_connect.hooks.__main__ import hook_classes, rendered
from tests.airflow.conftest import ROOT

AIRFLOW = Path(airflow.__file__).parent


def test_it_fits_the_schema_that_airflow_validates_with():
    jsonschema.validate(get_provider_info(), json.loads((AIRFLOW / "provider_info.schema.json").read_text()))


def test_the_connection_types_fit_the_schema_of_official_providers():
    schema = json.loads((AIRFLOW / "provider.yaml.schema.json").read_text())
    types = {"$ref": "#/properties/connection-types", "properties": schema["properties"]}
    assert connection_types()
    jsonschema.validate(connection_types(), {**schema.get("definitions", {}), **types})


def test_the_package_name_is_that_of_the_distribution():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert get_provider_info()["package-name"] == project["name"]


def test_the_generated_forms_are_fresh():
    stale = "run: python -m airflow_provider_connect.hooks"
    assert module.CONNECTION_TYPES.read_text() == rendered(), stale


def test_every_connection_type_has_its_hook():
    assert {(hook.conn_type, f"{hook.__module__}.{hook.__name__}") for hook in hook_classes()} == {
        (known["connection-type"], known["hook-class-name"]) for known in connection_types()
    }


@pytest.mark.parametrize("content", [None, "not JSON", ""])
def test_a_broken_installation_does_not_break_airflow(content, monkeypatch, tmp_path):
    path = tmp_path / "connection_types.json"
    if content is not None:
        path.write_text(content)
    monkeypatch.setattr(module, "CONNECTION_TYPES", path)
    assert get_provider_info()["connection-types"] == []


def test_it_imports_nothing_heavy(run_python):
    program = """
import sys
from airflow_provider_connect.get_provider_info import get_provider_info
get_provider_info()
print(sorted({"airflow", "pyarrow", "pydantic", "confluent_kafka", "psycopg"} & set(sys.modules)))
"""
    assert run_python(program).strip() == "[]"


AIRFLOWS_OWN_VIEW = """
import json
from airflow.providers_manager import ProvidersManager
from airflow.api_fastapi.core_api.services.ui.connections import HookMetaService
from airflow.api_fastapi.core_api.datamodels.connections import ConnectionResponse

ours = [meta for meta in HookMetaService.hook_meta_data() if meta.connection_type.startswith("connect_")]
widgets = ProvidersManager()._connection_form_widgets_from_metadata
shown = {}
for meta in ours:
    secrets = {name: "geheim" for name, field in (meta.extra_fields or {}).items()
               if field["schema"].get("format") == "password"}
    response = ConnectionResponse(
        conn_id="c", conn_type=meta.connection_type, description=None, host=None, login=None, schema=None, port=None,
        password="geheim", extra=json.dumps(secrets), team_name=None)
    shown[meta.connection_type] = response.model_dump_json()
print(json.dumps({
    "types": {meta.connection_type: meta.model_dump(mode="json") for meta in ours},
    "sensitive": {name: widget.is_sensitive for name, widget in widgets.items() if "__connect_" in name},
    "shown": shown,
    "hooks": {name: hook.hook_name for name, hook in ProvidersManager().hooks.items()
              if hook and name.startswith("connect_")},
}))
"""


@pytest.fixture(scope="module")
def airflows_view(python_path):
    import os
    import subprocess
    import sys

    result = subprocess.run(
        [sys.executable, "-c", AIRFLOWS_OWN_VIEW],
        env={**os.environ, "PYTHONPATH": python_path},
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-4000:]
    return json.loads(result.stdout.splitlines()[-1])


def test_airflow_shows_the_forms(airflows_view):
    for known in connection_types():
        seen = airflows_view["types"][known["connection-type"]]
        assert seen["hook_name"] == known["hook-name"]
        assert set(seen["extra_fields"] or {}) == set(known["conn-fields"])
        hidden = [name for name, field in (seen["standard_fields"] or {}).items() if field and field["hidden"]]
        assert {"url_schema": "schema"}.get("url_schema") == "schema"
        assert {name.replace("url_schema", "schema") for name in hidden} == set(
            known["ui-field-behaviour"]["hidden-fields"]
        )


def test_airflow_can_import_every_hook(airflows_view):
    assert airflows_view["hooks"] == {known["connection-type"]: known["hook-name"] for known in connection_types()}


def test_airflow_masks_every_secret_of_the_forms(airflows_view):
    for known in connection_types():
        for name, field in known["conn-fields"].items():
            secret = field["schema"].get("format") == "password"
            assert airflows_view["sensitive"][f"extra__{known['connection-type']}__{name}"] == secret
        # The REST API masks by the name of a field alone, whatever the form says.
        assert "geheim" not in airflows_view["shown"][known["connection-type"]]
