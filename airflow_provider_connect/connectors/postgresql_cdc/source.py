"""The source: a snapshot of the tables, then every change of them, from a replication slot."""

from __future__ import annotations

import time
from typing import ClassVar

import pyarrow as pa

from airflow_provider_connect.connectors._postgresql.client import Connection, connect, describe_server, sort_error
from airflow_provider_connect.connectors._postgresql.names import TableName
from airflow_provider_connect.connectors._postgresql.session_name import session_name
from airflow_provider_connect.connectors.postgresql_cdc import publication, slot
from airflow_provider_connect.connectors.postgresql_cdc.catalog import (
    FollowedTable,
    Ordering,
    find_tables,
    refuse_unidentified,
)
from airflow_provider_connect.connectors.postgresql_cdc.changes import ChangeReader
from airflow_provider_connect.connectors.postgresql_cdc.config import PostgreSQLCdcSourceConfig
from airflow_provider_connect.connectors.postgresql_cdc.decoding import Comparable, Decoder
from airflow_provider_connect.connectors.postgresql_cdc.documents import Documents, batch_of
from airflow_provider_connect.connectors.postgresql_cdc.position import Position, lsn_text
from airflow_provider_connect.connectors.postgresql_cdc.publication import Published
from airflow_provider_connect.connectors.postgresql_cdc.replication import ReplicationStream
from airflow_provider_connect.connectors.postgresql_cdc.rows import RowTypes
from airflow_provider_connect.connectors.postgresql_cdc.snapshot import SnapshotReader
from airflow_provider_connect.engine.batch import Batch, Checkpoint
from airflow_provider_connect.engine.connector import Source, SourceContext, dealt
from airflow_provider_connect.engine.errors import ConnectError, EndOfInput, Fatal

SPLIT = "changes"
"""The one split: a slot has one order."""
BATCH_BYTES = 4 * 1024 * 1024
"""Wide rows end a batch earlier than its number of records."""


