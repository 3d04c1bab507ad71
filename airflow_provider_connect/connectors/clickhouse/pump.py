"""Pump: a thread that reads a stream ahead, so that asking for rows never waits longer than the caller wants."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable

import pyarrow as pa

from airflow_provider_connect.connectors.clickhouse.client import Stream

_AHEAD = 2


class Pump:
    """The batches of a stream, in order; two of the server's blocks are kept ready. Used by one thread."""

    def __init__(self, start: Callable[[], Stream]) -> None:
        self._start = start
        self._ready: queue.Queue[pa.RecordBatch | BaseException | None] = queue.Queue(_AHEAD)
        self._stopped = threading.Event()
        self._stream: Stream | None = None
        self._rest: pa.RecordBatch | None = None
        self.done = False
        """Whether all rows were handed out."""
        self._thread = threading.Thread(target=self._run, name="clickhouse-stream", daemon=True)
        self._thread.start()

    def fetch(self, max_records: int, max_bytes: int, timeout: float) -> pa.RecordBatch | None:
        """At most so many rows; None if none came in time, or `done`. Raises what broke the stream off."""
        if self._rest is None and not self.done:
            try:
                found = self._ready.get(timeout=max(timeout, 0.001))
            except queue.Empty:
                return None
            if isinstance(found, BaseException):
                self.done = True
                raise found
            self.done = found is None
            self._rest = found
        batch, self._rest = self._rest, None
        if batch is None:
            return None
        per_row = max(1, batch.nbytes // max(1, batch.num_rows))
        count = max(1, min(max_records, max_bytes // per_row))
        if count < batch.num_rows:
            self._rest = batch.slice(count)
        return batch.slice(0, count)

    def close(self) -> None:
        """Give the rest up; returns when nothing is read any more."""
        self._stopped.set()
        if self._stream is not None:
            self._stream.close()
        while self._thread.is_alive():
            try:
                self._ready.get(timeout=0.05)
            except queue.Empty:
                self._thread.join(0.05)
                if self._stream is not None:
                    self._stream.close()

    def _run(self) -> None:
        last: BaseException | None = None
        try:
            self._stream = self._start()
            for batch in self._stream.batches():
                if self._stopped.is_set():
                    return
                if batch.num_rows:
                    self._put(batch)
            self._stream.close()
        except BaseException as error:
            last = error
        self._put(last)

    def _put(self, item: pa.RecordBatch | BaseException | None) -> None:
        while not self._stopped.is_set():
            try:
                self._ready.put(item, timeout=0.1)
                return
            except queue.Full:
                continue
