"""Message types from .proto texts, and the Arrow types that hold their fields."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from typing import Any

import pyarrow as pa
from google.protobuf import (  # type: ignore[import-untyped]
    any_pb2,
    descriptor_pb2,
    descriptor_pool,
    duration_pb2,
    empty_pb2,
    field_mask_pb2,
    message_factory,
    struct_pb2,
    timestamp_pb2,
    wrappers_pb2,
)
from google.protobuf.descriptor import Descriptor, FieldDescriptor  # type: ignore[import-untyped]

from airflow_provider_connect.codecs._protobuf.proto import parse
from airflow_provider_connect.engine.errors import FlowError

_KNOWN = (any_pb2, duration_pb2, empty_pb2, field_mask_pb2, struct_pb2, timestamp_pb2, wrappers_pb2)
_SCALARS = {
    FieldDescriptor.CPPTYPE_INT32: pa.int32(),
    FieldDescriptor.CPPTYPE_INT64: pa.int64(),
    FieldDescriptor.CPPTYPE_UINT32: pa.uint32(),
    FieldDescriptor.CPPTYPE_UINT64: pa.uint64(),
    FieldDescriptor.CPPTYPE_DOUBLE: pa.float64(),
    FieldDescriptor.CPPTYPE_FLOAT: pa.float32(),
    FieldDescriptor.CPPTYPE_BOOL: pa.bool_(),
    FieldDescriptor.CPPTYPE_ENUM: pa.string(),
}
TIMESTAMP, DURATION = "google.protobuf.Timestamp", "google.protobuf.Duration"
WRAPPERS = {f"google.protobuf.{name}Value" for name in
            ("Double", "Float", "Int64", "UInt64", "Int32", "UInt32", "Bool", "String", "Bytes")}  # fmt: skip
AS_JSON = {f"google.protobuf.{name}" for name in ("Struct", "Value", "ListValue", "Any", "FieldMask")}
JSON_TEXT = {b"json": b"value"}


def message_types(text: str, references: Sequence[tuple[str, str]] = ()) -> list[Descriptor]:
    """The messages that a .proto text declares at its top, in order. FlowError if it is none, or lacks an import."""
    pool = descriptor_pool.DescriptorPool()
    files = [parse(other, name) for name, other in references]
    own = parse(text, "schema.proto")
    given = {file.name for file in files}
    for module in _KNOWN:
        known = descriptor_pb2.FileDescriptorProto()
        module.DESCRIPTOR.CopyToProto(known)
        pool.AddSerializedFile(known.SerializeToString())
    for file in (*files, own):
        # Options of files that we do not have say nothing about the bytes.
        kept = [name for name in file.dependency if name in given or _is_known(name)]
        del file.dependency[:]
        file.dependency.extend(kept)
        try:
            pool.AddSerializedFile(_resolved(file, pool).SerializeToString())
        except TypeError as error:
            raise FlowError(f"the Protobuf schema is wrong: {_told(error)}") from error
    found = pool.FindFileByName("schema.proto")
    return [found.message_types_by_name[message.name] for message in own.message_type]


def message_class(descriptor: Descriptor) -> Any:
    """The class of a message."""
    return message_factory.GetMessageClass(descriptor)


def has_presence(field: FieldDescriptor) -> bool:
    """Whether a field may be absent, so that null tells it from its default."""
    return bool(field.has_presence)


def is_repeated(field: FieldDescriptor) -> bool:
    """Whether a field is a list (or a map)."""
    told = getattr(field, "is_repeated", None)
    return bool(field.label == FieldDescriptor.LABEL_REPEATED if told is None else told)


def is_map(field: FieldDescriptor) -> bool:
    """Whether a field is a map."""
    return bool(field.message_type is not None and field.message_type.GetOptions().map_entry)


def arrow_field(field: FieldDescriptor, above: tuple[str, ...] = ()) -> pa.Field:
    """The column that holds a field: enums are text, messages structs; what has no type of its own is JSON text."""
    kind, text = _single(field, above)
    if is_map(field):
        key, value = (field.message_type.fields_by_name[name] for name in ("key", "value"))
        return pa.field(field.name, pa.map_(_single(key, above)[0], _single(value, above)[0]))
    if is_repeated(field):
        item = pa.field("item", kind, metadata=JSON_TEXT if text else None)
        return pa.field(field.name, pa.list_(item))
    return pa.field(field.name, kind, metadata=JSON_TEXT if text else None)


def _single(field: FieldDescriptor, above: tuple[str, ...]) -> tuple[pa.DataType, bool]:
    message = field.message_type
    if message is None:
        if field.cpp_type == FieldDescriptor.CPPTYPE_STRING:
            return (pa.binary() if field.type == FieldDescriptor.TYPE_BYTES else pa.string()), False
        return _SCALARS[field.cpp_type], False
    name = message.full_name
    if name == TIMESTAMP:
        return pa.timestamp("us", tz="UTC"), False
    if name == DURATION:
        return pa.duration("us"), False
    if name in WRAPPERS:
        return _single(message.fields_by_name["value"], above)
    if name in AS_JSON or name in above:
        return pa.string(), True
    return pa.struct([arrow_field(each, (*above, name)) for each in message.fields]), False


def single_type(field: FieldDescriptor, above: tuple[str, ...]) -> pa.DataType:
    """The type of one value of a field, which may hold many."""
    return _single(field, above)[0]


def is_json(field: FieldDescriptor, above: tuple[str, ...]) -> bool:
    """Whether a field's message has no columns, and becomes JSON text."""
    return field.message_type is not None and _single(field, above)[1]


