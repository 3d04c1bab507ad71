"""Ledger: epochs and positions of a flow's splits, in a table beside the data.

    airflow_connect_checkpoint (flow, split, epoch, position, updated_at), primary key (flow, split)

A claim raises the epoch; a commit only finds rows of its own epoch and of the position it expects. Both lock the rows
they touch, so a claim waits for a commit that is under way and then sees what became of it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from airflow_provider_connect.connectors._postgresql.client import Connection, run
from airflow_provider_connect.connectors._postgresql.names import TableName, quoted
from airflow_provider_connect.connectors.postgresql.table import exists, lock_creation
from airflow_provider_connect.engine.batch import Checkpoint
from airflow_provider_connect.engine.errors import Fenced

LEDGER_TABLE = "airflow_connect_checkpoint"

_LOCK_TIMEOUT = "30s"
_ABANDONED_AFTER = "60s"
"""How long a worker may hold rows of the ledger without a word, before the server ends its transaction."""


class CheckpointTable:
    """The rows of one flow, and what this owner knows of them. Connections are given with each call."""

    def __init__(self, schema: str, flow: str) -> None:
        self._table = TableName(schema, LEDGER_TABLE)
        self._sql = self._table.sql.replace("%", "%%")  # in statements with parameters
        self._flow = flow
        self._epochs: dict[str, int] = {}
        self._known: dict[str, Any] = {}

    def same(self, other: CheckpointTable) -> bool:
        """Whether both are the rows of one flow in one table."""
        return (self._table, self._flow) == (other._table, other._flow)

    def create(self, connection: Connection) -> None:
        """Create the table if it is missing. Needs no right to create it otherwise."""
        if exists(connection, self._table):
            return
        with connection.transaction():
            lock_creation(connection, str(self._table))
            if not exists(connection, self._table):
                run(
                    connection,
                    f"CREATE TABLE {self._table.sql} (flow text NOT NULL, split text NOT NULL, epoch bigint NOT NULL,"
                    " position jsonb, updated_at timestamptz NOT NULL, PRIMARY KEY (flow, split))",
                )

    def claim(self, connection: Connection, splits: Iterable[str]) -> Checkpoint:
        """Own `splits` from now on, in a transaction of its own; their stored positions."""
        wanted = sorted(set(splits))
        with connection.transaction():
            run(connection, f"SET LOCAL lock_timeout = '{_LOCK_TIMEOUT}'")
            rows = run(
                connection,
                f"INSERT INTO {self._sql} AS l (flow, split, epoch, updated_at)"
                " SELECT %s, split, 1, clock_timestamp() FROM unnest(%s::text[]) AS s(split)"
                " ON CONFLICT (flow, split) DO UPDATE SET epoch = l.epoch + 1, updated_at = clock_timestamp()"
                " RETURNING split, epoch, position",
                [self._flow, wanted],
            ).fetchall()
        for split, epoch, position in rows:
            self._epochs[split] = epoch
            self._known[split] = position
        return self._checkpoint(wanted)

    def positions(self, connection: Connection, splits: Iterable[str]) -> Checkpoint:
        """What is stored now, once every commit that is under way has ended. Fenced if a split has another owner."""
        wanted = sorted(set(splits))
        with connection.transaction():
            run(connection, f"SET LOCAL lock_timeout = '{_LOCK_TIMEOUT}'")
            rows = run(
                connection,
                f"SELECT split, epoch, position FROM {self._sql} WHERE flow = %s AND split = ANY (%s)"
                " ORDER BY split FOR UPDATE",
                [self._flow, wanted],
            ).fetchall()
        epochs = {split: epoch for split, epoch, _ in rows}
        self._fence([split for split in wanted if epochs.get(split) != self._epochs.get(split)])
        self._known.update({split: position for split, _, position in rows})
        return self._checkpoint(wanted)

    def advance(self, connection: Connection, checkpoint: Mapping[str, Any]) -> None:
        """Within the open transaction, move the splits on; Fenced (and nothing moved for good) if one is not ours.

        `landed` must follow the commit.
        """
        splits = sorted(checkpoint)
        unclaimed = [split for split in splits if split not in self._epochs]
        self._fence(unclaimed)
        # In one round trip: a worker that dies now without the server noticing must not hold its rows for ever.
        moved = run(
            connection,
            "WITH bounded AS MATERIALIZED"
            f" (SELECT set_config('idle_in_transaction_session_timeout', '{_ABANDONED_AFTER}', true))"
            f" UPDATE {self._sql} l SET position = g.position::jsonb, updated_at = clock_timestamp()"
            " FROM bounded, unnest(%s::text[], %s::bigint[], %s::text[], %s::text[])"
            " AS g(split, epoch, expected, position)"
            " WHERE l.flow = %s AND l.split = g.split AND l.epoch = g.epoch"
            " AND l.position IS NOT DISTINCT FROM g.expected::jsonb RETURNING l.split",
            [
                splits,
                [self._epochs[split] for split in splits],
                [_json(self._known.get(split)) for split in splits],
                [_json(checkpoint[split]) for split in splits],
                self._flow,
            ],
        ).fetchall()
        self._fence(sorted(set(splits) - {split for (split,) in moved}))

    def landed(self, checkpoint: Mapping[str, Any]) -> None:
        """`checkpoint` is committed."""
        self._known.update(checkpoint)

    def _checkpoint(self, splits: Iterable[str]) -> Checkpoint:
        return Checkpoint({split: self._known[split] for split in splits if self._known.get(split) is not None})

    def _fence(self, splits: list[str]) -> None:
        if splits:
            named = ", ".join(quoted(split) for split in splits)
            raise Fenced(f"another worker of flow '{self._flow}' owns {named}", splits=tuple(splits))


def _json(position: Any) -> str | None:
    return None if position is None else json.dumps(position)
