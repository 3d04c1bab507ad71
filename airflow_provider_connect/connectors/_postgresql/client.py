"""Client: sessions with settings that make texts exact, and every error sorted by its SQLSTATE."""

from __future__ import annotations

import re
from typing import Any, cast

import psycopg
from psycopg import sql

from airflow_provider_connect.connectors._postgresql.access import Access
from airflow_provider_connect.engine.errors import ConnectError, Fatal, InvalidRecord, Retryable

Connection = psycopg.Connection[tuple[Any, ...]]

_SESSION = {
    "client_encoding": "UTF8",
    "client_min_messages": "warning",
    "standard_conforming_strings": "on",
    "DateStyle": "ISO, MDY",
    "IntervalStyle": "postgres",
    "TimeZone": "UTC",
    "extra_float_digits": "1",
    "bytea_output": "hex",
    # Both sides may rest for as long as the flow does; the network is watched by keep-alives.
    "idle_in_transaction_session_timeout": "0",
    "statement_timeout": "0",
}
"""What makes texts exact and the same on every server; settings of the connection string go over it."""

_RETRYABLE = re.compile(
    r"08...|53...|57P0.|57014|58...|72...|"  # connection, resources, shutdown, cancelled, system, old snapshot
    r"40001|40003|40P01|55P03|55006|25006|25P0[34]"  # serialisation, deadlock, locks, now a standby, idle too long
)
_INVALID_RECORD = re.compile(
    r"22...|23...|44000|54000|27000|P0001"  # data, constraints, view check, size limit, triggers that refuse
)
_WRONG_ACCESS = re.compile(
    r"authentication failed|no password supplied|no pg_hba\.conf entry|role .* does not exist"
    r"|database .* does not exist|is not permitted to log in|permission denied for database"
    r"|certificate verify failed|certificate file|does not match host name|SSL error: .* alert |private key file"
    r"|server does not support SSL|invalid .* value|unsupported frontend protocol|unrecognized configuration parameter"
)


def connect(access: Access, application_name: str, read_only: bool = False) -> Connection:
    """A session in autocommit. Raises sorted errors: Retryable if the server cannot be reached, Fatal if it refuses."""
    parameters = {**access.parameters, "application_name": application_name}
    try:
        connection = psycopg.connect(**cast(dict[str, Any], parameters), autocommit=True)
    except psycopg.Error as error:
        raise sort_error(error) from error
    settings = {**_SESSION, **({"default_transaction_read_only": "on"} if read_only else {}), **access.settings}
    try:
        for name in settings:
            _check_setting(name)
        # One message for all of them: a session is then ready in one round trip.
        connection.execute(
            sql.SQL("; ").join(
                sql.SQL("SELECT pg_catalog.set_config({}, {}, false)").format(name, value)
                for name, value in settings.items()
            )
        )
    except psycopg.Error as error:
        connection.close()
        raise sort_error(error) from error
    return connection


def _check_setting(name: str) -> None:
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_.]*", name):
        raise Fatal(f"the connection string has an unknown parameter '{name}'")


def run(connection: Connection, statement: str, parameters: Any = None) -> psycopg.Cursor[tuple[Any, ...]]:
    """Execute SQL that was put together from quoted parts."""
    return connection.execute(statement, parameters)


def describe_server(access: Access) -> str:
    """One line on what answers at this address."""
    with connect(access, "airflow-connect") as connection:
        row = run(connection, "SELECT current_setting('server_version'), current_database(), current_user").fetchone()
    assert row is not None
    return f"PostgreSQL {row[0]}, database {row[1]}, as {row[2]}"


def sort_error(error: Exception) -> ConnectError:
    """What kind of error this is. One without SQLSTATE never came from a statement: the connection broke."""
    if isinstance(error, ConnectError):
        return error
    if not isinstance(error, psycopg.Error):
        return Fatal(f"{type(error).__name__}: {error}")
    state, text = error.sqlstate, _text(error)
    if state is None:
        if isinstance(error, psycopg.OperationalError | psycopg.InterfaceError):
            return Fatal(text) if _WRONG_ACCESS.search(text) else Retryable(text)
        return Fatal(text)
    if _RETRYABLE.fullmatch(state):
        return Retryable(text)
    if _INVALID_RECORD.fullmatch(state):
        return InvalidRecord(text)
    return Fatal(text)


def _text(error: psycopg.Error) -> str:
    """Message and detail in one line; not the context, which quotes whole lines of data."""
    diagnostic = error.diag
    if diagnostic.message_primary is None:
        return " ".join(str(error).split())
    parts = [diagnostic.message_primary, diagnostic.message_detail, diagnostic.message_hint]
    return f"{'; '.join(part for part in parts if part)} (SQLSTATE {error.sqlstate})"


_LINE = re.compile(r"COPY [^\n]*?, line (\d+)")


def refused_line(error: psycopg.Error) -> int | None:
    """The line of a COPY that an error is about, counted from 1."""
    found = _LINE.search(error.diag.context or "")
    return int(found[1]) if found else None
