"""Component: a source, sink or transform as a flow declares it, and the checks that need no connection."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, PrivateAttr, SecretStr, ValidationError

from airflow_provider_connect.engine import registry
from airflow_provider_connect.engine.config import Config
from airflow_provider_connect.engine.connections import ConnectionLookup
from airflow_provider_connect.engine.errors import FlowError
from airflow_provider_connect.engine.lint import Where, explain, kind_of
from airflow_provider_connect.engine.registry import suggestion
from airflow_provider_connect.engine.secrets import CONNECTION_KEYS, Block, Report, fill, read_block

Role = Literal["source", "sink", "transform"]

_FIND: dict[Role, Callable[[str], Any]] = {
    "source": registry.source,
    "sink": registry.sink,
    "transform": registry.transform,
}


class Component(BaseModel):
    """A `type` and its configuration: a mapping as in YAML (with `connection` and SecretRefs), or a Config object."""

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)

    type: str
    config: dict[str, Any] | Config

    _key: str = PrivateAttr(default="config")

    @property
    def key(self) -> str:
        """The key that the configuration stands under: `config`, or the type itself."""
        return self._key

    def __repr__(self) -> str:  # the mapping may hold passwords
        return f"Component(type={self.type!r})"

    __str__ = __repr__

    def plain(self) -> dict[str, Any]:
        """As in YAML: `{type, <type>: {...}}`."""
        if isinstance(self.config, Config):
            shown = self.config.model_dump(by_alias=True, exclude_unset=True, mode="python")
            return {"type": self.type, self.type: _revealed(shown)}
        return {"type": self.type, self.type: dict(self.config)}


AckPolicy = Literal["afterWrite", "never", "afterMainSinkSuccess"]

ACK_POLICY = """When the checkpoint may pass a record that the sink refused. afterWrite: once the record is in this
sink, and the flow goes on. never, or afterMainSinkSuccess, which is the same for a refused record: not at all; the
record is copied into this sink and the flow stops before it, to read it again when it or the flow has been mended."""


class ErrorSink(Component):
    """The sink of the refused records, and what their being there means for the checkpoint."""

    ack_policy: AckPolicy = "afterWrite"

    def plain(self) -> dict[str, Any]:
        """As in YAML."""
        return {**super().plain(), **({"ackPolicy": self.ack_policy} if self.ack_policy != "afterWrite" else {})}


def component_of(config: Config) -> Component:
    """The component of a Config object; its type is the connector or transform whose module declares the class."""
    kinds = ("connectors", "transforms")
    for kind in kinds:
        for name in registry.names(kind):
            own = f"airflow_provider_connect.{kind}.{name.replace('-', '_')}"
            if f"{config.__class__.__module__}.".startswith(f"{own}."):
                return Component(type=name, config=config)
    for kind in kinds:  # another distribution's: only its module knows
        for name in registry.names(kind):
            try:
                module = registry.module(kind, name)
            except FlowError:  # its driver is missing, so this Config is not from there
                continue
            found = [getattr(module, role, None) for role in ("source", "sink", "transform")]
            if any(getattr(cls, "config_type", None) is config.__class__ for cls in found):
                return Component(type=name, config=config)
    raise FlowError(f"{config.__class__.__name__} is the configuration of no registered connector or transform")


def read_component(raw: Any, role: Role, report: Report) -> Component | None:
    """A component from its YAML; None if its type or its shape is wrong."""
    if isinstance(raw, Component):
        return raw
    if not isinstance(raw, Mapping):
        report((), f"must be a mapping with a `type`, but is {kind_of(raw)}")
        return None
    name = raw.get("type")
    kind = "transforms" if role == "transform" else "connectors"
    if not isinstance(name, str) or not name:
        message = f"must be the name of a {role}, but is {kind_of(name)}" if "type" in raw else "required, but missing"
        report(("type",), f"{message}; known: {', '.join(registry.names(kind))}")
        return None
    if not registry.known(kind, name):
        known = registry.names(kind)
        listed = suggestion(name, known)
        every = f" (known: {', '.join(known)})" if "did you mean" in listed else ""
        report(("type",), f"unknown {kind.removesuffix('s')} type '{name}'{listed}{every}")
        return None
    for key in raw:
        if key not in ("type", "config", name) and registry.known(kind, key):
            report((key,), f"a block for another type: the type is '{name}', so its block is '{name}:'")
        elif key not in ("type", "config", name):
            report((key,), f"unknown field{suggestion(key, ('type', 'config', name))}")
    if name in raw and "config" in raw:
        report(("config",), f"'{name}' and 'config' are two ways to write the same block; keep one")
        return None
    key = name if name in raw else "config"
    config = raw.get(key)
    if config is not None and not isinstance(config, Mapping):
        report((key,), f"must be a mapping of the {role}'s fields, but is {kind_of(config)}")
        return None
    component = Component(type=name, config=dict(config or {}))
    component._key = key if key in raw else name
    return component


def read_error_sink(raw: Any, report: Report) -> ErrorSink | None:
    """`errors:` from its YAML; None if something about it is wrong."""
    if isinstance(raw, ErrorSink):
        return raw
    if isinstance(raw, Component):
        return ErrorSink(type=raw.type, config=raw.config)
    policy: Any = "afterWrite"
    spellings = [key for key in ("ackPolicy", "ack_policy") if isinstance(raw, Mapping) and key in raw]
    if spellings:
        policy = raw[spellings[0]]
        raw = {key: value for key, value in raw.items() if key not in spellings}
    if len(spellings) > 1:
        report(("ack_policy",), "'ackPolicy' and 'ack_policy' are two ways to write the same; keep one")
    elif policy not in (known := get_args(AckPolicy)):
        report((spellings[0],), f"must be one of {', '.join(known)}, but is {policy!r}")
        return None
    component = read_component(raw, "sink", report)
    if component is None:
        return None
    found = ErrorSink(type=component.type, config=component.config, ack_policy=policy)
    found._key = component.key
    return found


def find_class(name: str, role: Role) -> Any:
    """The class of a type in a role. FlowError if the type is unknown, lacks the role, or misses its driver."""
    return _FIND[role](name)


def class_of(component: Component, role: Role) -> Any:
    """The class behind a component; see `find_class`."""
    return find_class(component.type, role)


def check_component(component: Component, role: Role, report: Report, strict: bool) -> None:
    """Report what is wrong with a configuration as far as that shows without its connections.

    `strict`: only the types of the schema, as in a document; else text may stand for numbers, as in Python objects.
    """
    if isinstance(component.config, Config):
        return
    model = _model(component, role, report)
    if model is None:
        return
    block = read_block(component.config, model, _under(component.key, report))
    try:
        validate(model, block.values, strict)
    except ValidationError as error:
        extra = CONNECTION_KEYS[:1]
        for where, message, kind in explain(error, model, block.values, extra):
            if not block.leaves_open(model, where, kind):
                report((component.key, *where), message)
    except FlowError as error:  # a validator's own, which pydantic lets pass
        report((component.key,), str(error))


def resolve_component(
    component: Component, role: Role, lookup: ConnectionLookup, report: Report
) -> tuple[Any, Config] | None:
    """The class of a component and its complete configuration; None when something was reported."""
    model = _model(component, role, report)
    if model is None:
        return None
    if isinstance(component.config, Config):
        if not isinstance(component.config, model):
            found, wanted = component.config.__class__.__name__, model.__name__
            report((), f"the {role} of '{component.type}' is configured by {wanted}, not by {found}")
            return None
        return class_of(component, role), component.config
    problems: list[Where] = []

    def note(where: Where, message: str) -> None:
        problems.append(where)
        report((component.key, *where), message)

    block = read_block(component.config, model, note)
    values = fill(block, model, lookup, note)
    if problems:
        return None
    try:
        return class_of(component, role), model.model_validate(values)
    except ValidationError as error:
        for where, message, _ in explain(error, model, values):
            report((component.key, *where), message)
    except FlowError as error:
        report((component.key,), str(error))
    return None


def connection_ids(component: Component, role: Role) -> Iterator[str]:
    """The ids of the connections that a component refers to, as they are written."""
    if isinstance(component.config, Config):
        return
    block: Block = read_block(component.config, class_of(component, role).config_type, lambda where, message: None)
    if block.connection:
        yield block.connection
    for _, ref in block.refs.values():
        yield ref.conn_id


def validate(model: type[Config], values: Mapping[str, Any], strict: bool) -> Config:
    """Values as a document or as Python has them. JSON's strictness takes lists for tuples and text for enums."""
    return model.model_validate_json(json.dumps(values), strict=True) if strict else model.model_validate(values)


def _model(component: Component, role: Role, report: Report) -> type[Config] | None:
    try:
        found: type[Config] = class_of(component, role).config_type
    except FlowError as error:
        report(("type",), str(error))
        return None
    return found


def _under(key: str, report: Report) -> Report:
    return lambda where, message: report((key, *where), message)


def _revealed(value: Any) -> Any:
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    if isinstance(value, Mapping):
        return {key: _revealed(inner) for key, inner in value.items()}
    return [_revealed(inner) for inner in value] if isinstance(value, list | tuple) else value
