"""Flow page: a flow as Markdown, for Airflow's UI, without what must stay secret."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml
from pydantic import BaseModel, SecretStr

from airflow_provider_connect.engine import registry
from airflow_provider_connect.engine.flow import DataFlow
from airflow_provider_connect.engine.models import field_named, model_of, takes

MASK = "***"
_COMPONENTS = (("source", registry.source), ("sink", registry.sink), ("errors", registry.sink))


def flow_page(flow: DataFlow, source: str = "") -> str:
    """The description and the declaration of a flow. `source`: where it comes from, in words.

    It is the declaration as it was understood, in which the value of every secret field is masked, rather than the
    text of the file: that may have passwords anywhere, and Secrets beside the flow.
    """
    shown = yaml.safe_dump(masked(flow), sort_keys=False, allow_unicode=True, width=100)
    parts = [flow.description, f"```yaml\n{shown}```", source and f"From {source}."]
    return "\n\n".join(part for part in parts if part)


def masked(flow: DataFlow) -> dict[str, Any]:
    """A flow as in YAML, `***` for every value that its configurations declare secret."""
    shown = flow.as_dict()
    spec = shown["spec"]
    for field, find in _COMPONENTS:
        if field in spec:
            spec[field] = _masked_component(spec[field], find(spec[field]["type"]).config_type)
    if "transformations" in spec:
        steps = spec["transformations"]
        spec["transformations"] = [_masked_component(s, registry.transform(s["type"]).config_type) for s in steps]
    if "://" in spec.get("checkpoints", ""):
        spec["checkpoints"] = MASK
    return shown


def _masked_component(component: Mapping[str, Any], model: type[BaseModel]) -> dict[str, Any]:
    name = component["type"]
    return {"type": name, name: _masked(component[name], model)}


def _masked(value: Any, model: type[BaseModel]) -> Any:
    if isinstance(value, list):
        return [_masked(item, model) for item in value]
    if not isinstance(value, Mapping):
        return value
    shown = {}
    for key, inner in value.items():
        info = field_named(model, key)
        if info is not None and takes(info.annotation, SecretStr):
            shown[key] = MASK
        elif info is not None and (nested := model_of(info.annotation)):
            shown[key] = _masked(inner, nested)
        else:
            shown[key] = inner
    return shown
