"""The contract suite: what every connector must keep, importable by those who write one outside this package.

    from airflow_provider_connect.testing import SourceContract, TransactionalSinkContract

`source`, `sink` and `transactional_sink` hold the contracts (pytest classes to subclass), `memory` and `sqlite`
reference connectors with faults on order, `crash` death at every line, `doubles` the broken connectors that the
contracts must reject. Only the contracts need pytest.
"""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from airflow_provider_connect.testing.sink import IdempotentSinkContract, SinkContract
    from airflow_provider_connect.testing.source import SourceContract
    from airflow_provider_connect.testing.transactional_sink import TransactionalSinkContract

__all__ = ["IdempotentSinkContract", "SinkContract", "SourceContract", "TransactionalSinkContract"]

_HOMES = {
    "IdempotentSinkContract": "sink",
    "SinkContract": "sink",
    "SourceContract": "source",
    "TransactionalSinkContract": "transactional_sink",
}

if "pytest" in sys.modules:  # so that a failed check shows its values
    import pytest

    pytest.register_assert_rewrite(*(f"{__name__}.{module}" for module in {"contract", *_HOMES.values()}))


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
