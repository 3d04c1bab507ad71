"""Evolution: tables that are made of what arrives and grow with it. Columns are added and widened, nothing else.

A table is created in a transaction of its own, columns change in the transaction of the rows that need it. Changes wait
for each other by a lock; and for a transaction that writes to the table, which is a lane's flush at most.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from airflow_provider_connect.codecs.json import Json
from airflow_provider_connect.connectors._postgresql.client import Connection, run
from airflow_provider_connect.connectors._postgresql.names import TableName, quoted
from airflow_provider_connect.connectors.postgresql.column_types import (
    Wanted,
    converted,
    fitted,
    type_of_column,
    type_of_field,
    wider,
)
from airflow_provider_connect.connectors.postgresql.table import Table, find_table, lock_creation
from airflow_provider_connect.engine.batch import COLUMNS, format_of
from airflow_provider_connect.engine.errors import Fatal, InvalidRecord, Retryable

LOCK_TIMEOUT = "30s"

_LONGEST_NAME = 63
_OF_THE_SYSTEM = frozenset(("tableoid", "xmin", "cmin", "xmax", "cmax", "ctid"))
_FIRST_LOCAL_OID = 16384


# --- what rows need


def wanted_of(connection: Connection, rows: pa.RecordBatch, table: Table | None) -> list[Wanted]:
    """The columns that rows of any format need. InvalidRecord: documents that are none, or have impossible names."""
    encoding = format_of(rows.schema)
    if encoding == COLUMNS:
        return wanted_of_columns(rows, table)
    if encoding == "json":
        return wanted_of_documents(rows, table)
    described = (rows.schema.metadata or {}).get(b"columns", b"[]")
    return wanted_of_server(connection, [(c["name"], c["type"], c.get("oid", 0)) for c in json.loads(described)])


def wanted_of_columns(rows: pa.RecordBatch, table: Table | None) -> list[Wanted]:
    """The columns of Arrow columns; those with nothing but nulls are decided later."""
    for name in rows.schema.names:
        if problem := _impossible(name):
            raise Fatal(f"column '{name[:80]}' {problem}; rename it by a transform")
    return [wanted for index, field in enumerate(rows.schema) if (wanted := _wanted(field, rows.column(index), table))]


def wanted_of_documents(rows: pa.RecordBatch, table: Table | None) -> list[Wanted]:
    """The columns of the fields of JSON documents; null documents and fields that are null in all of them have none."""
    places = pc.indices_nonzero(rows.column("value").is_valid())
    try:
        decoded = Json().decode(rows if len(places) == rows.num_rows else rows.take(places))
    except InvalidRecord as error:
        named = {places[index].as_py(): reason for index, reason in (error.rows or {}).items()}
        raise InvalidRecord(str(error), rows=named or None) from error
    found = []
    for field, values in zip(decoded.schema, decoded.columns, strict=True):
        if problem := _impossible(field.name):
            holding = places.take(pc.indices_nonzero(values.is_valid())).to_pylist()
            if holding:
                reason = f"field '{field.name[:80]}' {problem}"
                raise InvalidRecord(f"{len(holding)} documents: {reason}", rows=dict.fromkeys(holding, reason))
        elif wanted := _wanted(field, values, table, documents=True):
            found.append(wanted)
    return found


def wanted_of_server(connection: Connection, columns: Iterable[tuple[str, str, int]]) -> list[Wanted]:
    """The columns that another server has: name, type and its OID. A type that is unknown here becomes text."""
    return [
        Wanted(name, type_)
        for name, type_ in run(
            connection,
            "SELECT name, CASE WHEN to_regtype(type) IS NOT NULL THEN type"
            f" WHEN oid BETWEEN 1 AND {_FIRST_LOCAL_OID - 1} THEN format_type(oid, NULL)"
            " WHEN type LIKE '%%[]' THEN 'text[]' ELSE 'text' END"
            " FROM unnest(%s::text[], %s::text[], %s::oid[]) WITH ORDINALITY AS c(name, type, oid, n) ORDER BY n",
            [list(values) for values in zip(*columns, strict=True)] or [[], [], []],
        ).fetchall()
    ]


def _wanted(field: pa.Field, values: pa.Array, table: Table | None, documents: bool = False) -> Wanted | None:
    type_ = type_of_field(field) if documents else type_of_column(field)
    if type_ is None:
        return None
    column = table.column(field.name) if table is not None else None
    return Wanted(field.name, type_ if column is None else fitted(type_, column.type, values))


def _impossible(name: str) -> str | None:
    """Why no column can have this name."""
    if not name or "\0" in name:
        return "has a name that no column can have"
    if len(name.encode()) > _LONGEST_NAME:
        return f"has a name of more than {_LONGEST_NAME} bytes, which no column can have"
    return "is named like a column of the system" if name in _OF_THE_SYSTEM else None


# --- what the table gets


def missing(table: Table, wanted: Sequence[Wanted]) -> list[str]:
    """What ALTER TABLE must do so that the table holds what is wanted."""
    actions = []
    for column in wanted:
        there = table.column(column.name)
        name = quoted(column.name)
        if there is None:
            actions.append(f"ADD COLUMN {name} {column.type}")
        elif not there.generated and (type_ := wider(there.type, column.type)) is not None:
            actions.append(f"ALTER COLUMN {name} TYPE {type_} USING {converted(name, there.type, type_)}")
    return actions


def evolve(connection: Connection, table: Table, wanted: Callable[[Table], Sequence[Wanted]]) -> Table:
    """Within the open transaction, alter the table where it lacks what rows want of it; returns it as it then is."""
    (before,) = _row(connection, "SELECT current_setting('lock_timeout')")
    _row(connection, f"SELECT set_config('lock_timeout', '{LOCK_TIMEOUT}', true)")
    lock_creation(connection, str(table.name))
    fresh = _find(connection, table.name)  # another lane may have been first
    if actions := missing(fresh, wanted(fresh)):
        # Constraints that are checked late would forbid it once rows are written.
        run(connection, "SET CONSTRAINTS ALL IMMEDIATE")
        run(connection, f"ALTER TABLE {table.name.sql} {', '.join(actions)}")
        fresh = _find(connection, table.name)
    _row(connection, "SELECT set_config('lock_timeout', %s, true)", [before])
    return fresh


def create_typed_table(
    connection: Connection, name: TableName, wanted: Sequence[Wanted], key: tuple[str, ...], soft_delete: str | None
) -> None:
    """Create a table with these columns, `key` being its primary key. Idempotent, and safe when several do it at once.

    Fatal if the key is not among them.
    """
    names = [column.name for column in wanted]
    if lacking := [column for column in key if column not in names]:
        raise Fatal(f"the rows have no column '{lacking[0]}', which is to identify them in '{name}' (conflictKey)")
    columns = [f"{quoted(column.name)} {column.type}" for column in wanted]
    if soft_delete is not None and soft_delete not in names:
        columns.append(f"{quoted(soft_delete)} timestamptz")
    if key:
        columns.append(f"PRIMARY KEY ({', '.join(quoted(column) for column in key)})")
    with connection.transaction():
        lock_creation(connection, str(name))
        run(connection, f"CREATE TABLE IF NOT EXISTS {name.sql} ({', '.join(columns)})")


def _find(connection: Connection, name: TableName) -> Table:
    table = find_table(connection, name)
    if table is None:
        raise Retryable(f"the table '{name}' is gone")
    return table


def _row(connection: Connection, statement: str, parameters: list[Any] | None = None) -> tuple[Any, ...]:
    row = run(connection, statement, parameters).fetchone()
    assert row is not None
    return row
