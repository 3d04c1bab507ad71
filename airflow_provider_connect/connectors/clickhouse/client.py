"""Client: what the connector asks of a server, over HTTP or the native protocol alike."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import closing
from typing import Any

import pyarrow as pa

from airflow_provider_connect.connectors.clickhouse.access import Access
from airflow_provider_connect.connectors.clickhouse.errors import sort_error
from airflow_provider_connect.connectors.clickhouse.native_block import Block

log = logging.getLogger(__name__)

Settings = Mapping[str, Any]


class Client(ABC):
    """A connection. Errors are the driver's own, for `sort_error`."""

    @abstractmethod
    def query(self, statement: str, settings: Settings | None = None) -> list[tuple[Any, ...]]:
        """Run a statement with a small result."""

    @abstractmethod
    def insert(self, statement: str, block: Block, settings: Settings) -> None:
        """Run `INSERT … FROM input(…)` with a block as its data."""

    @abstractmethod
    def stream(self, statement: str, schema: pa.Schema, settings: Settings) -> Stream:
        """Start a SELECT whose columns are read as `schema` says."""

    @abstractmethod
    def close(self) -> None:
        """Disconnect."""


class Stream(ABC):
    """The result of a SELECT, as it comes. `close` from any thread ends it."""

    @abstractmethod
    def batches(self) -> Iterator[pa.RecordBatch]:
        """The rows; ends after the last one, and raises if the answer breaks off before it."""

    @abstractmethod
    def close(self) -> None:
        """Give the rest up."""


def connect(access: Access, settings: Settings, ca: str | None = None) -> Client:
    """Connect by the protocol of the connection string. Raises sorted errors."""
    if access.secure and not access.verify:
        log.warning("%s: the server's certificate is not verified (skip_verify)", access.address)
    # Only the driver of the protocol in use is loaded.
    if access.protocol == "http":
        from airflow_provider_connect.connectors.clickhouse.http_client import HttpClient as Chosen
    else:
        from airflow_provider_connect.connectors.clickhouse.native_client import NativeClient as Chosen  # type: ignore
    try:
        return Chosen(access, settings, ca)
    except Exception as error:
        raise sort_error(error) from error


def describe_server(access: Access, ca: str | None = None) -> str:
    """One line on what answers at this address."""
    with closing(connect(access, {}, ca)) as client:
        try:
            ((version, database, user),) = client.query("SELECT version(), currentDatabase(), currentUser()")
        except Exception as error:
            raise sort_error(error) from error
    return f"ClickHouse {version} over {access.protocol}, database {database}, as {user}"
