"""Binary types: those whose binary form says the same on every server, and their values as the server writes them."""

from __future__ import annotations

import struct
from collections.abc import Sequence

import psycopg
from psycopg import errors, postgres, pq

from airflow_provider_connect.connectors._postgresql.access import Access
from airflow_provider_connect.connectors._postgresql.client import Connection, connect
from airflow_provider_connect.engine.errors import Fatal


def oid(name: str) -> int:
    """The OID of a built-in type."""
    return postgres.types[name].oid


_SCALARS = (
    *("bool", "int2", "int4", "int8", "float4", "float8", "numeric", "oid", "xid8", "pg_lsn"),
    *("text", "varchar", "bpchar", "name", '"char"', "bytea", "json", "jsonb", "uuid", "bit", "varbit"),
    *("date", "time", "timetz", "timestamp", "timestamptz", "interval", "inet", "cidr", "macaddr", "macaddr8"),
    *("point", "lseg", "path", "box", "polygon", "line", "circle"),
)
_RANGES = tuple(
    f"{element}{kind}" for element in ("int4", "int8", "num", "ts", "tstz", "date") for kind in ("range", "multirange")
)

PORTABLE = frozenset(oid(name) for name in (*_SCALARS, *_RANGES)) | frozenset(
    postgres.types[name].array_oid for name in (*_SCALARS, *_RANGES)
)
"""OIDs of built-in types and their arrays that mean the same in any database.

Not among them: `regclass` and its like (a number that is local), `money` (depends on the locale), `xml` (gets a
declaration), and every type that is not built in, whose OID is local too."""

_INTEGERS = {oid("int2"): ">h", oid("int4"): ">i", oid("int8"): ">q"}


class OutputTexts:
    """Binary values as the texts that COPY would write. Integers are read here, all else is asked of the server, on a
    connection of its own, since the other one is amid a COPY."""

    def __init__(self, access: Access, application_name: str) -> None:
        self._access, self._name = access, application_name
        self._connection: Connection | None = None

    def of(self, values: Sequence[bytes], types: Sequence[int]) -> tuple[str, ...]:
        """The texts of values of these types (OIDs). May raise psycopg's errors."""
        if all(type_ in _INTEGERS for type_ in types):
            return tuple(str(struct.unpack(_INTEGERS[t], v)[0]) for v, t in zip(values, types, strict=True))
        if self._connection is None:
            self._connection = connect(self._access, self._name, read_only=True)
        server = self._connection.pgconn
        wanted = ", ".join(f"${number}" for number in range(1, len(values) + 1))
        result = server.exec_params(
            f"SELECT {wanted}".encode(), list(values), param_types=list(types), param_formats=[1] * len(values)
        )
        if result.status != pq.ExecStatus.TUPLES_OK:
            if server.status == pq.ConnStatus.BAD:
                raise psycopg.OperationalError("the connection was lost")
            raise errors.error_from_result(result)
        texts = [result.get_value(0, index) for index in range(len(values))]
        if None in texts:
            raise Fatal("the server has no text for a cursor value")
        return tuple(text.decode() for text in texts if text is not None)

    def close(self) -> None:
        """Close the connection, if one was needed."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()
