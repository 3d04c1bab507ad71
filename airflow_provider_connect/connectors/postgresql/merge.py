"""Merge: rows and documents that were staged in a temporary table, moved into the target by one statement or a few.

Staged are documents for typed tables (`n, doc`), and whatever is upserted (`n` and the document or the columns). `n`
numbers the rows of a flush in their order: of several with one key the last wins, and it names refused rows.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from airflow_provider_connect.connectors._postgresql.client import Connection, run
from airflow_provider_connect.connectors._postgresql.names import listed, literal, quoted
from airflow_provider_connect.connectors.postgresql.binary_types import PORTABLE
from airflow_provider_connect.connectors.postgresql.table import Column, Table, document_key
from airflow_provider_connect.engine.errors import Fatal

NUMBER = "connect_n"
DOCUMENT = "connect_doc"
_SHOWN = 1000


@dataclass(frozen=True, slots=True)
class Refused:
    """Numbers of staged rows that cannot be merged, with the reason."""

    rows: dict[int, str]


@dataclass(frozen=True, slots=True)
class Stage:
    """A temporary table of one session. `create` before each use; it is empty again after each commit."""

    name: str
    definition: str

    @classmethod
    def of_documents(cls) -> Stage:
        """For documents."""
        return cls("connect_documents", f"({NUMBER} bigint, {DOCUMENT} jsonb)")

    @classmethod
    def of_columns(cls, columns: list[Column]) -> Stage:
        """For rows with these columns, without the target's constraints."""
        fields = ", ".join(f"{quoted(column.name)} {column.type}" for column in columns)
        digest = hashlib.sha256(fields.encode()).hexdigest()[:12]
        return cls(f"connect_rows_{digest}", f"({NUMBER} bigint, {fields})")

    @property
    def sql(self) -> str:
        return f"pg_temp.{quoted(self.name)}"

    def create(self, connection: Connection) -> None:
        """Create it if this session does not have it; it may hold rows of an earlier flush of the transaction."""
        run(
            connection,
            f"CREATE TEMPORARY TABLE IF NOT EXISTS {quoted(self.name)} {self.definition} ON COMMIT DELETE ROWS",
        )

    def empty(self, connection: Connection) -> None:
        """Forget its rows."""
        run(connection, f"TRUNCATE {self.sql}")


