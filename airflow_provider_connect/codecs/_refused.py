"""Which rows of a batch a conversion refuses: found by halving, entered only after the whole batch was refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyarrow as pa

from airflow_provider_connect.engine.errors import InvalidRecord


def refused_rows(convert: Callable[[pa.RecordBatch], Any], rows: pa.RecordBatch, error: Exception) -> dict[int, str]:
    """`{index: why}` of every single row that `convert` refuses; `error` is what it raised for all of `rows`.

    Empty if each row passes on its own, so that only their combination is wrong. `convert` raises `pa.ArrowInvalid`,
    `ValueError` or `InvalidRecord`.
    """
    found: dict[int, str] = {}

    def halve(start: int, count: int, why: Exception) -> None:
        if count == 1:
            found[start] = str(why)
            return
        for first, length in ((start, count // 2), (start + count // 2, count - count // 2)):
            try:
                convert(rows.slice(first, length))
            except (pa.ArrowInvalid, ValueError, InvalidRecord) as cause:
                halve(first, length, cause)

    halve(0, rows.num_rows, error)
    return found
