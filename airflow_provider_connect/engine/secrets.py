"""Secrets: what a block leaves to connections (`connection:`, `<field>SecretRef:`), and the values put in its place.

A block's own values are the lowest; its `connection` fills the fields that the config marks with `FromConnection`
and that the block leaves open; a SecretRef overrides both. The name in a SecretRef is that of an Airflow connection,
`namespace.name` where a namespace is given.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, Field, SecretStr, ValidationError

from airflow_provider_connect.engine.config import Config
from airflow_provider_connect.engine.connections import Connection, ConnectionLookup
from airflow_provider_connect.engine.errors import FlowError
from airflow_provider_connect.engine.lint import Where, explain, kind_of
from airflow_provider_connect.engine.models import (
    extra_keys,
    field_named,
    filled_by_connection,
    key_of,
    mark_of,
    model_at,
    model_of,
    name_of,
    spellings,
    takes,
)
from airflow_provider_connect.engine.registry import suggestion

CONNECTION_KEYS = ("connection", "connectionId", "connection_id")
_SUFFIXES = ("SecretRef", "_secret_ref")

Report = Callable[[Where, str], None]
"""Takes a problem: where in the block, and what."""


class SecretRef(Config):
    """Where the value of a field is kept: `<field>SecretRef: {name, key, namespace}`."""

    name: str = Field(min_length=1)
    """Airflow connection (in the specification: Kubernetes Secret) that holds the value."""
    key: str = Field(min_length=1)
    """Part of it: host, port, login or username, password, schema or database, uri, or a key of the extra."""
    namespace: str | None = Field(default=None, min_length=1)
    """Comes before the name: the connection is then `namespace.name`."""

    @property
    def conn_id(self) -> str:
        """The id of the connection."""
        return f"{self.namespace}.{self.name}" if self.namespace else self.name


@dataclass(frozen=True, slots=True)
class Block:
    """A block's values, apart from what it leaves to connections. `where` of a ref is that of the field it fills."""

    values: Mapping[str, Any]
    connection: str | None
    connection_key: str
    refs: Mapping[Where, tuple[Where, SecretRef]]

    def leaves_open(self, model: type[BaseModel], where: Where, kind: str) -> bool:
        """Whether an error of validation may be cured by what a connection holds."""
        if not self.connection and not self.refs:
            return False
        if kind == "missing":
            return any(_same(where, ref) for ref in self.refs) or self._connection_fills(model, where)
        if kind in ("value_error", "assertion_error"):  # of a model that is not complete yet
            nested = model_at(model, where)
            within = any(_same(where, ref[: len(where)]) for ref in self.refs)
            return nested is not None and (within or bool(self.connection and filled_by_connection(nested)))
        return False

    def _connection_fills(self, model: type[BaseModel], where: Where) -> bool:
        if not self.connection:
            return False
        owner = model_at(model, where[:-1])
        info = field_named(owner, str(where[-1])) if owner else None
        if info is None:
            return False
        nested = model_of(info.annotation)
        return mark_of(info) is not None or (nested is not None and filled_by_connection(nested))


def _same(one: Where, other: Where) -> bool:
    return len(one) == len(other) and all(
        a == b or (isinstance(a, str) and isinstance(b, str) and bool(set(spellings(a)) & set(spellings(b))))
        for a, b in zip(one, other, strict=True)
    )


def read_block(raw: Mapping[str, Any], model: type[BaseModel], report: Report) -> Block:
    """Take a block apart, without looking anything up. What is wrong with its references goes to `report`."""
    given = [key for key in CONNECTION_KEYS if key in raw and field_named(model, key) is None]
    connection = raw[given[0]] if given else None
    if len(given) > 1:
        report((given[1],), f"given twice: '{given[0]}' and '{given[1]}' are the same")
    if given and (not isinstance(connection, str) or not connection):
        report((given[0],), f"must be the id of an Airflow connection, but is {kind_of(connection)}")
        connection = None
    elif connection and not filled_by_connection(model):
        report((given[0],), "this type takes nothing from a connection; name the values by `<field>SecretRef`")
    refs: dict[Where, tuple[Where, SecretRef]] = {}
    rest = {key: value for key, value in raw.items() if key not in given}
    values = _without_refs(rest, model, (), refs, report)
    return Block(values, connection, given[0] if given else "", refs)


def _without_refs(
    raw: Mapping[str, Any],
    model: type[BaseModel] | None,
    where: Where,
    refs: dict[Where, tuple[Where, SecretRef]],
    report: Report,
) -> dict[str, Any]:
    values: dict[str, Any] = {}
    seen: dict[str, str] = {}
    for key, value in raw.items():
        info = field_named(model, key) if model else None
        base = next((key.removesuffix(suffix) for suffix in _SUFFIXES if key.endswith(suffix)), "")
        spelled = (name_of(model, base or key) if model else None) or key
        twice = seen.setdefault(f"{spelled}{' ref' if base and not info else ''}", key)
        if twice != key:
            report((*where, key), f"given twice: '{twice}' and '{key}' are the same field")
        elif base and info is None:
            name = name_of(model, base) if model else None
            if model is not None and (name is None or base != (key_of(model, name) if key.endswith("Ref") else name)):
                known = [key_of(model, name) + _SUFFIXES[0] for name in model.model_fields]
                report((*where, key), f"unknown field{suggestion(key, known)}")
            elif ref := _read_ref(value, (*where, key), report):
                refs[(*where, base)] = ((*where, key), ref)
        else:
            nested = model_of(info.annotation) if info else None
            values[key] = _inner(value, nested, (*where, key), refs, report)
    return values


