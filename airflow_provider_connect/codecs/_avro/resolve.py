"""Schema resolution: columns as their writer's schema has them, to what a reader's schema wants, by Avro's rules."""

from __future__ import annotations

from decimal import Context, Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from airflow_provider_connect.codecs._avro.schema import Type
from airflow_provider_connect.engine.errors import Fatal

_PROMOTED = {
    "int": {"long", "float", "double"},
    "long": {"float", "double"},
    "float": {"double"},
    "string": {"bytes"},
    "bytes": {"string"},
}


def resolved(values: pa.Array, writer: Type, reader: Type, place: str = "the record") -> pa.Array:
    """The values of the writer's type in the reader's Arrow type.

    Fields that the reader lacks are dropped, those that the writer lacks get their default. Fatal where Avro's rules
    have no way from the one schema to the other.
    """
    if reader.kind == "union":
        return _to_union(values, writer, reader, place)
    if writer.kind == "union":
        return _from_union(values, writer, reader, place)
    if writer.kind != reader.kind:
        if reader.kind not in _PROMOTED.get(writer.kind, ()):
            raise _impossible(writer, reader, place)
        plain = values.view({"int": pa.int32(), "long": pa.int64()}[writer.kind]) if writer.logical else values
        return plain.cast(reader.arrow, safe=False)
    if reader.kind == "record":
        return _record(values, writer, reader, place)
    if reader.kind == "array":
        assert writer.items is not None and reader.items is not None
        items = resolved(values.values, writer.items, reader.items, f"{place}[]")
        return pa.ListArray.from_arrays(values.offsets, items, mask=values.is_null())
    if reader.kind == "map":
        assert writer.items is not None and reader.items is not None
        items = resolved(values.items, writer.items, reader.items, f"{place}{{}}")
        found = pa.MapArray.from_arrays(values.offsets, values.keys, items)
        return pc.if_else(values.is_valid(), found, pa.scalar(None, found.type)) if values.null_count else found
    if reader.kind == "enum" and (gone := set(writer.symbols) - set(reader.symbols)):
        lost = pc.is_in(values, pa.array(sorted(gone), pa.string()))
        if pc.any(lost).as_py():
            raise Fatal(f"{place}: the schema to read with lacks the symbol {values.filter(lost)[0].as_py()!r}")
    if reader.kind == "fixed" and writer.size != reader.size:
        raise _impossible(writer, reader, place)
    if writer.arrow == reader.arrow:
        return values
    try:
        return values.cast(reader.arrow)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise _impossible(writer, reader, place) from error


def _record(values: pa.Array, writer: Type, reader: Type, place: str) -> pa.Array:
    own = {field.name: (field, part) for field, part in zip(writer.fields, values.flatten(), strict=True)}
    parts = []
    for field in reader.fields:
        name = next((name for name in (field.name, *field.aliases) if name in own), None)
        where = f"{place}.{field.name}" if place != "the record" else field.name
        if name is not None:
            parts.append(resolved(own[name][1], own[name][0].type, field.type, where))
        elif field.has_default:
            parts.append(_filled(_default(field.type, field.default), field.type, len(values)))
        else:
            raise Fatal(f"{where}: the schema that it was written with lacks this field, and it has no default")
    if not parts:
        return pa.array([None if null else {} for null in values.is_null().to_pylist()], reader.arrow)
    return pa.StructArray.from_arrays(parts, fields=list(reader.arrow), mask=values.is_null())


def _from_union(values: pa.Array, writer: Type, reader: Type, place: str) -> pa.Array:
    """A union to a type that is none: each value must be of a branch that leads there."""
    others = writer.others
    if any(branch.kind == "null" for branch in writer.branches) and values.null_count and reader.kind != "null":
        raise Fatal(f"{place} is null in a record, but the schema to read with takes no null for it")
    if not writer.apart:
        widest = next((writer.branches[i] for i in others if writer.branches[i].arrow == writer.arrow), Type("null"))
        return resolved(values, widest, reader, place)
    found = [
        resolved(part, writer.branches[index], reader, place)
        for index, part in zip(others, values.flatten(), strict=True)
        if part.null_count < len(part)
    ]
    return pc.coalesce(*found) if found else pa.nulls(len(values), reader.arrow)


def _to_union(values: pa.Array, writer: Type, reader: Type, place: str) -> pa.Array:
    if writer.kind == "union" and writer.apart and reader.apart:
        if writer.arrow == reader.arrow:
            return values
        raise _impossible(writer, reader, place)
    if reader.apart:
        index, branch = _branch(writer, reader, place)
        parts = [
            resolved(values, writer, branch, place)
            if each == index
            else pa.nulls(len(values), reader.branches[each].arrow)
            for each in reader.others
        ]
        return pa.StructArray.from_arrays(parts, fields=list(reader.arrow), mask=values.is_null())
    if writer.kind == "null" or not reader.others:
        return pa.nulls(len(values), reader.arrow)
    if values.null_count and not any(branch.kind == "null" for branch in reader.branches):
        raise Fatal(f"{place} is null in a record, but the schema to read with takes no null for it")
    widest = next(reader.branches[index] for index in reader.others if reader.branches[index].arrow == reader.arrow)
    if writer.kind == "union" and not writer.apart:
        if not writer.others:
            return pa.nulls(len(values), reader.arrow)
        inner = next(writer.branches[index] for index in writer.others if writer.branches[index].arrow == writer.arrow)
        return resolved(values, inner, widest, place)
    return resolved(values, writer, widest, place)


def _branch(writer: Type, reader: Type, place: str) -> tuple[int, Type]:
    for index in reader.others:
        branch = reader.branches[index]
        if branch.kind == writer.kind and branch.name.rpartition(".")[2] == writer.name.rpartition(".")[2]:
            return index, branch
    raise _impossible(writer, reader, place)


def _filled(value: Any, kind: Type, count: int) -> pa.Array:
    return pa.array([value], kind.arrow).take(pa.array(np.zeros(count, np.int64)))


def _default(kind: Type, raw: Any) -> Any:
    """A default as JSON has it, as what the type's column holds."""
    if kind.kind == "union":
        if raw is None or kind.branches[0].kind == "null":
            return None
        first = kind.branches[0]
        value = _default(first, raw)
        return {first.name.rpartition(".")[2] or first.kind: value} if kind.apart else value
    if kind.kind in ("bytes", "fixed"):
        found = raw.encode("latin-1")
        if kind.logical == "decimal":
            return Decimal(int.from_bytes(found, "big", signed=True)).scaleb(-kind.arrow.scale, Context(prec=80))
        return found
    if kind.kind == "record":
        return {field.name: _default(field.type, raw.get(field.name, field.default)) for field in kind.fields}
    if kind.kind in ("array", "map"):
        assert kind.items is not None
        if kind.kind == "array":
            return [_default(kind.items, item) for item in raw]
        return [(name, _default(kind.items, item)) for name, item in raw.items()]
    if kind.logical and kind.kind in ("int", "long"):
        narrow = pa.int32() if kind.kind == "int" else pa.int64()
        return pa.array([raw], narrow).view(kind.arrow)[0]
    return raw


def _impossible(writer: Type, reader: Type, place: str) -> Fatal:
    told = [kind.name or kind.kind for kind in (writer, reader)]
    return Fatal(f"{place} was written as '{told[0]}', which the schema to read with cannot take as '{told[1]}'")
