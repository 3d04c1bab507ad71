"""`airflow-connect preview`: the first records after each step, with nothing written and no position moved."""

from __future__ import annotations

import argparse
import base64
import json
import sys
import time
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from airflow_provider_connect.cli import FAILED, GAVE_UP, OK, WRONG
from airflow_provider_connect.engine import registry
from airflow_provider_connect.engine.batch import COLUMNS, ENVELOPE, Checkpoint, format_of
from airflow_provider_connect.engine.connector import Share, Source, SourceContext
from airflow_provider_connect.engine.errors import ConnectError, EndOfInput, FlowError, InvalidRecord, Retryable
from airflow_provider_connect.engine.flow import DataFlow
from airflow_provider_connect.engine.logs import configure, redact

_READ_SECONDS = 0.5


class _Look(SourceContext):
    """Reads every split from its beginning, joins no group, and remembers nothing."""

    def __init__(self, flow: str, read_format: str) -> None:
        self.flow, self.format = flow, read_format
        self.share, self.fixed_splits, self.drain, self.until = Share(), True, True, Checkpoint()

    def claim(self, splits: Sequence[str]) -> Checkpoint:
        return Checkpoint()

    def revoked(self, splits: Sequence[str]) -> None:
        return

    def lost(self, splits: Sequence[str]) -> None:
        return


def run(arguments: argparse.Namespace) -> int:
    """Print JSON lines of `step` (source, a transform, sink), `type` and `record`; `rejected` where a step refuses."""
    configure(arguments.log_format, (arguments.log_level or "warning").upper())
    try:
        _preview(DataFlow.load(arguments.flow), arguments.records, arguments.max_seconds)
    except FlowError as error:
        print(redact(str(error)), file=sys.stderr)
        return WRONG
    except ConnectError as error:
        print(redact(str(error)), file=sys.stderr)
        return GAVE_UP if isinstance(error, Retryable) else FAILED
    return OK


def _preview(flow: DataFlow, records: int, max_seconds: float) -> None:
    plan = flow.plan()
    source, transforms = plan.source(), plan.transforms()
    read_format = _read_format(source.formats(), bool(transforms))
    parts = _read(source, plan.flow, read_format, records, max_seconds)
    if (codec := source.codec(read_format)) is not None:  # what its bytes hold only this source can tell
        parts = [_applied(flow.spec.source.type, codec.decode, rows, "source") for rows in parts]
    for rows in parts:
        _print("source", flow.spec.source.type, rows)
    for component, transform in zip(flow.spec.transformations, transforms, strict=True):
        changed = []
        for rows in parts:
            rest = _applied(component.type, transform.apply, _columns(component.type, rows))
            _print("transform", component.type, rest)
            changed.append(rest)
        parts = changed
    for rows in parts:
        _print("sink", flow.spec.sink.type, rows)


def _read_format(formats: Sequence[str], transforms: bool) -> str:
    """The most readable format; columns, if the source has them, where transforms come next."""
    for wanted in (COLUMNS, "json") if transforms else ("json", COLUMNS):
        if wanted in formats:
            return wanted
    return formats[0]


def _read(source: Source[Any], flow: str, read_format: str, records: int, seconds: float) -> list[pa.RecordBatch]:
    """The first `records` rows, or those that come within `seconds`; until then a Retryable is tried again."""
    until = time.monotonic() + seconds
    while True:
        try:
            return _read_once(source, _Look(flow, read_format), records, until)
        except Retryable:
            if time.monotonic() + _READ_SECONDS >= until:
                raise
            time.sleep(_READ_SECONDS)


def _read_once(source: Source[Any], context: SourceContext, records: int, until: float) -> list[pa.RecordBatch]:
    parts: list[pa.RecordBatch] = []
    wanted = records
    try:
        source.open(context)
        while wanted > 0 and time.monotonic() < until:
            batch = source.read(wanted, _READ_SECONDS)
            if batch is not None and len(batch):
                parts.append(batch.rows.slice(0, wanted))
                wanted -= parts[-1].num_rows
    except EndOfInput:
        pass
    except Exception as error:
        raise source.classify(error) from error
    finally:
        source.close()
    return parts


def _columns(step: str, rows: pa.RecordBatch) -> pa.RecordBatch:
    encoding = format_of(rows.schema)
    return rows if encoding == COLUMNS else _applied(step, registry.codec(encoding).decode, rows)


def _applied(step: str, change: Any, rows: pa.RecordBatch, kind: str = "transform") -> pa.RecordBatch:
    """The rows after a step; those it refuses are printed and left out, as dead letters would be."""
    try:
        changed: pa.RecordBatch = change(rows)
        return changed
    except InvalidRecord as error:
        if not error.rows:
            raise
        for index, reason in error.rows.items():
            _line({"step": kind, "type": step, "record": _records(rows.slice(index, 1))[0], "rejected": reason})
        keep = [index for index in range(rows.num_rows) if index not in error.rows]
        return _applied(step, change, rows.take(pa.array(keep, pa.int64())), kind)


def _print(step: str, kind: str, rows: pa.RecordBatch) -> None:
    for record in _records(rows):
        _line({"step": step, "type": kind, "record": record})


def _line(line: dict[str, Any]) -> None:
    print(json.dumps(line, ensure_ascii=False, default=_text))


def _records(rows: pa.RecordBatch) -> list[dict[str, Any]]:
    """Columns as they are; of documents the envelope's fields that are set, JSON values as JSON."""
    encoding = format_of(rows.schema)
    if encoding == COLUMNS:
        columns: list[dict[str, Any]] = rows.to_pylist()
        return columns
    names = set(ENVELOPE.names)
    return [
        {
            name: _parsed(value) if name == "value" and encoding == "json" else value
            for name, value in record.items()
            if name not in names or value is not None or name == "value"
        }
        for record in rows.to_pylist()
    ]


def _parsed(value: bytes | None) -> Any:
    try:
        return None if value is None else json.loads(value)
    except ValueError:  # as it is: what to do about it is up to the steps
        return value


def _text(value: Any) -> str:
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            return base64.b64encode(value).decode()
    return value.isoformat() if hasattr(value, "isoformat") else str(value)
