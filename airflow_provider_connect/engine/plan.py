"""Plan: what a worker needs to run a flow, with every connection resolved; and Summary, what it gives back.

A plan holds factories, because each lane (and each new start after an error) makes its own source and sink.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from airflow_provider_connect.engine.batch import Checkpoint
from airflow_provider_connect.engine.connector import Share, Sink, Source
from airflow_provider_connect.engine.retry import RetryPolicy
from airflow_provider_connect.engine.transform import Transform

Mode = Literal["drain", "continuous"]


@dataclass(frozen=True, slots=True)
class Plan:
    """A flow, ready to run: made by `DataFlow.plan(lookup)`, or by hand from connector objects."""

    flow: str
    source: Callable[[], Source[Any]]
    sink: Callable[[], Sink[Any]]
    transforms: Callable[[], Sequence[Transform[Any]]] = tuple
    sink_type: str = "sink"
    """What the flow calls its sink's type; dead letters name it."""
    errors: Callable[[], Sink[Any]] | None = None
    passes_dead_letters: bool = True
    """Whether a record that is in `errors` is dealt with. Else the flow stops before it, to read it again."""
    parallelism: int = 1
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    checkpoints: str = ""
    """Where checkpoints go when the sink cannot hold them: a path or URL for `open_store`; empty: the default."""

    prefetch_bytes: int = 4 * 1024 * 1024
    """Bytes read ahead of the sink, per lane."""
    read_records: int = 5_000
    """Records asked of the source in one read."""


@dataclass(frozen=True, slots=True)
class Limits:
    """When a run ends by itself. `drain`: what was there at the start; `continuous`: only by these limits or `stop`."""

    mode: Mode = "continuous"
    max_records: int | None = None
    """Stop once at least this many records are committed, exactly as many where the source's batches can be cut."""
    max_seconds: float | None = None
    share: Share = field(default_factory=Share)
    """The part of the source's splits this worker takes, when several workers deal them out (mapped tasks)."""


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a running worker stands; totals since its start. `lag` is None where the source cannot know."""

    records: int
    bytes: int
    dead_letters: int
    seconds: float
    lag: int | None = None


@dataclass(frozen=True, slots=True)
class Summary:
    """What a run did: committed source records and their bytes, dead letters among them, and the last checkpoint."""

    records: int
    bytes: int
    seconds: float
    dead_letters: int
    checkpoint: Checkpoint

    def as_dict(self) -> dict[str, Any]:
        """JSON-able, as the command line prints it and the operator returns it."""
        return {
            "records": self.records,
            "bytes": self.bytes,
            "seconds": round(self.seconds, 3),
            "dead_letters": self.dead_letters,
            "checkpoint": dict(self.checkpoint),
        }
