"""Reader: the thread that keeps a lane's source busy while the sink writes."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from typing import Any

from airflow_provider_connect.engine.batch import Checkpoint
from airflow_provider_connect.engine.connector import Share, Source, SourceContext
from airflow_provider_connect.engine.errors import ConnectError, EndOfInput
from airflow_provider_connect.engine.handoff import Handoff, Kind, Request

log = logging.getLogger(__name__)

_READ_SECONDS = 0.1
"""Longest wait in one read, so that acknowledgements and `stop` are never late by more."""
_KEEP_ALIVE_SECONDS = 1.0
_REQUEST_SECONDS = 30.0
"""Longest wait for the writer when splits change owners. A sink that hangs must not hold a whole group up: the splits
move without us then, and what we have of them is fenced when it comes to its commit."""


class Budget:
    """The records a run may still read, shared by its lanes. Thread-safe."""

    def __init__(self, records: int | None) -> None:
        self._left = records
        self._lock = threading.Lock()

    def take(self, wanted: int) -> int:
        """Reserve up to `wanted` records; 0 when nothing is left."""
        with self._lock:
            if self._left is None:
                return wanted
            taken = min(wanted, self._left)
            self._left -= taken
            return taken

    def give_back(self, records: int) -> None:
        """Return what was reserved and not delivered."""
        with self._lock:
            if self._left is not None:
                self._left += records


class Gathering:
    """Where the lanes of a worker wait for each other once, at most for `seconds` each. Thread-safe."""

    def __init__(self, lanes: int, seconds: float = 0.5) -> None:
        self._missing = set(range(lanes))
        self._seconds = seconds
        self._changed = threading.Condition()

    def arrive(self, lane: int) -> None:
        """Wait until all lanes have been here; at once for a lane that comes again."""
        with self._changed:
            if lane in self._missing:
                self._missing.discard(lane)
                self._changed.notify_all()
                self._changed.wait_for(lambda: not self._missing, self._seconds)


class Assignment(SourceContext):
    """The reader's side of split ownership: every call becomes a request to the writer."""

    def __init__(
        self,
        flow: str,
        format: str,
        share: Share,
        handoff: Handoff,
        gather: Callable[[], None],
        *,
        drain: bool,
        fixed_splits: bool,
        until: Checkpoint,
    ) -> None:
        self.flow, self.format, self.share = flow, format, share
        self.drain, self.fixed_splits, self.until = drain, fixed_splits, until
        self._handoff, self._gather = handoff, gather

    def gather(self) -> None:
        self._gather()

    def claim(self, splits: Sequence[str]) -> Checkpoint:
        return self._ask("claim", splits) if splits else Checkpoint()

    def revoked(self, splits: Sequence[str]) -> None:
        if splits:
            self._ask("revoked", splits)

    def settle(self) -> None:
        self._ask("settle", ())

    def lost(self, splits: Sequence[str]) -> None:
        if splits:
            self._ask("lost", splits)

    def _ask(self, kind: Kind, splits: Sequence[str]) -> Checkpoint:
        return self._handoff.request(Request(kind, tuple(splits)), _REQUEST_SECONDS)


class Reader:
    """Opens, reads, acknowledges and closes a source on a thread of its own.

    1. open the source; 2. while there is room in the handoff and something left of the budget: read, put;
    3. between reads pass acknowledgements on, and while there is no room keep the session alive;
    4. after the end of input or an error, put `Ended` and only pass acknowledgements on;
    5. on `stop`: acknowledge what is left, close the source (which may still make requests) and leave the handoff.
    """

    def __init__(
        self,
        source: Source[Any],
        context: SourceContext,
        handoff: Handoff,
        budget: Budget,
        read_records: int,
        name: str,
    ) -> None:
        self._source, self._context, self._handoff = source, context, handoff
        self._budget, self._read_records = budget, read_records
        self.delivered = 0
        """Records put into the handoff so far."""
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"{name}-reader", daemon=True)

    def start(self) -> None:
        """Begin to read."""
        self._thread.start()

    def stop(self) -> None:
        """Ask the thread to leave the handoff."""
        self._stopping.set()

    def _run(self) -> None:
        try:
            self._handoff.end(self._read_to_end())
            while not self._stopping.wait(_READ_SECONDS):
                self._acknowledge()
                self._source.keep_alive()
            self._acknowledge()
        except Exception as error:
            log.debug("source failed after its end", exc_info=error)
        finally:
            try:
                self._source.close()
            except Exception as error:
                log.warning("closing the source failed: %s", error)
            finally:
                self._handoff.leave()

    def _read_to_end(self) -> ConnectError | None:
        try:
            self._source.open(self._context)
            while not self._stopping.is_set():
                self._acknowledge()
                if not self._handoff.wait_for_room(_KEEP_ALIVE_SECONDS):
                    self._source.keep_alive()
                    continue
                allowed = self._budget.take(self._read_records)
                if not allowed:
                    return None
                delivered = 0
                try:
                    batch = self._source.read(allowed, _READ_SECONDS)
                    delivered = len(batch) if batch is not None else 0
                finally:
                    self._budget.give_back(allowed - delivered)
                if batch is not None:
                    self.delivered += delivered
                    self._handoff.put(batch)
        except EndOfInput:
            return None
        except ConnectError as error:
            return error
        except Exception as error:
            sorted_error = self._source.classify(error)
            sorted_error.__cause__ = error
            return sorted_error
        return None

    def _acknowledge(self) -> None:
        checkpoint = self._handoff.acknowledgement()
        if checkpoint:
            self._source.acknowledge(checkpoint)