class PostgreSQLCdcSource(Source[PostgreSQLCdcSourceConfig]):
    """Changes of tables by logical replication (pgoutput), in the order of their commits; one split.

    What is promised, with a transactional sink: of every row in the snapshot its state, and then every committed
    change of it once and in order, whatever is killed when. An interrupted snapshot goes on in a newer snapshot (see
    `snapshot`); nothing is read twice. With a sink that is effectively once the same holds for changes; a flush of
    snapshot rows that was interrupted is made again from the rows as they are by then, so a row that has changed
    meanwhile may come as `r` in its newer state, and its change once more.

    A batch may end amid a transaction. The slot is confirmed up to what the sink has committed, never further; what it
    was confirmed is gone, so a stored position behind the slot's stops the flow rather than leaving changes out.
    """

    config_type: ClassVar[type[PostgreSQLCdcSourceConfig]] = PostgreSQLCdcSourceConfig

    def __init__(self, config: PostgreSQLCdcSourceConfig) -> None:
        super().__init__(config)
        self._reset()

    def _reset(self) -> None:
        self._connection: Connection | None = None
        self._replication: Connection | None = None
        self._stream: ReplicationStream | None = None
        self._snapshot: SnapshotReader | None = None
        self._changes: ChangeReader | None = None

    # --- what it is

    def formats(self) -> tuple[str, ...]:
        return ("json",)

    def splits(self) -> list[str]:
        return [SPLIT]

    def classify(self, error: Exception) -> ConnectError:
        return sort_error(error)

    def check(self) -> str:
        with connect(self.config.access, "airflow-connect check") as connection:
            slot.refuse_unfit_server(connection)
        return f"{describe_server(self.config.access)}, wal_level logical"

    # --- life cycle

    def open(self, context: SourceContext) -> None:
        self.close()
        self._context = context
        self._ended = not dealt(context, self.splits())
        if self._ended:
            return
        self._session = session_name(context.flow)
        self._reader_name = f"{self._session} cdc"[:63]
        self._slot = self.config.slot_name(context.flow)
        self._connection = connection = connect(self.config.access, self._reader_name)
        slot.refuse_unfit_server(connection)
        tables, published = self._followed(connection)
        self._tables, self._published = tables, published
        self._rows = RowTypes(connection, self.config.patterns, tables, published)
        self._documents = Documents(self.config, context.flow, connection.info.dbname)
        self._decoder = Decoder(self._documents)
        self._until = Position.of(context.until[SPLIT]) if SPLIT in context.until else None
        stored = context.claim([SPLIT]).get(SPLIT)
        self._position = self._start(connection, Position.of(stored) if stored is not None else None)
        self._end = slot.current_lsn(connection) if context.drain else None
        self._told_at = time.monotonic()
        self._delivered = self._position.lsn

    def _followed(self, connection: Connection) -> tuple[list[FollowedTable], dict[TableName, Published]]:
        """The tables, and the publication that has them."""
        name = self.config.publication_name(self._context.flow)
        with_snapshot = self.config.snapshot == "initial"
        if self.config.patterns:
            tables = find_tables(connection, self.config.patterns)
            refuse_unidentified(tables, with_snapshot)
            return tables, publication.ensure(connection, name, tables)
        published = publication.ensure(connection, name, [])
        patterns = tuple((table.schema or "public", table.table) for table in published)
        tables = find_tables(connection, patterns)
        refuse_unidentified(tables, with_snapshot)
        return tables, published

    def _start(self, connection: Connection, stored: Position | None) -> Position:
        """Where to read on; makes the slot for a flow that has never read."""
        found = slot.find_slot(connection, self._slot)
        if stored is None:
            # The slot is older than the snapshot; what lies between is left out of the changes.
            lsn = (
                found.confirmed
                if found is not None
                else slot.create_slot(self.config.access, self._reader_name, self._slot)
            )
            return Position(lsn, running=self.config.snapshot == "initial")
        if found is None:
            raise Fatal(
                f"slot '{self._slot}' is gone, and with it the changes since {lsn_text(stored.lsn)}, where the flow"
                f" stands. {slot.starting_over(self._slot)}"
            )
        if found.confirmed > stored.lsn:
            raise Fatal(
                f"the flow stands at {lsn_text(stored.lsn)}, but slot '{self._slot}' was confirmed up to"
                f" {lsn_text(found.confirmed)}: the changes between are lost, as if the target had been set back."
                f" {slot.starting_over(self._slot)}"
            )
        return stored

    def close(self) -> None:
        stream, snapshot = self._stream, self._snapshot
        connections = (self._replication, self._connection)
        self._reset()
        try:
            if stream is not None:
                stream.close()
        except Exception:  # the connection is gone, and the slot is free by that
            pass
        finally:
            if snapshot is not None:
                snapshot.close()
            for connection in connections:
                if connection is not None:
                    connection.close()

    # --- reading

    def read(self, max_records: int, timeout: float) -> Batch | None:
        if self._ended:
            raise EndOfInput
        if self._connection is None:
            raise Fatal("the source is not open")
        deadline = time.monotonic() + timeout
        if self._position.running:
            return self._read_snapshot(max_records, timeout)
        if self._changes is None:
            self._changes = self._begin_changes(self._connection)
        return self._read_changes(self._changes, max_records, deadline)

    def _read_snapshot(self, max_records: int, timeout: float) -> Batch | None:
        if self._snapshot is None:
            self._snapshot = SnapshotReader(
                self.config.access,
                self._session,
                self._tables,
                {table.label: self._rows.of_table(table) for table in self._tables},
                self._published,
                self._documents,
                self._position,
                self._until,
            )
        snapshot = self._snapshot
        if not snapshot.done:
            rows = snapshot.read(max_records, timeout)
            before, self._position = self._position, snapshot.position
            return self._batch(rows) if rows.num_rows or self._position != before else None
        if self._until is not None and self._until.running:
            self._ended = True
            raise EndOfInput
        # A range that is logged and read again must not span both: rows here are known by their stretches only.
        self._context.settle()
        snapshot.close()
        self._snapshot = None
        self._position = self._position.after_snapshot()
        return self._batch(batch_of([]))

    def _begin_changes(self, connection: Connection) -> ChangeReader:
        slot.take_over(connection, self._slot, self._reader_name)
        self._replication = slot.connect_replication(self.config.access, self._reader_name)
        position = self._position
        name = self.config.publication_name(self._context.flow)
        self._stream = ReplicationStream(self._replication, self._slot, position.lsn, name)
        changes = ChangeReader(
            self._stream, position.lsn, position.index, self._rows.of_relation, self.config.on_truncate
        )
        if self._until is not None:
            changes.stop_at(self._until.lsn, self._until.index)
        elif self._end is not None:
            changes.stop_at(self._end)
        self._orderings: dict[str, Comparable] = {
            table.label: Ordering.of(table).comparable for table in self._tables if table.label in position.tables
        }
        return changes

    def _read_changes(self, changes: ChangeReader, max_records: int, deadline: float) -> Batch | None:
        found = changes.collect(max_records, BATCH_BYTES, deadline)
        rows = self._decoder.decode(found, self._position.tables, self._orderings)
        before, self._position = self._position, self._position.moved(changes.lsn, changes.index)
        if changes.done:
            self._ended = True
            if self._until is not None:
                self._position = self._until
        now = time.monotonic()
        if found.ends or (self._ended and self._position != before):
            self._told_at = now
            return self._batch(rows)
        if self._ended:
            raise EndOfInput
        return self._heartbeat(changes, now)

    def _heartbeat(self, changes: ChangeReader, now: float) -> Batch | None:
        """Nothing came; the position moves on nevertheless, so that the server can forget what concerns others."""
        if now - self._told_at < self.config.heartbeat_interval:
            return None
        self._told_at = now
        changes.ask()  # the answer counts at the next time
        return self._batch(batch_of([])) if self._position.lsn > self._delivered else None

    def _batch(self, rows: pa.RecordBatch) -> Batch:
        self._delivered = self._position.lsn
        return Batch(rows, Checkpoint({SPLIT: self._position.as_json()}))

    # --- the server's side

    def acknowledge(self, checkpoint: Checkpoint) -> None:
        if self._stream is not None and SPLIT in checkpoint:
            self._stream.confirm(Position.of(checkpoint[SPLIT]).lsn)

    def keep_alive(self) -> None:
        if self._stream is not None:
            self._stream.tell_in_time()

    def lag_bytes(self, checkpoint: Checkpoint) -> int | None:
        """Bytes of WAL past `checkpoint`: what the server has to keep for the flow, of all its tables."""
        if SPLIT not in checkpoint:
            return None
        with connect(self.config.access, "airflow-connect lag", read_only=True) as connection:
            return max(0, slot.current_lsn(connection) - Position.of(checkpoint[SPLIT]).lsn)
