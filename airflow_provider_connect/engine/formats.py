"""Formats: in which one a source is read, and what it takes until a sink accepts the rows.

Decoding and encoding are the most expensive things a flow can do, so `negotiate` plans them only where they cannot be
avoided: without transforms, a format that both sides speak passes untouched.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from airflow_provider_connect.engine import registry
from airflow_provider_connect.engine.batch import COLUMNS, Batch, format_of
from airflow_provider_connect.engine.codec import Codec
from airflow_provider_connect.engine.errors import ConnectError, Fatal, FlowError, InvalidRecord
from airflow_provider_connect.engine.transform import ROW, Transform

_OPAQUE = "bytes"
_KEPT = b"kept"

Codecs = Callable[[str], Codec | None]
"""What `Connector.codec` is: the codec of an encoding that needs the connector's configuration, else None."""


def _registered_only(encoding: str) -> Codec | None:
    return None


@dataclass(frozen=True, slots=True)
class Conversion:
    """The way of a flow's rows from its source to its sink. Made by `negotiate`, used by one lane's writer thread."""

    read_format: str
    """The format to read the source in."""

    decoder: Codec | None = None
    """Makes columns of what is read; None if it stays as it is."""

    encoder: Codec | None = None
    """Makes of columns what the sink accepts; None if that is columns, or what was read."""

    def apply(self, batch: Batch, transforms: Sequence[Transform[Any]]) -> pa.RecordBatch:
        """The rows of `batch` as the sink wants them, through all transforms; maybe none are left.

        InvalidRecord: `rows` are indexes into `batch.rows`, whichever step refused them, and never empty. The caller
        sets these rows aside and applies again to the rest. Any other error means that the whole batch cannot be
        converted. Key, headers and origin of documents that are decoded and encoded again are kept, as long as no
        transform both drops the column `ROW` and changes the number of rows.
        """
        if batch.rows.num_rows == 0 or not (transforms or self.decoder or self.encoder):
            return batch.rows
        try:
            return self._convert(batch.rows, transforms)
        except InvalidRecord as error:
            if error.rows:
                raise
            rows = self._refused(batch.rows, transforms)
            if not rows:
                raise Fatal(f"each record can be converted alone, but not all of them in one batch: {error}") from error
            raise InvalidRecord(str(error), rows=rows) from error

    def _convert(self, original: pa.RecordBatch, transforms: Sequence[Transform[Any]]) -> pa.RecordBatch:
        rows = self.decoder.decode(original) if self.decoder else original
        origin: pa.Array | None = None
        if transforms:
            origin = pc.indices_nonzero(pa.repeat(True, original.num_rows))
            for number, transform in enumerate(transforms):
                rows, origin = _step(rows, origin, transform, f"transformations[{number}]")
                if rows.num_rows == 0:
                    return rows
        if self.encoder is None:
            _refuse_tombstones(original, rows, origin)
            return rows
        try:
            encoded = self.encoder.encode(rows)
        except InvalidRecord as error:
            raise _renumbered(error, origin, transforms) from error
        return _carry(original, encoded, origin, bool(transforms))

    def _refused(self, rows: pa.RecordBatch, transforms: Sequence[Transform[Any]], first: int = 0) -> dict[int, str]:
        """Which rows are refused when nobody says it: found by halving."""
        try:
            self._convert(rows, transforms)
        except InvalidRecord as error:
            if error.rows:
                return {first + index: why for index, why in error.rows.items()}
            if rows.num_rows == 1:
                return {first: str(error)}
            half = rows.num_rows // 2
            return self._refused(rows.slice(0, half), transforms, first) | self._refused(
                rows.slice(half), transforms, first + half
            )
        return {}


def negotiate(
    source_formats: Sequence[str],
    has_transforms: bool,
    sink_accepts: Sequence[str],
    source_codec: Codecs = _registered_only,
    sink_codec: Codecs = _registered_only,
) -> Conversion:
    """How rows get from a source that reads in `source_formats` to a sink that takes `sink_accepts`.

    1. Without transforms: the sink's favourite among the formats the source reads in; nothing is converted.
    2. Else columns are needed: read as such if the source can, else decoded from its favourite encoding that has a
       codec.
    3. What comes out is passed as columns if the sink takes them, else in its favourite encoding that has a codec.

    A codec is the connector's own (`source_codec` decodes, `sink_codec` encodes), else the registered one of the name.
    Opaque payloads ("bytes") become the envelope's columns, but never documents of another encoding.
    FlowError, which names both sides, if nothing fits.
    """
    if not has_transforms:
        for name in sink_accepts:
            if name in source_formats:
                return Conversion(name)
    opaque = COLUMNS in sink_accepts or _OPAQUE in sink_accepts
    read, decoder = _reading(source_formats, opaque, source_codec)
    wanted = [_OPAQUE] if read == _OPAQUE and COLUMNS not in sink_accepts else sink_accepts
    encoder = None if COLUMNS in sink_accepts else _encoder(wanted, sink_codec)
    if read is None or (encoder is None and COLUMNS not in sink_accepts):
        if set(source_formats) == {_OPAQUE}:
            remedy = "an opaque payload is not converted; name its encoding at the source, e.g. format: json"
        else:
            remedy = "no codec leads from the one to the other"
        through = "columns for the transformations" if has_transforms else "the sink"
        raise FlowError(
            f"the source is read as {_listed(source_formats)}, the sink accepts {_listed(sink_accepts)}; nothing fits "
            f"between them and {through}: {remedy}"
        )
    return Conversion(read, decoder, encoder)


