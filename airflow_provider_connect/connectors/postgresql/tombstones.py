"""Tombstones: null documents, whose key says which row is to be deleted."""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from airflow_provider_connect.engine.errors import InvalidRecord


def filled(documents: pa.Array, keys: pa.Array, key: tuple[str, ...]) -> pa.Array:
    """`documents` with a document of just the key's fields for each null, made of its record's key.

    That is a JSON object with these fields (as Kafka Connect and Debezium write keys, with or without their schema), or
    the bare text of the one field. InvalidRecord: null documents whose key is neither.
    """
    places = pc.indices_nonzero(documents.is_null())
    made: list[bytes] = []
    refused: dict[int, str] = {}
    for place, text in zip(places.to_pylist(), keys.take(places).to_pylist(), strict=True):
        fields = _fields(text, key)
        if fields is None:
            refused[place] = f"a null document deletes a row, but its key has no {' and '.join(map(repr, key))}"
        else:
            made.append(json.dumps(fields).encode())
    if refused:
        raise InvalidRecord(f"{len(refused)} rows: {next(iter(refused.values()))} (conflictKey)", rows=refused)
    return pc.replace_with_mask(documents, documents.is_null(), pa.array(made, documents.type))


def _fields(text: bytes | None, key: tuple[str, ...]) -> dict[str, Any] | None:
    if text is None:
        return None
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    if isinstance(found, dict) and isinstance(found.get("payload"), dict) and "schema" in found:
        found = found["payload"]
    if isinstance(found, dict) and all(isinstance(found.get(name), str | int | float) for name in key):
        return {name: found[name] for name in key}
    if len(key) != 1:
        return None
    try:
        return {key[0]: text.decode()}
    except UnicodeDecodeError:
        return None
