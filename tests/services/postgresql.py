"""What a test sees of PostgreSQL: a place to connect to and names that nobody else uses."""

import time
import uuid
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg import conninfo

from tests.services.proxy import TcpProxy


@dataclass(frozen=True)
class PostgreSQL:
    """A PostgreSQL server that tests may use."""

    dsn: str

    @property
    def address(self) -> tuple[str, int]:
        """Host and port, for a proxy."""
        parts = conninfo.conninfo_to_dict(self.dsn)
        return str(parts.get("host") or "127.0.0.1"), int(parts.get("port") or 5432)

    def through(self, proxy: TcpProxy) -> "PostgreSQL":
        """The same server with the proxy in between."""
        parts = conninfo.conninfo_to_dict(self.dsn)
        user, password, database = (parts.get(name) for name in ("user", "password", "dbname"))
        account = f"{user or 'postgres'}{f':{password}' if password else ''}"
        # Without encryption, so that the proxy can see the statements.
        return PostgreSQL(f"postgresql://{account}@{proxy.host}:{proxy.port}/{database or ''}?sslmode=disable")

    def connect(self, **options: Any) -> psycopg.Connection[Any]:
        """Open a connection; options are those of `psycopg.connect`."""
        return psycopg.connect(self.dsn, **options)

    def execute(self, statement: str, *parameters: Any) -> list[tuple[Any, ...]]:
        """Run one statement in a connection and transaction of its own; returns the rows, if it has any."""
        with self.connect() as connection:
            cursor = connection.execute(statement, parameters or None)
            return cursor.fetchall() if cursor.description else []

    def unique_name(self, prefix: str = "t") -> str:
        """A name for a table, slot or publication that no other test has."""
        return f"{prefix}_{uuid.uuid4().hex[:12]}"

    def create_schema(self) -> str:
        """Create a schema with a unique name."""
        name = self.unique_name("s")
        self.execute(f"CREATE SCHEMA {name}")
        return name

    def drop_replication(self, name: str) -> None:
        """Drop the slot and the publication of this name, where they are there; whoever reads the slot is ended."""
        with self.connect(autocommit=True) as connection:
            connection.execute(f'DROP PUBLICATION IF EXISTS "{name}"')
            for _ in range(100):
                row = connection.execute(
                    "SELECT active_pid FROM pg_replication_slots WHERE slot_name = %s", [name]
                ).fetchone()
                if row is None:
                    return
                try:
                    connection.execute("SELECT pg_terminate_backend(%s)", [row[0]])
                    connection.execute("SELECT pg_drop_replication_slot(%s)", [name])
                except psycopg.errors.ObjectInUse:
                    time.sleep(0.05)
            raise AssertionError(f"slot {name} is still in use")
