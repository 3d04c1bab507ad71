"""Fields: single values out of JSON documents as text, without decoding the rest of them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from airflow_provider_connect.codecs._json_text import texts
from airflow_provider_connect.codecs.json import read_as
from airflow_provider_connect.engine.errors import InvalidRecord

_KINDS = {bool: pa.bool_(), int: pa.int64()}
"""Kinds of values that Arrow reads and writes without changing them, beside text."""


class Text:
    """A scalar field of each document: `plain` as text, null where it is null or missing; `quoted` if it is text."""

    def __init__(self, plain: pa.Array, quoted: bool | pa.Array) -> None:
        self.plain = plain
        self._quoted = quoted

    def json(self) -> pa.Array:
        """As JSON, `null` where there is none."""
        if self._quoted is False:
            made = self.plain
        else:
            made = texts(self.plain, pa.field("", pa.string())).cast(pa.string())
            if self._quoted is not True:
                made = pc.if_else(self._quoted, made, self.plain)
        return pc.fill_null(made, "null")


class Fields:
    """Reads fields, named by their path (`customer.country`), out of documents.

    The same document always gives the same texts, whatever else is in its batch: text as it is, integers in decimal,
    other numbers as they are written, booleans as `true` and `false`.
    """

    def __init__(self, paths: Iterable[str]) -> None:
        self.paths = tuple(dict.fromkeys(paths))
        self._types: dict[str, pa.DataType] = dict.fromkeys(self.paths, pa.string())

    def read(self, documents: pa.Array) -> dict[str, Text]:
        """The fields of each document (binary; null: all of them are null).

        InvalidRecord for documents that are no JSON objects, and for fields that are objects or arrays.
        """
        filled = pc.fill_null(documents, b"{}") if documents.null_count else documents
        for anew in (False, True):
            try:
                types = self._types_of(filled) if anew else self._types
                found = self._quickly(filled, types)
            except (ValueError, RecursionError, InvalidRecord):
                continue
            self._types = types
            return found
        return self._one_by_one(filled)

    def _types_of(self, documents: pa.Array) -> dict[str, pa.DataType]:
        """What the first document of a batch has."""
        first = json.loads(documents[0].as_py()) if len(documents) else {}
        return {path: _KINDS.get(type(_at(first, path)), pa.string()) for path in self.paths}

    def _quickly(self, documents: pa.Array, types: dict[str, pa.DataType]) -> dict[str, Text]:
        """All at once, if each field has the type that is expected of it."""
        table = read_as(documents, _nested(types), ignore_others=True)
        found = {}
        for path, kind in types.items():
            name, *rest = path.split(".")
            column = table.column(name).combine_chunks()
            if rest:
                column = pc.struct_field(column, rest)
            found[path] = Text(column.cast(pa.string()), pa.types.is_string(kind))
        return found

    def _one_by_one(self, documents: pa.Array) -> dict[str, Text]:
        refused: dict[int, str] = {}
        found: dict[str, list[tuple[str | None, bool]]] = {path: [] for path in self.paths}
        for row, document in enumerate(documents.to_pylist()):
            try:
                parsed = json.loads(document, parse_float=_Written)
                if not isinstance(parsed, dict):
                    raise ValueError("it is no object")
            except (ValueError, RecursionError) as error:
                refused[row], parsed = f"the document is not JSON: {error}", {}
            for path, values in found.items():
                value = _at(parsed, path)
                if isinstance(value, dict | list):
                    refused[row], value = f"the field '{path}' is no text, number or boolean", None
                values.append((_text(value), isinstance(value, str) and not isinstance(value, _Written)))
        if refused:
            first = min(refused)
            raise InvalidRecord(f"{len(refused)} records refused; row {first}: {refused[first]}", rows=refused)
        return {path: _texts_of(values) for path, values in found.items()}


class _Written(str):
    """A number with a fraction, as it is written."""


def _texts_of(values: list[tuple[str | None, bool]]) -> Text:
    plain, quoted = ([pair[part] for pair in values] for part in (0, 1))
    return Text(pa.array(plain, pa.string()), pa.array(quoted, pa.bool_()))


def _text(value: Any) -> str | None:
    if isinstance(value, bool):
        return "true" if value else "false"
    return None if value is None else str(value)


def _at(document: Any, path: str) -> Any:
    for name in path.split("."):
        document = document.get(name) if isinstance(document, dict) else None
    return document


def _nested(types: dict[str, pa.DataType]) -> dict[str, pa.DataType]:
    """The types of whole fields, structs around those of deeper paths."""
    tree: dict[str, Any] = {}
    for path, kind in types.items():
        *outer, last = path.split(".")
        inner = tree
        for name in outer:
            inner = inner.setdefault(name, {})
            if not isinstance(inner, dict):
                raise pa.ArrowInvalid("a field and a part of it")
        if last in inner:
            raise pa.ArrowInvalid("a field and a part of it")
        inner[last] = kind
    return {name: _as_type(branch) for name, branch in tree.items()}


def _as_type(branch: Any) -> pa.DataType:
    if isinstance(branch, dict):
        return pa.struct([pa.field(name, _as_type(inner)) for name, inner in branch.items()])
    return branch
