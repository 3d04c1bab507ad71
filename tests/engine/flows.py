"""Plans around the in-memory connectors, for the engine's own tests."""

from __future__ import annotations

import threading
import time

from airflow_provider_connect.engine.plan import Limits, Plan, Summary
from airflow_provider_connect.engine.retry import RetryPolicy
from airflow_provider_connect.engine.worker import Worker
from airflow_provider_connect.testing.memory import (
    ListLog,
    ListSource,
    ListSourceConfig,
    MemorySinkConfig,
    MemoryTarget,
    MemoryTransactionalSink,
)

QUICK = RetryPolicy(attempts=6, first_seconds=0.001, longest_seconds=0.01)


def numbers(count: int, prefix: str = "") -> list[bytes]:
    """`count` distinct JSON documents."""
    return [f'"{prefix}{i}"'.encode() for i in range(count)]


def plan_of(
    log: ListLog,
    target: MemoryTarget,
    *,
    kind=MemoryTransactionalSink,
    errors=None,
    batch_size=1,
    interval=10.0,
    read=3,
    source=None,
    negotiated=False,
    **options,
) -> Plan:
    """Log to target; `errors` is the MemoryTarget of the errors sink."""
    limits = {"batch_bytes": options.pop("batch_bytes")} if "batch_bytes" in options else {}
    config = MemorySinkConfig(batch_size=batch_size, batch_flush_interval_seconds=interval, **limits)

    class Negotiated(ListSource):
        negotiated = True

    source_type = source or (Negotiated if negotiated else ListSource)
    return Plan(
        "orders",
        source=lambda: source_type(log, ListSourceConfig(batch_records=read)),
        sink=lambda: kind(target, config),
        errors=None
        if errors is None
        else (lambda: options.pop("errors_kind", MemoryTransactionalSink)(errors, config)),
        retry=options.pop("retry", QUICK),
        **options,
    )


def drain(plan: Plan, **limits) -> Summary:
    """Run to the end of what is there."""
    return Worker(plan, Limits(mode="drain", **limits)).run()


class Running:
    """A worker on a thread of its own; `with` stops it and raises what it raised."""

    def __init__(self, plan: Plan, **limits) -> None:
        self.worker = Worker(plan, Limits(**limits))
        self.summary: Summary | None = None
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        try:
            self.summary = self.worker.run()
        except BaseException as error:
            self.error = error

    def __enter__(self) -> Running:
        self._thread.start()
        return self

    def __exit__(self, kind, error, tb) -> None:
        self.worker.stop()
        self.join()
        if self.error is not None and error is None:
            raise self.error

    def join(self, seconds: float = 20.0) -> None:
        self._thread.join(seconds)
        assert not self._thread.is_alive(), "the worker did not end"


def until(condition, seconds: float = 10.0) -> None:
    """Wait for a condition; fails after `seconds`."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.005)