def _inner(
    value: Any,
    model: type[BaseModel] | None,
    where: Where,
    refs: dict[Where, tuple[Where, SecretRef]],
    report: Report,
) -> Any:
    if isinstance(value, Mapping):
        return _without_refs(value, model, where, refs, report)
    if isinstance(value, list):
        return [_inner(item, model, (*where, index), refs, report) for index, item in enumerate(value)]
    return value


def _read_ref(value: Any, where: Where, report: Report) -> SecretRef | None:
    try:
        return SecretRef.model_validate(value, strict=True)
    except ValidationError as error:
        for at, message, _ in explain(error, SecretRef, value):
            report((*where, *at), message if at else f"must be a mapping of name and key, but is {kind_of(value)}")
        return None


def fill(block: Block, model: type[BaseModel], lookup: ConnectionLookup, report: Report) -> dict[str, Any]:
    """The block's values with those from connections, keyed by field name. What cannot be found goes to `report`."""
    values = _by_name(block.values, model)
    if block.connection:
        try:
            _lay_under(values, _from_connection(model, lookup(block.connection)))
        except FlowError as error:
            report((block.connection_key,), str(error))
    for where, (at, ref) in block.refs.items():
        try:
            _put(values, where, lookup(ref.conn_id).get(ref.key), model)
        except FlowError as error:
            report(at, str(error))
    return values


def _by_name(values: Mapping[str, Any], model: type[BaseModel] | None) -> dict[str, Any]:
    named: dict[str, Any] = {}
    for key, value in values.items():
        info = field_named(model, key) if model else None
        nested = model_of(info.annotation) if info else None
        named[(name_of(model, key) if model else None) or key] = _inner_by_name(value, nested)
    return named


def _inner_by_name(value: Any, model: type[BaseModel] | None) -> Any:
    if isinstance(value, Mapping):
        return _by_name(value, model)
    return [_inner_by_name(item, model) for item in value] if isinstance(value, list) else value


def _from_connection(
    model: type[BaseModel], connection: Connection, root: type[BaseModel] | None = None
) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name, info in model.model_fields.items():
        nested = model_of(info.annotation)
        if mark := mark_of(info):
            value = connection.part(mark.part)
            if mark.whole_extra_of and connection.conn_type == mark.whole_extra_of:
                taken = set(extra_keys(root or model))
                value = {key: value for key, value in connection.extra.items() if key not in taken}
            if value is not None and value != "":
                if mark.part == "host" and connection.port and takes(info.annotation, list, tuple):
                    value = _with_port(str(value), connection.port)
                values[name] = _fitting(value, info.annotation)
        elif (
            nested
            and not takes(info.annotation, list, tuple)
            and (inner := _from_connection(nested, connection, root or model))
        ):
            values[name] = inner
    return values


def _with_port(hosts: str, port: int) -> str:
    """A list of hosts has no port of its own: the connection's is that of each host without one."""
    return ",".join(host if ":" in host else f"{host.strip()}:{port}" for host in hosts.split(","))


def _lay_under(values: dict[str, Any], others: Mapping[str, Any]) -> None:
    for name, other in others.items():
        mine = values.setdefault(name, other)
        if isinstance(mine, dict) and isinstance(other, Mapping):
            _lay_under(mine, other)


def _put(values: dict[str, Any], where: Where, value: Any, model: type[BaseModel] | None) -> None:
    inner: Any = values
    for step in where[:-1]:
        info = field_named(model, step) if model and isinstance(step, str) else None
        if isinstance(step, str) and model:
            step = name_of(model, step) or step  # noqa: PLW2901
            model = model_of(info.annotation) if info else None
        inner = inner[step]
    last = str(where[-1])
    info = field_named(model, last) if model else None
    name = (name_of(model, last) if model else None) or last
    inner[name] = _fitting(value, info.annotation) if info else value


def _fitting(value: Any, annotation: Any) -> Any:
    """A connection holds text: a list of texts is written with commas, a mapping as JSON."""
    if not isinstance(value, str):
        text = takes(annotation, str, SecretStr) and not takes(annotation, int)
        return str(value) if isinstance(value, int) and text else value
    if takes(annotation, list, tuple):
        return [part for text in value.split(",") if (part := text.strip())]
    if (takes(annotation, dict) or model_of(annotation)) and value.lstrip().startswith("{"):
        try:
            return json.loads(value)
        except ValueError:
            return value
    return value
