"""The contracts a connector implements: Connector, Source, Sink, IdempotentSink, TransactionalSink.

The base class is the guarantee. With a source that can read from a position again:

    Sink                at least once     a crash between flush and checkpoint repeats rows
    IdempotentSink      effectively once  the repeated rows carry the token of the first try and are dropped
    TransactionalSink   exactly once      rows and checkpoint commit together, earlier owners are fenced
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, ClassVar, Generic, Self, TypeVar

from airflow_provider_connect.engine.batch import Batch, Checkpoint
from airflow_provider_connect.engine.codec import Codec
from airflow_provider_connect.engine.config import Config, SinkConfig
from airflow_provider_connect.engine.errors import ConnectError, Fatal
from airflow_provider_connect.engine.ledger import Ledger

C = TypeVar("C", bound=Config)
S = TypeVar("S", bound=SinkConfig)


class Connector(ABC, Generic[C]):
    """A system we speak to.

    1. `__init__(config)` keeps the configuration and does no I/O, so a wrong flow is found without a network.
    2. `open(...)` connects (see Source and Sink). It may be called again after `close`.
    3. `close()` frees everything; it is safe to call twice, and without `open`. It commits nothing.

    Errors: raise the kinds of `engine.errors`, or let the driver's own escape and sort them in `classify`.
    """

    config_type: ClassVar[type[Config]]
    """The pydantic model of this connector's configuration."""

    def __init__(self, config: C) -> None:
        self.config = config

    def classify(self, error: Exception) -> ConnectError:
        """The kind of an error that escaped from this connector. What it does not know is Fatal."""
        if isinstance(error, ConnectError):
            return error
        return Fatal(f"{type(error).__name__}: {error}")

    def codec(self, encoding: str) -> Codec | None:
        """The codec of an encoding among our formats that only our configuration can read or write, because it needs a
        schema or a schema registry. Default: None, the registered codec of that name.

        Such an encoding has a name of its own, that a sink and a source share only if the bytes mean the same to both:
        then they pass untouched. Needs no `open`, and does no I/O before rows are converted, on the writer's thread;
        what the codec then raises is a ConnectError. A sink answers None also for what it can only pass on.
        """
        return None

    @abstractmethod
    def check(self) -> str:
        """Connect, look whether the configured access works, disconnect; returns one line on what answered.

        Needs no `open`, changes nothing, gives up within a few seconds. It is the connection form's test button and
        the worker's readiness probe. Raises what went wrong.
        """

    @abstractmethod
    def close(self) -> None:
        """Free everything. Safe to call twice and without `open`."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()


@dataclass(frozen=True, slots=True)
class Share:
    """The part of a source's splits that a lane takes when they are dealt out: `splits[index::count]`."""

    index: int = 0
    count: int = 1

    @property
    def label(self) -> str:
        """The name of the lane that takes this share, among all lanes of the flow."""
        return f"{self.index}of{self.count}"

    def of(self, splits: Sequence[str]) -> list[str]:
        """The splits that fall to this share."""
        return list(splits[self.index :: self.count])


class SourceContext(ABC):
    """What a worker gives a source at `open`: what to read, and whom to tell that the owned splits change.

    `format`        the format to read in: one of the source's `formats()`.
    `share`         the part of the splits to take, for sources (or flows) whose splits are dealt out.
    `fixed_splits`  the splits of `share` only, never negotiated with other workers (a logged range must be read again).
    `drain`         end (`EndOfInput`) when all that was there when the split was claimed has been read.
    `until`         end at exactly these positions: no record at or beyond them; splits not named are not read at all.
                    Empty: no such bound.

    The methods are called by the source, on the thread that called `open` or `read`, and block until the worker
    has acted on everything read before. They may raise; let it pass.
    """

    flow: str
    format: str
    share: Share
    fixed_splits: bool
    drain: bool
    until: Checkpoint

    @abstractmethod
    def claim(self, splits: Sequence[str]) -> Checkpoint:
        """These splits are ours from now on; returns where to read on. A split that is absent was never committed."""

    @abstractmethod
    def revoked(self, splits: Sequence[str]) -> None:
        """These splits are about to move away in good order: returns once all that was read of them is committed."""

    def gather(self) -> None:
        """Returns once the other lanes of this worker are as far, or have kept us waiting long enough.

        For a source that is about to join a group: what joins together is dealt its splits once, and not again with
        every lane that comes later. Only the first call of a lane waits.
        """
        return

    def settle(self) -> None:
        """Returns once all that was read so far is committed, for a source that has to know before it goes on."""
        return

    @abstractmethod
    def lost(self, splits: Sequence[str]) -> None:
        """These splits are gone already: what is uncommitted of them is thrown away."""


