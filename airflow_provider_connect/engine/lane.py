"""Lane: one source and one sink, session after session, until the end, a stop, or a final error."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from airflow_provider_connect.engine.checkpoints import CheckpointStore, Intent
from airflow_provider_connect.engine.connector import Share
from airflow_provider_connect.engine.delivery import Committed
from airflow_provider_connect.engine.errors import ConnectError, Retryable
from airflow_provider_connect.engine.logs import CommitLog
from airflow_provider_connect.engine.plan import Limits, Plan
from airflow_provider_connect.engine.reader import Budget
from airflow_provider_connect.engine.session import TICK_SECONDS, LaneContext, LaneEvents, Restart, Session

log = logging.getLogger(__name__)


class Lane:
    """Runs sessions on its thread. A failure is any Retryable since the last commit, of the source or of the sink."""

    def __init__(
        self,
        plan: Plan,
        limits: Limits,
        number: int,
        share: Share,
        budget: Budget,
        store: Callable[[], CheckpointStore],
        gather: Callable[[], None],
        events: LaneEvents,
    ) -> None:
        self._context = LaneContext(plan, limits, number, share, budget, store, gather, events, self._back_off)
        self._failures = 0
        self._commits = CommitLog(log, flow=plan.flow, lane=number)

    def run(self, repeat: Intent | None = None) -> None:
        """Deliver until the end; with `repeat`, exactly the logged range and no more. Raises a ConnectError."""
        context = self._context
        while True:
            try:
                Session(context, self._succeeded, repeat).run()
                self._commits.close()
                return
            except Restart as restart:
                self._back_off(restart.cause, self._pause)
                if context.events.stopping():
                    return

    def _succeeded(self, committed: Committed) -> None:
        self._failures = 0
        self._commits.committed(committed.records, committed.bytes)
        self._context.events.committed(committed)

    def _back_off(self, error: ConnectError, interrupted: Callable[[], bool]) -> None:
        self._failures += 1
        context = self._context
        retryable = error if isinstance(error, Retryable) else Retryable(str(error))
        seconds = context.plan.retry.wait(self._failures, retryable)
        context.events.failed(error, seconds is not None)
        if seconds is None:
            raise error
        log.warning(
            "trying again: %s",
            error,
            extra={
                "flow": context.plan.flow,
                "lane": context.number,
                "failures": self._failures,
                "wait_seconds": round(seconds, 2),
            },
        )
        until = time.monotonic() + seconds
        while time.monotonic() < until and not interrupted():
            pass

    def _pause(self) -> bool:
        self._context.events.tick(self._context.number)
        time.sleep(TICK_SECONDS)
        return self._context.events.stopping()
