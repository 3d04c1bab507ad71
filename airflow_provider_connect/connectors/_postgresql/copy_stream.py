"""Copy stream: COPY in and out on libpq itself, a thousand rows at a time, without ever blocking other threads.

While a stream is open its connection can do nothing else; to abandon one, close the connection or `CopyIn.cancel`.
"""

from __future__ import annotations

import io
import select
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass

import psycopg
from psycopg import errors, pq

from airflow_provider_connect.connectors._postgresql.client import Connection

Buffer = bytes | bytearray | memoryview

_WRITE_BYTES = 1 << 18
_HEADER_BYTES = 19
"""Of a binary COPY: signature, flags, and the length of an extension that follows."""
_TRAILER = b"\xff\xff"


class Exchange:
    """A statement that is under way on a connection."""

    def __init__(self, connection: Connection, statement: str) -> None:
        self._pgconn: pq.abc.PGconn = connection.pgconn
        self._encode = "utf-8"
        self._pgconn.nonblocking = 1
        self._poll = select.poll()
        self._poll.register(self._pgconn.socket, select.POLLIN)
        self._pgconn.send_query(statement.encode())
        self._flush()

    def _flush(self) -> None:
        """Send what libpq still holds, taking in what the server says meanwhile, so that neither waits for ever."""
        while self._pgconn.flush():
            self._poll.modify(self._pgconn.socket, select.POLLIN | select.POLLOUT)
            if any(event & ~select.POLLOUT for _, event in self._poll.poll()):
                self._pgconn.consume_input()
            self._poll.modify(self._pgconn.socket, select.POLLIN)

    def _arrived(self, seconds: float | None) -> bool:
        """Whether the server has said something within `seconds` (None: however long it takes)."""
        if not self._poll.poll(None if seconds is None else max(0.0, seconds) * 1000):
            return False
        self._pgconn.consume_input()
        return True

    def _result(self, deadline: float | None = None) -> pq.abc.PGresult | bool | None:
        """The next result; None after the last one; False if it is not there by `deadline`."""
        while self._pgconn.is_busy():
            if not self._arrived(None if deadline is None else deadline - time.monotonic()):
                return False
        return self._pgconn.get_result()

    def _finish(self) -> pq.abc.PGresult | None:
        """Take all results up to the last; raises the first error among them."""
        failed: pq.abc.PGresult | None = None
        last: pq.abc.PGresult | None = None
        while isinstance(result := self._result(), pq.PGresult):
            last = result
            if result.status in (pq.ExecStatus.COPY_IN, pq.ExecStatus.COPY_OUT):
                break
            if result.status == pq.ExecStatus.FATAL_ERROR and failed is None:
                failed = result
        if failed is not None:
            raise errors.error_from_result(failed, encoding=self._encode)
        return last

    def _lost(self) -> psycopg.OperationalError:
        message = self._pgconn.error_message.decode(errors="replace").strip()
        return psycopg.OperationalError(message or "the connection was lost")


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows as they came, one after the other: lines of text, each with its newline, or binary tuples."""

    data: memoryview
    ends: list[int]
    """Where each row ends in `data`."""
    last: bytes

    @property
    def count(self) -> int:
        """How many there are."""
        return len(self.ends)


class CopyOut(Exchange):
    """The rows of `COPY … TO STDOUT`, each as the server sent it. A binary stream's header and trailer are left out."""

    def __init__(
        self,
        connection: Connection,
        statement: str,
        binary: bool = False,
        first: str = "",
        check: Callable[[pq.abc.PGresult], None] | None = None,
    ) -> None:
        """`first` is a query to run before, in the same transaction, whose result `check` gets when the rows are
        fetched; it may raise, and then the connection is to be closed."""
        super().__init__(connection, f"{first}; {statement}" if first else statement)
        self._check = check
        self._started = False
        self._binary = binary
        self._header_ahead = binary
        self.done = False
        """Whether the last row has been fetched."""

    def fetch(self, max_rows: int, max_bytes: int, timeout: float) -> Rows:
        """The next rows: as many as asked for, fewer at the end or when they take longer than `timeout` seconds."""
        deadline = time.monotonic() + timeout
        data, ends, last = io.BytesIO(), list[int](), memoryview(b"")
        if self.done or not (self._started or self._start(deadline)):
            return Rows(last, ends, b"")
        get, add, ended = self._pgconn.get_copy_data, data.write, ends.append
        header_ahead, count, size = self._header_ahead, 0, 0
        while count < max_rows and size < max_bytes:
            length, row = get(1)
            if length > 0:
                if header_ahead:
                    header_ahead = self._header_ahead = False
                    row = _without_header(row)
                    if not len(row):
                        continue
                # Copied and let go at once: keeping thousands of small buffers costs more than the copy.
                size += add(row)
                ended(size)
                count += 1
                last = row
            elif length == 0:
                if not self._arrived(deadline - time.monotonic()):
                    break
            else:
                self.done = True
                self._finish()
                break
        if self._binary and last == _TRAILER:
            # Nothing comes after it, so it is the last message of a fetch.
            ends.pop()
            whole = data.getbuffer()[: ends[-1] if ends else 0]
            return Rows(whole, ends, bytes(whole[ends[-2] if len(ends) > 1 else 0 :]))
        return Rows(data.getbuffer(), ends, bytes(last))

    def _start(self, deadline: float) -> bool:
        result = self._result(deadline)
        while isinstance(result, pq.PGresult) and result.status == pq.ExecStatus.TUPLES_OK:
            if self._check is not None:
                self._check(result)
            result = self._result(deadline)
        if result is False:
            return False
        if not isinstance(result, pq.PGresult):
            raise self._lost()
        if result.status != pq.ExecStatus.COPY_OUT:
            self.done = True
            self._finish()
            raise errors.error_from_result(result, encoding=self._encode)
        self._started = True
        return True


