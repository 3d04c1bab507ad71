"""Target: the table that rows go to, how they meet those that are there, and which rows do not fit at all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from airflow_provider_connect.connectors.postgresql.binary_types import PORTABLE
from airflow_provider_connect.connectors.postgresql.table import Column, Table
from airflow_provider_connect.engine.errors import Fatal


@dataclass(frozen=True, slots=True)
class Upsert:
    """What becomes of a row whose key is there already. Keys and version are columns, or fields of the document."""

    key: tuple[str, ...]
    version: str | None = None
    """Only rows with a greater version replace; None: every later one does."""
    soft_delete: Column | None = None
    """The column that is set when a row is to be deleted; None: it is deleted."""

    @property
    def deleted(self) -> str:
        """What `soft_delete` holds of a deleted row, in SQL."""
        assert self.soft_delete is not None
        return "true" if self.soft_delete.type == "boolean" else "now()"

    @property
    def present(self) -> str:
        """What `soft_delete` holds of any other row, in SQL."""
        assert self.soft_delete is not None
        return "false" if self.soft_delete.type == "boolean" else "NULL"


@dataclass(frozen=True, slots=True)
class Target:
    """The table; rows are added to it, or upserted."""

    table: Table
    document_column: Column | None = None
    """The column that takes whole documents; None: fields go to the columns of their names."""
    upsert: Upsert | None = None
    ignore_unknown: bool = False
    """Fields without a column are left out, else refused."""
    evolving: bool = False
    """Columns are added and widened as rows need them."""

    @property
    def key(self) -> tuple[str, ...]:
        """The conflict key; empty if rows are just added."""
        return self.upsert.key if self.upsert is not None else ()

    def known(self, fields: list[str] | None) -> tuple[list[Column], str | None]:
        """The columns of a document's fields (None: it is no object), or why such a document is refused."""
        if fields is None:
            return [], "the document is no JSON object, so its fields cannot go to columns"
        columns: list[Column] = []
        for name in fields:
            column = self.table.column(name)
            if column is not None and not column.generated:
                columns.append(column)
            elif not self.ignore_unknown and (column is not None or not self.evolving):
                # Of one that evolves, a field without a column has nothing but nulls so far.
                problem = "is a generated column" if column is not None else "has no column"
                return [], f"field '{name}' {problem} in '{self.table.name}' (ignoreUnknownColumns leaves it out)"
        if missing := [name for name in self.key if name not in fields]:
            return [], f"the document has no '{missing[0]}', which identifies the row (conflictKey)"
        if self.upsert is not None and self.upsert.version is not None and self.upsert.version not in fields:
            return [], f"the document has no '{self.upsert.version}', its version (upsertVersionColumn)"
        return columns, None

    def columns_named(self, names: Sequence[str], remedy: str) -> list[Column | None]:
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
        if self.upsert is not None and self.upsert.version is not None and self.upsert.version not in names:
            raise Fatal(f"the rows have no column '{self.upsert.version}', their version (upsertVersionColumn)")
        if not any(found):
            raise Fatal(f"none of the columns {', '.join(names)} is in '{self.table.name}'; check `table`")
        return found

    def refuses_tuples(self, columns: Sequence[tuple[str, int]]) -> str | None:
        """Why tuples with these columns (name and type's OID) cannot go in as binary COPY has them; None if they can.

        They can where each column is of the very type of the target's, one that means the same everywhere.
        """
        if self.document_column is not None or self.upsert is not None:
            return "they are staged"
        names = [name for name, _ in columns]
        for name, oid in columns:
            column = self.table.column(name)
            if column is None or column.generated or names.count(name) > 1:
                return f"'{name}' is not to be written"
            if oid != column.oid or oid not in PORTABLE:
                return f"'{name}' is of another type than {column.type}"
        return None if columns else "there are no columns"