def _reading(formats: Sequence[str], opaque: bool, own: Codecs) -> tuple[str | None, Codec | None]:
    if COLUMNS in formats:
        return COLUMNS, None
    for name in sorted(formats, key=lambda name: name == _OPAQUE):
        if (opaque or name != _OPAQUE) and (codec := codec_of(name, own)) is not None:
            return name, codec
    return None, None


def codec_of(encoding: str, own: Codecs) -> Codec | None:
    """The codec of an encoding: the connector's `own`, else the registered one; None if there is neither."""
    codec = own(encoding)
    return registry.codec(encoding) if codec is None and encoding in registry.names("codecs") else codec


def _encoder(accepts: Sequence[str], own: Codecs) -> Codec | None:
    """A codec for the first encoding that can be made, which registered codecs for reading only deny."""
    nothing = pa.RecordBatch.from_pylist([], pa.schema([pa.field("value", pa.binary())]))
    for name in accepts:
        if (configured := own(name)) is not None:
            return configured
        if name in registry.names("codecs"):
            codec = registry.codec(name)
            try:
                codec.encode(nothing)
            except FlowError:
                continue
            return codec
    return None


def _step(
    rows: pa.RecordBatch, origin: pa.Array | None, transform: Transform[Any], place: str
) -> tuple[pa.RecordBatch, pa.Array | None]:
    """One transform; `origin` tells for each row which original row it comes from, None if that is lost."""
    numbered = rows if origin is None else rows.append_column(ROW, origin)
    try:
        out = transform.apply(numbered)
    except InvalidRecord as error:
        raise _renumbered(error, origin, (transform,)) from error
    except ConnectError:
        raise
    except Exception as error:
        raise Fatal(f"{place} ({type(transform).__name__}) failed: {type(error).__name__}: {error}") from error
    if ROW in out.schema.names:
        origin = out.column(ROW)
        return out.drop_columns([ROW]), origin
    return out, origin if out.num_rows == rows.num_rows else None


def _renumbered(error: InvalidRecord, origin: pa.Array | None, transforms: Sequence[Any]) -> InvalidRecord:
    """The same refusal by indexes into the original rows."""
    if not transforms:
        return error
    if error.rows is None or origin is None:
        return InvalidRecord(str(error))
    return InvalidRecord(str(error), rows={origin[index].as_py(): why for index, why in error.rows.items()})


def keeps(encoded: pa.RecordBatch, columns: Sequence[str]) -> pa.RecordBatch:
    """Encoded rows whose codec has made these columns of the envelope itself, also where all their values are null."""
    metadata = {**(encoded.schema.metadata or {}), _KEPT: ",".join(columns).encode()}
    return encoded.replace_schema_metadata(metadata)


def _carry(original: pa.RecordBatch, encoded: pa.RecordBatch, origin: pa.Array | None, changed: bool) -> pa.RecordBatch:
    """The encoded documents with key, headers and origin of the documents they were made from. What was made of a
    tombstone is one again."""
    if format_of(original.schema) == COLUMNS or (changed and origin is None):
        return encoded
    columns = []
    made = {"value", *(encoded.schema.metadata or {}).get(_KEPT, b"").decode().split(",")}
    for field in encoded.schema:
        column, before = encoded.column(field.name), original.column(field.name)
        if field.name == "value" and before.null_count:
            column = pc.if_else(_taken(pc.is_valid(before), origin), column, None)
        elif field.name not in made and column.null_count == len(column):
            column = _taken(before, origin)
        columns.append(column)
    return pa.RecordBatch.from_arrays(columns, schema=encoded.schema)


def _refuse_tombstones(original: pa.RecordBatch, rows: pa.RecordBatch, origin: pa.Array | None) -> None:
    """A record without a value must not become a row of nulls. One that a transform dropped is no matter."""
    if format_of(original.schema) in (COLUMNS, _OPAQUE) or format_of(rows.schema) != COLUMNS:
        return
    values = original.column("value")
    if values.null_count == 0 or (origin is None and rows.num_rows != original.num_rows):
        return
    left = pc.indices_nonzero(pc.is_null(values))
    if origin is not None:
        left = left.filter(pc.is_in(left, origin.cast(left.type)))
    if len(left):
        why = "a record without value (a tombstone) has no columns"
        raise InvalidRecord(f"{len(left)} records: {why}", rows=dict.fromkeys(left.to_pylist(), why))


def _taken(column: pa.Array, origin: pa.Array | None) -> pa.Array:
    return column if origin is None else pc.take(column, origin)


def _listed(formats: Sequence[str]) -> str:
    return ", ".join(f"'{name}'" for name in formats)
