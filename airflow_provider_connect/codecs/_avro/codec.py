"""Avro documents to columns and back: with a schema registry, or with one schema that is given."""

from __future__ import annotations

from collections.abc import Callable

import pyarrow as pa

from airflow_provider_connect.codecs._avro.decode import decode
from airflow_provider_connect.codecs._avro.derive import grown, is_record, record_name, schema_of
from airflow_provider_connect.codecs._avro.encode import encode
from airflow_provider_connect.codecs._avro.resolve import resolved
from airflow_provider_connect.codecs._avro.schema import Type, parse
from airflow_provider_connect.codecs._schema_registry.client import Schema
from airflow_provider_connect.codecs._schema_registry.framing import Values
from airflow_provider_connect.engine.batch import documents as envelope
from airflow_provider_connect.engine.codec import Codec
from airflow_provider_connect.engine.errors import InvalidRecord

VALUE = "value"
"""The column of data that are no records."""


class AvroReader:
    """Reads the data of one schema; `reader`: the schema to read them with, by Avro's rules of resolution."""

    def __init__(self, schema: Schema, reader: Type | None = None) -> None:
        self._writer = parse(schema.text, [text for _, text in schema.references])
        self._reader = reader

    def read(self, values: Values) -> tuple[pa.RecordBatch, dict[int, str]]:
        """One row per value, and `{index: why}` of those that are no data of this schema."""
        found, refused = decode(self._writer, values.data, values.starts, values.ends)
        if refused:
            return _columns(found, self._writer), refused
        if self._reader is not None:
            found = resolved(found, self._writer, self._reader)
        return _columns(found, self._reader or self._writer), {}


class AvroWriter:
    """Writes columns with a schema that grows with them, or with one that is given."""

    kind = "AVRO"

    def __init__(self, name: str, given: str | None = None) -> None:
        self._name = record_name(name)
        self._given = given
        if given is not None:
            is_record(given)
        self._parsed: dict[str, Type] = {}

    def schema_for(self, columns: pa.Schema, earlier: str | None) -> str:
        """The schema to write these columns with: the given one, or `earlier` with what it lacks, or a new one."""
        if self._given is not None:
            return self._given
        return schema_of(columns, self._name) if earlier is None else grown(earlier, columns)

    def full_name(self, schema: str) -> str:
        """The name of the schema's record."""
        return self._type(schema).name

    def write(self, columns: pa.RecordBatch, schema: str) -> pa.Array:
        """One datum per row."""
        return encode(self._type(schema), columns)

    def _type(self, schema: str) -> Type:
        if schema not in self._parsed:
            self._parsed[schema] = is_record(schema)
        return self._parsed[schema]


class StaticAvro(Codec):
    """Bare data of one schema, without frames and without a registry.

    The schema's text is asked for when rows are converted for the first time.
    """

    def __init__(self, text: Callable[[], str], encoding: str) -> None:
        self._text, self._encoding = text, encoding
        self._reader: AvroReader | None = None
        self._writer: AvroWriter | None = None

    def decode(self, documents: pa.RecordBatch) -> pa.RecordBatch:
        """One column per field; a null document (a tombstone) is a row of nulls.

        InvalidRecord: values that are no data of the schema.
        """
        if self._reader is None:
            self._reader = AvroReader(Schema("AVRO", self._text()))
        column = documents.column("value")
        values = Values.of(column)
        found, refused = self._reader.read(values)
        if refused:
            rows = {
                int(values.rows[index]): _hinted(column, int(values.rows[index]), why) for index, why in refused.items()
            }
            raise InvalidRecord(f"{len(rows)} values are no Avro data of the schema", rows=rows)
        if not column.null_count:
            return found
        order = pa.array(
            column.is_valid().to_numpy(zero_copy_only=False).cumsum() - 1, mask=column.is_null().to_numpy(False)
        )
        return found.take(order)

    def encode(self, columns: pa.RecordBatch) -> pa.RecordBatch:
        """One datum per row. InvalidRecord for rows that the schema does not take."""
        if self._writer is None:
            self._writer = AvroWriter("record", self._text())
        schema = self._writer.schema_for(columns.schema, None)
        return envelope(self._writer.write(columns, schema), self._encoding)


def reader_type(text: str | None) -> Type | None:
    """The schema to read with, if one is given. FlowError if it is none."""
    return None if text is None else parse(text)


def _columns(found: pa.Array, kind: Type) -> pa.RecordBatch:
    if kind.kind == "record":
        return pa.RecordBatch.from_struct_array(found)
    return pa.RecordBatch.from_arrays([found], names=[VALUE])


def _hinted(values: pa.Array, index: int, why: str) -> str:
    framed = values[index].as_py()[:1] == b"\0"
    return f"{why}; it may be framed for a schema registry: set `schemaRegistry`" if framed else why
