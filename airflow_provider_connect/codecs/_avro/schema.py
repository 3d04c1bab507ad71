"""Avro schemas: the text of one to a tree of types, and the Arrow type that holds each of them."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from airflow_provider_connect.engine.errors import FlowError

PRIMITIVES: dict[str, pa.DataType] = {
    "null": pa.null(),
    "boolean": pa.bool_(),
    "int": pa.int32(),
    "long": pa.int64(),
    "float": pa.float32(),
    "double": pa.float64(),
    "bytes": pa.binary(),
    "string": pa.string(),
}
_LOGICAL: dict[tuple[str, str], pa.DataType] = {
    ("int", "date"): pa.date32(),
    ("int", "time-millis"): pa.time32("ms"),
    ("long", "time-micros"): pa.time64("us"),
    ("long", "timestamp-millis"): pa.timestamp("ms", tz="UTC"),
    ("long", "timestamp-micros"): pa.timestamp("us", tz="UTC"),
    ("long", "timestamp-nanos"): pa.timestamp("ns", tz="UTC"),
    ("long", "local-timestamp-millis"): pa.timestamp("ms"),
    ("long", "local-timestamp-micros"): pa.timestamp("us"),
    ("long", "local-timestamp-nanos"): pa.timestamp("ns"),
}
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_NO_DEFAULT = object()
_WIDER = {("int", "long"): "long", ("float", "double"): "double"}
DEEPEST = 64
"""Levels of nesting beyond which a schema is refused."""


@dataclass(eq=False, slots=True)
class Type:
    """One type of a schema. `kind` is the name of a primitive, or record, enum, fixed, array, map, union."""

    kind: str
    arrow: pa.DataType = field(default_factory=pa.null)
    """What its values become; of a nullable union what its other branch becomes."""
    logical: str | None = None
    """The logical type, if it is known and fits."""
    name: str = ""
    """Full name of a record, enum or fixed."""
    fields: tuple[Field, ...] = ()
    symbols: tuple[str, ...] = ()
    items: Type | None = None
    """Of the elements of an array, or the values of a map."""
    branches: tuple[Type, ...] = ()
    size: int = 0
    smallest: int = 0
    """Bytes that a value takes at least."""

    @property
    def others(self) -> list[int]:
        """The indexes of a union's branches that are not null."""
        return [index for index, branch in enumerate(self.branches) if branch.kind != "null"]

    @property
    def apart(self) -> bool:
        """Whether a union's branches become the fields of a struct, for no one type holds them all."""
        return self.kind == "union" and len(self.others) > 1 and _common(self.branches) is None


@dataclass(eq=False, slots=True)
class Field:
    """A field of a record."""

    name: str
    type: Type
    default: Any = _NO_DEFAULT
    aliases: tuple[str, ...] = ()

    @property
    def has_default(self) -> bool:
        """Whether there is a default."""
        return self.default is not _NO_DEFAULT


def parse(text: str | Mapping[str, Any] | Sequence[Any], known: Sequence[str] = ()) -> Type:
    """The type that a schema's text stands for; `known`: texts of schemas whose named types it may use.

    FlowError, which names the place, if it is no valid schema, or refers to itself, for which there are no columns.
    """
    names: dict[str, Type] = {}
    for other in known:
        _Parser(names).read(_loaded(other), "", "schema", 0)
    return _Parser(names).read(_loaded(text) if isinstance(text, str) else text, "", "schema", 0)


def branch_name(branch: Type) -> str:
    """What a branch of a union is called where it becomes a field of its own."""
    return branch.name.rpartition(".")[2] or branch.kind


def _loaded(text: str) -> Any:
    stripped = text.strip()
    if stripped in PRIMITIVES:
        return stripped
    try:
        return json.loads(stripped)
    except ValueError as error:
        raise FlowError(f"the Avro schema is not JSON: {error}") from error


