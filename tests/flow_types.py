"""Connector and transform types for tests of flows, which need declarations but no systems.

`queue` is a source and a sink with everything a declaration can have; `ticker` is a source only, `board` a sink with
two guarantees; `missing` has no driver; `keep` is a transform.
"""

from types import SimpleNamespace
from typing import Annotated, Any, ClassVar, Literal

import pyarrow as pa
import pytest
from pydantic import BeforeValidator, Field, SecretStr, field_validator, model_validator

from airflow_provider_connect.engine import registry
from airflow_provider_connect.engine.batch import Batch, Checkpoint, documents
from airflow_provider_connect.engine.config import Config, FromConnection, SinkConfig
from airflow_provider_connect.engine.connector import Sink, Source, TransactionalSink
from airflow_provider_connect.engine.errors import EndOfInput, Fatal, FlowError, InvalidRecord, Retryable
from airflow_provider_connect.engine.transform import Transform


def _split(value: Any) -> Any:
    return value.split(",") if isinstance(value, str) else value


class Login(Config):
    """Who we are."""

    username: Annotated[str, FromConnection("login")]
    """User name."""
    password: Annotated[SecretStr, FromConnection("password")]
    """Password."""
    mechanism: Literal["plain", "digest"] = "plain"
    """How."""


class Route(Config):
    """One route."""

    to: str
    """Where to."""
    token: SecretStr | None = None
    """Ticket."""


class QueueConfig(Config):
    """Where the queue is."""

    brokers: Annotated[list[str], FromConnection("host"), BeforeValidator(_split)] = Field(min_length=1)
    """Addresses."""
    topic: str = Field(min_length=1, pattern=r"^[a-z.-]+$")
    """Topic."""
    server_url: str | None = None
    """URL."""
    sasl: Login | None = None
    """Login."""
    client_id: Annotated[str | None, FromConnection("extra.client_id")] = None
    """Client."""
    retries: Annotated[int, Field(ge=0)] = 3
    """Retries."""
    raw_mode: bool = False
    """Raw."""
    wait: float = Field(default=1.0, gt=0)
    """Seconds."""
    properties: dict[str, str] = Field(default_factory=dict)
    """More."""
    routes: list[Route] = Field(default_factory=list)
    """Routes."""


class QueueSourceConfig(QueueConfig):
    """What to read."""

    table: str | None = None
    """Table."""
    query: str | None = None
    """Query."""

    @model_validator(mode="after")
    def _one(self) -> "QueueSourceConfig":
        if self.table is not None and self.query is not None:
            raise ValueError("'table' and 'query' exclude each other; keep one")
        return self


class QueueSinkConfig(QueueConfig, SinkConfig):
    """Where to write."""


class QueueSource(Source[QueueSourceConfig]):
    config_type = QueueSourceConfig

    def formats(self) -> tuple[str, ...]:
        return ("json",)

    def open(self, context: Any) -> None:
        context.claim(["0"])

    def read(self, max_records: int, timeout: float) -> Batch | None:
        raise EndOfInput

    def check(self) -> str:
        return "ok"

    def close(self) -> None:
        return


class QueueSink(Sink[QueueSinkConfig]):
    config_type = QueueSinkConfig

    def open(self, context: Any) -> None:
        return

    def accepts(self) -> tuple[str, ...]:
        return ("json", "columns")

    def write(self, batch: Batch) -> None:
        return

    def flush(self) -> None:
        return

    def check(self) -> str:
        return "ok"

    def close(self) -> None:
        return


class TickerConfig(Config):
    """What to tick."""

    ticks: list[str] = Field(default=["1", "2", "3"])
    """Values, JSON each."""
    fail: Literal["", "fatal", "retryable", "flow", "once"] = ""
    """How to fail."""
    endless: bool = False
    """Whether the last value comes again and again, every 10 ms."""

    @field_validator("ticks")
    @classmethod
    def _even(cls, ticks: list[str]) -> list[str]:
        if ticks == ["odd"]:
            raise FlowError("odd ticks need another clock")
        return ticks


