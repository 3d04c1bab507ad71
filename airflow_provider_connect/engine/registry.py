"""Registry: the name in a flow's `type:` to the class behind it. The file name is the registration.

Listing imports nothing; looking up imports one module. Third parties register modules in the entry-point group
`airflow_provider_connect.connectors` (`.transforms`, `.codecs` likewise).
"""

from __future__ import annotations

import importlib
import pkgutil
from difflib import get_close_matches
from functools import cache
from importlib.metadata import EntryPoints, entry_points
from types import ModuleType
from typing import Any

from airflow_provider_connect.engine.codec import Codec
from airflow_provider_connect.engine.connector import Sink, Source
from airflow_provider_connect.engine.errors import FlowError
from airflow_provider_connect.engine.transform import Transform

_PACKAGE = "airflow_provider_connect"


def suggestion(name: str, known: list[str] | tuple[str, ...]) -> str:
    """ "; did you mean 'x'?" if something known is near, else the list of what there is."""
    near = get_close_matches(name, known, n=1, cutoff=0.6)
    return f"; did you mean '{near[0]}'?" if near else f"; known: {', '.join(known)}"


@cache
def names(kind: str) -> tuple[str, ...]:
    """Every registered name of a kind: "connectors", "transforms" or "codecs"."""
    return tuple(sorted(_own(kind) | {point.name for point in _points(kind)}))


def known(kind: str, name: str) -> bool:
    """Whether `name` is registered; quicker than `names` for the types of this package."""
    return name in _own(kind) or name in names(kind)


@cache
def _own(kind: str) -> frozenset[str]:
    package = importlib.import_module(f"{_PACKAGE}.{kind}")
    modules = pkgutil.iter_modules(package.__path__)
    return frozenset(module.name.replace("_", "-") for module in modules if not module.name.startswith("_"))


@cache
def _points(kind: str) -> EntryPoints:
    """The entry points of a kind. Beside Airflow, reading those of all distributions takes a noticeable time."""
    return entry_points(group=f"{_PACKAGE}.{kind}")


@cache
def module(kind: str, name: str) -> ModuleType:
    """The module that is registered under `name`. FlowError with a suggestion if there is none."""
    if not known(kind, name):
        raise FlowError(f"unknown {kind.removesuffix('s')} type '{name}'{suggestion(name, names(kind))}")
    if name not in _own(kind):
        loaded: ModuleType = _points(kind)[name].load()
        return loaded
    try:
        return importlib.import_module(f"{_PACKAGE}.{kind}.{name.replace('-', '_')}")
    except ModuleNotFoundError as error:
        if (error.name or "").startswith(_PACKAGE):
            raise
        raise FlowError(
            f"type '{name}' needs the module '{error.name}': pip install 'airflow-provider-connect[{name}]'"
        ) from error


def source(name: str) -> type[Source[Any]]:
    """The source class of a connector type."""
    found: type[Source[Any]] | None = getattr(module("connectors", name), "source", None)
    if found is None:
        raise FlowError(f"connector '{name}' is no source")
    return found


def sink(name: str) -> type[Sink[Any]]:
    """The sink class of a connector type."""
    found: type[Sink[Any]] | None = getattr(module("connectors", name), "sink", None)
    if found is None:
        raise FlowError(f"connector '{name}' is no sink")
    return found


def transform(name: str) -> type[Transform[Any]]:
    """The transform class of a name."""
    found: type[Transform[Any]] = module("transforms", name).transform
    return found


def codec(name: str) -> Codec:
    """A new codec for an encoding."""
    found: Codec = module("codecs", name).codec()
    return found
