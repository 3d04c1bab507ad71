"""Session: a lane from opening its source and sink to closing them, and the loop in between.

    read ─▶ handoff ─▶ write … write ─▶ flush ─▶ dead letters ─▶ commit ─▶ acknowledge

The loop is the writer thread; the reader is a thread of its own, so source and sink overlap. What fails ends in one of
three ways: the sink is opened again and what is uncommitted is written again; `Restart` makes the lane start over from
its last commit; any other error is final.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from airflow_provider_connect.engine.batch import Batch, Checkpoint
from airflow_provider_connect.engine.checkpoints import CheckpointStore, Intent
from airflow_provider_connect.engine.connector import (
    IdempotentSink,
    Share,
    Sink,
    SinkContext,
    Source,
    TransactionalSink,
)
from airflow_provider_connect.engine.dead_letters import DeadLetters
from airflow_provider_connect.engine.delivery import Committed, Delivery
from airflow_provider_connect.engine.errors import ConnectError, Fenced, Retryable
from airflow_provider_connect.engine.formats import negotiate
from airflow_provider_connect.engine.handoff import Ended, Handoff, Request
from airflow_provider_connect.engine.ledger import Ledger
from airflow_provider_connect.engine.plan import Limits, Plan
from airflow_provider_connect.engine.reader import Assignment, Budget, Reader

log = logging.getLogger(__name__)

R = TypeVar("R")

TICK_SECONDS = 0.1
"""Longest wait for the next batch, so that `stop` and the flush timer are never late by more."""


class LaneEvents(Protocol):
    """What a lane tells its worker, and asks it. Called on the lane's thread."""

    def stopping(self) -> bool: ...
    def tick(self, lane: int) -> None: ...
    def read(self, batch: Batch) -> None: ...
    def committed(self, committed: Committed) -> None: ...
    def failed(self, error: ConnectError, retried: bool) -> None: ...
    def opened(self, lane: int, ready: bool) -> None: ...


@dataclass(frozen=True, slots=True)
class LaneContext:
    """What stays the same over all sessions of a lane."""

    plan: Plan
    limits: Limits
    number: int
    share: Share
    budget: Budget
    store: Callable[[], CheckpointStore]
    gather: Callable[[], None]
    """Wait for the other lanes; see SourceContext."""
    events: LaneEvents
    back_off: Callable[[ConnectError, Callable[[], bool]], None]
    """Count a failure and wait for it, or until the given interruption; raises the error when it is time to give up."""


class Restart(Exception):
    """Throw away what is uncommitted and start over from the last commit."""

    def __init__(self, cause: ConnectError) -> None:
        super().__init__(str(cause))
        self.cause = cause


