"""Transform: pure rows to rows."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, Generic, TypeVar

import pyarrow as pa

from airflow_provider_connect.engine.config import Config

T = TypeVar("T", bound=Config)


class Transform(ABC, Generic[T]):
    """A pure function from rows to rows: the same rows in give the same rows out, with no clock, no chance, no I/O.

    1. `__init__(config)` compiles what it needs.
    2. `apply(rows)` gets the columns of one batch and returns fewer, more or other rows and columns.

    It is called by the lane's writer thread. Rows it cannot handle: raise `InvalidRecord(rows={index: reason})`; the
    worker dead-letters them and applies the transform to the rest. Any other error is Fatal.
    """

    config_type: ClassVar[type[Config]]

    def __init__(self, config: T) -> None:
        self.config = config

    @abstractmethod
    def apply(self, rows: pa.RecordBatch) -> pa.RecordBatch:
        """The rows that `rows` become."""
