"""Worker: runs a plan in one process, in as many lanes as it asks for.

worker = Worker(flow.plan(), Limits(mode="drain"))
summary = worker.run()          # stop() from a signal handler or another thread ends it in good order
"""

from __future__ import annotations

import gc
import logging
import threading
import time
from collections.abc import Callable
from functools import partial

from airflow_provider_connect.engine.batch import Batch, Checkpoint
from airflow_provider_connect.engine.checkpoints import CheckpointStore, open_store
from airflow_provider_connect.engine.connector import IdempotentSink, Share
from airflow_provider_connect.engine.delivery import Committed
from airflow_provider_connect.engine.errors import ConnectError, Fatal, Retryable
from airflow_provider_connect.engine.lane import Lane
from airflow_provider_connect.engine.metrics import FlowMetrics, error_kind
from airflow_provider_connect.engine.plan import Limits, Plan, Progress, Summary
from airflow_provider_connect.engine.reader import Budget, Gathering
from airflow_provider_connect.engine.serving import Health, MetricsServer

log = logging.getLogger(__name__)

_POLL_SECONDS = 0.05
_LAG_SECONDS = 10.0
_LEAVE_SECONDS = 60.0
_COLLECT_AFTER = 200_000
"""Objects after which the cyclic garbage collector runs. A client library makes one of each record, and frees it soon:
at the default of 700 the collector takes a quarter of the reader's time to look for cycles that are not there."""


