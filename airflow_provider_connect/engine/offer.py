"""Offer: what a connector type can be, and which guarantees its sink has, without making one."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from airflow_provider_connect.engine import registry
from airflow_provider_connect.engine.connector import Sink, Source, guarantee
from airflow_provider_connect.engine.errors import FlowError

_BEST_FIRST = ("exactly once", "effectively once", "at least once")


@dataclass(frozen=True, slots=True)
class Offer:
    """A connector type. `guarantees`: those that `Sink.choose` has to choose from, the best first; empty: no sink."""

    source: type[Source[Any]] | None
    sink: type[Sink[Any]] | None
    guarantees: tuple[str, ...]

    @property
    def roles(self) -> tuple[str, ...]:
        """ "source" and/or "sink"."""
        return tuple(role for role, cls in (("source", self.source), ("sink", self.sink)) if cls is not None)

    @property
    def replayable(self) -> bool | None:
        """Whether the source, as it may be configured, can read from a position again; None where there is none."""
        return None if self.source is None else self.source.replayable is not False


def offers() -> dict[str, Offer | FlowError]:
    """Every registered connector; the FlowError says how to install what a connector misses."""
    found: dict[str, Offer | FlowError] = {}
    for name in registry.names("connectors"):
        try:
            found[name] = offer(name)
        except FlowError as error:
            found[name] = error
    return found


def offer(name: str) -> Offer:
    """One connector. FlowError if there is none of this name, or its driver is missing."""
    module = registry.module("connectors", name)
    sink = getattr(module, "sink", None)
    return Offer(getattr(module, "source", None), sink, _guarantees(module, sink) if sink else ())


def _guarantees(module: ModuleType, sink: type[Sink[Any]]) -> tuple[str, ...]:
    """Those of the sink, and of the other sinks of its module that are configured alike: `choose` picks among them."""
    classes = {sink} if not inspect.isabstract(sink) else set()
    if sink.choose.__func__ is not Sink.choose.__func__:  # type: ignore[attr-defined]
        for value in vars(module).values():
            if inspect.isclass(value) and issubclass(value, Sink) and not inspect.isabstract(value):
                alike = getattr(value, "config_type", None) is sink.config_type
                classes |= {value} if alike else set()
    kinds = {guarantee(cls) for cls in classes}
    return tuple(kind for kind in _BEST_FIRST if kind in kinds)
