"""Wrapped: records with their metadata around them (`rawMode`), for formats that have to be decoded."""

from __future__ import annotations

import pyarrow as pa

from airflow_provider_connect.engine.codec import Codec
from airflow_provider_connect.engine.errors import FlowError


class Wrapped(Codec):
    """Two columns: `value`, a struct of the columns that another codec decodes, and `_metadata`.

    As in JSON's raw mode the timestamp is in milliseconds, and what is no UTF-8 in a key becomes U+FFFD.
    """

    def __init__(self, inner: Codec) -> None:
        self._inner = inner

    def decode(self, documents: pa.RecordBatch) -> pa.RecordBatch:
        """The values decoded; a tombstone's `value` is null."""
        rows = self._inner.decode(documents)
        tombstones = documents.column("value").is_null()
        if rows.num_columns:
            value = pa.StructArray.from_arrays(rows.columns, fields=list(rows.schema), mask=tombstones)
        else:
            value = pa.array([{}] * len(rows), pa.struct([]))
        metadata = {
            "offset": documents.column("offset"),
            "partition": documents.column("partition"),
            "timestamp": documents.column("timestamp").cast(pa.timestamp("ms", tz="UTC")).view(pa.int64()),
            "key": _text(documents.column("key")),
            "topic": documents.column("topic"),
        }
        around = pa.StructArray.from_arrays(list(metadata.values()), names=list(metadata))
        return pa.RecordBatch.from_arrays([value, around], names=["value", "_metadata"])

    def encode(self, columns: pa.RecordBatch) -> pa.RecordBatch:
        """There is no way back."""
        raise FlowError("rawMode is for sources; a sink writes the columns as they are")


def _text(keys: pa.Array) -> pa.Array:
    try:
        return keys.cast(pa.string())
    except pa.ArrowInvalid:
        return pa.array(
            [None if key is None else key.decode("utf-8", "replace") for key in keys.to_pylist()], pa.string()
        )
