"""Protobuf values of a schema registry to columns, and columns to messages."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from google.protobuf import json_format  # type: ignore[import-untyped]
from google.protobuf.descriptor import Descriptor, FieldDescriptor  # type: ignore[import-untyped]
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from airflow_provider_connect.codecs._protobuf import messages
from airflow_provider_connect.codecs._protobuf.arguments import arguments
from airflow_provider_connect.codecs._protobuf.derive import plain_type, proto_of, with_fields
from airflow_provider_connect.codecs._schema_registry.client import Schema
from airflow_provider_connect.codecs._schema_registry.columns import merged, woven
from airflow_provider_connect.codecs._schema_registry.framing import Values
from airflow_provider_connect.engine.codec import Codec
from airflow_provider_connect.engine.errors import Fatal, InvalidRecord

_NO_NAME = re.compile(r"[^A-Za-z0-9_]")
_MICROS = 1_000_000
Above = tuple[str, ...]


class ProtobufReader:
    """Reads the messages of one schema. Before each stands which of the schema's messages it is."""

    def __init__(self, schema: Schema) -> None:
        self._types = messages.message_types(schema.text, schema.references)

    def read(self, values: Values) -> tuple[pa.RecordBatch, dict[int, str]]:
        """One row per value, and `{index: why}` of those that are no message of this schema."""
        kinds: dict[Descriptor, tuple[list[int], list[Any]]] = {}
        refused: dict[int, str] = {}
        for index, value in enumerate(values.array().to_pylist()):
            try:
                kind, body = self._which(value)
                message = messages.message_class(kind).FromString(body)
            except (ValueError, DecodeError, IndexError) as error:
                refused[index] = f"the value is no Protobuf message of its schema: {error}"
                continue
            rows, found = kinds.setdefault(kind, ([], []))
            rows.append(index)
            found.append(message)
        parts = [(np.array(rows), _table(kind, found)) for kind, (rows, found) in kinds.items()]
        return woven(parts, len(values.rows), merged(part.schema for _, part in parts)), refused

    def _which(self, value: bytes) -> tuple[Descriptor, bytes]:
        count, at = _varint(value, 0)
        path = []
        for _ in range(count):
            index, at = _varint(value, at)
            path.append(index)
        kind = self._types[path[0] if path else 0]
        for index in path[1:]:
            kind = list(kind.nested_types)[index]
        return kind, value[at:]


class ProtobufWriter:
    """Writes columns as messages of a schema that grows with them."""

    kind = "PROTOBUF"

    def __init__(self, name: str, documents: Codec) -> None:
        self._name, self._documents = _proper(name), documents
        self._parsed: dict[str, Descriptor] = {}

    def schema_for(self, columns: pa.Schema, earlier: str | None) -> str:
        """A proto3 schema with one message; what `earlier` has stays as it is."""
        if earlier is None:
            return proto_of(columns, self._name)
        known = {field.name: field.number for field in self._type(earlier).fields}
        fresh = pa.schema([column for column in columns if column.name not in known])
        return with_fields(earlier, fresh, max(known.values(), default=0) + 1) if len(fresh) else earlier

    def full_name(self, schema: str) -> str:
        """The name of the message."""
        return str(self._type(schema).full_name)

    def write(self, columns: pa.RecordBatch, schema: str) -> pa.Array:
        """One message per row. InvalidRecord for rows that the schema does not take."""
        kind = self._type(schema)
        cls = messages.message_class(kind)
        plain = [column.cast(plain_type(column.type)) for column in columns.columns]
        fields = [field.with_type(column.type) for field, column in zip(columns.schema, plain, strict=True)]
        rows = pa.RecordBatch.from_arrays(plain, schema=pa.schema(fields))
        refused: dict[int, str] = {}
        found: list[bytes] = []
        for index, values in enumerate(arguments(kind, rows)):
            try:
                found.append(b"\0" + cls(**values).SerializeToString())
            except (TypeError, ValueError):
                try:  # slower, and less particular
                    (text,) = self._documents.encode(rows.slice(index, 1)).column("value").to_pylist()
                    found.append(b"\0" + json_format.Parse(text, cls()).SerializeToString())
                except (json_format.ParseError, ValueError) as error:
                    refused[index] = f"the record does not fit the Protobuf schema: {error}"
        if refused:
            raise InvalidRecord(f"{len(refused)} records do not fit the Protobuf schema", rows=refused)
        return pa.array(found, pa.binary())

    def _type(self, schema: str) -> Descriptor:
        if schema not in self._parsed:
            found = messages.message_types(schema)
            if not found:
                raise Fatal("the subject's newest Protobuf schema declares no message")
            self._parsed[schema] = found[0]
        return self._parsed[schema]


