"""Metrics of one running flow, in Prometheus' text format. `METRICS` is the one list of what there is.

prometheus-client is only imported when somebody asks for them: that takes as long as the first records do.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, Literal

from airflow_provider_connect.engine.errors import ConnectError, Fenced, InvalidRecord, Retryable

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry
    from prometheus_client.core import Metric

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
LAG_BYTES = MetricSpec(
    "connect_lag_bytes",
    "gauge",
    ("flow",),
    "Bytes of log between the committed checkpoint and the log's end, kept for the flow; absent for other sources.",
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

METRICS = (RECORDS, BYTES, BATCHES, ERRORS, RETRIES, LAG, LAG_BYTES, LANES, BATCH_SECONDS, END_TO_END_SECONDS)
"""Every metric of a flow. `process_*` (memory, CPU, open files) of the standard collector come on top, on Linux."""


def error_kind(error: ConnectError) -> ErrorKind:
    """The `kind` under which `connect_errors_total` counts this error."""
    if isinstance(error, Retryable):
        return "retryable"
    if isinstance(error, InvalidRecord):
        return "invalid_record"
    return "fenced" if isinstance(error, Fenced) else "fatal"


class FlowMetrics:
    """The metrics of one flow in one worker, apart from the process-wide registry.

    Called once per batch or commit, never per record. Every method may be called by any thread. The values of every
    label are known beforehand, so the number of series does not grow with the data.
    """

    def __init__(self, flow: str) -> None:
        self._flow = flow
        self._lock = threading.Lock()
        # All there from the start, so that a scrape before the first batch shows zeros and not nothing.
        self._records = dict.fromkeys(("read", "committed", "dead_letter"), 0)
        self._bytes = dict.fromkeys(("read", "committed"), 0)
        self._errors = dict.fromkeys(ERROR_KINDS, 0)
        self._batches = self._retries = self._lanes = 0
        self._lag: int | None = None
        self._lag_bytes: int | None = None
        self._batch_seconds = _Observations(BATCH_SECONDS.buckets)
        self._end_to_end = _Observations(END_TO_END_SECONDS.buckets)

    def read(self, records: int, size: int) -> None:
        """A batch of `records` records and `size` bytes came from the source."""
        with self._lock:
            self._records["read"] += records
            self._bytes["read"] += size

    def committed(self, records: int, size: int, batch_seconds: float, end_to_end_seconds: float | None = None) -> None:
        """A flush of `records` source records and `size` bytes is durable.

        `batch_seconds` is what flush and commit took; `end_to_end_seconds` is the age of its oldest record at the
        commit (a record from a clock that is ahead counts as 0), None where records carry no timestamp.
        """
        with self._lock:
            self._records["committed"] += records
            self._bytes["committed"] += size
            self._batches += 1
            self._batch_seconds.add(batch_seconds)
            if end_to_end_seconds is not None:
                self._end_to_end.add(max(0.0, end_to_end_seconds))

    def dead_lettered(self, records: int) -> None:
        """So many records were refused and set aside."""
        with self._lock:
            self._records["dead_letter"] += records

    def error(self, kind: ErrorKind) -> None:
        """An error of this kind reached the worker; `error_kind` names it."""
        with self._lock:
            self._errors[kind] += 1

    def retried(self) -> None:
        """A lane starts again after an error."""
        with self._lock:
            self._retries += 1

    def set_lag(self, records: int | None) -> None:
        """The flow is so many records behind; None where the source cannot know (any more)."""
        self._lag = records

    def set_lag_bytes(self, count: int | None) -> None:
        """The flow is so many bytes of log behind; None where the source does not count these."""
        self._lag_bytes = count

    def lanes(self, running: int) -> None:
        """So many lanes are running."""
        self._lanes = running

    def text(self) -> bytes:
        """Everything in Prometheus' text format."""
        from prometheus_client import ProcessCollector, generate_latest

        registry = self._registry()
        ProcessCollector(registry=registry)
        return generate_latest(registry)

    def value(self, name: str, **labels: str) -> float | None:
        """The present value of a sample of this flow, None if there is no such series. For tests and summaries."""
        return self._registry().get_sample_value(name, {"flow": self._flow, **labels})

    def collect(self) -> Iterator[Metric]:
        """What prometheus-client asks a collector for."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

        with self._lock:
            counters: dict[MetricSpec, dict[str, int]] = {
                RECORDS: self._records.copy(),
                BYTES: self._bytes.copy(),
                BATCHES: {"": self._batches},
                ERRORS: {str(kind): count for kind, count in self._errors.items()},
                RETRIES: {"": self._retries},
            }
            histograms = {BATCH_SECONDS: self._batch_seconds.copy(), END_TO_END_SECONDS: self._end_to_end.copy()}
        for spec, values in counters.items():
            counter = CounterMetricFamily(spec.name, spec.help, labels=spec.labels)
            for label, value in values.items():
                counter.add_metric([self._flow, label][: len(spec.labels)], value)
            yield counter
        for spec, present in ((LAG, self._lag), (LAG_BYTES, self._lag_bytes), (LANES, self._lanes)):
            gauge = GaugeMetricFamily(spec.name, spec.help, labels=spec.labels)
            if present is not None:
                gauge.add_metric([self._flow], present)
            yield gauge
        for spec, seen in histograms.items():
            histogram = HistogramMetricFamily(spec.name, spec.help, labels=spec.labels)
            if spec is BATCH_SECONDS or any(seen.counts):
                histogram.add_metric([self._flow], seen.buckets(), seen.total)
            yield histogram

    def _registry(self) -> CollectorRegistry:
        from prometheus_client import CollectorRegistry

        registry = CollectorRegistry()
        registry.register(self)
        return registry


class _Observations:
    """How many values fell up to each bound and above the one before; the last count is of what is above all."""

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def add(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def copy(self) -> _Observations:
        other = _Observations(self.bounds)
        other.counts, other.total = self.counts.copy(), self.total
        return other

    def buckets(self) -> list[tuple[str, float]]:
        """As Prometheus wants them: cumulative, by upper bound."""
        names = [*map(str, self.bounds), "+Inf"]
        return list(zip(names, map(float, accumulate(self.counts)), strict=True))
