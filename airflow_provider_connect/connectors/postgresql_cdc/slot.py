"""Slot: the replication slot that keeps what the flow has not delivered; and the snapshots that fit to an LSN."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass

import psycopg
from psycopg import errors, pq

from airflow_provider_connect.connectors._postgresql.access import Access
from airflow_provider_connect.connectors._postgresql.client import Connection, connect, run
from airflow_provider_connect.connectors._postgresql.copy_stream import Exchange
from airflow_provider_connect.connectors._postgresql.names import quoted
from airflow_provider_connect.connectors.postgresql_cdc.position import lsn_number
from airflow_provider_connect.engine.errors import Fatal, Retryable

log = logging.getLogger(__name__)

HANDOVER_SECONDS = 5.0
"""So long a former worker of the flow may take to let the slot go, before its session is ended."""
_WARNING_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Slot:
    """What the server says of a slot: the LSN it was confirmed up to, and who reads it."""

    name: str
    confirmed: int
    active_pid: int | None
    reader: str
    """The application name of who reads it."""


def connect_replication(access: Access, name: str) -> Connection:
    """A session that speaks the replication protocol, and SQL without parameters."""
    return connect(Access({**access.parameters, "replication": "database"}, access.settings), name)


def refuse_unfit_server(connection: Connection) -> None:
    """Fatal if the server or the account cannot do logical replication."""
    row = run(
        connection,
        "SELECT current_setting('wal_level'), rolreplication OR rolsuper"
        " OR EXISTS (SELECT FROM pg_catalog.pg_roles r WHERE r.rolname = 'rds_replication'"
        " AND pg_has_role(current_user, r.oid, 'MEMBER')), current_user"
        " FROM pg_catalog.pg_roles WHERE rolname = current_user",
    ).fetchone()
    if row is None:
        return
    level, may, user = row
    if level != "logical":
        raise Fatal(
            f"the server's wal_level is '{level}', but change data capture needs 'logical': run"
            " ALTER SYSTEM SET wal_level = logical, and restart the server"
        )
    if not may:
        raise Fatal(f"role '{user}' may not replicate: run ALTER ROLE {quoted(user)} REPLICATION")


def find_slot(connection: Connection, name: str) -> Slot | None:
    """The slot; None if there is none. Fatal if it is of no use to us."""
    row = run(
        connection,
        "SELECT s.slot_type, s.plugin, s.database = current_database(), s.database, s.wal_status,"
        " s.confirmed_flush_lsn::text, s.active_pid, coalesce(a.application_name, ''),"
        " to_jsonb(s)->>'invalidation_reason'"
        " FROM pg_catalog.pg_replication_slots s LEFT JOIN pg_catalog.pg_stat_activity a ON a.pid = s.active_pid"
        " WHERE s.slot_name = %s",
        [name],
    ).fetchone()
    if row is None:
        return None
    kind, plugin, here, database, status, confirmed, pid, reader, reason = row
    if kind != "logical" or plugin != "pgoutput" or not here:
        what = kind if kind != "logical" else f"for '{plugin}' in database '{database}'"
        raise Fatal(f"slot '{name}' is {what}, not for pgoutput in this database; set `slot` to another name")
    if status == "lost" or confirmed is None:
        why = f" ({reason})" if reason else ""
        raise Fatal(
            f"slot '{name}' was invalidated{why}: the server has removed WAL that the flow did not have yet, so changes"
            f" are lost. {starting_over(name)} Look at max_slot_wal_keep_size and idle_replication_slot_timeout"
        )
    return Slot(name, lsn_number(confirmed), pid, reader)


def starting_over(name: str) -> str:
    """What to do when changes are lost."""
    return (
        f"To start over with a new snapshot: SELECT pg_drop_replication_slot('{name}') if it is still there, and run"
        " the flow under a new name, or without its stored position."
    )


def create_slot(access: Access, session: str, name: str) -> int:
    """Make the slot; returns the LSN that its changes begin at. Waits for the transactions that are running."""
    with connect_replication(access, session) as connection:
        try:
            row = Command(
                connection, f"CREATE_REPLICATION_SLOT {quoted(name)} LOGICAL pgoutput NOEXPORT_SNAPSHOT"
            ).row()
        except psycopg.errors.DuplicateObject:
            raise Retryable(f"slot '{name}' was made by another at the same time") from None
        log.info("slot %s was made at %s", name, row[1])
        return lsn_number(row[1])


@dataclass(frozen=True, slots=True)
class ExportedSnapshot:
    """A snapshot that holds exactly the transactions with a commit LSN below `lsn`; to be taken while `session` is
    open."""

    session: Connection
    name: str
    lsn: int


def export_snapshot(access: Access, session: str) -> ExportedSnapshot:
    """A snapshot and its LSN, from a slot that ends with the session."""
    connection = connect_replication(access, session)
    try:
        name = f"connect_snapshot_{connection.info.backend_pid}"
        row = Command(
            connection, f"CREATE_REPLICATION_SLOT {quoted(name)} TEMPORARY LOGICAL pgoutput EXPORT_SNAPSHOT"
        ).row()
        return ExportedSnapshot(connection, row[2], lsn_number(row[1]))
    except BaseException:
        connection.close()
        raise


def take_over(connection: Connection, name: str, reader: str) -> None:
    """Return once nobody reads the slot: a former worker of this flow, whose sessions are named `reader`, is given some
    seconds and then ended. Retryable while somebody else reads it."""
    until = time.monotonic() + HANDOVER_SECONDS
    ended = False
    while True:
        slot = find_slot(connection, name)
        if slot is None or slot.active_pid is None:
            return
        if slot.reader != reader:
            raise Retryable(
                f"slot '{name}' is in use by process {slot.active_pid} ('{slot.reader}'); every flow needs one of"
                " its own: set `slot`"
            )
        if time.monotonic() > until:
            if ended:
                raise Retryable(f"slot '{name}' is still in use by process {slot.active_pid} of this flow")
            log.warning("slot %s: ending process %s of a former worker of this flow", name, slot.active_pid)
            try:
                run(connection, "SELECT pg_terminate_backend(%s)", [slot.active_pid])
            except psycopg.errors.InsufficientPrivilege as error:
                raise Retryable(f"slot '{name}' is in use: {error.diag.message_primary}") from error
            ended, until = True, until + HANDOVER_SECONDS
        time.sleep(0.05)


class Command(Exchange):
    """A command of the replication protocol with a result of one row."""

    def row(self) -> list[str]:
        """Its values; empty texts for NULL."""
        since = time.monotonic()
        warned = False
        while (result := self._result(time.monotonic() + 1.0)) is False:
            if not warned and time.monotonic() - since > _WARNING_SECONDS:
                warned = True
                log.warning("a new slot waits for transactions that are open on the server to end")
        if not isinstance(result, pq.PGresult):
            raise self._lost()
        if result.status != pq.ExecStatus.TUPLES_OK:
            self._finish()
            raise errors.error_from_result(result, encoding=self._encode)
        row = [(result.get_value(0, index) or b"").decode() for index in range(result.nfields)]
        self._finish()
        return row


def current_lsn(connection: Connection) -> int:
    """Up to where the server's WAL is there."""
    row = run(
        connection,
        "SELECT (CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn()"
        " ELSE pg_current_wal_flush_lsn() END)::text",
    ).fetchone()
    assert row is not None
    return lsn_number(row[0])
