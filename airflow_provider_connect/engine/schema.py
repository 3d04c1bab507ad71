"""JSON Schema of a flow document, from the Config models; it accepts what `DataFlow.load` accepts of a file.

What only a model's own validators know (two fields that exclude each other, say) is not in it.
"""

from __future__ import annotations

from typing import Any, get_args

from pydantic import BaseModel, BeforeValidator

from airflow_provider_connect.engine import registry
from airflow_provider_connect.engine.component import ACK_POLICY, AckPolicy, Role, find_class
from airflow_provider_connect.engine.config import Config
from airflow_provider_connect.engine.errors import FlowError
from airflow_provider_connect.engine.models import field_named, filled_by_connection, mark_of, model_of, name_of
from airflow_provider_connect.engine.secrets import CONNECTION_KEYS, SecretRef
from airflow_provider_connect.engine.spec import API_VERSION, COMPONENT_FIELDS, KUBERNETES_METADATA, Metadata, Spec

Schema = dict[str, Any]

_REF = "#/$defs/"
_PLAIN = {"type", "format", "writeOnly"}


def flow_schema() -> Schema:
    """The schema of one document, with a block for every connector and transform that is installed."""
    defs: Schema = {}
    metadata = _object(Metadata, "metadata", defs)
    metadata["properties"].update(dict.fromkeys(KUBERNETES_METADATA, True))
    spec = _object(Spec, "spec", defs)
    defs["SecretRef"] = _object(SecretRef, "SecretRef", defs)
    for field, role in COMPONENT_FIELDS.items():
        reference = _errors(defs) if field == "errors" else _component(role, defs)
        if field == "transformations":
            reference = {"type": "array", "items": reference, "default": []}
        elif field == "errors":
            reference = {"anyOf": [reference, {"type": "null"}]}
        description = spec["properties"][field]["description"]
        spec["properties"][field] = {"description": description, **reference}
    for name in [name for name in defs if name in ("spec.Component", "spec.ErrorSink", "spec.Config")]:
        del defs[name]
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "DataFlow",
        "type": "object",
        "properties": {
            "apiVersion": {"const": API_VERSION},
            "kind": {"const": "DataFlow"},
            "metadata": metadata,
            "spec": spec,
            "status": {"description": "What a cluster reports; ignored."},
        },
        "required": ["apiVersion", "kind", "metadata", "spec"],
        "additionalProperties": False,
        "$defs": dict(sorted(defs.items())),
    }


def block_schema(model: type[Config], prefix: str, defs: Schema) -> Schema:
    """The schema of a connector's block; what it refers to is added to `defs` under names that begin with `prefix`."""
    plain = _object(model, prefix, defs, references=True)
    if not filled_by_connection(model):
        defs[prefix] = plain
        return {"$ref": _REF + prefix}
    connected = _object(model, f"{prefix}.connected", defs, references=True, connected=True)
    for variant in (plain, connected):
        variant["properties"].update(
            {key: {"type": "string", "minLength": 1, "description": _CONNECTION} for key in CONNECTION_KEYS}
        )
        variant["not"]["anyOf"] += _pairs(CONNECTION_KEYS)
    defs[prefix], defs[f"{prefix}.connected"] = plain, connected
    return {
        "if": {"anyOf": [{"required": [key]} for key in CONNECTION_KEYS]},
        "then": {"$ref": f"{_REF}{prefix}.connected"},
        "else": {"$ref": _REF + prefix},
    }


_CONNECTION = "Airflow connection that fills what this block leaves open."


def _component(role: Role, defs: Schema) -> Schema:
    """One of the types of a role."""
    name = {"transform": "transformation"}.get(role, role)
    if name not in defs:
        defs[name] = {"oneOf": _types(role, defs) or [False]}
    return {"$ref": _REF + name}


def _errors(defs: Schema) -> Schema:
    """A sink with its `ackPolicy`."""
    _component("sink", defs)
    policy = {"enum": list(get_args(AckPolicy)), "default": "afterWrite"}
    both = {"ackPolicy": {"description": " ".join(ACK_POLICY.split()), **policy}, "ack_policy": policy}
    twice = {"not": {"required": list(both)}}
    defs["errors"] = {
        "oneOf": [
            variant and {**variant, "properties": {**variant["properties"], **both}}
            for variant in defs["sink"]["oneOf"]
        ],
        **twice,
    }
    return {"$ref": _REF + "errors"}


def _types(role: Role, defs: Schema) -> list[Schema]:
    found = []
    for name in registry.names("transforms" if role == "transform" else "connectors"):
        try:
            cls = find_class(name, role)
        except FlowError:
            continue
        model = cls.config_type
        block = block_schema(model, f"{name}.{role}", defs)
        required = any(info.is_required() for info in model.model_fields.values())
        schema: Schema = {
            "type": "object",
            "properties": {
                "type": {"const": name},
                name: block if required else {"anyOf": [block, {"type": "null"}]},
            },
            "required": ["type"],
            "additionalProperties": False,
        }
        if name != "config":
            schema["properties"]["config"] = schema["properties"][name]
            schema["not"] = {"required": [name, "config"]}
        if required:
            schema["anyOf"] = [{"required": [key]} for key in dict.fromkeys((name, "config"))]
        found.append(schema)
    return found


