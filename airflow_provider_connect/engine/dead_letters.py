"""Dead letters: the records that the flow sets aside, and their way into the `errors:` sink."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, NoReturn

import pyarrow as pa

from airflow_provider_connect.engine.batch import COLUMNS, Batch, Checkpoint, documents, format_of
from airflow_provider_connect.engine.connector import Sink, TransactionalSink
from airflow_provider_connect.engine.errors import Fatal, InvalidRecord
from airflow_provider_connect.engine.formats import negotiate
from airflow_provider_connect.engine.ledger import Ledger


class DeadLetters:
    """Collects the refused records of the open commit and writes them, durably, before it.

    Each becomes `{"error": {message, type, timestamp, original_sink, metadata}, "original_message": …}`. The record's
    place in the source, where its envelope tells, or else a digest of it, is `metadata.id` and the document's key, so
    that a repetition after a crash can be told from a new dead letter.
    """

    def __init__(self, flow: str, sink_type: str, sink: Sink[Any] | None, *, passed: bool = True) -> None:
        self._flow, self._sink_type, self._sink = flow, sink_type, sink
        self.passed = passed and sink is not None
        """Whether the flow goes on when a record has been set aside."""
        self._letters: list[tuple[str, bytes]] = []
        self._splits: set[str] = set()

    def add(self, rows: pa.RecordBatch, reasons: Mapping[int, str], kind: str) -> None:
        """Set the rows at these indexes aside. Fatal when the flow has no `errors:` sink, so nothing is lost."""
        if self._sink is None:
            index, reason = next(iter(reasons.items()))
            place = _identity(self._flow, rows.slice(index, 1))
            raise Fatal(
                f"record {place} was refused: {reason}. Nothing of its batch was committed. "
                "Mend the record or the flow, or add an `errors:` sink to set such records aside"
            )
        for index, reason in reasons.items():
            row = rows.slice(index, 1)
            identity = _identity(self._flow, row)
            letter = {
                "error": {
                    "message": reason,
                    "type": kind,
                    "timestamp": datetime.now(UTC).isoformat(),
                    "original_sink": self._sink_type,
                    "metadata": {"id": identity, "flow": self._flow, **_metadata(row)},
                },
                "original_message": _original(row),
            }
            self._letters.append((identity, json.dumps(letter, default=str).encode()))

    def stop(self, first: pa.RecordBatch, last: pa.RecordBatch, refused: InvalidRecord) -> NoReturn:
        """Fatal, for a flush of which nothing has been written and one record or more are refused."""
        raise Fatal(
            f"of the records from {_identity(self._flow, first)} to {_identity(self._flow, last)}, of which none is "
            f"committed, at least one was refused: {refused}. Mend the record or the flow, or add an `errors:` sink "
            "(with `ackPolicy: afterWrite`) to set such records aside"
        )

    def forget(self) -> None:
        """Drop what was collected since the last flush: its batches will be delivered again."""
        self._letters.clear()

    def flush(self, checkpoint: Checkpoint) -> int:
        """Make what was collected durable; returns how many. Must return before `checkpoint` is committed.

        Fatal, when that is done, if the checkpoint must not pass them.
        """
        if not self._letters or self._sink is None:
            return 0
        keys, values = zip(*self._letters, strict=True)
        rows = documents(pa.array(values, pa.binary()), "json", key=pa.array([k.encode() for k in keys], pa.binary()))
        conversion = negotiate(("json",), False, self._sink.accepts(), sink_codec=self._sink.codec)
        try:
            self._sink.write(Batch(conversion.apply(Batch(rows, checkpoint), ()), checkpoint))
            self._sink.flush()
            if isinstance(self._sink, TransactionalSink):
                self._commit(self._sink, checkpoint)
        except Exception as error:
            raise self._sink.classify(error) from error
        written, first = len(self._letters), json.loads(values[0])["error"]["message"]
        self._letters.clear()
        if not self.passed:
            raise Fatal(
                f"{written} records were refused, the first ({keys[0]}): {first}. They are copied into the `errors:` "
                "sink, and its ackPolicy keeps the checkpoint before them; mend them or the flow and start it again"
            )
        return written

    def _commit(self, ledger: Ledger, checkpoint: Checkpoint) -> None:
        unclaimed = [split for split in checkpoint if split not in self._splits]
        if unclaimed:
            ledger.claim(unclaimed)
            self._splits.update(unclaimed)
        ledger.commit(checkpoint)


def _identity(flow: str, row: pa.RecordBatch) -> str:
    names = row.schema.names
    if "offset" in names and "topic" in names and row.column("offset")[0].is_valid:
        return f"{row.column('topic')[0]}:{row.column('partition')[0]}:{row.column('offset')[0]}"
    digest = hashlib.sha256(flow.encode())
    digest.update(repr(row.to_pylist()).encode())
    return digest.hexdigest()[:32]


def _metadata(row: pa.RecordBatch) -> dict[str, Any]:
    if format_of(row.schema) == COLUMNS:
        return {}
    place = {name: row.column(name)[0].as_py() for name in ("topic", "partition", "offset", "timestamp", "key")}
    return {name: _text(value) for name, value in place.items() if value is not None}


def _original(row: pa.RecordBatch) -> Any:
    if format_of(row.schema) == COLUMNS:
        return {name: _text(value) for name, value in row.to_pylist()[0].items()}
    value = row.column("value")[0].as_py()
    if value is None:
        return None
    try:
        return json.loads(value)
    except ValueError:
        return {"original_data": _text(value)}


def _text(value: Any) -> Any:
    if isinstance(value, bytes):
        # A NUL may be UTF-8, but it is no text that every `errors:` sink takes.
        if b"\0" not in value:
            with contextlib.suppress(UnicodeDecodeError):
                return value.decode()
        return {"base64": base64.b64encode(value).decode()}
    return value
