"""Horizon: how far it is safe to read, while others write.

A cursor value (`nextval()`, `now()`) is handed out before its transaction commits, so 103 may become visible after 105
was read. The rule, for cursors whose new values are always beyond all older ones:

    1. look up the newest visible row: the bound;
    2. then list the transactions that are running;
    3. once all of these have ended, every row up to the bound is visible or never will be, for a transaction begun
       after 2 draws values beyond the bound: read up to the bound.

With nobody else writing that is one short question more per poll. Transactions are told by their virtual ids, as they
may have drawn a value before they have a real one; so one that only reads is waited for too, as it may yet write.
"""

from __future__ import annotations

from airflow_provider_connect.connectors._postgresql.client import Connection, run

_RUNNING = """
SELECT l.virtualtransaction, l.pid
  FROM pg_catalog.pg_locks l LEFT JOIN pg_catalog.pg_stat_activity a ON a.pid = l.pid
 WHERE l.locktype = 'virtualxid' AND l.granted AND l.mode = 'ExclusiveLock' AND l.pid <> pg_backend_pid()
   AND coalesce(a.datname = current_database(), true)
   AND coalesce(a.backend_type, '') NOT IN ('autovacuum worker', 'walsender')
   AND coalesce(a.application_name, '') <> %s
UNION ALL
SELECT 'prepared ' || gid, NULL FROM pg_catalog.pg_prepared_xacts WHERE database = current_database()
"""
_RUNNING_ON_PRIMARY = """
SELECT xid::text, NULL::int FROM pg_snapshot_xip(pg_current_snapshot()) AS x(xid)
"""


def running_transactions(connection: Connection, own_name: str) -> dict[str, int | None]:
    """The transactions that may write to this database, with the process that runs each where it is here.

    Not those of sessions with the application name `own_name`: the flow's own sink would wait for itself. On a standby
    these are the primary's transactions that have written something; what they drew before is not known there.
    """
    row = run(connection, "SELECT pg_is_in_recovery()").fetchone()
    if row is not None and row[0]:
        return dict(run(connection, _RUNNING_ON_PRIMARY).fetchall())
    return dict(run(connection, _RUNNING, [own_name]).fetchall())


def still_running(before: dict[str, int | None], now: dict[str, int | None]) -> dict[str, int | None]:
    """Which of `before` must still be waited for: a transaction may have been prepared, with a new name, since."""
    return {name: pid for name, pid in now.items() if name in before or name.startswith("prepared ")}
