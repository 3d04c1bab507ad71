"""Batch and Checkpoint: what travels from a source to a sink.

A batch is an Arrow RecordBatch with the checkpoint that is true once its rows are delivered. Its rows come in one of
two shapes:

* **columns**: one Arrow column per field, typed;
* **documents**: the envelope schema, `value` being undecoded payload bytes whose encoding the schema's metadata names
  (`json`, `bytes`, `postgresql-copy`, ...). Nothing decodes them unless a transform or the sink needs columns.

`Batch.format` tells which: "columns", or the name of the documents' encoding.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

COLUMNS = "columns"
"""The format of a batch that holds typed columns."""

_ENCODING = b"encoding"

HEADERS = pa.list_(pa.struct([pa.field("key", pa.string()), pa.field("value", pa.binary())]))

ENVELOPE = pa.schema(
    [
        pa.field("key", pa.binary()),
        pa.field("value", pa.binary()),
        pa.field("headers", HEADERS),
        pa.field("topic", pa.string()),
        pa.field("partition", pa.int32()),
        pa.field("offset", pa.int64()),
        pa.field("timestamp", pa.timestamp("ms", tz="UTC")),
    ]
)
"""Schema of undecoded records. Fields a source does not have are null; a null `value` is a tombstone."""


class Checkpoint(dict[str, Any]):
    """`{split: position}`: where each split stands. A position names the *next* record, never the last one seen."""

    def advance(self, other: Mapping[str, Any]) -> Checkpoint:
        """This checkpoint with the positions of `other` laid over it; both stay unchanged."""
        return Checkpoint({**self, **other})

    def only(self, splits: Any) -> Checkpoint:
        """The part of this checkpoint that concerns `splits`."""
        wanted = set(splits)
        return Checkpoint({split: position for split, position in self.items() if split in wanted})


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows, and the checkpoint that is true once every one of them is delivered or dead-lettered.

    `rows` may be empty: a stretch of the source that held nothing to deliver still moves the checkpoint.
    A batch may cover several splits; within one split its rows are in the split's order.
    """

    rows: pa.RecordBatch
    checkpoint: Checkpoint
    nbytes: int = field(init=False, compare=False)
    """Bytes of Arrow memory that the rows refer to."""

    def __post_init__(self) -> None:
        # Asked for several times on a batch's way, and Arrow adds it up anew each time.
        object.__setattr__(self, "nbytes", int(self.rows.nbytes))

    @property
    def format(self) -> str:
        """ "columns", or the encoding of the documents in `value`."""
        return format_of(self.rows.schema)

    def with_rows(self, rows: pa.RecordBatch) -> Batch:
        """The same stretch of the source with other rows."""
        return Batch(rows, self.checkpoint)

    def __len__(self) -> int:
        return int(self.rows.num_rows)


def format_of(schema: pa.Schema) -> str:
    """The format of rows with this schema."""
    encoding = (schema.metadata or {}).get(_ENCODING)
    return encoding.decode() if encoding is not None else COLUMNS


def envelope_schema(encoding: str, **metadata: str) -> pa.Schema:
    """The envelope's schema for payloads of this encoding; `metadata` is kept beside it (values are text)."""
    extra = {key.encode(): text.encode() for key, text in metadata.items()}
    return ENVELOPE.with_metadata({_ENCODING: encoding.encode(), **extra})


def documents(values: pa.Array, encoding: str, **columns: pa.Array) -> pa.RecordBatch:
    """An envelope batch around `values` (binary or string); the other envelope columns default to null."""
    if not pa.types.is_binary(values.type):
        values = values.cast(pa.binary())
    columns = {**columns, "value": values}
    arrays = [columns[f.name] if f.name in columns else pa.nulls(len(values), f.type) for f in ENVELOPE]
    return pa.RecordBatch.from_arrays(arrays, schema=envelope_schema(encoding))