class Worker:
    """Runs a flow until its limits, `stop`, or a final error.

    1. an idempotent sink's interrupted flushes are repeated first;
    2. each lane runs on a thread: it reads, writes, commits (see `lane`);
    3. a lane's final error stops the others in good order and is raised by `run`;
    4. `stop()` (thread- and signal-safe): every lane stops reading, flushes, commits, acknowledges and closes.

    `on_progress` is called about twice a second from `run`'s thread.
    """

    def __init__(
        self,
        plan: Plan,
        limits: Limits | None = None,
        *,
        on_progress: Callable[[Progress], None] | None = None,
        metrics_port: int | None = None,
        metrics_host: str | None = None,
        store: CheckpointStore | None = None,
    ) -> None:
        self._plan, self._limits = plan, limits or Limits()
        self._on_progress = on_progress
        self._metrics_port, self._metrics_host = metrics_port, metrics_host
        self._given_store = store
        self._opened_store: CheckpointStore | None = None
        self._lock = threading.Lock()
        self._gathering = Gathering(plan.parallelism)
        self._stopping = False
        self._errors: list[ConnectError] = []
        self._checkpoint = Checkpoint()
        self._records = self._bytes = self._dead_letters = 0
        self._lag: int | None = None
        self._ready: set[int] = set()
        self.metrics = FlowMetrics(plan.flow)
        self.health = Health()

    def stop(self) -> None:
        """End in good order. Safe in a signal handler: it only sets a flag that the lanes poll."""
        self._stopping = True

    def run(self) -> Summary:
        """Run to the end; returns what was committed. Raises the first final error, after the lanes have left."""
        began = time.monotonic()
        server = None
        if self._metrics_port is not None:
            server = MetricsServer(self._metrics_port, self.metrics.text, self.health, self._metrics_host)
        thresholds = gc.get_threshold()
        gc.set_threshold(_COLLECT_AFTER, *thresholds[1:])
        try:
            budget = Budget(self._limits.max_records)
            self._repeat_interrupted()
            threads = [self._start(number, budget) for number in range(self._plan.parallelism)]
            self.metrics.lanes(len(threads))
            self._watch(threads, began)
            if self._errors:
                self.health.fail(str(self._errors[0]))
                raise self._errors[0]
        finally:
            gc.set_threshold(*thresholds)
            if server is not None:
                server.close()
            if self._given_store is None and self._opened_store is not None:
                self._opened_store.close()
        return Summary(self._records, self._bytes, time.monotonic() - began, self._dead_letters, self._checkpoint)

    # --- lanes

    def _lane(self, number: int, budget: Budget) -> Lane:
        gather = partial(self._gathering.arrive, number)
        return Lane(self._plan, self._limits, number, self._share_of(number), budget, self._store, gather, self)

    def _share_of(self, number: int) -> Share:
        given, lanes = self._limits.share, self._plan.parallelism
        return Share(given.index * lanes + number, given.count * lanes)

    def _start(self, number: int, budget: Budget) -> threading.Thread:
        lane = self._lane(number, budget)

        def run() -> None:
            try:
                lane.run()
            except ConnectError as error:
                self._fail(error)
            except Exception as error:
                log.exception("flow=%s a lane failed", self._plan.flow)
                self._fail(Fatal(f"{type(error).__name__}: {error}"))
            finally:
                self.health.ended(number)

        thread = threading.Thread(target=run, name=f"lane-{number}", daemon=True)
        thread.start()
        return thread

    def _fail(self, error: ConnectError) -> None:
        if not isinstance(error, Retryable):  # those were counted when they were tried again
            self.metrics.error(error_kind(error))
        with self._lock:
            self._errors.append(error)
        self._stopping = True

    def _repeat_interrupted(self) -> None:
        """Bring logged but uncommitted flushes of an idempotent sink to their end, each exactly as it was logged.

        Those of our own lanes; what other lanes logged may be under way in another worker of the flow. Only if the
        splits are dealt out anew, over another number of lanes, the first worker repeats the flushes of the old ones.
        """
        if not (isinstance(self._plan.sink(), IdempotentSink) and self._plan.source().replayable):
            return
        store = self._store()
        lanes = [self._share_of(number) for number in range(self._plan.parallelism)]
        ours, count = {share.label for share in lanes}, f"of{lanes[0].count}"
        for lane, intent in store.intents(self._plan.flow).items():
            if lane not in ours and (lane.endswith(count) or self._limits.share.index):
                continue
            stored = store.ledger(self._plan.flow).claim(intent.end)
            if stored == intent.start:
                log.info("flow=%s repeating %s", self._plan.flow, intent.token)
                self._lane(0, Budget(None)).run(intent)

    def _store(self) -> CheckpointStore:
        if self._given_store is not None:
            return self._given_store
        with self._lock:
            if self._opened_store is None:
                self._opened_store = open_store(self._plan.checkpoints)
            return self._opened_store

    # --- watching

    def _watch(self, threads: list[threading.Thread], began: float) -> None:
        told = measured = leave_by = 0.0
        while any(thread.is_alive() for thread in threads):
            now = time.monotonic()
            if self._limits.max_seconds is not None and now - began >= self._limits.max_seconds:
                self._stopping = True
            if self._stopping and not leave_by:
                leave_by = now + _LEAVE_SECONDS
            if leave_by and now > leave_by:
                raise Fatal(f"the lanes did not leave within {_LEAVE_SECONDS:.0f} s; what is uncommitted is given up")
            if self._on_progress and now - told >= 0.5:
                told = now
                self._on_progress(self._progress(now - began))
            if (self._on_progress or self._metrics_port is not None) and now - measured >= _LAG_SECONDS:
                measured = now
                self._measure_lag()
            for thread in threads:
                thread.join(_POLL_SECONDS / len(threads))
        if self._on_progress:
            self._on_progress(self._progress(time.monotonic() - began))

    def _progress(self, seconds: float) -> Progress:
        return Progress(self._records, self._bytes, self._dead_letters, seconds, self._lag)

    def _measure_lag(self) -> None:
        if not self._checkpoint:
            return
        try:
            with self._plan.source() as source:
                self._lag = source.lag(self._checkpoint)
                self.metrics.set_lag_bytes(source.lag_bytes(self._checkpoint))
        except Exception as error:
            log.debug("flow=%s lag is unknown: %s", self._plan.flow, error)
            self._lag = None
            self.metrics.set_lag_bytes(None)
        if self._lag is not None:
            self.metrics.set_lag(self._lag)

    # --- LaneEvents

    def stopping(self) -> bool:
        return self._stopping

    def tick(self, lane: int) -> None:
        self.health.tick(lane)

    def opened(self, lane: int, ready: bool) -> None:
        with self._lock:
            (self._ready.add if ready else self._ready.discard)(lane)
            self.health.ready(len(self._ready) > 0)

    def read(self, batch: Batch) -> None:
        self.metrics.read(len(batch), batch.nbytes)

    def committed(self, committed: Committed) -> None:
        age = None if committed.oldest is None else max(0.0, time.time() - committed.oldest)
        with self._lock:
            self._records += committed.records
            self._bytes += committed.bytes
            self._dead_letters += committed.dead_letters
            self._checkpoint = self._checkpoint.advance(committed.checkpoint)
        self.metrics.committed(committed.records, committed.bytes, committed.seconds, age)
        if committed.dead_letters:
            self.metrics.dead_lettered(committed.dead_letters)
            self.metrics.error("invalid_record")

    def failed(self, error: ConnectError, retried: bool) -> None:
        self.metrics.error(error_kind(error))
        if retried:
            self.metrics.retried()
