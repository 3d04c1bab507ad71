"""Messages of pgoutput that come once per transaction or table: their fields, taken out of the bytes."""

from __future__ import annotations

import struct
from dataclasses import dataclass

_EPOCH_MS = 946_684_800_000
BEGIN, COMMIT, RELATION, TRUNCATE = b"BCRT"
INSERT, UPDATE, DELETE = b"IUD"

Bytes = bytes | memoryview


@dataclass(frozen=True, slots=True)
class Transaction:
    """A transaction that is being sent: its commit's LSN and time (ms), and its id."""

    lsn: int
    ts_ms: int
    xid: int

    @classmethod
    def of(cls, message: Bytes) -> Transaction:
        """From a Begin."""
        lsn, clock, xid = struct.unpack_from(">QqI", message, 1)
        return cls(lsn, clock // 1000 + _EPOCH_MS, xid)


def end_of(message: Bytes) -> int:
    """From a Commit: where the next transaction may begin."""
    (end,) = struct.unpack_from(">Q", message, 10)
    return int(end)


@dataclass(frozen=True, slots=True)
class RelationColumn:
    """A column of the rows that follow; `identifies` if it is part of the replica identity."""

    name: str
    type: int
    identifies: bool


@dataclass(frozen=True, slots=True)
class Relation:
    """A table as the rows that follow have it."""

    oid: int
    schema: str
    table: str
    columns: tuple[RelationColumn, ...]

    @classmethod
    def of(cls, message: Bytes) -> Relation:
        """From a Relation."""
        data = bytes(message)
        (oid,) = struct.unpack_from(">I", data, 1)
        schema, at = _text(data, 5)
        table, at = _text(data, at)
        (count,) = struct.unpack_from(">h", data, at + 1)
        at += 3
        columns = []
        for _ in range(count):
            flags = data[at]
            name, at = _text(data, at + 1)
            (type_,) = struct.unpack_from(">I", data, at)
            at += 8
            columns.append(RelationColumn(name, type_, bool(flags & 1)))
        return cls(oid, schema or "pg_catalog", table, tuple(columns))


def truncated(message: Bytes) -> tuple[int, ...]:
    """From a Truncate: the tables."""
    (count,) = struct.unpack_from(">I", message, 1)
    return struct.unpack_from(f">{count}I", message, 6)


def _text(data: bytes, at: int) -> tuple[str, int]:
    end = data.index(0, at)
    return data[at:end].decode(), end + 1
