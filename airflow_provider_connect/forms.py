"""Connection forms: what Airflow's connection page shows for a connector, made from the connector's own configuration.

A field marked `FromConnection("host")` relabels the page's own Host; `FromConnection("extra.name")` adds a field that
Airflow keeps in the connection's extra JSON. Whatever no field asks for is hidden.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BaseModel, TypeAdapter
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from airflow_provider_connect.engine.config import FromConnection
from airflow_provider_connect.engine.models import mark_of, model_of

STANDARD_FIELDS = ("host", "port", "login", "password", "schema")
"""The fields every connection has. `description` and `extra` are never hidden."""

_EXTRA = "extra."
_CONSTRAINTS = ("enum", "minimum", "maximum", "pattern", "minLength", "maxLength", "items")
_ACRONYMS = {"acl", "ca", "id", "ids", "iam", "sasl", "sql", "ssl", "tls", "uri", "url"}


@dataclass(frozen=True, slots=True)
class FormField:
    """A configuration field that a connection fills: `part` of the connection, and how the form shows it."""

    part: str
    label: str
    description: str
    schema: dict[str, Any]
    """JSON Schema as Airflow's forms take it: `type` (always with "null"), `format`, `enum`, bounds, `default`."""
    placeholder: str | None = None

    @property
    def secret(self) -> bool:
        """Whether the value must be masked."""
        return self.schema.get("format") == "password"


def form_fields(config: type[BaseModel]) -> Iterator[FormField]:
    """Every field of the configuration, nested ones too, that a connection can fill."""
    for name, field in config.model_fields.items():
        if marker := mark_of(field):
            yield FormField(
                part=marker.part,
                label=marker.label or _label(name),
                description=_description(field),
                schema=_schema(field),
                placeholder=str(field.examples[0]) if field.examples else None,
            )
        elif nested := model_of(field.annotation):
            yield from form_fields(nested)


def connection_form(configs: Iterable[type[BaseModel]]) -> dict[str, Any]:
    """The keys `conn-fields` and `ui-field-behaviour` of a connection type that serves all these configurations.

    ValueError if two of them mean different things by one part of the connection.
    """
    fields: dict[str, FormField] = {}
    for config in configs:
        for field in form_fields(config):
            known = fields.setdefault(field.part, field)
            if known.schema != field.schema:
                raise ValueError(
                    f"{config.__name__}: '{field.part}' of the connection is {field.schema}, elsewhere {known.schema}; "
                    "give the fields the same type or different parts"
                )
    used = set(STANDARD_FIELDS) if "uri" in fields else set(fields)
    behaviour: dict[str, Any] = {
        "hidden-fields": [part for part in STANDARD_FIELDS if part not in used],
        "relabeling": {part: fields[part].label for part in STANDARD_FIELDS if part in fields},
    }
    if placeholders := {
        part: field.placeholder for part, field in fields.items() if field.placeholder and part != "uri"
    }:
        behaviour["placeholders"] = {part.removeprefix(_EXTRA): text for part, text in placeholders.items()}
    return {
        "ui-field-behaviour": behaviour,
        "conn-fields": {
            part.removeprefix(_EXTRA): {"label": field.label, "description": field.description, "schema": field.schema}
            for part, field in fields.items()
            if part.startswith(_EXTRA)
        },
    }


def _label(name: str) -> str:
    words = [word.upper() if word in _ACRONYMS else word for word in name.split("_")]
    text = " ".join(words)
    return text[:1].upper() + text[1:]


def _description(field: FieldInfo) -> str:
    text = " ".join((field.description or "").split())
    default = _default(field)
    if default is None or default in ("", [], {}) or isinstance(default, bool):
        return text
    return f"{text} Default: {default}.".strip()


def _default(field: FieldInfo) -> Any:
    if field.default is PydanticUndefined or field.default is None:
        return None
    return TypeAdapter(Any).dump_python(field.default, mode="json")


def _schema(field: FieldInfo) -> dict[str, Any]:
    """The field's JSON Schema, flattened: Airflow looks for `format` and `type` at the top level only.

    Defaults are left to the connector (the form would store them), but a switch has to show where it stands.
    """
    parameter: Any = field.annotation
    for constraint in field.metadata:
        if not isinstance(constraint, FromConnection):
            parameter = Annotated[parameter, constraint]
    full = TypeAdapter(parameter).json_schema()
    definitions = full.get("$defs", {})
    branches = [_resolved(branch, definitions) for branch in full.get("anyOf", [full])]
    branches = [branch for branch in branches if branch.get("type") != "null"]
    merged: dict[str, Any] = {}
    for branch in reversed(branches):
        merged |= branch
    types = list(dict.fromkeys(_type(branch) for branch in branches))
    schema: dict[str, Any] = {"type": [*types, "null"]}
    if any(branch.get("format") == "password" for branch in branches):
        return {**schema, "format": "password"}
    schema |= {key: merged[key] for key in _CONSTRAINTS if key in merged}
    if types == ["boolean"] and isinstance(field.default, bool):
        schema["default"] = field.default
    return schema


def _resolved(branch: dict[str, Any], definitions: dict[str, Any]) -> dict[str, Any]:
    reference = branch.get("$ref")
    return definitions[reference.rpartition("/")[2]] if reference else branch


def _type(branch: dict[str, Any]) -> str:
    if "type" in branch:
        return str(branch["type"])
    return "string" if "enum" in branch or "const" in branch else "object"
