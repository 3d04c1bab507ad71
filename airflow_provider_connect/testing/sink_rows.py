"""Records as the sink contracts write and find them again, and their rows in the formats that sinks accept."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import NamedTuple

import pyarrow as pa

from airflow_provider_connect.engine.batch import COLUMNS, documents, envelope_schema


class Record(NamedTuple):
    """What a check writes: `{"id": 1, "text": "…"}` as a document, columns `id` (int64) and `text` (string) else."""

    id: int
    text: str = ""


def numbered(start: int, stop: int) -> list[Record]:
    """Records with the ids start, ..., stop - 1."""
    return [Record(number, f"text of {number}") for number in range(start, stop)]


def rows_of(records: Sequence[Record], format: str) -> pa.RecordBatch:
    """The rows of `records` in one of the formats "columns", "json", "bytes" (holding JSON) and "postgresql-copy".

    Documents have a key, a topic, partition 0 and the id as offset; no timestamp, for brokers take none far from now.
    """
    ids = pa.array([record.id for record in records], pa.int64())
    if format == COLUMNS:
        texts = pa.array([record.text for record in records], pa.string())
        return pa.RecordBatch.from_arrays([ids, texts], names=["id", "text"])
    if format == "postgresql-copy":
        payloads = [f"{record.id}\t{_copy_escaped(record.text)}" for record in records]
    elif format in {"json", "bytes"}:
        payloads = [json.dumps(record._asdict(), ensure_ascii=False) for record in records]
    else:
        raise NotImplementedError(f"no rows in format '{format}': override rows() in the contract's subclass")
    found = documents(
        pa.array([payload.encode() for payload in payloads], pa.binary()),
        format,
        key=pa.array([str(record.id).encode() for record in records], pa.binary()),
        topic=pa.array(["contract"] * len(records), pa.string()),
        partition=pa.array([0] * len(records), pa.int32()),
        offset=ids,
    )
    if format == "postgresql-copy":
        columns = [{"name": "id", "type": "bigint"}, {"name": "text", "type": "text"}]
        found = found.cast(envelope_schema(format, columns=json.dumps(columns)))
    return found


def _copy_escaped(text: str) -> str:
    for plain, escaped in (("\\", "\\\\"), ("\t", "\\t"), ("\n", "\\n"), ("\r", "\\r")):
        text = text.replace(plain, escaped)
    return text
