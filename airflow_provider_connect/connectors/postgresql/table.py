"""Table: what the server's catalog knows of the target or source, and the tables that we create."""

from __future__ import annotations

from dataclasses import dataclass

from psycopg import pq

from airflow_provider_connect.connectors._postgresql.client import Connection, run
from airflow_provider_connect.connectors._postgresql.names import TableName, literal, quoted
from airflow_provider_connect.engine.errors import Fatal

DOCUMENT_COLUMN = "data"
"""The json(b) column of tables that we create, and the one looked for in others."""


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table or of a query's result. `type` is `format_type()`'s text for it."""

    name: str
    type: str
    nullable: bool = True
    has_default: bool = False
    generated: bool = False
    always_identity: bool = False
    oid: int = 0
    """Of its type; 0 if that is not known."""

    @property
    def is_json(self) -> bool:
        """Whether it holds JSON."""
        return self.type in ("json", "jsonb")


@dataclass(frozen=True, slots=True)
class Table:
    """A table as the catalog describes it; `name` has its schema."""

    name: TableName
    columns: tuple[Column, ...]
    primary_key: tuple[str, ...]
    unique_keys: tuple[frozenset[str], ...]
    """The columns of each unique index that covers all rows, the primary key's among them."""

    def column(self, name: str) -> Column | None:
        """The column of this name."""
        return next((column for column in self.columns if column.name == name), None)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of all columns."""
        return tuple(column.name for column in self.columns)

    def document_column(self, besides: str | None = None) -> Column | None:
        """`data`, if it is json(b) and every other column fills itself: then whole documents go there. `besides` is
        not counted."""
        own = [
            column for column in self.columns if not (column.has_default or column.generated) and column.name != besides
        ]
        return own[0] if len(own) == 1 and own[0].name == DOCUMENT_COLUMN and own[0].is_json else None


_COLUMNS = """
SELECT a.attname, format_type(a.atttypid, a.atttypmod), NOT a.attnotnull,
       a.atthasdef AND a.attgenerated = '' OR a.attidentity <> '', a.attgenerated <> '', a.attidentity = 'a',
       a.atttypid::int8
  FROM pg_catalog.pg_attribute a
 WHERE a.attrelid = %s AND a.attnum > 0 AND NOT a.attisdropped
 ORDER BY a.attnum
"""
_UNIQUE_KEYS = """
SELECT i.indisprimary, array(
         SELECT a.attname::text FROM unnest(i.indkey::int2[]) WITH ORDINALITY AS k(attnum, n)
           JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum
          WHERE k.n <= i.indnkeyatts ORDER BY k.n)
  FROM pg_catalog.pg_index i
 WHERE i.indrelid = %s AND i.indisunique AND i.indisvalid AND i.indpred IS NULL AND i.indexprs IS NULL
 ORDER BY i.indisprimary DESC, i.indexrelid
