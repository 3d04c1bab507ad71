"""Flows between in-memory systems, declared like any other: the type is `memory`."""

from types import SimpleNamespace
from typing import Annotated, Literal

from pydantic import Field, SecretStr

from airflow_provider_connect.engine.config import Config, FromConnection, SinkConfig
from airflow_provider_connect.testing.memory import ListLog, ListSource, ListSourceConfig
from airflow_provider_connect.testing.memory_sinks import (
    MemoryIdempotentSink,
    MemorySink,
    MemorySinkConfig,
    MemoryTarget,
    MemoryTransactionalSink,
)

LOGS: dict[str, ListLog] = {}
TARGETS: dict[str, MemoryTarget] = {}


class MemorySourceConfig(Config):
    """What to read."""

    topic: str
    """Name of the log."""

    password: Annotated[SecretStr | None, FromConnection("password")] = None
    """What nobody may see."""

    batch_records: int = Field(default=10, gt=0)
    """Records of a batch."""


class MemoryTypeSinkConfig(SinkConfig):
    """Where to write."""

    target: str
    """Name of the target."""

    guarantee: Literal["exactly-once", "effectively-once", "at-least-once"] = "exactly-once"
    """Kind of the sink."""


class Source(ListSource):
    config_type = MemorySourceConfig

    def __init__(self, config):
        if config.topic not in LOGS:
            LOGS[config.topic] = ListLog({"0": []}, config.topic)
        super().__init__(LOGS[config.topic], ListSourceConfig(batch_records=config.batch_records))
        LOGS[config.topic].config = config


def target_of(config):
    """A sink's arguments: what it writes to, and its own configuration."""
    own = config.model_dump(include=set(SinkConfig.model_fields))
    return TARGETS.setdefault(config.target, MemoryTarget()), MemorySinkConfig(**own)


class IdempotentSink(MemoryIdempotentSink):
    config_type = MemoryTypeSinkConfig

    def __init__(self, config):
        super().__init__(*target_of(config))


class PlainSink(MemorySink):
    config_type = MemoryTypeSinkConfig

    def __init__(self, config):
        super().__init__(*target_of(config))


class Sink(MemoryTransactionalSink):
    config_type = MemoryTypeSinkConfig

    def __init__(self, config):
        super().__init__(*target_of(config))

    @classmethod
    def choose(cls, config):
        return {"exactly-once": cls, "effectively-once": IdempotentSink, "at-least-once": PlainSink}[config.guarantee]


MODULE = SimpleNamespace(source=Source, sink=Sink)
