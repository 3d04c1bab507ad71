"""Catalog: which tables are followed, what identifies their rows, and what their columns' types are made of."""

from __future__ import annotations

from dataclasses import dataclass

from airflow_provider_connect.connectors._postgresql.client import Connection, run
from airflow_provider_connect.connectors._postgresql.names import TableName
from airflow_provider_connect.connectors.postgresql_cdc.config import Pattern
from airflow_provider_connect.engine.errors import FlowError

_INTEGERS = frozenset((20, 21, 23, 26))
_TEXTS = frozenset((25, 1043))
_UUID = 2950
_BPCHAR = 1042


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table: its name, and its type's OID, which is that beneath where the type is a domain."""

    name: str
    type: int
    number: int = 0


@dataclass(frozen=True, slots=True)
class FollowedTable:
    """A table whose changes are followed. `key` identifies its rows: the primary key, or the replica identity."""

    oid: int
    name: TableName
    partitioned: bool
    key: tuple[str, ...]
    identity: str
    """`d` (primary key), `i` (an index), `f` (the whole row) or `n` (nothing)."""
    columns: tuple[Column, ...]

    @property
    def label(self) -> str:
        """The name in positions and messages."""
        return str(self.name)


_TABLES = """
SELECT c.oid::int8, n.nspname, c.relname, c.relkind = 'p', c.relreplident::text,
       array(SELECT a.attname::text FROM unnest(i.indkey::int2[]) WITH ORDINALITY AS k(attnum, position)
               JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum = k.attnum
              WHERE k.position <= i.indnkeyatts ORDER BY k.position)
  FROM pg_catalog.pg_class c
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
  LEFT JOIN LATERAL (
       SELECT * FROM pg_catalog.pg_index i
        WHERE i.indrelid = c.oid AND (i.indisprimary OR i.indisreplident AND c.relreplident = 'i')
        ORDER BY i.indisreplident AND c.relreplident = 'i' DESC LIMIT 1) i ON true
 WHERE c.relkind IN ('r', 'p') AND c.relpersistence = 'p'
"""
_COLUMNS = """
WITH RECURSIVE beneath AS (
    SELECT a.attnum, a.attname, a.atttypid AS type FROM pg_catalog.pg_attribute a
     WHERE a.attrelid = %s AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''
    UNION ALL
    SELECT b.attnum, b.attname, t.typbasetype FROM beneath b
      JOIN pg_catalog.pg_type t ON t.oid = b.type AND t.typtype = 'd')
SELECT b.attname, b.type::int8, b.attnum FROM beneath b
  JOIN pg_catalog.pg_type t ON t.oid = b.type AND t.typtype <> 'd' ORDER BY b.attnum
"""


def find_tables(connection: Connection, patterns: tuple[Pattern, ...]) -> list[FollowedTable]:
    """The tables that `patterns` name, by name. FlowError if one is missing, or has nothing that identifies its rows.

    Of a partitioned table only the root counts, and its partitions are left out of `schema.*`.
    """
    found: dict[int, FollowedTable] = {}
    for schema, table in patterns:
        if table is None:
            where, values = "n.nspname = %s AND NOT c.relispartition", [schema]
        else:
            where, values = "n.nspname = %s AND c.relname = %s", [schema, table]
        rows = run(connection, f"{_TABLES} AND {where}", values).fetchall()
        if not rows:
            what = f"table '{schema}.{table}'" if table is not None else f"table in schema '{schema}'"
            raise FlowError(f"there is no {what} that changes can be followed of; write `schema.table` in exact case")
        found |= {row[0]: _followed(connection, row) for row in rows}
    return sorted(found.values(), key=lambda table: (table.name.schema or "", table.name.table))


def table_of(connection: Connection, oid: int) -> FollowedTable | None:
    """The table with this OID; None if there is none any more."""
    row = run(connection, f"{_TABLES} AND c.oid = %s", [oid]).fetchone()
    return _followed(connection, row) if row is not None else None


def _followed(connection: Connection, row: tuple[object, ...]) -> FollowedTable:
    oid, schema, name, partitioned, identity, key = row
    columns = tuple(Column(*column) for column in run(connection, _COLUMNS, [oid]).fetchall())
    return FollowedTable(
        int(str(oid)),
        TableName(str(schema), str(name)),
        bool(partitioned),
        tuple(key) if isinstance(key, list) else (),
        str(identity),
        columns,
    )


