"""Manifests: the documents beside a flow in its file, of which Secrets serve its SecretRefs where nothing else does."""

from __future__ import annotations

import base64
import binascii
import logging
from collections.abc import Iterable, Mapping
from typing import Any

from airflow_provider_connect.engine.connections import Connection, ConnectionLookup
from airflow_provider_connect.engine.errors import FlowError
from airflow_provider_connect.engine.lint import Document, LintError, Problem, kind_of
from airflow_provider_connect.engine.registry import suggestion

log = logging.getLogger(__name__)


def flow_documents(documents: Iterable[Document]) -> tuple[list[Document], dict[str, Connection]]:
    """The flows among `documents`, and the Secrets as connections by `name` and `namespace.name`.

    LintError if there is something else, or no flow. A document without a `kind` counts as a flow, to be judged there.
    """
    flows: list[Document] = []
    secrets: dict[str, Connection] = {}
    problems: list[Problem] = []
    last = None
    for last in documents:
        kind = last.data.get("kind", "DataFlow") if isinstance(last.data, Mapping) else "DataFlow"
        if kind == "Secret":
            problems.extend(_read_secret(last, secrets))
        elif isinstance(kind, str) and kind != "DataFlow":
            hint = suggestion(kind, ("DataFlow", "Secret"))
            problems.append(last.problem(("kind",), f"'{kind}' is neither a flow nor a Secret{hint}"))
        else:
            flows.append(last)
    if not flows and not problems and last is not None:
        problems.append(last.problem((), "no flow in this file; a flow has `kind: DataFlow`"))
    if problems:
        raise LintError(problems)
    return flows, secrets


def manifest_lookup(lookup: ConnectionLookup, secrets: Mapping[str, Connection]) -> ConnectionLookup:
    """`lookup`, each id asked once; then the Secrets of the flow's file."""
    found: dict[str, Connection] = {}

    def look(conn_id: str) -> Connection:
        if conn_id not in found:
            try:
                found[conn_id] = lookup(conn_id)
            except FlowError as error:
                if conn_id not in secrets:
                    raise
                log.warning(
                    "taking '%s' from the Secret in the flow's own file, where everybody can read it (%s)",
                    conn_id,
                    error,
                )
                found[conn_id] = secrets[conn_id]
        return found[conn_id]

    return look


def _read_secret(document: Document, secrets: dict[str, Connection]) -> list[Problem]:
    data = document.data
    metadata = data.get("metadata")
    name = metadata.get("name") if isinstance(metadata, Mapping) else None
    if not isinstance(name, str) or not name:
        return [document.problem(("metadata", "name"), "required, but missing: the name of the Secret")]
    values: dict[str, str] = {}
    problems = []
    for field in ("data", "stringData"):
        block = data.get(field)
        if block is None:
            continue
        if not isinstance(block, Mapping):
            problems.append(document.problem((field,), f"must be a mapping, but is {kind_of(block)}"))
            continue
        for key, value in block.items():
            try:
                values[key] = _text(value, encoded=field == "data")
            except ValueError as error:
                problems.append(document.problem((field, key), str(error)))
    connection = Connection(name, extra=values)
    secrets[name] = connection
    if isinstance(namespace := metadata.get("namespace"), str):
        secrets[f"{namespace}.{name}"] = connection
    return problems


def _text(value: Any, encoded: bool) -> str:
    if not isinstance(value, str):
        raise ValueError(f"must be text, but is {kind_of(value)}; put it in quotes")
    if not encoded:
        return value
    try:
        return base64.b64decode("".join(value.split()), validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        raise ValueError("must be text in base64; text as it is belongs under `stringData`") from None
