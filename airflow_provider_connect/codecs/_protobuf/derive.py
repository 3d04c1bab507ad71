"""Columns to the text of a .proto file."""

from __future__ import annotations

import re

import pyarrow as pa

from airflow_provider_connect.engine.errors import Fatal, FlowError

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_LAST_BRACE = re.compile(r"\}\s*\Z")
_TIMESTAMP = "google.protobuf.Timestamp"
_IMPORT = 'import "google/protobuf/timestamp.proto";'


def proto_of(columns: pa.Schema, name: str) -> str:
    """A proto3 file with one message for these columns; every field that is no list may be absent.

    FlowError for a column whose name or type Protobuf does not have.
    """
    package, _, message = name.rpartition(".")
    lines = ['syntax = "proto3";', *([f"package {package};"] if package else []), _IMPORT, "", f"message {message} {{"]
    return "\n".join([*lines, *_fields(columns, 1, "  ", ()), "}", ""])


def with_fields(text: str, columns: pa.Schema, first: int) -> str:
    """A file that `proto_of` made, with more fields, numbered from `first`. Fatal if it is somebody else's."""
    if _IMPORT not in text or text.count("\nmessage ") != 1 or not _LAST_BRACE.search(text):
        names = ", ".join(columns.names)
        raise Fatal(
            f"the subject's newest Protobuf schema, which was not made here, lacks fields: {names}; add them there"
        )
    return _LAST_BRACE.sub("", text) + "\n".join([*_fields(columns, first, "  ", ()), "}", ""])


def plain_type(kind: pa.DataType) -> pa.DataType:
    """The type with text for what Protobuf has no number for."""
    types = pa.types
    if types.is_decimal(kind) or types.is_date(kind) or types.is_time(kind):
        return pa.string()
    if types.is_duration(kind):
        return pa.int64()
    if types.is_dictionary(kind):
        return plain_type(kind.value_type)
    if types.is_struct(kind):
        return pa.struct([field.with_type(plain_type(field.type)) for field in kind])
    if types.is_map(kind):
        return pa.map_(plain_type(kind.key_type), plain_type(kind.item_type))
    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        return pa.list_(kind.value_field.with_type(plain_type(kind.value_type)))
    return kind


def _fields(columns: pa.Schema | pa.StructType, first: int, indent: str, path: tuple[str, ...]) -> list[str]:
    lines: list[str] = []
    for number, column in enumerate(columns, first):
        place = ".".join((*path, column.name))
        if not _NAME.fullmatch(column.name):
            raise FlowError(
                f"column '{place}': Protobuf names have letters, digits and _ only; rename it (`rename`, or AS)"
            )
        kind = plain_type(column.type)
        if pa.types.is_map(kind):
            key = "string" if pa.types.is_string(kind.key_type) else _scalar(kind.key_type, place)
            value = _declared(kind.item_type, column.name, indent, (*path, column.name), lines)
            lines.append(f"{indent}map<{key}, {value}> {column.name} = {number};")
        elif pa.types.is_list(kind):
            item = _declared(kind.value_type, column.name, indent, (*path, column.name), lines)
            lines.append(f"{indent}repeated {item} {column.name} = {number};")
        else:
            told = _declared(kind, column.name, indent, (*path, column.name), lines)
            lines.append(f"{indent}optional {told} {column.name} = {number};")
    return lines


def _declared(kind: pa.DataType, name: str, indent: str, path: tuple[str, ...], lines: list[str]) -> str:
    """The name of the type; a message is declared before."""
    if not pa.types.is_struct(kind):
        return _scalar(kind, ".".join(path))
    message = "".join(part.capitalize() for part in name.split("_")) + "Value"
    lines += [f"{indent}message {message} {{", *_fields(kind, 1, f"{indent}  ", path), f"{indent}}}"]
    return message


def _scalar(kind: pa.DataType, place: str) -> str:
    types = pa.types
    if types.is_boolean(kind):
        return "bool"
    if types.is_integer(kind):
        return f"{'u' if types.is_unsigned_integer(kind) else ''}int{64 if kind.bit_width == 64 else 32}"
    if types.is_floating(kind):
        return "double" if kind == pa.float64() else "float"
    if types.is_timestamp(kind):
        return _TIMESTAMP if kind.tz is not None else "string"
    if types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind) or types.is_null(kind):
        return "string"
    if types.is_binary(kind) or types.is_large_binary(kind) or types.is_fixed_size_binary(kind):
        return "bytes"
    raise FlowError(f"column '{place}' of type {kind} has no Protobuf form; select other columns or cast it before")
