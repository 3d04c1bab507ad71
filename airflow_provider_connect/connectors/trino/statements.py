"""Statements: the SQL that writes rows."""

from __future__ import annotations

import json
from collections.abc import Sequence

from airflow_provider_connect.connectors.trino.literals import Texts, unnested
from airflow_provider_connect.connectors.trino.names import listed, literal, quoted
from airflow_provider_connect.connectors.trino.table import ROW, TOKEN, Table
from airflow_provider_connect.engine.errors import Fatal

_NUMBER = "connect_number"
_KEY = "connect_key"
_RANK = "connect_rank"


def insert(table: Table, columns: Sequence[Texts]) -> str:
    """Add rows."""
    variables = _variables(columns)
    values = ", ".join(column.expression(name) for column, name in zip(columns, variables, strict=True))
    return f"INSERT INTO {table.sql} ({_names(columns)}) SELECT {values} FROM {unnested(columns, variables)}"


def merge_new(table: Table, columns: Sequence[Texts], token: str, first: int) -> str:
    """Add rows of a token, numbered from `first` + 1 on, that are not there.

    The conditions with constants are what Iceberg checks a commit by.
    """
    variables = _variables(columns)
    values = [f"{column.expression(v)} AS {quoted(column.name)}" for column, v in zip(columns, variables, strict=True)]
    chosen = ", ".join([*values, f"{_NUMBER} + {first} AS {_NUMBER}"])
    rows = f"SELECT {chosen} FROM {unnested(columns, variables, _NUMBER)}"
    last = first + len(columns[0].values)
    known = f"t.{TOKEN} = {literal(token)} AND t.{ROW} BETWEEN {first + 1} AND {last} AND t.{ROW} = s.{_NUMBER}"
    inserted = f"{_names(columns, 's.')}, {literal(token)}, s.{_NUMBER}"
    return (
        f"MERGE INTO {table.sql} AS t USING ({rows}) AS s ON {known}"
        f" WHEN NOT MATCHED THEN INSERT ({_names(columns)}, {TOKEN}, {ROW}) VALUES ({inserted})"
    )


def merge_upsert(table: Table, columns: Sequence[Texts], key: Sequence[str]) -> str:
    """Replace the rows of the same key, add the others; of rows with the same key the last one counts."""
    variables = _variables(columns)
    values = [f"{column.expression(v)} AS {quoted(column.name)}" for column, v in zip(columns, variables, strict=True)]
    mine, theirs = _keys(table, columns, key)
    keys = ", ".join(f"{of} AS {_KEY}{at}" for at, of in enumerate(mine))
    made = f"SELECT {', '.join(values)}, {_NUMBER} FROM {unnested(columns, variables, _NUMBER)}"
    named = [f"{_KEY}{at}" for at in range(len(key))]
    # A row without a key is like no other.
    missing = " OR ".join(f"{name} IS NULL" for name in named)
    ranked = (
        f"SELECT *, row_number() OVER (PARTITION BY {', '.join(named)}, CASE WHEN {missing} THEN {_NUMBER} END"
        f" ORDER BY {_NUMBER} DESC) AS {_RANK} FROM (SELECT *, {keys} FROM ({made}) AS s)"
    )
    same = " AND ".join(f"{other} = s.{name}" for other, name in zip(theirs, named, strict=True))
    own = {name.lower() for name in key}
    changed = [column.name for column in columns if table.document_column is not None or column.name not in own]
    update = ""
    if changed:
        update = f" WHEN MATCHED THEN UPDATE SET {', '.join(f'{quoted(name)} = s.{quoted(name)}' for name in changed)}"
    return (
        f"MERGE INTO {table.sql} AS t USING (SELECT * FROM ({ranked}) WHERE {_RANK} = 1) AS s ON {same}{update}"
        f" WHEN NOT MATCHED THEN INSERT ({_names(columns)}) VALUES ({_names(columns, 's.')})"
    )


def _keys(table: Table, columns: Sequence[Texts], key: Sequence[str]) -> tuple[list[str], list[str]]:
    """SQL for the parts of the key in our rows, and in the table's."""
    document = table.document_column
    if document is not None:
        paths = [literal(f"$[{json.dumps(name, ensure_ascii=False)}]") for name in key]
        both = [[f"json_extract_scalar({of}.{quoted(document.name)}, {path})" for path in paths] for of in ("s", "t")]
        return both[0], both[1]
    names = {column.name for column in columns}
    if missing := [name for name in key if name.lower() not in names]:
        raise Fatal(f"conflictKey: the rows have no field '{missing[0]}'; they have {', '.join(sorted(names))}")
    return [f"s.{quoted(name.lower())}" for name in key], [f"t.{quoted(name.lower())}" for name in key]


def _variables(columns: Sequence[Texts]) -> list[str]:
    return [f"c{at}" for at in range(len(columns))]


def _names(columns: Sequence[Texts], prefix: str = "") -> str:
    return listed([column.name for column in columns], prefix)
