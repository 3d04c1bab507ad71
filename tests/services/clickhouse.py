"""What a test sees of ClickHouse: two ports to connect to and names that nobody else uses."""

import functools
import uuid
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import clickhouse_connect
import urllib3
from clickhouse_connect.driver.client import Client

from tests.services.proxy import TcpProxy

PROTOCOLS = ("http", "native")


@dataclass(frozen=True)
class ClickHouse:
    """A ClickHouse server that tests may use."""

    host: str
    http_port: int
    native_port: int
    database: str = "default"

    @classmethod
    def at(cls, address: str) -> "ClickHouse":
        """From `host:http_port:native_port`."""
        host, http_port, native_port = address.rsplit(":", 2)
        return cls(host, int(http_port), int(native_port))

    def url(self, protocol: str = "http", options: str = "", account: tuple[str, str] | None = None) -> str:
        """A connection string; options as in `compress=none`."""
        scheme, port = ("http", self.http_port) if protocol == "http" else ("clickhouse", self.native_port)
        who = ":".join(quote(part, safe="") for part in account) + "@" if account else ""
        return f"{scheme}://{who}{self.host}:{port}/{self.database}{'?' + options if options else ''}"

    def port(self, protocol: str) -> int:
        """The port of a protocol."""
        return self.http_port if protocol == "http" else self.native_port

    def through(self, proxy: TcpProxy, protocol: str) -> "ClickHouse":
        """The same server with the proxy in between, for one protocol."""
        ports = {"http_port": self.http_port, "native_port": self.native_port, f"{protocol}_port": proxy.port}
        return ClickHouse(proxy.host, database=self.database, **ports)

    def execute(self, statement: str, data: str | bytes | None = None, **settings: Any) -> list[tuple[Any, ...]]:
        """Run one statement; returns the rows, if it has any."""
        client = _client(self.host, self.http_port, self.database)
        if data is not None or statement.lstrip().split()[0].upper() not in {"SELECT", "SHOW", "DESCRIBE"}:
            client.command(statement, data=data, settings=settings)
            return []
        return [tuple(row) for row in client.query(statement, settings=settings).result_rows]

    def unique_name(self, prefix: str = "t") -> str:
        """A name for a table that no other test has."""
        return f"{prefix}_{uuid.uuid4().hex[:12]}"


@functools.cache
def _client(host: str, port: int, database: str) -> Client:
    """The tests' own client, with sockets that no connector uses."""
    pool = urllib3.PoolManager(retries=2)
    return clickhouse_connect.get_client(
        host=host, port=port, database=database, pool_mgr=pool, autogenerate_session_id=False
    )
