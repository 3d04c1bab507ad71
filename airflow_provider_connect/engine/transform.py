"""Transform: pure rows to rows."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, Generic, TypeVar

import pyarrow as pa

from airflow_provider_connect.engine.config import Config

T = TypeVar("T", bound=Config)

ROW = "__row__"
"""A column that travels beside the data: which row of the batch this one was made from."""


class Transform(ABC, Generic[T]):
    """A pure function from rows to rows: the same rows in give the same rows out, with no clock, no chance, no I/O.

    1. `__init__(config)` compiles what it needs.
    2. `apply(rows)` gets the columns of one batch and returns fewer, more or other rows and columns.

    The rows have one column more than the data, `ROW`. A transform that drops, adds or reorders rows keeps it with the
    row it belongs to, as every Arrow kernel for rows does by itself; one that keeps all rows in order may drop it. It
    is how a refused record is found, and how a Kafka record's key survives.

    It is called by the lane's writer thread. Rows it cannot handle: raise `InvalidRecord(rows={index: reason})`; the
    worker dead-letters them and applies the transform to the rest. Any other error is Fatal.
    """

    config_type: ClassVar[type[Config]]

    def __init__(self, config: T) -> None:
        self.config = config

    @abstractmethod
    def apply(self, rows: pa.RecordBatch) -> pa.RecordBatch:
        """The rows that `rows` become."""