@cache
def _is_known(name: str) -> bool:
    return any(module.DESCRIPTOR.name == name for module in _KNOWN)


def _resolved(file: descriptor_pb2.FileDescriptorProto, pool: Any) -> descriptor_pb2.FileDescriptorProto:
    """With every name of a type in full, and whether it is a message or an enum."""
    kinds: dict[str, int] = {}

    def note(message: Any, scope: str) -> None:
        kinds[f"{scope}.{message.name}"] = descriptor_pb2.FieldDescriptorProto.TYPE_MESSAGE
        for inner in message.nested_type:
            note(inner, f"{scope}.{message.name}")
        for enum in message.enum_type:
            kinds[f"{scope}.{message.name}.{enum.name}"] = descriptor_pb2.FieldDescriptorProto.TYPE_ENUM

    top = f".{file.package}" if file.package else ""
    for message in file.message_type:
        note(message, top)
    for enum in file.enum_type:
        kinds[f"{top}.{enum.name}"] = descriptor_pb2.FieldDescriptorProto.TYPE_ENUM

    def look(name: str) -> int | None:
        if name in kinds:
            return kinds[name]
        kind: int
        for find, kind in (
            (pool.FindMessageTypeByName, descriptor_pb2.FieldDescriptorProto.TYPE_MESSAGE),
            (pool.FindEnumTypeByName, descriptor_pb2.FieldDescriptorProto.TYPE_ENUM),
        ):
            try:
                find(name[1:])
                return kind
            except KeyError:
                continue
        return None

    def settle(message: Any, scope: str) -> None:
        scope = f"{scope}.{message.name}"
        for field in message.field:
            if field.type_name:
                full, kind = _found(field.type_name, scope, look)
                if kind is None:
                    where = f"{scope[1:]}.{field.name}"
                    raise FlowError(f"the Protobuf schema lacks the type '{field.type_name}' of '{where}'")
                field.type_name, field.type = full, kind
        for inner in message.nested_type:
            settle(inner, scope)

    for message in file.message_type:
        settle(message, top)
    return file


def _found(name: str, scope: str, look: Any) -> tuple[str, int | None]:
    """The innermost scope that has the name, as in C++."""
    if name.startswith("."):
        return name, look(name)
    while True:
        if (kind := look(f"{scope}.{name}")) is not None:
            return f"{scope}.{name}", kind
        if not scope:
            return name, None
        scope = scope.rpartition(".")[0]


def _told(error: Exception) -> str:
    return re.sub(r"\s+", " ", str(error))