@dataclass(frozen=True, slots=True)
class Target:
    """The table, and how rows meet those that are there: by `key`, or not at all if that is empty."""

    table: Table
    document_column: Column | None
    key: tuple[str, ...]
    ignore_unknown: bool

    # --- documents into one column

    def merge_documents(self, connection: Connection, stage: Stage) -> Refused | None:
        """Upsert staged documents by fields of theirs."""
        assert self.document_column is not None
        keys = [f"{DOCUMENT} ->> {literal(field)}" for field in self.key]
        absent = " OR ".join(f"({key}) IS NULL" for key in keys)
        refused = run(
            connection, f"SELECT {NUMBER} FROM {stage.sql} WHERE {absent} ORDER BY 1 LIMIT {_SHOWN}"
        ).fetchall()
        if refused:
            reason = f"the document has no {' and '.join(repr(field) for field in self.key)} (conflictKey)"
            return Refused({number: reason for (number,) in refused})
        run(connection, self.documents_statement(stage))
        return None

    def documents_statement(self, stage: Stage) -> str:
        """INSERT … ON CONFLICT of `merge_documents`."""
        assert self.document_column is not None
        data = quoted(self.document_column.name)
        keys = ", ".join(f"{DOCUMENT} ->> {literal(field)}" for field in self.key)
        return (
            f"INSERT INTO {self.table.name.sql} ({data})"
            f" SELECT DISTINCT ON ({keys}) {DOCUMENT} FROM {stage.sql} ORDER BY {keys}, {NUMBER} DESC"
            f" ON CONFLICT ({document_key(self.key, data)}) DO UPDATE SET {data} = EXCLUDED.{data}"
        )

    # --- documents into columns

    def spread_documents(self, connection: Connection, stage: Stage) -> Refused | None:
        """Insert or upsert staged documents, their fields into the columns of the same names.

        A column without a field in a document gets its default, or keeps its value in an upsert. That depends on the
        document alone, not on its neighbours: those with the same fields go together.
        """
        runs = self._runs(connection, stage)
        refused: dict[int, str] = {}
        statements: list[str] = []
        for fields, first, last in runs:
            columns, reason = self._known(fields)
            if reason is not None:
                numbers = run(
                    connection,
                    f"SELECT {NUMBER} FROM {stage.sql} d WHERE {NUMBER} BETWEEN %s AND %s"
                    f" AND {_fields_of('d')} IS NOT DISTINCT FROM %s::text[] LIMIT {_SHOWN}",
                    [first, last, fields],
                ).fetchall()
                refused.update({number: reason for (number,) in numbers})
            else:
                alone = None if len(runs) == 1 else (fields or [], first, last)
                statements.append(self._spread_statement(stage, columns, alone))
        if refused:
            return Refused(dict(sorted(refused.items())))
        for statement in statements:
            run(connection, statement)
        return None

    def _runs(self, connection: Connection, stage: Stage) -> list[tuple[list[str] | None, int, int]]:
        """The sets of fields there are, with the first and last number of each; upserts keep the order between them."""
        sets = run(
            connection,
            f"SELECT fields, min({NUMBER}), max({NUMBER}) FROM"
            f" (SELECT {NUMBER}, {_fields_of('d')} AS fields FROM {stage.sql} d) AS s GROUP BY 1 ORDER BY 2",
        ).fetchall()
        if len(sets) <= 1 or not self.key:
            return [(fields, first, last) for fields, first, last in sets]
        return [
            (fields, first, last)
            for fields, first, last in run(
                connection,
                f"SELECT fields, min({NUMBER}), max({NUMBER}) FROM (SELECT {NUMBER}, fields,"
                f" row_number() OVER (ORDER BY {NUMBER})"
                f" - row_number() OVER (PARTITION BY fields ORDER BY {NUMBER}) AS r"
                f" FROM (SELECT {NUMBER}, {_fields_of('d')} AS fields FROM {stage.sql} d) AS f) AS s"
                " GROUP BY fields, r ORDER BY 2",
            ).fetchall()
        ]

    def _known(self, fields: list[str] | None) -> tuple[list[Column], str | None]:
        """The columns of these fields, or why a document with them is refused."""
        if fields is None:
            return [], "the document is no JSON object, so its fields cannot go to columns"
        columns: list[Column] = []
        for name in fields:
            column = self.table.column(name)
            if column is not None and not column.generated:
                columns.append(column)
            elif not self.ignore_unknown:
                problem = "is a generated column" if column is not None else "has no column"
                return [], f"field '{name}' {problem} in '{self.table.name}' (ignoreUnknownColumns leaves it out)"
        if missing := [name for name in self.key if name not in fields]:
            return [], f"the document has no '{missing[0]}', which identifies the row (conflictKey)"
        return columns, None

    def _spread_statement(self, stage: Stage, columns: list[Column], alone: tuple[list[str], int, int] | None) -> str:
        names = [column.name for column in columns]
        where = ""
        if alone is not None:
            fields, first, last = alone
            array = f"ARRAY[{', '.join(literal(name) for name in fields)}]::text[]"
            where = f" WHERE {NUMBER} BETWEEN {first} AND {last} AND {_fields_of('d')} = {array}"
        record = f"jsonb_populate_record(NULL::{self.table.name.sql}, d.{DOCUMENT})"
        rows = f"{stage.sql} d CROSS JOIN LATERAL {record} AS r{where}"
        if not names:
            return f"INSERT INTO {self.table.name.sql} SELECT FROM {rows}"
        return self._insert(columns, rows, "r.")

    # --- columns

    def columns_statement(self, stage: Stage, columns: list[Column]) -> str:
        """Upsert staged rows."""
        return self._insert(columns, f"{stage.sql} AS r", "r.")

    def _insert(self, columns: list[Column], rows: str, prefix: str) -> str:
        names = [column.name for column in columns]
        overriding = " OVERRIDING SYSTEM VALUE" if any(column.always_identity for column in columns) else ""
        insert = f"INSERT INTO {self.table.name.sql} ({listed(names)}){overriding}"
        if not self.key:
            return f"{insert} SELECT {listed(names, prefix)} FROM {rows} ORDER BY {NUMBER}"
        key = listed(self.key, prefix)
        others = [name for name in names if name not in self.key]
        sets = ", ".join(f"{quoted(name)} = EXCLUDED.{quoted(name)}" for name in others)
        return (
            f"{insert} SELECT DISTINCT ON ({key}) {listed(names, prefix)} FROM {rows} ORDER BY {key}, {NUMBER} DESC"
            f" ON CONFLICT ({listed(self.key)}) DO {f'UPDATE SET {sets}' if others else 'NOTHING'}"
        )

    def columns_named(self, names: list[str], remedy: str) -> list[Column | None]:
        """The target's column for each name; None for those that are left out. Fatal if one is unknown."""
        found: list[Column | None] = []
        for name in names:
            column = self.table.column(name)
            usable = column is not None and not column.generated
            if not usable and not self.ignore_unknown:
                problem = f"'{self.table.name}' has no column '{name}'" if column is None else f"'{name}' is generated"
                raise Fatal(f"{problem}; {remedy}, or set `ignoreUnknownColumns: true`")
            found.append(column if usable else None)
        for name in self.key:
            if name not in names:
                raise Fatal(
                    f"the rows have no column '{name}', which identifies them in '{self.table.name}' (conflictKey)"
                )
        if not any(found):
            raise Fatal(f"none of the columns {', '.join(names)} is in '{self.table.name}'; check `table`")
        return found

    def refuses_tuples(self, columns: Sequence[tuple[str, int]]) -> str | None:
        """Why tuples with these columns (name and type's OID) cannot go in as binary COPY has them; None if they can.

        They can where each column is of the very type of the target's, one that means the same everywhere.
        """
        if self.document_column is not None or self.key:
            return "they are staged"
        names = [name for name, _ in columns]
        for name, oid in columns:
            column = self.table.column(name)
            if column is None or column.generated or names.count(name) > 1:
                return f"'{name}' is not to be written"
            if oid != column.oid or oid not in PORTABLE:
                return f"'{name}' is of another type than {column.type}"
        return None if columns else "there are no columns"


def _fields_of(alias: str) -> str:
    """The names of a document's fields, as an array in a fixed order; NULL if it is no object."""
    document = f"{alias}.{DOCUMENT}"
    return (
        f"CASE WHEN jsonb_typeof({document}) = 'object' THEN ARRAY(SELECT jsonb_object_keys({document}) ORDER BY 1) END"
    )
