"""Codec: payload bytes to columns and back."""

from __future__ import annotations

from abc import ABC, abstractmethod

import pyarrow as pa


class Codec(ABC):
    """Documents of one encoding (the envelope's `value`) to columns, and back.

    Both methods keep the number and order of rows. Rows that cannot be converted: `InvalidRecord(rows={index: why})`.
    Called by the lane's writer thread; a codec may remember schemas between calls. One that asks a schema registry
    raises Retryable while that is down, and is asked again for the same rows.
    """

    @abstractmethod
    def decode(self, documents: pa.RecordBatch) -> pa.RecordBatch:
        """Envelope rows of this encoding as typed columns, one per top-level field."""

    @abstractmethod
    def encode(self, columns: pa.RecordBatch) -> pa.RecordBatch:
        """Typed columns as envelope rows of this encoding."""
