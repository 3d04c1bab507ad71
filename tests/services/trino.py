"""What a test sees of Trino: where it is, and schemas of its own in two catalogs."""

import os
import uuid
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import trino.dbapi

SECONDS = 60.0


@dataclass(frozen=True)
class Trino:
    """A Trino that tests may use. `url` is by HTTP, without a password.

    Its catalogs are `iceberg`, whose tables detect conflicting commits, `memory`, which only inserts, and `tpch`.
    """

    url: str

    def connect(self) -> Any:
        """A DB-API connection."""
        parts = urlsplit(self.url)
        return trino.dbapi.connect(
            host=parts.hostname, port=parts.port, user="test", request_timeout=SECONDS, timezone="UTC"
        )

    def execute(self, statement: str) -> list[Any]:
        """Run a statement; returns its rows."""
        cursor = self.connect().cursor()
        cursor.execute(statement)
        return [list(row) for row in cursor.fetchall()]

    def unique_name(self, prefix: str = "t") -> str:
        """A name that no other test has."""
        return f"{prefix}_{os.getpid()}_{uuid.uuid4().hex[:8]}"

    def create_schema(self, catalog: str) -> str:
        """A new schema in the catalog; returns its name."""
        schema = self.unique_name("schema")
        self.execute(f"CREATE SCHEMA {catalog}.{schema}")
        return schema

    def drop_schema(self, catalog: str, schema: str) -> None:
        """Drop a schema with all its tables."""
        for (table,) in self.execute(f"SHOW TABLES FROM {catalog}.{schema}"):
            self.execute(f'DROP TABLE {catalog}.{schema}."{table}"')
        self.execute(f"DROP SCHEMA {catalog}.{schema}")
