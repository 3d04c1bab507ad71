"""Replication: the server's stream of changes, by libpq's COPY BOTH; and what we tell the server about it.

What is told is the LSN up to which everything is durable downstream: the server may forget WAL below it. It is told
every second, also while nobody reads, else the server takes us for dead.
"""

from __future__ import annotations

import struct
import time
from typing import NoReturn

from psycopg import errors, pq

from airflow_provider_connect.connectors._postgresql.client import Connection
from airflow_provider_connect.connectors._postgresql.copy_stream import Exchange
from airflow_provider_connect.connectors._postgresql.names import literal, quoted
from airflow_provider_connect.connectors.postgresql_cdc.position import lsn_text

WAL_DATA, KEEP_ALIVE = ord("w"), ord("k")
"""The kinds of messages: `w`, three integers of 8 bytes (LSN, end of WAL, clock) and what pgoutput wrote; or `k`, end
of WAL, clock, and whether an answer is wanted."""

_STATUS_SECONDS = 1.0
_CLOSE_SECONDS = 2.0
_EPOCH = 946_684_800
"""Of PostgreSQL's clocks: 2000-01-01, in seconds of Unix."""


class ReplicationStream(Exchange):
    """The changes of the transactions that commit at `start` or later, in the order of their commits, each whole."""

    def __init__(self, connection: Connection, slot: str, start: int, publication: str) -> None:
        super().__init__(
            connection,
            f"START_REPLICATION SLOT {quoted(slot)} LOGICAL {lsn_text(start)}"
            f" (proto_version '1', publication_names {literal(quoted(publication))})",
        )
        self._confirmed = 0  # which tells the server nothing: where we start may not be committed yet
        self._told = time.monotonic()
        result = self._result()
        if not isinstance(result, pq.PGresult):
            raise self._lost()
        if result.status != pq.ExecStatus.COPY_BOTH:
            self._finish()
            raise errors.error_from_result(result, encoding=self._encode)
        self.get = self._pgconn.get_copy_data
        """libpq's: the length (0: nothing is there, -1: the stream has ended) and the message."""

    def wait(self, seconds: float) -> bool:
        """Whether something arrived within so many seconds."""
        return self._arrived(seconds)

    def ended(self) -> NoReturn:
        """Raise why the server ended the stream."""
        self._finish()
        raise self._lost()

    def confirm(self, lsn: int) -> None:
        """Everything below `lsn` is durable downstream."""
        if lsn > self._confirmed:
            self._confirmed = lsn
            self.tell()

    def tell_in_time(self) -> None:
        """Tell the server that we live, if that is due."""
        if time.monotonic() - self._told >= _STATUS_SECONDS:
            self.tell()

    def tell(self, ask: bool = False) -> None:
        """Tell the server what is durable; `ask` for how far it has read."""
        self._told = time.monotonic()
        clock = int((time.time() - _EPOCH) * 1_000_000)
        status = struct.pack(">cQQQQ?", b"r", self._confirmed, self._confirmed, 0, clock, ask)
        self._pgconn.put_copy_data(status)
        # What the socket does not take now goes out with the next call; this one must not wait for the server.
        self._pgconn.flush()

    def close(self) -> None:
        """End the stream in good order, if the server has a moment for it: what was confirmed is then known there."""
        deadline = time.monotonic() + _CLOSE_SECONDS
        self.tell()
        self._pgconn.put_copy_end()
        self._pgconn.flush()
        while (left := deadline - time.monotonic()) > 0:
            length, _ = self.get(1)
            if length < 0:
                while isinstance(self._result(deadline), pq.PGresult):  # until then the slot counts as in use
                    pass
                return
            if length == 0:
                self._pgconn.flush()
                self._arrived(min(left, 0.1))
