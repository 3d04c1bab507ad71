"""In-memory connectors that keep every promise of the contracts, with faults on order.

The "external systems" are plain objects that outlive the connectors: a `ListLog` is what a `ListSource` reads, a
`MemoryTarget` is what a sink writes. Two sinks on one target are an old and a new worker; two sources on one log are
two lanes. Faults in a log are items of its lists, and fire once:

    ListLog({"0": [b"1", Raise(Retryable("cut")), b"2", Gap(), b"3", End()], "1": [b"x", Revoke("1")]})

Faults of a target are put before or after the n-th call of an operation ("open", "write", "flush", "claim", "commit",
"positions", ...):

    target.fail("commit", 1, Retryable("connection lost"), landed=True)     # the commit happened, its answer got lost
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

import pyarrow as pa
from pydantic import Field

from airflow_provider_connect.engine.batch import COLUMNS, Batch, Checkpoint, documents
from airflow_provider_connect.engine.config import Config
from airflow_provider_connect.engine.connector import Source, SourceContext, dealt
from airflow_provider_connect.engine.errors import EndOfInput, Fatal, Retryable
from airflow_provider_connect.testing.memory_sinks import (
    MemoryIdempotentSink,
    MemorySink,
    MemorySinkConfig,
    MemoryTarget,
    MemoryTransactionalSink,
)

__all__ = [
    "Assign",
    "End",
    "Gap",
    "ListLog",
    "ListSource",
    "ListSourceConfig",
    "Lose",
    "MemoryIdempotentSink",
    "MemorySink",
    "MemorySinkConfig",
    "MemoryTarget",
    "MemoryTransactionalSink",
    "Raise",
    "Revoke",
    "Slow",
]


@dataclass(frozen=True)
class Raise:
    """`read` raises this error when it gets here, once."""

    error: Exception


@dataclass(frozen=True)
class Slow:
    """`read` takes this many seconds longer when it gets here, once."""

    seconds: float


@dataclass(frozen=True)
class End:
    """The split ends here: `EndOfInput` once every owned split has ended."""


@dataclass(frozen=True)
class Gap:
    """One position without a record, such as a transaction marker."""


class _Rebalance:
    def __init__(self, *splits: str) -> None:
        self.splits = splits

    def __repr__(self) -> str:
        return f"{type(self).__name__}{self.splits}"


class Assign(_Rebalance):
    """These splits become the source's."""


class Revoke(_Rebalance):
    """These splits move away in good order."""


class Lose(_Rebalance):
    """These splits are gone already."""


Fault = Raise | Slow | End | Assign | Revoke | Lose
Item = bytes | None | Gap | Fault
"""A record (None is a tombstone), a position without one, or what happens when the source gets here."""


class ListLog:
    """The external system a `ListSource` reads: splits that only grow. Any thread may append.

    Positions are indexes among records and gaps; faults take no position.
    """

    def __init__(self, splits: Mapping[str, Iterable[Item]], name: str = "list") -> None:
        self.name = name
        self.changed = threading.Condition()
        self.reachable = True
        self.acknowledged: list[Checkpoint] = []
        """What sources of this log were told to be durable, in order."""
        self._records: dict[str, list[bytes | Gap | None]] = {split: [] for split in splits}
        self._faults: dict[str, dict[int, list[Fault]]] = {split: {} for split in splits}
        for split, items in splits.items():
            self.append(split, *items)

    def append(self, split: str, *items: Item) -> None:
        """Add to the end of a split; a new name makes a new split."""
        with self.changed:
            records = self._records.setdefault(split, [])
            faults = self._faults.setdefault(split, {})
            for item in items:
                if item is None or isinstance(item, bytes | Gap):
                    records.append(item)
                else:
                    faults.setdefault(len(records), []).append(item)
            self.changed.notify_all()

    def splits(self) -> list[str]:
        """The names of the splits, in the order of their making."""
        with self.changed:
            return list(self._records)

    def end(self, split: str) -> int:
        """The position after the last record of a split."""
        with self.changed:
            return len(self._records[split])

    def values(self, split: str) -> list[bytes | None]:
        """The records of a split, without gaps."""
        with self.changed:
            return [item for item in self._records[split] if not isinstance(item, Gap)]

    def take_fault(self, split: str, position: int) -> Fault | None:
        """The next fault at a position, which then is gone; an `End` stays."""
        with self.changed:
            waiting = self._faults[split].get(position)
            if not waiting:
                return None
            return waiting[0] if isinstance(waiting[0], End) else waiting.pop(0)

    def slice(self, split: str, position: int, stop: int) -> list[bytes | Gap | None]:
        """Items in [position, stop), cut before the next fault beyond `position`."""
        with self.changed:
            faults = [at for at, waiting in self._faults[split].items() if waiting and at > position]
            return list(islice(self._records[split], position, min([stop, *faults])))


class ListSourceConfig(Config):
    """Configuration of a `ListSource`."""

    batch_records: int = Field(default=1000, gt=0)
    """Most records of one batch."""


