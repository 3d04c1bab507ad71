"""Metrics of one running flow, in Prometheus' text format. `METRICS` is the one list of what there is."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Metric, ProcessCollector, generate_latest

from airflow_provider_connect.engine.errors import ConnectError, Fenced, InvalidRecord, Retryable

Kind = Literal["counter", "gauge", "histogram"]
ErrorKind = Literal["retryable", "fatal", "invalid_record", "fenced"]

ERROR_KINDS: tuple[ErrorKind, ...] = ("retryable", "fatal", "invalid_record", "fenced")


@dataclass(frozen=True, slots=True)
class MetricSpec:
    """One metric: its name as it is scraped, its labels, and each label's possible values where they are few."""

    name: str
    kind: Kind
    labels: tuple[str, ...]
    help: str
    buckets: tuple[float, ...] = ()


RECORDS = MetricSpec(
    "connect_records_total",
    "counter",
    ("flow", "stage"),
    "Records by stage: read (from the source), committed (source records durable downstream), dead_letter (refused).",
)
BYTES = MetricSpec(
    "connect_bytes_total", "counter", ("flow", "stage"), "Bytes of Arrow memory by stage: read, committed."
)
BATCHES = MetricSpec("connect_batches_total", "counter", ("flow",), "Commits: one per flush of a lane.")
ERRORS = MetricSpec(
    "connect_errors_total", "counter", ("flow", "kind"), "Errors by kind: retryable, fatal, invalid_record, fenced."
)
RETRIES = MetricSpec("connect_retries_total", "counter", ("flow",), "Times a lane started again after an error.")
LAG = MetricSpec(
    "connect_lag_records",
    "gauge",
    ("flow",),
    "Records between the committed checkpoint and the end of the source; absent where the source cannot know.",
)
LANES = MetricSpec("connect_lanes", "gauge", ("flow",), "Lanes that are running.")
BATCH_SECONDS = MetricSpec(
    "connect_batch_seconds",
    "histogram",
    ("flow",),
    "Seconds that a commit takes: flush, dead letters and the commit itself.",
    (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0),
)
END_TO_END_SECONDS = MetricSpec(
    "connect_end_to_end_seconds",
    "histogram",
    ("flow",),
    "Seconds from the timestamp of a flush's oldest record to its commit; absent where records carry no timestamp.",
    (0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 3600.0),
)

METRICS = (RECORDS, BYTES, BATCHES, ERRORS, RETRIES, LAG, LANES, BATCH_SECONDS, END_TO_END_SECONDS)
"""Every metric of a flow. `process_*` (memory, CPU, open files) of the standard collector come on top, on Linux."""


def error_kind(error: ConnectError) -> ErrorKind:
    """The `kind` under which `connect_errors_total` counts this error."""
    if isinstance(error, Retryable):
        return "retryable"
    if isinstance(error, InvalidRecord):
        return "invalid_record"
    return "fenced" if isinstance(error, Fenced) else "fatal"


class FlowMetrics:
    """The metrics of one flow in one worker, in a registry of their own.

    Called once per batch or commit, never per record. Every method may be called by any thread. The values of every
    label are known beforehand, so the number of series does not grow with the data.
    """

    def __init__(self, flow: str) -> None:
        self._registry = registry = CollectorRegistry()
        records, size, errors = (
            Counter(spec.name, spec.help, spec.labels, registry=registry) for spec in (RECORDS, BYTES, ERRORS)
        )
        # Made now, so that a scrape before the first batch shows zeros and not nothing.
        self._records_read = records.labels(flow, "read")
        self._records_committed = records.labels(flow, "committed")
        self._records_dead = records.labels(flow, "dead_letter")
        self._bytes_read = size.labels(flow, "read")
        self._bytes_committed = size.labels(flow, "committed")
        self._errors = {kind: errors.labels(flow, kind) for kind in ERROR_KINDS}
        self._batches, self._retries = (
            Counter(spec.name, spec.help, spec.labels, registry=registry).labels(flow) for spec in (BATCHES, RETRIES)
        )
        self._flow = flow
        self._lag = Gauge(LAG.name, LAG.help, LAG.labels, registry=registry)  # without a series until one is known
        self._lanes = Gauge(LANES.name, LANES.help, LANES.labels, registry=registry).labels(flow)
        self._batch_seconds = Histogram(
            BATCH_SECONDS.name,
            BATCH_SECONDS.help,
            BATCH_SECONDS.labels,
            registry=registry,
            buckets=BATCH_SECONDS.buckets,
        ).labels(flow)
        self._end_to_end = Histogram(
            END_TO_END_SECONDS.name,
            END_TO_END_SECONDS.help,
            END_TO_END_SECONDS.labels,
            registry=registry,
            buckets=END_TO_END_SECONDS.buckets,
        )
        ProcessCollector(registry=registry)

    def read(self, records: int, size: int) -> None:
        """A batch of `records` records and `size` bytes came from the source."""
        self._records_read.inc(records)
        self._bytes_read.inc(size)

    def committed(self, records: int, size: int, batch_seconds: float, end_to_end_seconds: float | None = None) -> None:
        """A flush of `records` source records and `size` bytes is durable.

        `batch_seconds` is what flush and commit took; `end_to_end_seconds` is the age of its oldest record at the
        commit (a record from a clock that is ahead counts as 0), None where records carry no timestamp.
        """
        self._records_committed.inc(records)
        self._bytes_committed.inc(size)
        self._batches.inc()
        self._batch_seconds.observe(batch_seconds)
        if end_to_end_seconds is not None:
            self._end_to_end.labels(self._flow).observe(max(0.0, end_to_end_seconds))

    def dead_lettered(self, records: int) -> None:
        """So many records were refused and set aside."""
        self._records_dead.inc(records)

    def error(self, kind: ErrorKind) -> None:
        """An error of this kind reached the worker; `error_kind` names it."""
        self._errors[kind].inc()

    def retried(self) -> None:
        """A lane starts again after an error."""
        self._retries.inc()

    def set_lag(self, records: int | None) -> None:
        """The flow is so many records behind; None where the source cannot know (any more)."""
        if records is None:
            self._lag.clear()
        else:
            self._lag.labels(self._flow).set(records)

    def lanes(self, running: int) -> None:
        """So many lanes are running."""
        self._lanes.set(running)

    def text(self) -> bytes:
        """Everything in Prometheus' text format (version 0.0.4)."""
        return generate_latest(_WithoutCreated(self._registry))

    def value(self, name: str, **labels: str) -> float | None:
        """The present value of a sample of this flow, None if there is no such series. For tests and summaries."""
        return self._registry.get_sample_value(name, {"flow": self._flow, **labels})


class _WithoutCreated(CollectorRegistry):
    """A view without the `_created` samples: they double the series and say nothing that `up` does not."""

    def __init__(self, registry: CollectorRegistry) -> None:
        super().__init__()
        self._of = registry

    def collect(self) -> Iterator[Metric]:
        for metric in self._of.collect():
            metric.samples = [sample for sample in metric.samples if not sample.name.endswith("_created")]
            yield metric