# --- reading


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """A zig-zag number, and where it ends."""
    found = shift = 0
    while True:
        byte = data[at]
        at += 1
        found |= (byte & 0x7F) << shift
        if byte < 0x80:
            break
        shift += 7
    if found & 1 or found > 200:
        raise ValueError("it has no index of a message")
    return found >> 1, at


def _table(kind: Descriptor, found: list[Any]) -> pa.RecordBatch:
    above = (kind.full_name,)
    if not kind.fields:
        return pa.RecordBatch.from_struct_array(pa.array([{}] * len(found), pa.struct([])))
    schema = pa.schema([messages.arrow_field(field, above) for field in kind.fields])
    return pa.RecordBatch.from_arrays([_column(field, found, above) for field in kind.fields], schema=schema)


def _column(field: FieldDescriptor, found: Sequence[Any], above: Above) -> pa.Array:
    """The field of every message; None for a message that is not there."""
    name, wanted = field.name, messages.arrow_field(field, above)
    if messages.is_map(field):
        key, value = (field.message_type.fields_by_name[each] for each in ("key", "value"))
        entries = [None if message is None else list(getattr(message, name).items()) for message in found]
        flat = [entry for each in entries if each is not None for entry in each]
        keys = _values(key, [entry[0] for entry in flat], above)
        items = _values(value, [entry[1] for entry in flat], above)
        bounds = _bounds(entries)
        made = pa.MapArray.from_arrays(bounds, keys, items)
        return made if None not in entries else _masked(made, entries)
    if messages.is_repeated(field):
        lists = [None if message is None else getattr(message, name) for message in found]
        items = _values(field, [item for each in lists if each is not None for item in each], above)
        mask = pa.array([each is None for each in lists], pa.bool_()) if None in lists else None
        return pa.ListArray.from_arrays(_bounds(lists), items, type=wanted.type, mask=mask)
    if messages.has_presence(field):
        return _values(field, [getattr(m, name) if m is not None and m.HasField(name) else None for m in found], above)
    return _values(field, [None if message is None else getattr(message, name) for message in found], above)


def _values(field: FieldDescriptor, values: list[Any], above: Above) -> pa.Array:
    """Single values of a field's type; None is null."""
    message = field.message_type
    if message is None:
        if field.enum_type is not None:
            names = {value.number: value.name for value in reversed(field.enum_type.values)}  # of aliases the first
            values = [None if value is None else names.get(value, str(value)) for value in values]
        return pa.array(values, messages.single_type(field, above))
    name = message.full_name
    if name == messages.TIMESTAMP:
        micros = [None if v is None else v.seconds * _MICROS + v.nanos // 1000 for v in values]
        return pa.array(micros, pa.int64()).view(pa.timestamp("us", tz="UTC"))
    if name == messages.DURATION:
        micros = [None if v is None else v.seconds * _MICROS + int(v.nanos / 1000) for v in values]
        return pa.array(micros, pa.int64()).view(pa.duration("us"))
    if name in messages.WRAPPERS:
        inner = message.fields_by_name["value"]
        return _values(inner, [None if value is None else value.value for value in values], above)
    if messages.is_json(field, above):
        texts = [None if v is None else json_format.MessageToJson(v, indent=None, ensure_ascii=False) for v in values]
        return pa.array(texts, pa.string())
    deeper = (*above, name)
    parts = [_column(each, values, deeper) for each in message.fields]
    fields = [messages.arrow_field(each, deeper) for each in message.fields]
    if not parts:
        return pa.array([None if value is None else {} for value in values], pa.struct([]))
    return pa.StructArray.from_arrays(
        parts, fields=fields, mask=pa.array([value is None for value in values], pa.bool_())
    )


def _bounds(lists: Sequence[Any]) -> pa.Array:
    ends = [0]
    for each in lists:
        ends.append(ends[-1] + (0 if each is None else len(each)))
    return pa.array(ends, pa.int32())


def _masked(maps: pa.Array, entries: Sequence[Any]) -> pa.Array:
    index = [None if each is None else number for number, each in enumerate(entries)]
    return maps.take(pa.array(index, pa.int64()))


def _proper(name: str) -> str:
    parts = [_NO_NAME.sub("_", part) for part in name.split(".") if part]
    return ".".join(f"_{part}" if part[0].isdigit() else part for part in parts) or "Record"
