"""Fitting: the rows of a batch with the columns and types of the table, by Arrow's kernels."""

from __future__ import annotations

import base64
import binascii
import uuid

import pyarrow as pa
import pyarrow.compute as pc
from pyiceberg.io.pyarrow import schema_to_pyarrow
from pyiceberg.schema import Schema

from airflow_provider_connect.connectors._iceberg.types import is_known, small, storable
from airflow_provider_connect.engine.errors import InvalidRecord

_WIDER = {
    (pa.int32(), pa.int64()),
    (pa.float32(), pa.float64()),
    (pa.date32(), pa.timestamp("us")),
}
_UNFIT = (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowTypeError, ValueError, binascii.Error)


class Fitting:
    """How rows get into a table of this schema."""

    def __init__(self, schema: Schema, document: str | None, leave_out: bool) -> None:
        """`document`: the column for whole documents, if it is such a table. `leave_out`: fields without a column are
        left out; else they are refused."""
        self.schema = schema
        self._document, self._leave_out = document, leave_out
        self._wanted = small(schema_to_pyarrow(schema, include_field_ids=False))

    def rows(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """The rows with exactly the table's columns. InvalidRecord if they do not fit."""
        wanted = self._wanted
        if self._document is not None:
            try:
                given = {self._document: batch.column("value").cast(pa.string())}
            except pa.ArrowInvalid as error:
                raise InvalidRecord(f"a document is no UTF-8 text: {error}") from error
        else:
            given = {name: batch.column(at) for at, name in enumerate(batch.schema.names)}
            unknown = [] if self._leave_out else self._unknown(batch, wanted)
            if unknown:
                raise InvalidRecord(
                    f"the table has no column for {', '.join(unknown)}; `schemaEvolution: add` adds columns, `ignore` "
                    "leaves fields out"
                )
        if not len(wanted):
            raise InvalidRecord("the table has no columns yet, and these records have no value to take a type from")
        return pa.RecordBatch.from_arrays(
            [fitted(given.get(field.name), field, batch.num_rows) for field in wanted], schema=wanted
        )

    def missing(self, batch: pa.RecordBatch) -> pa.Schema:
        """What a table would need, beside what it has, to take these rows: new columns, new fields within columns, and
        columns with wider types."""
        wanted = self._wanted
        found = []
        for field in batch.schema:
            if not is_known(field.type):
                continue
            new, at = storable(field), wanted.get_field_index(field.name)
            if at < 0 or _new_names(wanted.field(at).type, new.type):
                found.append(new)
                continue
            old = wanted.field(at)
            if (old.type, new.type) in _WIDER and not _fits(batch.column(field.name), old):
                found.append(new)
        return pa.schema(found)

    def _unknown(self, batch: pa.RecordBatch, wanted: pa.Schema) -> list[str]:
        """Fields that hold something and have no column."""
        found = []
        for at, field in enumerate(batch.schema):
            place = wanted.get_field_index(field.name)
            if place < 0 and batch.column(at).null_count < batch.num_rows:
                found.append(f"'{field.name}'")
            elif place >= 0 and is_known(field.type):
                found += [f"'{field.name}.{name}'" for name in _new_names(wanted.field(place).type, field.type)]
        return found


def fitted(values: pa.Array | None, field: pa.Field, count: int) -> pa.Array:
    """The values as a column of the table; nulls where there are none. InvalidRecord, which names the column."""
    if values is None:
        values = pa.nulls(count, field.type)
    elif values.type != field.type:
        try:
            values = _cast(values, field.type)
        except _UNFIT as error:
            raise InvalidRecord(f"column '{field.name}' ({field.type}): {error}") from error
    if not field.nullable and values.null_count:
        rows = pc.indices_nonzero(values.is_null()).to_pylist()
        raise InvalidRecord(
            f"column '{field.name}' is required, but a record has no value for it",
            rows=dict.fromkeys(rows, f"column '{field.name}' is required"),
        )
    return values


def _cast(values: pa.Array, kind: pa.DataType) -> pa.Array:
    if pa.types.is_dictionary(values.type):
        return _cast(values.dictionary_decode(), kind)
    texts = pa.types.is_string(values.type) or pa.types.is_large_string(values.type)
    if texts and kind == pa.uuid():  # no kernel reads them
        found = [None if text is None else uuid.UUID(text).bytes for text in values.to_pylist()]
        return pa.array(found, pa.binary(16)).cast(kind)
    if texts and (pa.types.is_binary(kind) or pa.types.is_fixed_size_binary(kind)):  # JSON has them in base64
        decoded = [None if text is None else base64.b64decode(text, validate=True) for text in values.to_pylist()]
        return pa.array(decoded, kind)
    unzoned = pa.types.is_timestamp(values.type) and values.type.tz is None
    if unzoned and pa.types.is_timestamp(kind) and kind.tz is not None:
        raise ValueError(f"{values.type} has no time zone, which {kind} needs")
    if values.type == pa.uuid() and not pa.types.is_fixed_size_binary(kind):
        named = [None if value is None else str(value) for value in values.to_pylist()]
        return pa.array(named, pa.string()).cast(kind)
    return values.cast(kind)


def _fits(values: pa.Array, field: pa.Field) -> bool:
    try:
        fitted(values, field, len(values))
    except InvalidRecord:
        return False
    return True


def _new_names(old: pa.DataType, new: pa.DataType) -> list[str]:
    """Names of fields within `new` that `old` does not have."""
    if pa.types.is_struct(old) and pa.types.is_struct(new):
        names = [field.name for field in old]
        return [
            found
            for field in new
            for found in (
                [f"{field.name}.{name}" for name in _new_names(old.field(field.name).type, field.type)]
                if field.name in names
                else [field.name]
            )
        ]
    if _has_elements(old) and _has_elements(new):
        return _new_names(old.value_type, new.value_type)
    return []


def _has_elements(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind))
