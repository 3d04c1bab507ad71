"""bytes: payloads nobody looks into. As columns they are the envelope itself: key, value, headers, topic, ..."""

from __future__ import annotations

import pyarrow as pa

from airflow_provider_connect.engine.batch import ENVELOPE, documents
from airflow_provider_connect.engine.codec import Codec
from airflow_provider_connect.engine.errors import FlowError


class Bytes(Codec):
    """The envelope's fields as columns, and back."""

    def decode(self, documents: pa.RecordBatch) -> pa.RecordBatch:
        """The envelope's columns."""
        return documents.replace_schema_metadata(None)

    def encode(self, columns: pa.RecordBatch) -> pa.RecordBatch:
        """The column `value` (binary or string) as payload, the envelope's other fields from the columns of that name.

        FlowError without `value`; columns that are no field of the envelope are left out.
        """
        names = columns.schema.names
        if "value" not in names or not _is_payload(columns.schema.field("value").type):
            raise FlowError(f"opaque payloads are made from a binary or text column 'value'; there is {names}")
        others = {f.name: columns.column(f.name).cast(f.type) for f in ENVELOPE if f.name in names}
        return documents(others.pop("value"), "bytes", **others)


def codec() -> Codec:
    """A new codec."""
    return Bytes()


def _is_payload(type_: pa.DataType) -> bool:
    return bool(pa.types.is_binary(type_) or pa.types.is_string(type_))