def _object(
    model: type[BaseModel], prefix: str, defs: Schema, *, references: bool = False, connected: bool = False
) -> Schema:
    """The schema of a model in both spellings; `references`: with SecretRefs, `connected`: filled by a connection."""
    schema = model.model_json_schema(by_alias=True, ref_template=f"{_REF}{prefix}.{{model}}")
    nested = {each.__name__: each for each in _models_within(model)}
    for name, inner in schema.pop("$defs", {}).items():
        if name in nested and "properties" in inner:
            inner = _both_spellings(inner, nested[name], references, connected)  # noqa: PLW2901
        defs[f"{prefix}.{name}"] = _simple(inner, references)
    found: Schema = _simple(_both_spellings(schema, model, references, connected), references)
    return found


def _both_spellings(schema: Schema, model: type[BaseModel], references: bool, connected: bool) -> Schema:
    """camelCase with descriptions, for completion; snake_case too, and SecretRefs of either, but never one twice."""
    properties: Schema = {}
    spellings: Schema = {}
    twice: list[Schema] = []
    conditions: list[Schema] = []
    required = set(schema.pop("required", ()))
    for key, declared in schema["properties"].items():
        name = name_of(model, key) or key
        metadata = model.model_fields[name].metadata
        if declared.get("type") == "array" and any(isinstance(each, BeforeValidator) for each in metadata):
            declared = _or_text(declared)  # noqa: PLW2901
        properties[key] = declared
        groups = [tuple(dict.fromkeys((key, name)))]
        if name != key:
            spellings[name] = {field: value for field, value in declared.items() if field != "description"}
        if references and field_named(model, f"{key}SecretRef") is None:
            groups.append((f"{key}SecretRef", f"{name}_secret_ref"))
            spellings.update({each: {"$ref": f"{_REF}SecretRef"} for each in groups[1]})
        twice += [{"required": list(group)} for group in groups if len(group) > 1]
        if key in required and not (connected and _filled(model, name)):
            conditions.append({"anyOf": [{"required": [each]} for group in groups for each in group]})
    schema["properties"] = {**properties, **spellings}
    schema["additionalProperties"] = False
    if conditions:
        schema["allOf"] = conditions
    if twice:
        schema["not"] = {"anyOf": twice}
    return schema


def _or_text(declared: Schema) -> Schema:
    """A list that its validator also takes as text with commas."""
    described: Schema = {key: declared[key] for key in ("description", "examples") if key in declared}
    array = {key: value for key, value in declared.items() if key not in described}
    return {**described, "anyOf": [array, {"type": "string", "minLength": 1}]}


def _filled(model: type[BaseModel], name: str) -> bool:
    info = model.model_fields[name]
    nested = model_of(info.annotation)
    return mark_of(info) is not None or (nested is not None and filled_by_connection(nested))


def _pairs(keys: tuple[str, ...]) -> list[Schema]:
    return [{"required": [a, b]} for index, a in enumerate(keys) for b in keys[index + 1 :]]


def _models_within(model: type[BaseModel]) -> list[type[BaseModel]]:
    found: list[type[BaseModel]] = []
    for info in model.model_fields.values():
        nested = model_of(info.annotation)
        if nested is not None:
            found += [nested, *_models_within(nested)]
    return found


def _simple(schema: Any, references: bool) -> Any:
    """`anyOf` of a plain type and null as one type list, titles left out; SecretRefs also in free mappings."""
    if isinstance(schema, list):
        return [_simple(each, references) for each in schema]
    if not isinstance(schema, dict):
        return schema
    schema = {
        key: {name: _simple(inner, references) for name, inner in value.items()}
        if key == "properties"
        else _simple(value, references)
        for key, value in schema.items()
        if key != "title" or not isinstance(value, str)
    }
    branches = schema.get("anyOf", ())
    null = {"type": "null"}
    if len(branches) == 2 and null in branches:
        other = branches[0] if branches[1] == null else branches[1]
        if set(other) <= _PLAIN and isinstance(other.get("type"), str):
            rest = {key: value for key, value in schema.items() if key != "anyOf"}
            schema = {**rest, **other, "type": [other["type"], "null"]}
    free = "properties" not in schema and schema.get("type") == "object"
    if references and free and isinstance(schema.get("additionalProperties"), dict):
        schema["patternProperties"] = {"(SecretRef|_secret_ref)$": {"$ref": f"{_REF}SecretRef"}}
    return schema
