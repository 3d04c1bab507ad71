"""Configuration of everything that connects to PostgreSQL."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, SecretStr, field_validator

from airflow_provider_connect.connectors._postgresql.access import Access
from airflow_provider_connect.engine.config import Config, FromConnection


class PostgreSQLConfig(Config):
    """How to reach the server."""

    connection_string: Annotated[SecretStr, FromConnection("uri")] = Field(
        examples=["postgres://user:password@host:5432/database?sslmode=require"]
    )
    """Server, account and database: `postgres://user:password@host:5432/database?sslmode=require`, or libpq's
    `host=… dbname=…`. `sslmode=verify-full` with `sslrootcert=/path/ca.crt` encrypts and checks who answers; `require`
    only encrypts, and without `sslmode` libpq encrypts where the server offers it. `sslcert` and `sslkey` are the files
    of a client's certificate. Parameters that libpq does not know are server settings (`search_path`,
    `statement_timeout`); those of Go's connection pools are accepted and ignored."""

    @field_validator("connection_string")
    @classmethod
    def _understood(cls, value: SecretStr) -> SecretStr:
        Access.parse(value.get_secret_value())
        return value

    @property
    def access(self) -> Access:
        """The connection string, taken apart."""
        return Access.parse(self.connection_string.get_secret_value())