class Source(Connector[C]):
    """Reads records.

    1. `open(context)` connects. Before the first record of a split is read, here or later, the source calls
       `context.claim([split])` and starts at the position it returns; where there is none, at its configured beginning.
    2. `read(max_records, timeout)` is called again and again. It returns within about `timeout` seconds: a batch (also
       an empty one, to move the checkpoint over control records), or None if nothing came. It raises `EndOfInput`
       when nothing will ever come.
    3. `acknowledge(checkpoint)` tells that everything before `checkpoint` is durable downstream (Kafka commits the
       group's offsets, a replication slot advances). Losing it must never lose or repeat a record.
    4. `keep_alive()` is called every second or so while the worker does not want records (back-pressure, back-off), so
       that sessions, heartbeats and rebalances go on. It returns no records and must not block.
    5. `close()`.

    Threads: all of these are called by one thread, the lane's reader. `check`, `splits`, `lag` and `lag_bytes` may be
    called by another and on a source that is not open.
    Order: the same position read again gives the same records in the same order, else the source is not replayable
    and says so with `replayable = False`; then no sink makes it better than at least once.
    Errors: after Retryable from `read` the worker closes the source, waits, opens it and claims again.
    """

    replayable: bool = True

    @property
    def negotiated(self) -> bool:
        """True while splits move between workers by negotiation (a consumer group). Being fenced then only means that
        a split has moved, and the lane joins again; otherwise it means that a newer worker runs, and ours stops."""
        return False

    @abstractmethod
    def formats(self) -> tuple[str, ...]:
        """The formats this source can read in, its favourite first: "columns" or encodings. Needs no `open`."""

    @abstractmethod
    def open(self, context: SourceContext) -> None:
        """Connect; see the class."""

    @abstractmethod
    def read(self, max_records: int, timeout: float) -> Batch | None:
        """At most about `max_records` records, after at most about `timeout` seconds; see the class."""

    def acknowledge(self, checkpoint: Checkpoint) -> None:
        """Everything before `checkpoint` is durable downstream. Default: nothing to tell."""
        return

    def keep_alive(self) -> None:
        """The worker is busy; keep the session. Default: nothing to keep."""
        return

    def splits(self) -> Sequence[str]:
        """The names of the splits there are now, in a stable order. Default: one."""
        return ["0"]

    def lag(self, checkpoint: Checkpoint) -> int | None:
        """Records past `checkpoint`, cheaply and without changing anything; None where it cannot be known."""
        return None

    def lag_bytes(self, checkpoint: Checkpoint) -> int | None:
        """The same in bytes, for a source that knows these: a log that the system keeps until it is delivered."""
        return None


@dataclass(frozen=True, slots=True)
class SinkContext:
    """What a worker gives a sink at `open`.

    `flow` names the rows in ledgers; `lane` tells this sink from others of the same flow in this worker; `source` is
    the source of the lane, not yet open, for sinks that share a transaction with their own kind (Kafka to Kafka).
    """

    flow: str
    lane: int = 0
    source: Source[Any] | None = field(default=None, compare=False)


class Sink(Connector[S]):
    """Writes records, at least once.

    1. `open(context)` connects, creates what the configuration asks for, and checks that the target fits. Safe to
       call by two lanes at once.
    2. `accepts()` then names the formats that `write` takes, the favourite first.
    3. `write(batch)` takes the rows of a batch, never an empty one. It may only pass them on and leave it to `flush` to
       find out what becomes of them.
    4. `flush()` returns once the target has accepted everything written since the last flush (durably, unless the
       sink is transactional). If `write` or `flush` raises, nothing written since the last successful flush remains,
       as far as the target allows; where it does not, rows may be repeated, and the sink is no more than this class.
    5. `close()`.

    Threads: all calls come from the lane's writer thread.
    Errors: after Retryable the worker closes the sink, waits, opens it and writes everything since the last commit
    again. After InvalidRecord it calls `abort` where there is one and writes batch by batch, halving refused ones.
    """

    @classmethod
    def choose(cls, config: SinkConfig) -> type[Sink[Any]]:
        """The class that serves this configuration, where a type has more than one guarantee. Default: this one."""
        return cls

    @abstractmethod
    def open(self, context: SinkContext) -> None:
        """Connect; see the class."""

    @abstractmethod
    def accepts(self) -> tuple[str, ...]:
        """The formats that `write` takes, the favourite first. Valid after `open`."""

    @abstractmethod
    def write(self, batch: Batch) -> None:
        """Take the rows of `batch`; see the class."""

    @abstractmethod
    def flush(self) -> None:
        """Return once everything written since the last flush is accepted; see the class."""


class IdempotentSink(Sink[S]):
    """Writes records effectively once: what was flushed under a token before is not written a second time.

    The worker collects all batches of a flush, logs `{token, from, to}` durably in the checkpoint store, then calls
    `begin(token)`, `write` for each batch and `flush`. After a crash it reads exactly [from, to) again and repeats
    that with the same token: the same rows in the same order, though perhaps cut into other batches.
    """

    @abstractmethod
    def begin(self, token: str) -> None:
        """What is written until the next flush belongs to `token` (at most 200 characters of `[A-Za-z0-9._=-]`)."""


class TransactionalSink(Sink[S], Ledger):
    """Writes records exactly once: rows and checkpoint become visible in one step, and only if we own the splits.

    Beyond Sink and Ledger:

    * Nothing written is visible to a (committed) reader before `commit(checkpoint)`, which makes all rows flushed
      since the last commit and the checkpoint durable together. The worker calls `flush` before it.
    * `abort()` throws away everything since the last commit; it never raises for a connection that is gone.
    * `commit` raising Retryable means: unknown. The worker calls `abort`, asks `positions` (which reconnects), and
      takes the batch as landed if they are the new ones, as lost if they are the old ones, and itself as fenced else.
    * Claims belong to the object: they survive `close` followed by `open`. The worker never calls `claim` or `release`
      with rows uncommitted.
    * A flush is a savepoint: after a refused write or flush, what earlier flushes of the transaction accepted stays.
    """

    @abstractmethod
    def abort(self) -> None:
        """Throw away everything since the last commit."""


def guarantee(sink: type[Sink[Any]]) -> str:
    """ "exactly once", "effectively once" or "at least once"."""
    if issubclass(sink, TransactionalSink):
        return "exactly once"
    return "effectively once" if issubclass(sink, IdempotentSink) else "at least once"


def dealt(context: SourceContext, splits: Sequence[str]) -> list[str]:
    """The splits that `context` wants read when they are dealt out: its share, or just those of `until`."""
    if context.until:
        return [split for split in splits if split in context.until]
    return context.share.of(splits)
