"""Publication: what the server sends to a slot's reader; made for the flow's tables, or reused."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import psycopg

from airflow_provider_connect.connectors._postgresql.client import Connection, run
from airflow_provider_connect.connectors._postgresql.names import TableName, quoted
from airflow_provider_connect.connectors.postgresql_cdc.catalog import FollowedTable
from airflow_provider_connect.engine.errors import Fatal, FlowError

log = logging.getLogger(__name__)

_COLUMN_LISTS_SINCE = 150000


@dataclass(frozen=True, slots=True)
class Published:
    """A table of a publication: its published columns (None: all), and the condition its rows must meet."""

    columns: tuple[str, ...] | None = None
    condition: str | None = None


def tables_of(connection: Connection, publication: str) -> dict[TableName, Published] | None:
    """What the publication publishes; None if there is no such publication."""
    if run(connection, "SELECT FROM pg_catalog.pg_publication WHERE pubname = %s", [publication]).fetchone() is None:
        return None
    extra = "attnames::text[], rowfilter" if _server_version(connection) >= _COLUMN_LISTS_SINCE else "NULL, NULL"
    rows = run(
        connection,
        f"SELECT schemaname, tablename, {extra} FROM pg_catalog.pg_publication_tables WHERE pubname = %s",
        [publication],
    ).fetchall()
    return {
        TableName(schema, table): Published(tuple(columns) if columns is not None else None, condition)
        for schema, table, columns, condition in rows
    }


def ensure(connection: Connection, publication: str, tables: list[FollowedTable]) -> dict[TableName, Published]:
    """Make the publication with these tables, or add those that it lacks; returns what it publishes."""
    published = tables_of(connection, publication)
    name = quoted(publication)
    missing = [table for table in tables if published is None or table.name not in published]
    if missing:
        listed = ", ".join(table.name.sql for table in missing)
        # Without the root's name, changes of a partition would bear the partition's.
        statement = (
            f"CREATE PUBLICATION {name} FOR TABLE {listed} WITH (publish_via_partition_root = true)"
            if published is None
            else f"ALTER PUBLICATION {name} ADD TABLE {listed}"
        )
        try:
            run(connection, statement)
        except psycopg.errors.DuplicateObject:  # by another worker, at the same time
            log.debug("publication %s was changed by another at the same time", publication)
        except (psycopg.errors.InsufficientPrivilege, psycopg.errors.ReadOnlySqlTransaction) as error:
            raise Fatal(
                f"publication '{publication}' lacks tables, and this account may not change it"
                f" ({error.diag.message_primary}); let its owner run: {statement}"
            ) from error
        published = tables_of(connection, publication) or {}
    elif published is None:
        raise FlowError(f"there is no publication '{publication}'; set `tables`, and it is made for them")
    row = run(
        connection,
        "SELECT pubviaroot, pubinsert AND pubupdate AND pubdelete FROM pg_catalog.pg_publication WHERE pubname = %s",
        [publication],
    ).fetchone()
    if row is not None and not row[1]:
        log.warning("publication %s leaves out inserts, updates or deletes, and so do the records", publication)
    if row is not None and not row[0] and any(table.partitioned for table in tables):
        raise Fatal(
            f"publication '{publication}' shows changes of partitions under the partitions' names; run:"
            f" ALTER PUBLICATION {name} SET (publish_via_partition_root = true)"
        )
    return published


def _server_version(connection: Connection) -> int:
    return connection.info.server_version
