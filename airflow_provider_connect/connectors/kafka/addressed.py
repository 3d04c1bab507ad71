"""Addressed: keys and topics from fields, for formats in which they cannot be read from the values any more."""

from __future__ import annotations

import pyarrow as pa

from airflow_provider_connect.codecs import json
from airflow_provider_connect.connectors.kafka.routing import Routing
from airflow_provider_connect.engine.batch import documents
from airflow_provider_connect.engine.codec import Codec
from airflow_provider_connect.engine.formats import keeps


class Addressed(Codec):
    """Encodes with another codec, and looks for keys and topics in the columns meanwhile."""

    def __init__(self, inner: Codec, routing: Routing) -> None:
        self._inner, self._routing, self._json = inner, routing, json.codec()

    def decode(self, documents: pa.RecordBatch) -> pa.RecordBatch:
        """As the other codec."""
        return self._inner.decode(documents)

    def encode(self, columns: pa.RecordBatch) -> pa.RecordBatch:
        """As the other codec, with `key` and `topic` set. InvalidRecord: rows that cannot go anywhere."""
        encoded = self._inner.encode(columns)
        looked_at = columns.select(self._routing.columns(columns.schema.names))
        found = self._routing.apply(documents(self._json.encode(looked_at).column("value"), "json"))
        for name in self._routing.decides:
            at = encoded.schema.get_field_index(name)
            encoded = encoded.set_column(at, encoded.schema.field(at), found.column(name))
        return keeps(encoded, self._routing.decides)