def refuse_unidentified(tables: list[FollowedTable], snapshot: bool) -> None:
    """FlowError if rows of a table cannot be told apart.

    Publishing such a table would make the server refuse every UPDATE and DELETE of it.
    """
    for table in tables:
        quoted = table.name.sql
        if table.identity == "n" or (table.identity == "d" and not table.key):
            raise FlowError(
                f"table '{table.label}' has no {'primary key' if not table.key else 'replica identity'}: published"
                " as it is, the server would refuse every UPDATE and DELETE of it. Add a primary key, or run"
                f" ALTER TABLE {quoted} REPLICA IDENTITY FULL and set `snapshot: never`"
            )
        if snapshot and not table.key:
            raise FlowError(
                f"table '{table.label}' has no primary key, so a snapshot that is interrupted could not go on where it"
                " was; add one, or set `snapshot: never`"
            )


def types_beneath(connection: Connection, types: set[int]) -> dict[int, tuple[int, int]]:
    """For types that are not built in: the type beneath a domain, and the element type of an array (0: none)."""
    found: dict[int, tuple[int, int]] = {}
    rows = run(
        connection,
        "WITH RECURSIVE beneath AS (SELECT oid AS named, oid AS type FROM unnest(%s::oid[]) AS t(oid) UNION ALL"
        " SELECT b.named, t.typbasetype FROM beneath b JOIN pg_catalog.pg_type t ON t.oid = b.type AND typtype = 'd')"
        " SELECT b.named::int8, b.type::int8, CASE WHEN t.typcategory = 'A' THEN t.typelem::int8 ELSE 0 END"
        " FROM beneath b JOIN pg_catalog.pg_type t ON t.oid = b.type AND t.typtype <> 'd'",
        [list(types)],
    )
    for named, beneath, element in rows.fetchall():
        found[named] = (beneath, element)
    return found


@dataclass(frozen=True, slots=True)
class Ordering:
    """An order of a table's rows by primary key that the server and we agree on, whatever the database's collation.

    Integers count as such; anything else by the bytes of its text.
    """

    names: tuple[str, ...]
    types: tuple[int, ...]

    @classmethod
    def of(cls, table: FollowedTable) -> Ordering:
        """The order of this table."""
        types = {column.name: column.type for column in table.columns}
        return cls(table.key, tuple(types[name] for name in table.key))

    def comparable(self, key: tuple[str, ...]) -> tuple[int | str, ...]:
        """What Python compares as the server compares `expressions`. Code points are in the order of UTF-8's bytes."""
        return tuple(int(text) if type_ in _INTEGERS else text for text, type_ in zip(key, self.types, strict=True))

    def expressions(self, quoted: tuple[str, ...]) -> list[str]:
        """SQL to order the columns by."""
        return [self._expression(name, type_) for name, type_ in zip(quoted, self.types, strict=True)]

    @staticmethod
    def _expression(name: str, type_: int) -> str:
        if type_ in _INTEGERS or type_ == _UUID:
            return name
        # As bytes in UTF-8 the order is the same in every database, and with every collation.
        return f"convert_to({text_of(name, type_)}, 'UTF8')"

    def literals(self, literal_texts: list[str]) -> list[str]:
        """SQL of values to compare `expressions` with, from quoted texts."""
        casts = []
        for text, type_ in zip(literal_texts, self.types, strict=True):
            if type_ in _INTEGERS:
                casts.append(f"{text}::int8")
            elif type_ == _UUID:
                casts.append(f"{text}::uuid")
            else:
                casts.append(f"convert_to({text}, 'UTF8')")
        return casts


def text_of(quoted: str, type_: int) -> str:
    """SQL of a column's text as its output function writes it, which is also what a replication stream has."""
    if type_ in _TEXTS:
        return f"{quoted}::text"
    if type_ == _BPCHAR:  # a cast would cut the blanks off
        return f"CASE WHEN {quoted} IS NOT NULL THEN format('%s', {quoted}) END"
    if type_ == 16:
        return f"CASE {quoted} WHEN true THEN 't' WHEN false THEN 'f' END"
    return f"{quoted}::text"
