"""rename: give fields other names."""

from __future__ import annotations

import pyarrow as pa
from pydantic import Field

from airflow_provider_connect.engine.config import Config
from airflow_provider_connect.engine.errors import InvalidRecord
from airflow_provider_connect.engine.transform import Transform


class RenameConfig(Config):
    """Which fields to rename."""

    fields: dict[str, str] = Field(min_length=1)
    """New names by old name. A field that no record of a batch has is passed over."""


class Rename(Transform[RenameConfig]):
    """Gives fields new names; their order and all other fields stay."""

    config_type = RenameConfig

    def apply(self, rows: pa.RecordBatch) -> pa.RecordBatch:
        """The same rows under the new names. Refused where a new name is taken: one of the two would be lost."""
        names = [self.config.fields.get(name, name) for name in rows.schema.names]
        twice = [name for name in names if names.count(name) > 1]
        if twice:
            reason = f"rename makes a second field '{twice[0]}'; rename or drop the other one first"
            raise InvalidRecord(reason, rows=dict.fromkeys(range(rows.num_rows), reason))
        fields = [field.with_name(name) for field, name in zip(rows.schema, names, strict=True)]
        return pa.RecordBatch.from_arrays(rows.columns, schema=pa.schema(fields))


transform = Rename
