"""HttpClient: ClickHouse over HTTP, by clickhouse-connect; results come as a stream of Arrow."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import clickhouse_connect
import pyarrow as pa
from clickhouse_connect.driver import httputil
from urllib3 import exceptions as urllib3_errors

from airflow_provider_connect.connectors.clickhouse.access import Access
from airflow_provider_connect.connectors.clickhouse.ca_file import CaFile
from airflow_provider_connect.connectors.clickhouse.client import Client, Settings, Stream
from airflow_provider_connect.connectors.clickhouse.native_block import Block
from airflow_provider_connect.engine.errors import Retryable

_END_OF_STREAM = b"\xff\xff\xff\xff\x00\x00\x00\x00"
_EXCEPTION = b"DB::Exception"
_KEPT = 4096
_ARROW = {
    "output_format_arrow_string_as_string": 1,
    "output_format_arrow_fixed_string_as_fixed_byte_array": 0,
    "output_format_arrow_low_cardinality_as_dictionary": 0,
}


class HttpClient(Client):
    """One client with sockets of its own: a child process must never use its parent's."""

    def __init__(self, access: Access, settings: Settings, ca: str | None) -> None:
        self._access = access
        self._ca = CaFile(ca)
        self._pool = httputil.get_pool_manager(ca_cert=self._ca.name, verify=access.verify, retries=False)
        try:
            self._client = clickhouse_connect.get_client(
                interface="https" if access.secure else "http",
                host=access.host,
                port=access.port,
                username=access.username,
                password=access.password,
                database=access.database,
                connect_timeout=max(1, round(access.dial_timeout)),
                send_receive_timeout=max(1, round(access.read_timeout)),
                compress=False,
                query_retries=0,
                autogenerate_session_id=False,
                client_name="airflow-connect",
                pool_mgr=self._pool,
                settings={**settings, **access.settings},
            )
        except BaseException:
            self._pool.clear()
            self._ca.close()
            raise

    def query(self, statement: str, settings: Settings | None = None) -> list[tuple[Any, ...]]:
        return [tuple(row) for row in self._client.query(statement, settings=dict(settings or {})).result_rows]

    def insert(self, statement: str, block: Block, settings: Settings) -> None:
        self.send(f"{statement} FORMAT Native", block.serialized(), settings)

    def send(self, statement: str, body: bytes | pa.Buffer, settings: Settings) -> None:
        """Run a statement with these bytes as its data, compressed on the way."""
        headers: dict[str, str] = {}
        if self._access.compression != "none":
            headers["Content-Encoding"] = self._access.compression
            body = pa.compress(body, codec=self._access.compression, asbytes=True)
        self._client.command(statement, data=bytes(body), settings=dict(settings), transport_settings=headers)

    def stream(self, statement: str, schema: pa.Schema, settings: Settings) -> Stream:
        packing = {"lz4": "lz4_frame", "zstd": "zstd", "none": "none"}[self._access.compression]
        wanted = {**_ARROW, "output_format_arrow_compression_method": packing, **settings}
        response = self._client.raw_stream(statement, settings=wanted, fmt="ArrowStream")
        return _ArrowStream(response, schema)

    def close(self) -> None:
        self._client.close()
        self._pool.clear()
        httputil.all_managers.pop(self._pool, None)  # else it is kept for as long as the process runs
        self._ca.close()


class _ArrowStream(Stream):
    def __init__(self, response: Any, schema: pa.Schema) -> None:
        self._response, self._schema = response, schema

    def batches(self) -> Iterator[pa.RecordBatch]:
        watched = _Watched(self._response)
        try:
            with pa.ipc.open_stream(pa.PythonFile(watched, mode="r")) as reader:
                for batch in reader:
                    yield pa.RecordBatch.from_arrays(
                        [column.cast(f.type) for column, f in zip(batch.columns, self._schema, strict=True)],
                        schema=self._schema,
                    )
        except (pa.ArrowInvalid, OSError, urllib3_errors.HTTPError) as error:
            raise Retryable(f"the answer broke off: {watched.reason() or error}") from error
        if watched.tail != _END_OF_STREAM:
            raise Retryable(f"the answer broke off: {watched.reason() or 'it has no end'}")

    def close(self) -> None:
        with suppress(Exception):
            self._response.close()


class _Watched:
    """A response as a file, which keeps what came last: Arrow takes any end between two batches for a good one."""

    closed = False

    def __init__(self, response: Any) -> None:
        self._response = response
        self._last = b""

    @property
    def tail(self) -> bytes:
        """The last eight bytes."""
        return self._last[-8:]

    def read(self, size: int = -1) -> bytes:
        parts: list[bytes] = []
        left = size if size >= 0 else 1 << 62
        while left:
            # As much as there is: what a server writes before it hangs up is seen then.
            part = self._response.read1(min(left, 1 << 20))
            if not part:
                break
            parts.append(part)
            left -= len(part)
            self._last = (self._last + part)[-_KEPT:] if len(part) < _KEPT else part[-_KEPT:]
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def reason(self) -> str:
        """What the server wrote instead of the rest."""
        with suppress(Exception):
            self.read(1 << 16)
        at = self._last.find(_EXCEPTION)
        return self._last[at:].decode(errors="replace").splitlines()[0] if at >= 0 else ""

    def close(self) -> None:
        return
