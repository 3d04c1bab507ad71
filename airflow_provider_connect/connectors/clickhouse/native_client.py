"""NativeClient: ClickHouse over its native protocol, by clickhouse-driver.

Blocks are sent as they are. Results pass through the driver's own columns, which are lists of Python objects; who reads
large tables reads them over HTTP.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import clickhouse_driver  # type: ignore[import-untyped]
import pyarrow as pa
from clickhouse_driver import defines
from clickhouse_driver.block import BlockInfo, RowOrientedBlock  # type: ignore[import-untyped]
from clickhouse_driver.protocol import ClientPacketTypes  # type: ignore[import-untyped]
from clickhouse_driver.varint import write_varint  # type: ignore[import-untyped]
from clickhouse_driver.writer import write_binary_str  # type: ignore[import-untyped]

from airflow_provider_connect.connectors.clickhouse.access import Access
from airflow_provider_connect.connectors.clickhouse.ca_file import CaFile
from airflow_provider_connect.connectors.clickhouse.client import Client, Settings, Stream
from airflow_provider_connect.connectors.clickhouse.native_block import Block
from airflow_provider_connect.engine.errors import Fatal


class NativeClient(Client):
    """One connection."""

    def __init__(self, access: Access, settings: Settings, ca: str | None) -> None:
        self._ca = CaFile(ca)
        self._client = _BlockClient(
            access.host,
            port=access.port,
            database=access.database,
            user=access.username,
            password=access.password,
            client_name="airflow-connect",
            connect_timeout=access.dial_timeout,
            send_receive_timeout=access.read_timeout,
            sync_request_timeout=access.dial_timeout,
            compression=False if access.compression == "none" else access.compression,
            secure=access.secure,
            verify=access.verify,
            ca_certs=self._ca.name,
            tcp_keepalive=True,
            settings_is_important=True,  # else the server ignores settings that it does not know
            settings={**settings, **access.settings},
        )
        try:
            self._client.connection.connect()
        except BaseException:
            self.close()
            raise

    def query(self, statement: str, settings: Settings | None = None) -> list[tuple[Any, ...]]:
        rows = self._client.execute(statement, settings=dict(settings or {}))
        return [tuple(row) for row in rows] if isinstance(rows, list) else []

    def insert(self, statement: str, block: Block, settings: Settings) -> None:
        self._client.insert_block(f"{statement} FORMAT Native", block, dict(settings))

    def stream(self, statement: str, schema: pa.Schema, settings: Settings) -> Stream:
        reader = self._client.query_arrow_stream(
            statement,
            settings={**settings, "output_format_native_write_json_as_string": 1},
            field_metadata=False,
            arrow_types={field.name: field.type for field in schema},
        )
        return _BlockStream(self._client, reader, schema)

    def close(self) -> None:
        self._client.disconnect()
        self._ca.close()


class _BlockStream(Stream):
    def __init__(self, client: clickhouse_driver.Client, reader: pa.RecordBatchReader, schema: pa.Schema) -> None:
        self._client, self._reader, self._schema = client, reader, schema

    def batches(self) -> Iterator[pa.RecordBatch]:
        try:
            for batch in self._reader:
                yield batch.cast(self._schema)
        except (pa.ArrowInvalid, UnicodeDecodeError) as error:
            raise Fatal(
                f"a value has no counterpart in Arrow: {error}; bytes that are no UTF-8 text can be read by a `query`"
                " with hex() or base64Encode()"
            ) from error

    def close(self) -> None:
        with suppress(Exception):
            self._client.disconnect()


class _BlockClient(clickhouse_driver.Client):  # type: ignore[misc]
    """The driver's client, which can also send a block whose bytes are ready."""

    def insert_block(self, statement: str, block: Block, settings: dict[str, Any]) -> None:
        with self.disconnect_on_error(statement, settings):
            self.process_insert_query(statement, block)

    def send_data(self, sample_block: Any, data: Any, types_check: bool = False, columnar: bool = False) -> Any:
        if not isinstance(data, Block):
            return super().send_data(sample_block, data, types_check, columnar)
        connection = self.connection
        revision = connection.server_info.used_revision
        write_varint(ClientPacketTypes.DATA, connection.fout)
        write_binary_str("", connection.fout)
        out = connection.block_out
        BlockInfo().write(out.fout)
        out.fout.write(data.serialized(revision >= defines.DBMS_MIN_REVISION_WITH_CUSTOM_SERIALIZATION))
        out.finalize()
        self.receive_profile_events()
        connection.send_data(RowOrientedBlock())
        self.receive_profile_events()
        return data.rows
