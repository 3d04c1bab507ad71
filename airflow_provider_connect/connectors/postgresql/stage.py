"""Stage: temporary tables that hold the rows of a flush until one statement, or a few, move them into the target.

Staged are documents for typed tables, and whatever is upserted. `connect_n` numbers the rows of a flush in their order:
it says which of several with one key comes last, and it names refused rows.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from airflow_provider_connect.connectors._postgresql.client import Connection, run
from airflow_provider_connect.connectors._postgresql.names import quoted
from airflow_provider_connect.connectors.postgresql.table import Column

NUMBER = "connect_n"
GONE = "connect_gone"
DOCUMENT = "connect_doc"
FIELDS = "connect_fields"
LAYER = "connect_layer"


@dataclass(frozen=True, slots=True)
class Stage:
    """A temporary table of one session. `create` before each use; it is empty again after each commit."""

    name: str
    definition: str

    @classmethod
    def of_documents(cls) -> Stage:
        """For documents. One that is `gone` names in its fields the key of a row to delete."""
        return cls("connect_documents", f"({NUMBER} bigint, {GONE} boolean, {DOCUMENT} jsonb)")

    @classmethod
    def of_order(cls) -> Stage:
        """For the order in which staged documents are merged: layer after layer."""
        return cls("connect_order", f"({NUMBER} bigint, {GONE} boolean, {FIELDS} text[], {LAYER} bigint)")

    @classmethod
    def of_columns(cls, columns: Sequence[Column]) -> Stage:
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