"""


def find_table(connection: Connection, name: TableName) -> Table | None:
    """What the catalog knows of a table, view or foreign table; None if there is none."""
    row = run(
        connection,
        "SELECT c.oid, n.nspname, c.relname FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n"
        " ON n.oid = c.relnamespace WHERE c.oid = to_regclass(%s) AND c.relkind IN ('r', 'p', 'v', 'm', 'f')",
        [name.sql],
    ).fetchone()
    if row is None:
        return None
    columns = run(connection, _COLUMNS, [row[0]]).fetchall()
    keys = run(connection, _UNIQUE_KEYS, [row[0]]).fetchall()
    primary = next((tuple(columns) for is_primary, columns in keys if is_primary), ())
    return Table(
        TableName(row[1], row[2]),
        tuple(Column(*column) for column in columns),
        primary,
        tuple(frozenset(columns) for _, columns in keys),
    )


def exists(connection: Connection, name: TableName) -> bool:
    """Whether there is a relation of this name; without a schema: where CREATE would put it.

    Asks the catalog's rows: what `to_regclass` remembers may be older than a lock that was waited for.
    """
    row = run(
        connection,
        "SELECT EXISTS (SELECT FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace"
        " WHERE c.relname = %s AND n.nspname = coalesce(%s, current_schema()))",
        [name.table, name.schema],
    ).fetchone()
    return bool(row and row[0])


def missing_table(connection: Connection, name: TableName, remedy: str) -> Fatal:
    """The error for a table that is not there; names one that differs only in case or schema."""
    similar = run(
        connection,
        "SELECT n.nspname, c.relname FROM pg_catalog.pg_class c"
        " JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace"
        " WHERE lower(c.relname) = lower(%s) AND c.relkind IN ('r', 'p', 'v', 'm', 'f') ORDER BY 1, 2 LIMIT 1",
        [name.table],
    ).fetchone()
    hint = f"; did you mean '{TableName(*similar)}'?" if similar else ""
    return Fatal(f"there is no table '{name}'{hint}; {remedy}")


def describe_result(connection: Connection, select: str) -> tuple[Column, ...]:
    """The columns that a SELECT yields. Where a type is a domain, it is the type beneath."""
    result = run(connection, no_rows(select)).pgresult
    assert result is not None
    described = [((result.fname(i) or b"").decode(), result.ftype(i), result.fmod(i)) for i in range(result.nfields)]
    types = run(
        connection,
        "SELECT format_type(oid, modifier) FROM unnest(%s::oid[], %s::int4[]) WITH ORDINALITY AS t(oid, modifier, n)"
        " ORDER BY n",
        [[oid for _, oid, _ in described], [modifier for _, _, modifier in described]],
    ).fetchall()
    return tuple(Column(name, type_, oid=oid) for (name, oid, _), (type_,) in zip(described, types, strict=True))


def result_types(result: pq.abc.PGresult) -> tuple[tuple[str, int], ...]:
    """The names and types (OIDs) of a result's columns, as `describe_result` has them."""
    return tuple(((result.fname(i) or b"").decode(), result.ftype(i)) for i in range(result.nfields))


def no_rows(select: str) -> str:
    """The query for the columns alone of what stands behind FROM. Its tables cannot be changed until the transaction
    ends."""
    return f"SELECT * FROM {select} LIMIT 0"


def create_document_table(
    connection: Connection, name: TableName, key: tuple[str, ...], soft_delete: str | None = None
) -> None:
    """Create `id, data jsonb` with a GIN index, a unique index over the `key` fields of the documents, and the column
    `soft_delete` (timestamptz).

    Idempotent, and safe when several do it at once.
    """
    data = quoted(DOCUMENT_COLUMN)
    columns = [f"id bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY, {data} jsonb"]
    if soft_delete is not None:
        columns.append(f"{quoted(soft_delete)} timestamptz")
    statements = [f"CREATE TABLE IF NOT EXISTS {name.sql} ({', '.join(columns)})"]
    with connection.transaction():
        lock_creation(connection, str(name))
        if not exists(connection, name):
            statements.append(f"CREATE INDEX ON {name.sql} USING gin ({data})")
            if key:
                statements.append(f"CREATE UNIQUE INDEX ON {name.sql} ({document_key(key, data)})")
            for statement in statements:
                run(connection, statement)


def field_text(documents: str, field: str) -> str:
    """A field of a document as text, in SQL."""
    return f"{documents} ->> {literal(field)}"


def document_key(key: tuple[str, ...], documents: str) -> str:
    """The index expressions of fields of a document."""
    return ", ".join(f"({field_text(documents, field)})" for field in key)


def lock_creation(connection: Connection, what: str) -> None:
    """Nobody else of us creates `what` until the transaction ends: CREATE … IF NOT EXISTS may fail when two run it."""
    run(connection, "SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))", [f"airflow-provider-connect {what}"])
