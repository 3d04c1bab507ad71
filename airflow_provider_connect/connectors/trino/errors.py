"""Errors: what went wrong at Trino, sorted by its error's name and type."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from airflow_provider_connect.engine.errors import ConnectError, Fatal, InvalidRecord, Retryable

_INVALID_RECORD = frozenset(
    (
        "CONSTRAINT_VIOLATION",
        "DIVISION_BY_ZERO",
        "INVALID_CAST_ARGUMENT",
        "INVALID_FUNCTION_ARGUMENT",
        "INVALID_LITERAL",
        "JDBC_NON_TRANSIENT_ERROR",
        "JSON_INPUT_CONVERSION_ERROR",
        "NUMERIC_VALUE_OUT_OF_RANGE",
    )
)
_PASSES = frozenset(
    (
        "ABANDONED_QUERY",
        "ABANDONED_TASK",
        "ADMINISTRATIVELY_KILLED",
        "ADMINISTRATIVELY_PREEMPTED",
        "ICEBERG_COMMIT_ERROR",
        "TABLE_REDIRECTION_ERROR",
        "TRANSACTION_ALREADY_ABORTED",
        "TRANSACTION_CONFLICT",
        "UNKNOWN_TRANSACTION",
        "USER_CANCELED",
    )
)
_REMEDIES = {
    "QUERY_TEXT_TOO_LARGE": "set `maxStatementLength` to what the server's `query.max-length` is",
    "TABLE_NOT_FOUND": "check `catalog`, `schema` and `table`",
    "SCHEMA_NOT_FOUND": "check `catalog` and `schema`",
    "CATALOG_NOT_FOUND": "check `catalog`",
    "COLUMN_NOT_FOUND": "check the names of columns",
    "PERMISSION_DENIED": "grant it, or use another account",
    "NOT_SUPPORTED": "the catalog's connector cannot do it",
}


class MissingTable(Fatal):
    """There is no such table, or no such schema."""


def statement_error(error: Mapping[str, Any]) -> ConnectError:
    """The error of a statement, as the server reports it."""
    name, kind = str(error.get("errorName", "")), str(error.get("errorType", ""))
    text = f"{' '.join(str(error.get('message', 'no message')).split())[:1000]} ({name})"
    if name in _INVALID_RECORD:
        return InvalidRecord(text)
    if name in _PASSES or (kind in ("INTERNAL_ERROR", "INSUFFICIENT_RESOURCES", "EXTERNAL") and name not in _REMEDIES):
        return Retryable(text)
    if name in ("TABLE_NOT_FOUND", "SCHEMA_NOT_FOUND"):
        return MissingTable(f"{text}; {_REMEDIES[name]}")
    return Fatal(f"{text}; {_REMEDIES[name]}" if name in _REMEDIES else text)


def sort_error(error: Exception) -> ConnectError:
    """What kind of error this is: ours is sorted already, nobody knows any other."""
    if isinstance(error, ConnectError):
        return error
    return Fatal(f"{type(error).__name__}: {error}")