class Ticker(Source[TickerConfig]):
    config_type = TickerConfig
    replayable = False
    failed: ClassVar[bool] = False

    def formats(self) -> tuple[str, ...]:
        return ("json",)

    def open(self, context: Any) -> None:
        errors = {"fatal": Fatal("broken"), "retryable": Retryable("away"), "flow": FlowError("no such ticks")}
        if self.config.fail == "once":
            Ticker.failed, before = True, Ticker.failed
            if not before:
                raise Retryable("away")
        elif self.config.fail:
            raise errors[self.config.fail]
        self.next = context.claim(["0"]).get("0", 0)

    def read(self, max_records: int, timeout: float) -> Batch | None:
        ticks = self.config.ticks
        if self.config.endless:
            import time

            time.sleep(0.01)
            values, self.next = [ticks[min(self.next, len(ticks) - 1)]], self.next + 1
        else:
            values = ticks[self.next : self.next + max_records]
            self.next += len(values)
        if not values:
            raise EndOfInput
        return Batch(documents(pa.array(values), "json"), Checkpoint({"0": self.next}))

    def check(self) -> str:
        return "ok"

    def close(self) -> None:
        return


class BoardConfig(SinkConfig):
    """Where to show."""

    title: str = "board"
    """Title."""
    once: bool = False
    """Exactly once."""


class Board(QueueSink):
    config_type = BoardConfig
    shown: ClassVar[list[Any]] = []

    @classmethod
    def choose(cls, config: Any) -> Any:
        if config.title == "impossible":
            raise FlowError("this title cannot be shown; choose another")
        return OnceBoard if config.once else cls

    def write(self, batch: Batch) -> None:
        self.shown.extend(batch.rows.to_pylist())


class OnceBoard(Board, TransactionalSink):
    def claim(self, splits: Any) -> Checkpoint:
        return Checkpoint()

    def positions(self, splits: Any) -> Checkpoint:
        return Checkpoint()

    def commit(self, checkpoint: Checkpoint) -> None:
        return

    def abort(self) -> None:
        return


class KeepConfig(Config):
    """What to keep."""

    above: int
    """Bound."""


class Keep(Transform[KeepConfig]):
    config_type = KeepConfig

    def apply(self, rows: pa.RecordBatch) -> pa.RecordBatch:
        values = rows.column("n").to_pylist()
        if bad := {index: "negative" for index, value in enumerate(values) if value < 0}:
            raise InvalidRecord("negative", rows=bad)
        return rows.filter(pa.array([value > self.config.above for value in values]))


MODULES = {
    ("connectors", "queue"): SimpleNamespace(source=QueueSource, sink=QueueSink),
    ("connectors", "ticker"): SimpleNamespace(source=Ticker, Ticker=Ticker),
    ("connectors", "board"): SimpleNamespace(sink=Board, Board=Board, OnceBoard=OnceBoard, QueueSink=QueueSink),
    ("transforms", "keep"): SimpleNamespace(transform=Keep),
}
NAMES = {"connectors": ("board", "missing", "queue", "ticker"), "transforms": ("keep",)}


def install(patch: pytest.MonkeyPatch) -> None:
    """Make these types the registered ones; codecs stay."""
    names, module = registry.names, registry.module

    def module_of(kind: str, name: str) -> Any:
        if kind == "codecs":
            return module(kind, name)
        if name == "missing":
            raise FlowError(
                "type 'missing' needs the module 'nodriver': pip install 'airflow-provider-connect[missing]'"
            )
        if (kind, name) not in MODULES:
            raise FlowError(f"unknown {kind.removesuffix('s')} type '{name}'")
        return MODULES[kind, name]

    patch.setattr(registry, "names", lambda kind: NAMES.get(kind) or names(kind))
    patch.setattr(registry, "known", lambda kind, name: name in registry.names(kind))
    patch.setattr(registry, "module", module_of)


@pytest.fixture
def types(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch)