def _without_header(message: memoryview) -> memoryview:
    """The first message may go on with the first tuple behind the header."""
    (extension,) = struct.unpack_from(">I", message, _HEADER_BYTES - 4)
    return message[_HEADER_BYTES + extension :]


class CopyIn(Exchange):
    """The way into `COPY … FROM STDIN`. Every method may raise psycopg's errors; the stream is over then."""

    def __init__(self, connection: Connection, statement: str) -> None:
        super().__init__(connection, statement)
        self._open = True
        result = self._result()
        if not isinstance(result, pq.PGresult):
            raise self._lost()
        if result.status != pq.ExecStatus.COPY_IN:
            self._open = False
            self._finish()
            raise errors.error_from_result(result, encoding=self._encode)

    def write(self, *parts: Buffer) -> None:
        """Send bytes of whatever length."""
        try:
            for part in parts:
                view = memoryview(part)
                for start in range(0, len(view), _WRITE_BYTES):
                    self._put(view[start : start + _WRITE_BYTES])
        except psycopg.Error:
            # The server has ended the COPY; what it says about that is worth more than that nothing can be sent.
            self._open = False
            self._finish()
            raise

    def _put(self, piece: memoryview) -> None:
        while self._pgconn.put_copy_data(piece) == 0:
            self._flush()
        self._flush()

    def end(self) -> int:
        """All has been sent: the number of rows that the server took."""
        self._open = False
        try:
            while self._pgconn.put_copy_end() == 0:
                self._flush()
            self._flush()
        except psycopg.Error:
            self._finish()
            raise
        result = self._finish()
        return (result.command_tuples or 0) if result is not None else 0

    def cancel(self) -> None:
        """Give the COPY up: its rows are not stored, and the transaction it runs in is void."""
        if not self._open:
            return
        self._open = False
        while self._pgconn.put_copy_end(b"given up") == 0:
            self._flush()
        self._flush()
        try:
            self._finish()
        except psycopg.errors.QueryCanceled:
            return
