"""Broken doubles: for each check of the contracts a connector with one defect, which that check must reject.

A check that cannot fail is worth nothing. `tests/testing/test_doubles.py` runs the whole contract against each double
and asserts that exactly the named checks fail: the one it is for, and those that the same defect cannot but break too.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from airflow_provider_connect.engine.connector import Connector

K = TypeVar("K", bound=type[Connector[Any]])


@dataclass(frozen=True, slots=True)
class Double:
    """A broken connector, the check it is for, and all the checks that its defect breaks."""

    kind: type[Connector[Any]]
    check: str
    rejected_by: frozenset[str]


DOUBLES: list[Double] = []
"""Every double; filled by importing `source_doubles` and `sink_doubles`."""


def breaks(check: str, *others: str) -> Callable[[K], K]:
    """Register a class as the double for a check (its name without `test_`), which `others` reject too."""

    def register(kind: K) -> K:
        names = frozenset(f"test_{name}" for name in (check, *others))
        DOUBLES.append(Double(kind, f"test_{check}", names))
        return kind

    return register