class _Parser:
    def __init__(self, names: dict[str, Type]) -> None:
        self._names = names
        self._open: list[str] = []

    def read(self, raw: Any, space: str, place: str, depth: int) -> Type:
        if depth > DEEPEST:
            raise FlowError(f"{place}: the Avro schema is nested more than {DEEPEST} levels deep")
        if isinstance(raw, str):
            return self._named(raw, space, place)
        if isinstance(raw, list):
            return self._union(raw, space, place, depth)
        if not isinstance(raw, Mapping):
            raise FlowError(f"{place}: an Avro type is a name, a list or an object, not {raw!r}")
        kind = raw.get("type")
        if isinstance(kind, Mapping | list):
            return self.read(kind, space, place, depth + 1)
        if kind in PRIMITIVES:
            return _logical(Type(str(kind), PRIMITIVES[str(kind)], smallest=_SMALLEST[str(kind)]), raw)
        if kind == "array":
            items = self.read(_required(raw, "items", place), space, f"{place}[]", depth + 1)
            return Type("array", pa.list_(items.arrow), items=items, smallest=1)
        if kind == "map":
            items = self.read(_required(raw, "values", place), space, f"{place}{{}}", depth + 1)
            return Type("map", pa.map_(pa.string(), items.arrow), items=items, smallest=1)
        if kind in ("record", "error"):
            return self._record(raw, space, place, depth)
        if kind == "enum":
            return self._enum(raw, space, place)
        if kind == "fixed":
            return self._fixed(raw, space, place)
        if isinstance(kind, str):
            return self._named(kind, space, place)
        raise FlowError(f"{place}: an Avro type needs a `type`")

    def _named(self, name: str, space: str, place: str) -> Type:
        if name in PRIMITIVES:
            return Type(name, PRIMITIVES[name], smallest=_SMALLEST[name])
        full = name if "." in name or not space else f"{space}.{name}"
        full = full if full in self._names or full in self._open else name
        if full in self._open:
            raise FlowError(f"{place}: the Avro type '{full}' contains itself, so no columns can hold it")
        if full not in self._names:
            raise FlowError(f"{place}: the Avro type '{name}' is not defined")
        return self._names[full]

    def _define(self, raw: Mapping[str, Any], space: str, place: str) -> tuple[str, str]:
        name = _required(raw, "name", place)
        if not isinstance(name, str) or not all(map(_NAME.fullmatch, name.split("."))):
            raise FlowError(f"{place}: {name!r} is no name for an Avro type")
        space = name.rpartition(".")[0] if "." in name else str(raw.get("namespace", space) or "")
        full = name if "." in name or not space else f"{space}.{name}"
        if full in self._names or full in self._open:
            raise FlowError(f"{place}: the Avro type '{full}' is defined twice")
        return full, space

    def _record(self, raw: Mapping[str, Any], space: str, place: str, depth: int) -> Type:
        full, space = self._define(raw, space, place)
        self._open.append(full)
        fields: list[Field] = []
        described = _required(raw, "fields", place)
        for entry in described if isinstance(described, list) else [None]:
            if not isinstance(entry, Mapping):
                raise FlowError(f"{place}: the `fields` of '{full}' must be a list of objects")
            name = _required(entry, "name", place)
            if any(other.name == name for other in fields):
                raise FlowError(f"{place}: record '{full}' has two fields '{name}'")
            inner = self.read(_required(entry, "type", f"{place}.{name}"), space, f"{place}.{name}", depth + 1)
            default = entry.get("default", _NO_DEFAULT)
            fields.append(Field(str(name), inner, default, tuple(entry.get("aliases", ()))))
        self._open.pop()
        arrow = pa.struct([pa.field(each.name, each.type.arrow) for each in fields])
        smallest = sum(each.type.smallest for each in fields)
        self._names[full] = found = Type("record", arrow, name=full, fields=tuple(fields), smallest=smallest)
        return found

    def _enum(self, raw: Mapping[str, Any], space: str, place: str) -> Type:
        full, _ = self._define(raw, space, place)
        symbols = _required(raw, "symbols", place)
        if not isinstance(symbols, list) or not all(isinstance(symbol, str) for symbol in symbols):
            raise FlowError(f"{place}: the `symbols` of enum '{full}' must be a list of names")
        self._names[full] = found = Type("enum", pa.string(), name=full, symbols=tuple(symbols), smallest=1)
        return found

    def _fixed(self, raw: Mapping[str, Any], space: str, place: str) -> Type:
        full, _ = self._define(raw, space, place)
        size = _required(raw, "size", place)
        if not isinstance(size, int) or size < 0:
            raise FlowError(f"{place}: the `size` of fixed '{full}' must be a number of bytes")
        plain = Type("fixed", pa.binary(size) if size else pa.binary(), name=full, size=size, smallest=size)
        self._names[full] = found = _logical(plain, raw)
        return found

    def _union(self, raw: list[Any], space: str, place: str, depth: int) -> Type:
        branches = tuple(self.read(each, space, place, depth + 1) for each in raw)
        if not branches or any(branch.kind == "union" for branch in branches):
            raise FlowError(f"{place}: a union needs branches, none of them a union")
        kinds = [branch.name or branch.kind for branch in branches]
        if len(set(kinds)) < len(kinds):
            raise FlowError(f"{place}: a union has the branch '{max(kinds, key=kinds.count)}' twice")
        return Type("union", _union_arrow(branches), branches=branches, smallest=1)


_SMALLEST = {"null": 0, "boolean": 1, "int": 1, "long": 1, "float": 4, "double": 8, "bytes": 1, "string": 1}


def _union_arrow(branches: tuple[Type, ...]) -> pa.DataType:
    common = _common(branches)
    if common is not None:
        return common
    return pa.struct([pa.field(branch_name(each), each.arrow) for each in branches if each.kind != "null"])


def _common(branches: tuple[Type, ...]) -> pa.DataType | None:
    """The one Arrow type for all branches that are not null, if there is one that loses nothing."""
    others = [branch for branch in branches if branch.kind != "null"]
    if len(others) < 2:
        return others[0].arrow if others else pa.null()
    kinds = tuple(sorted((branch.kind for branch in others), key=list(PRIMITIVES).index)) if all(
        branch.kind in PRIMITIVES and branch.logical is None for branch in others
    ) else ()  # fmt: skip
    return PRIMITIVES[_WIDER[kinds]] if kinds in _WIDER else None


def _logical(plain: Type, raw: Mapping[str, Any]) -> Type:
    """With the logical type, where it is known and valid for this type; else it is ignored, as Avro wants it."""
    logical = raw.get("logicalType")
    if logical == "decimal" and plain.kind in ("bytes", "fixed"):
        precision, scale = raw.get("precision"), raw.get("scale", 0)
        if isinstance(precision, int) and isinstance(scale, int) and 0 <= scale <= precision and 0 < precision <= 76:
            plain.arrow = (pa.decimal128 if precision <= 38 else pa.decimal256)(precision, scale)
            plain.logical = "decimal"
    elif logical == "uuid" and (plain.kind == "string" or plain.size == 16):
        plain.arrow, plain.logical = pa.string(), "uuid"
    elif isinstance(logical, str) and (arrow := _LOGICAL.get((plain.kind, logical))) is not None:
        plain.arrow, plain.logical = arrow, logical
    return plain


def _required(raw: Mapping[str, Any], key: str, place: str) -> Any:
    if key not in raw:
        raise FlowError(f"{place}: the Avro type lacks `{key}`")
    return raw[key]
