"""select: keep these fields, in this order."""

from __future__ import annotations

import pyarrow as pa
from pydantic import Field

from airflow_provider_connect.engine.config import Config
from airflow_provider_connect.engine.transform import Transform


class SelectConfig(Config):
    """Which fields to keep."""

    fields: list[str] = Field(min_length=1)
    """The fields to keep, in the order they shall have. A field that no record of a batch has is null."""


class Select(Transform[SelectConfig]):
    """Keeps the named fields and drops all others."""

    config_type = SelectConfig

    def apply(self, rows: pa.RecordBatch) -> pa.RecordBatch:
        """The same rows with the chosen columns."""
        known = rows.schema
        kept = [known.field(name) if name in known.names else pa.field(name, pa.null()) for name in self.config.fields]
        arrays = [rows.column(f.name) if f.name in known.names else pa.nulls(rows.num_rows) for f in kept]
        return pa.RecordBatch.from_arrays(arrays, schema=pa.schema(kept))


transform = Select
