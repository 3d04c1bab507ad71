"""Partition fields, as they are written in a configuration: `day(ts)`, `bucket(16, id)`, `region`."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from pyiceberg.transforms import (
    BucketTransform,
    DayTransform,
    HourTransform,
    IdentityTransform,
    MonthTransform,
    Transform,
    TruncateTransform,
    YearTransform,
)

_CALL = re.compile(r"(\w+)\s*\(\s*(?:(\d+)\s*,\s*)?([^(),]+?)\s*\)")
_PLAIN: dict[str, Callable[[], Transform[Any, Any]]] = {
    "identity": IdentityTransform,
    "year": YearTransform,
    "month": MonthTransform,
    "day": DayTransform,
    "hour": HourTransform,
}
_COUNTED: dict[str, Callable[[int], Transform[Any, Any]]] = {"bucket": BucketTransform, "truncate": TruncateTransform}


@dataclass(frozen=True, slots=True)
class PartitionBy:
    """A partition field: the column it is made of, how, and its name."""

    column: str
    transform: Transform[Any, Any]
    name: str


def partition_fields(texts: Sequence[str]) -> list[PartitionBy]:
    """The fields that `texts` describe. ValueError if one cannot be understood."""
    return [_field(text.strip()) for text in texts]


def _field(text: str) -> PartitionBy:
    call = _CALL.fullmatch(text)
    if call is None:
        if not text or set(text) & set("(),"):
            raise ValueError(f"partitionBy: '{text}' is not understood; {_HOW}")
        return PartitionBy(text, IdentityTransform(), text)
    function, count, column = call[1].lower(), call[2], call[3]
    if function in _PLAIN and count is None:
        return PartitionBy(column, _PLAIN[function](), column if function == "identity" else f"{column}_{function}")
    if function in _COUNTED and count is not None and int(count) > 0:
        return PartitionBy(column, _COUNTED[function](int(count)), f"{column}_{function}")
    raise ValueError(f"partitionBy: '{text}' is not understood; {_HOW}")


_HOW = "write a column, or year(c), month(c), day(c), hour(c), bucket(n, c), truncate(n, c)"
