"""In-memory sinks of the three kinds, on a `MemoryTarget` that acts as the external system. Import from `memory`."""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

import pyarrow as pa

from airflow_provider_connect.engine.batch import COLUMNS, Batch, Checkpoint
from airflow_provider_connect.engine.config import SinkConfig
from airflow_provider_connect.engine.connector import IdempotentSink, Sink, SinkContext, TransactionalSink
from airflow_provider_connect.engine.errors import Fatal, Fenced, InvalidRecord, Retryable


class MemoryTarget:
    """The external system of the memory sinks: visible rows, remembered tokens, and each split's position and owner.

    Any number of sinks (workers, lanes) may share one; every operation is atomic.
    """

    def __init__(self, *, journal: list[tuple[str, str, int]] | None = None) -> None:
        self.lock = threading.RLock()
        self.reachable = True
        self.batches: list[pa.RecordBatch] = []
        """What a reader of the target sees, in order."""
        self.tokens: set[tuple[str, str]] = set()
        self.stored: dict[tuple[str, str], str] = {}
        """(flow, split) to position, as JSON text."""
        self.owners: dict[tuple[str, str], int] = {}
        """(flow, split) to the epoch of its owner."""
        self.poison: dict[bytes, str] = {}
        """Values that the target refuses, and why."""
        self.names_poison = True
        """Whether a refusal names the rows."""
        self.refuses_at: Literal["write", "flush"] = "write"
        self.calls: Counter[str] = Counter()
        """How often each operation was called, on all sinks together."""
        self.journal: list[tuple[str, str, int]] = [] if journal is None else journal
        """(operation, flow, rows) of every flush and commit that took effect; targets may share one."""
        self._orders: dict[tuple[str, int], tuple[Callable[[], None], bool]] = {}

    def on(self, operation: str, nth: int, act: Callable[[], None], *, after: bool = False) -> None:
        """Call `act` before (or after) the effect of the n-th call of an operation from now on; 1 is the next.

        `act` runs on the caller's thread without the target's lock, so it may block, write by another sink, or raise.
        """
        self._orders[(operation, self.calls[operation] + nth)] = (act, after)

    def fail(self, operation: str, nth: int, error: Exception | None = None, *, landed: bool = False) -> None:
        """The n-th call of an operation from now on raises; with `landed` its effect took place nevertheless."""

        def act() -> None:
            raise error or Retryable(f"{operation} failed as ordered")

        self.on(operation, nth, act, after=landed)

    @contextmanager
    def call(self, operation: str) -> Iterator[None]:
        """One call of an operation: its effect is the body, what was ordered for it happens before or after."""
        with self.lock:
            self.calls[operation] += 1
            act, after = self._orders.pop((operation, self.calls[operation]), (None, False))
        if not self.reachable:
            raise Retryable("the target does not answer")
        if act is not None and not after:
            act()
        with self.lock:
            yield
        if act is not None and after:
            act()

    def values(self) -> list[Any]:
        """The visible rows' `value`, in order."""
        with self.lock:
            return [value for rows in self.batches for value in rows.column("value").to_pylist()]

    def rows(self) -> list[dict[str, Any]]:
        """The visible rows as dictionaries, in order."""
        with self.lock:
            return [row for rows in self.batches for row in rows.to_pylist()]

    def checkpoint(self, flow: str) -> Checkpoint:
        """The stored positions of a flow."""
        with self.lock:
            return Checkpoint({split: json.loads(text) for (name, split), text in self.stored.items() if name == flow})

    def refuse(self, batches: Iterable[pa.RecordBatch]) -> None:
        """InvalidRecord if one of the rows is poison."""
        for rows in batches:
            if self.poison and "value" in rows.schema.names:
                values = rows.column("value").to_pylist()
                refused = {at: self.poison[value] for at, value in enumerate(values) if value in self.poison}
                if refused:
                    raise InvalidRecord("the target refuses rows", rows=refused if self.names_poison else None)


class MemorySinkConfig(SinkConfig):
    """Configuration of the memory sinks."""

    accepted_formats: tuple[str, ...] = ("json", "bytes", COLUMNS)
    """The formats that `write` takes, the favourite first."""