class Session:
    """A lane from opening source and sink to closing them."""

    def __init__(self, lane: LaneContext, on_commit: Callable[[Committed], None], repeat: Intent | None = None) -> None:
        self._on_commit = on_commit
        self._lane, self._plan, self._events, self._repeat = lane, lane.plan, lane.events, repeat
        self._source: Source[Any] = self._plan.source()
        self._sink: Sink[Any] = self._plan.sink()
        self._errors: Sink[Any] | None = self._plan.errors() if self._plan.errors else None
        self._handoff = Handoff(self._plan.prefetch_bytes)
        self._delivery: Delivery
        self._reader: Reader | None = None
        self._ended = False
        self._committed = 0
        self._due_at: float | None = None

    # --- opening and closing

    def run(self) -> None:
        try:
            try:
                self._open()
            except Retryable as error:
                raise Restart(error) from error
            self._loop()
        finally:
            self._close()

    def _open(self) -> None:
        self._open_sinks()
        transforms = self._plan.transforms()
        conversion = negotiate(
            self._source.formats(), bool(transforms), self._sink.accepts(), self._source.codec, self._sink.codec
        )
        store: CheckpointStore | None = None
        if isinstance(self._sink, TransactionalSink):
            ledger: Ledger = self._sink
        else:
            store = self._lane.store()
            ledger = store.ledger(self._plan.flow)
        letters = DeadLetters(
            self._plan.flow, self._plan.sink_type, self._errors, passed=self._plan.passes_dead_letters
        )
        self._delivery = Delivery(
            self._plan.flow, self._lane.share.label, self._sink, ledger, store, letters,
            conversion, transforms,
        )  # fmt: skip
        if self._repeat is not None:
            self._delivery.resume(self._repeat)
        context = Assignment(
            self._plan.flow, conversion.read_format, self._lane.share, self._handoff, self._lane.gather,
            drain=self._lane.limits.mode == "drain",
            # A logged range is read again as it was, so the splits of an idempotent sink are dealt, not negotiated.
            fixed_splits=isinstance(self._sink, IdempotentSink) or self._repeat is not None,
            until=self._repeat.end if self._repeat is not None else Checkpoint(),
        )  # fmt: skip
        self._reader = Reader(
            self._source,
            context,
            self._handoff,
            self._lane.budget,
            self._plan.read_records,
            f"lane-{self._lane.number}",
        )
        self._reader.start()
        self._events.opened(self._lane.number, True)

    def _open_sinks(self) -> None:
        flow, number = self._plan.flow, self._lane.number
        for sink, name in ((self._sink, flow), (self._errors, f"{flow}.errors")):
            if sink is not None:
                try:
                    sink.open(SinkContext(name, number, self._source if sink is self._sink else None))
                except Exception as error:
                    raise sink.classify(error) from error

    def _close(self) -> None:
        self._events.opened(self._lane.number, False)
        if self._reader is not None:
            self._reader.stop()
            while not self._handoff.left:
                item = self._handoff.get(TICK_SECONDS)
                if isinstance(item, Request):
                    self._answer_while_closing(item)
            self._lane.budget.give_back(self._reader.delivered - self._committed)
        self._close_sinks()

    def _close_sinks(self) -> None:
        for sink in (self._sink, self._errors):
            if sink is not None:
                try:
                    sink.close()
                except Exception as error:
                    log.warning("closing a sink failed: %s", error)

    def _answer_while_closing(self, request: Request) -> None:
        if request.kind == "claim":
            request.refuse(Retryable("the lane is closing"))
            return
        if request.kind == "revoked" and not self._delivery.pending:
            try:
                self._delivery.release(request.splits)
            except ConnectError as error:
                log.debug("releasing %s failed: %s", request.splits, error)
        request.answer()

    # --- the loop

    def _loop(self) -> None:
        while True:
            self._events.tick(self._lane.number)
            if self._events.stopping():
                self._commit()
                return
            self._step(self._handoff.get(self._patience()))
            if self._is_due():
                self._catch_up()
                self._commit()
            if self._ended:
                self._commit()
                return

    def _step(self, item: Batch | Request | Ended | None) -> None:
        if isinstance(item, Batch):
            self._events.read(item)
            if self._due_at is None:
                self._due_at = time.monotonic() + (self._sink.config.batch_flush_interval_seconds or float("inf"))
            self._guarded(lambda: self._delivery.add(item))
        elif isinstance(item, Request):
            self._answer(item)
        elif isinstance(item, Ended):
            if item.error is not None:
                self._commit()
                if isinstance(item.error, Retryable) or self._moved(item.error):
                    assert isinstance(item.error, ConnectError)
                    raise Restart(item.error)
                raise item.error
            self._ended = True

    def _patience(self) -> float:
        if self._due_at is None:
            return TICK_SECONDS
        return min(TICK_SECONDS, max(0.0, self._due_at - time.monotonic()))

    def _is_due(self) -> bool:
        if self._repeat is not None:
            return False  # the logged range is one flush, whatever its size
        config = self._sink.config
        return self._delivery.pending and (
            self._delivery.bytes >= config.batch_bytes
            or (0 < config.batch_size <= self._delivery.records)
            or (self._due_at is not None and time.monotonic() >= self._due_at)
        )

    def _catch_up(self) -> None:
        """Add what the source has already handed over, so that a small batchSize costs no throughput under load."""
        for _ in range(len(self._handoff)):
            if self._delivery.bytes >= self._sink.config.batch_bytes or self._ended:
                return
            self._step(self._handoff.get(0.0))

    def _commit(self) -> None:
        self._due_at = None
        while self._delivery.pending:
            committed = self._guarded(self._delivery.commit)
            if committed is not None:
                self._landed(committed)

    def _landed(self, committed: Committed) -> None:
        self._committed += committed.records
        self._on_commit(committed)
        self._handoff.acknowledge(committed.checkpoint)

    # --- split ownership

    def _answer(self, request: Request) -> None:
        if request.expired:
            return
        try:
            if request.kind == "lost":
                self._lose(request)
            else:
                self._commit()
                if request.kind == "claim":
                    request.answer(self._delivery.claim(request.splits))
                else:
                    if request.kind == "revoked":
                        self._delivery.release(request.splits)
                    request.answer()
        except Exception as error:
            kind = error.cause if isinstance(error, Restart) else error
            request.refuse(kind)
            if isinstance(error, Retryable) or self._moved(error):
                assert isinstance(error, ConnectError)
                raise Restart(error) from error
            raise

    def _lose(self, request: Request) -> None:
        """The splits are gone: nothing of them may be committed, so the open transaction goes too."""
        dirty = self._delivery.pending
        self._delivery.abort()
        self._due_at = None
        self._delivery.forget(request.splits)
        request.answer()
        if dirty and self._delivery.claimed:
            raise Restart(Retryable(f"splits {', '.join(request.splits)} were lost"))

    def _moved(self, error: BaseException) -> bool:
        return isinstance(error, Fenced) and self._source.negotiated

    # --- errors of the sink

    def _guarded(self, action: Callable[[], R]) -> R | None:
        """Do `action`. After a Retryable the sink has been restored instead, with all that is uncommitted written."""
        try:
            try:
                return action()
            except Retryable as error:
                self._restore(error)
                return None
        except Fenced as error:
            if self._source.negotiated:
                raise Restart(error) from error
            raise

    def _restore(self, error: Retryable) -> None:
        while True:
            if isinstance(self._sink, TransactionalSink):
                self._sink.abort()
            self._close_sinks()
            self._lane.back_off(error, self._interrupted)
            if self._interrupted():
                # The source cannot wait for its answer, and leaving is quicker than a sink that is down.
                self._delivery.discard()
                raise Restart(error) from error
            try:
                self._open_sinks()
                landed = self._delivery.restore()
            except Retryable as again:
                error = again
                continue
            if landed is not None:
                self._landed(landed)
            return

    def _interrupted(self) -> bool:
        self._events.tick(self._lane.number)
        return self._events.stopping() or self._handoff.wait_for_request(TICK_SECONDS)