class ListSource(Source[ListSourceConfig]):
    """Reads a `ListLog`. Batches hold records of one split; the splits take turns.

    `assigned` replaces the dealing out of the log's splits at `open`. Items put into `inbox` (any thread) are acted on
    by the next `read` or `keep_alive`: that is how a test makes a rebalance happen at a moment rather than a position.
    Positions are integers.
    """

    config_type = ListSourceConfig

    def __init__(
        self, log: ListLog, config: ListSourceConfig | None = None, *, assigned: Sequence[str] | None = None
    ) -> None:
        super().__init__(config or ListSourceConfig())
        self.log = log
        self.assigned = assigned
        self.inbox: queue.SimpleQueue[Fault] = queue.SimpleQueue()
        self.kept_alive = 0
        self.opened = 0
        self._context: SourceContext | None = None
        self._positions: dict[str, int] = {}
        self._bounds: dict[str, int] = {}
        self._turn = 0

    def formats(self) -> tuple[str, ...]:
        return ("json", "bytes", COLUMNS)

    def check(self) -> str:
        if not self.log.reachable:
            raise Retryable(f"log '{self.log.name}' does not answer")
        return f"log '{self.log.name}' with {len(self.log.splits())} splits"

    def open(self, context: SourceContext) -> None:
        self.check()
        self.opened += 1
        self._context = context
        self._positions, self._bounds, self._turn = {}, {}, 0
        splits = self.log.splits()
        self._assign(dealt(context, splits if self.assigned is None else self.assigned))

    def read(self, max_records: int, timeout: float) -> Batch | None:
        deadline = time.monotonic() + timeout
        while True:
            self._rebalance()
            turns, ended = self._turns(), True
            for split in turns:
                batch, more = self._read_split(split, min(max_records, self.config.batch_records))
                if batch is not None:
                    return batch
                ended = ended and not more
            if set(turns) != set(self._positions):  # a fault moved splits
                continue
            context = self._opened()
            if ended and (self._positions or context.drain or context.until):
                raise EndOfInput
            if not self._wait(deadline):
                return None

    def acknowledge(self, checkpoint: Checkpoint) -> None:
        self.log.acknowledged.append(Checkpoint(checkpoint))

    def keep_alive(self) -> None:
        self.kept_alive += 1
        self._rebalance()

    def splits(self) -> list[str]:
        return self.log.splits()

    def lag(self, checkpoint: Checkpoint) -> int | None:
        return sum(self.log.end(split) - int(checkpoint.get(split, 0)) for split in self.log.splits())

    def close(self) -> None:
        self._context = None
        self._positions = {}

    def _opened(self) -> SourceContext:
        if self._context is None:
            raise Fatal("the source is not open")
        return self._context

    def _turns(self) -> list[str]:
        owned = list(self._positions)
        self._turn += 1
        start = self._turn % len(owned) if owned else 0
        return owned[start:] + owned[:start]

    def _wait(self, deadline: float) -> bool:
        left = deadline - time.monotonic()
        if left <= 0:
            return False
        with self.log.changed:
            self.log.changed.wait(min(left, 0.005))
        return True

    def _read_split(self, split: str, most: int) -> tuple[Batch | None, bool]:
        """The next batch of a split, if any, and whether the split may give more."""
        if split not in self._positions:  # moved away by a fault of another split
            return None, False
        position = self._positions[split]
        bound = self._bounds.get(split)
        if bound is not None and position >= bound:
            return None, False
        fault = self.log.take_fault(split, position)
        if isinstance(fault, End):
            return None, False
        if fault is not None:
            self._act(fault)
            return self._read_split(split, most)
        stop = position + most if bound is None else min(position + most, bound)
        items = self.log.slice(split, position, stop)
        if not items:
            return None, True
        self._positions[split] = position + len(items)
        checkpoint = Checkpoint({split: position + len(items)})
        return Batch(self._rows(split, position, items), checkpoint), True

    def _rows(self, split: str, position: int, items: Sequence[bytes | Gap | None]) -> pa.RecordBatch:
        kept = [(position + i, item) for i, item in enumerate(items) if not isinstance(item, Gap)]
        offsets = pa.array([at for at, _ in kept], pa.int64())
        values = pa.array([value for _, value in kept], pa.binary())
        wanted = self._opened().format
        if wanted == COLUMNS:
            names = pa.array([split] * len(kept), pa.string())
            return pa.RecordBatch.from_arrays([names, offsets, values], names=["split", "offset", "value"])
        return documents(
            values,
            wanted,
            key=pa.array([f"{split}:{at}".encode() for at, _ in kept], pa.binary()),
            topic=pa.array([self.log.name] * len(kept), pa.string()),
            partition=pa.array([self.log.splits().index(split)] * len(kept), pa.int32()),
            offset=offsets,
            timestamp=pa.array([at * 1000 for at, _ in kept], pa.timestamp("ms", tz="UTC")),
        )

    def _rebalance(self) -> None:
        while True:
            try:
                fault = self.inbox.get_nowait()
            except queue.Empty:
                return
            self._act(fault)

    def _act(self, fault: Fault) -> None:
        context = self._opened()
        if isinstance(fault, Raise):
            raise fault.error
        if isinstance(fault, Slow):
            time.sleep(fault.seconds)
        elif isinstance(fault, _Rebalance) and not context.fixed_splits:
            if isinstance(fault, Assign):
                self._assign([split for split in fault.splits if split not in self._positions])
                return
            owned = [split for split in fault.splits if split in self._positions]
            if owned and isinstance(fault, Revoke):
                context.revoked(owned)
            elif owned:
                context.lost(owned)
            for split in owned:
                del self._positions[split]

    def _assign(self, splits: Sequence[str]) -> None:
        context = self._opened()
        if not splits:
            return
        claimed = context.claim(splits)
        for split in splits:
            position = claimed.get(split, 0)
            if not isinstance(position, int) or not 0 <= position <= self.log.end(split):
                raise Fatal(f"split '{split}' of log '{self.log.name}' has no position {position!r}")
            self._positions[split] = position
            if context.until:
                self._bounds[split] = context.until[split]
            elif context.drain:
                self._bounds[split] = self.log.end(split)