class MemorySink(Sink[MemorySinkConfig]):
    """Rows become visible at `flush`, all or none: at least once."""

    config_type = MemorySinkConfig

    def __init__(self, target: MemoryTarget, config: MemorySinkConfig | None = None) -> None:
        super().__init__(config or MemorySinkConfig())
        self.target = target
        self.context: SinkContext | None = None
        self._written: list[pa.RecordBatch] = []

    @property
    def flow(self) -> str:
        """The flow this sink is open for."""
        if self.context is None:
            raise Fatal("the sink is not open")
        return self.context.flow

    def check(self) -> str:
        with self.target.call("check"):
            return f"target with {len(self.target.batches)} batches"

    def open(self, context: SinkContext) -> None:
        with self.target.call("open"):
            self.context = context
            self._written = []

    def accepts(self) -> tuple[str, ...]:
        return self.config.accepted_formats

    def write(self, batch: Batch) -> None:
        if len(batch) == 0:
            raise Fatal("write got an empty batch")
        if batch.format not in self.config.accepted_formats:
            raise Fatal(f"write got rows in format '{batch.format}', which accepts() does not name")
        with self._all_or_nothing("write"):
            if self.target.refuses_at == "write":
                self.target.refuse([batch.rows])
            self._written.append(batch.rows)

    def flush(self) -> None:
        with self._all_or_nothing("flush"):
            self.target.refuse(self._written)
            self._accept(self._written)
        self._written = []

    def close(self) -> None:
        self._written = []
        self.context = None

    def _accept(self, batches: list[pa.RecordBatch]) -> None:
        self.target.batches.extend(batches)
        self.target.journal.append(("flush", self.flow, sum(rows.num_rows for rows in batches)))

    @contextmanager
    def _all_or_nothing(self, operation: str) -> Iterator[None]:
        if self.context is None:
            raise Fatal("the sink is not open")
        try:
            with self.target.call(operation):
                yield
        except BaseException:
            self._written = []
            raise


class MemoryIdempotentSink(MemorySink, IdempotentSink[MemorySinkConfig]):
    """Rows become visible at `flush`, unless the flow flushed under this token before: effectively once."""

    _token: str | None = None

    def begin(self, token: str) -> None:
        self._written = []
        self._token = token

    def _accept(self, batches: list[pa.RecordBatch]) -> None:
        if self._token is None:
            raise Fatal("write before begin(token)")
        if (self.flow, self._token) not in self.target.tokens:
            self.target.tokens.add((self.flow, self._token))
            super()._accept(batches)

    def flush(self) -> None:
        super().flush()
        self._token = None


class MemoryTransactionalSink(MemorySink, TransactionalSink[MemorySinkConfig]):
    """Rows and checkpoint become visible at `commit`, by compare-and-set of each split's epoch: exactly once.

    What this object claimed it still owns after `close` and `open`, unless somebody else has claimed it since.
    """

    def __init__(self, target: MemoryTarget, config: MemorySinkConfig | None = None) -> None:
        super().__init__(target, config)
        self._flushed: list[pa.RecordBatch] = []
        self._epochs: dict[str, int] = {}

    def open(self, context: SinkContext) -> None:
        super().open(context)
        self._flushed = []

    def claim(self, splits: Iterable[str]) -> Checkpoint:
        splits = list(splits)
        with self.target.call("claim"):
            for split in splits:
                epoch = self.target.owners.get((self.flow, split), 0) + 1
                self.target.owners[(self.flow, split)] = self._epochs[split] = epoch
            return self.target.checkpoint(self.flow).only(splits)

    def positions(self, splits: Iterable[str]) -> Checkpoint:
        splits = list(splits)
        with self.target.call("positions"):
            self._still_own(splits)
            return self.target.checkpoint(self.flow).only(splits)

    def commit(self, checkpoint: Checkpoint) -> None:
        with self.target.call("commit"):
            self._still_own(checkpoint)
            texts = {split: json.dumps(position) for split, position in checkpoint.items()}
            for split, text in texts.items():
                self.target.stored[(self.flow, split)] = text
            self.target.batches.extend(self._flushed)
            self.target.journal.append(("commit", self.flow, sum(rows.num_rows for rows in self._flushed)))
        self._flushed = []

    def abort(self) -> None:
        self._written, self._flushed = [], []

    def release(self, splits: Iterable[str]) -> None:
        with self.target.call("release"):
            for split in splits:
                self._epochs.pop(split, None)

    def close(self) -> None:
        super().close()
        self._flushed = []

    def _accept(self, batches: list[pa.RecordBatch]) -> None:
        self._flushed.extend(batches)
        self.target.journal.append(("flush", self.flow, sum(rows.num_rows for rows in batches)))

    def _still_own(self, splits: Iterable[str]) -> None:
        for split in splits:
            if split not in self._epochs:
                raise Fatal(f"flow '{self.flow}' never claimed split '{split}'; claim it first")
        gone = tuple(s for s in splits if self.target.owners.get((self.flow, s)) != self._epochs[s])
        if gone:
            raise Fenced(f"flow '{self.flow}': splits {', '.join(gone)} belong to a newer worker", splits=gone)
