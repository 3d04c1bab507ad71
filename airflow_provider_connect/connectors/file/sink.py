"""FileSink: each flush is a file, put in place whole under a name that its token gives."""

from __future__ import annotations

import contextlib
import os
import tempfile
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet

from airflow_provider_connect.codecs._json_text import texts
from airflow_provider_connect.connectors.file import location
from airflow_provider_connect.connectors.file.config import FileSinkConfig
from airflow_provider_connect.connectors.file.location import Location, locate
from airflow_provider_connect.engine.batch import COLUMNS, Batch
from airflow_provider_connect.engine.connector import IdempotentSink, SinkContext
from airflow_provider_connect.engine.errors import ConnectError, InvalidRecord

_LEFT_OVER_SECONDS = 3600.0


class FileSink(IdempotentSink[FileSinkConfig]):
    """Writes one file per flush: `<prefix><token>.<format>`.

    * A local file is written under a hidden name in the same folder, synced and renamed, and the folder synced; in a
      store it is one put. So readers see whole files only, and the same token again replaces its file by its equal.
    * Rows whose columns do not fit into one table of a flush (a number here, text there) begin a new part, `~1`, `~2`,
      ... before the suffix. Parts of an earlier try of the token beyond those written now are removed.
    * NDJSON takes documents as they are, one per line; newlines within one, which JSON has only between tokens, become
      spaces. A document without value (a tombstone) is refused. In CSV null is an unquoted empty field and empty text a
      quoted one; nested values are JSON text, binary ones base64.
    * Without `begin`, as for dead letters, names are unique instead, so a repeated flush makes another file.
    * A flush is collected in memory, bounded by `batch_bytes`. The hidden file that a crash left behind is removed when
      its token is repeated, or at an `open` one hour later; until then it may be another worker's.
    """

    config_type = FileSinkConfig

    def __init__(self, config: FileSinkConfig) -> None:
        super().__init__(config)
        self._place: Location | None = None
        self._token: str | None = None
        self._batches: list[pa.RecordBatch] = []
        self._left_over: list[Path] = []

    def accepts(self) -> tuple[str, ...]:
        """NDJSON takes "json", CSV and Parquet "columns"."""
        return ("json",) if self.config.format == "ndjson" else (COLUMNS,)

    def check(self) -> str:
        """Writes a hidden file and removes it; where the folder is still to be made, in the nearest one above."""
        place = locate(self.config.path, self.config.storage_options)
        if place.local:
            folder = next(path for path in (Path(place.path), *Path(place.path).parents) if path.exists())
            with tempfile.NamedTemporaryFile(dir=folder, prefix=".check-", suffix=".tmp"):
                pass
        else:
            probe = f"{place.path.rstrip('/')}/.check-{uuid.uuid4().hex}.tmp"
            place.fs.pipe_file(probe, b"")
            place.fs.rm_file(probe)
        return f"{self.config.path} is writable"

    def classify(self, error: Exception) -> ConnectError:
        """Errors of the file system that pass by themselves are Retryable."""
        return location.classify(error)

    def open(self, context: SinkContext) -> None:
        """Make a local folder if it is missing, and clear it of what crashes left behind."""
        self._token, self._batches, self._left_over = None, [], []
        self._place = locate(self.config.path, self.config.storage_options)
        if self._place.local:
            folder = Path(self._place.path)
            folder.mkdir(parents=True, exist_ok=True)
            for left in folder.glob(f".{self.config.prefix}*.tmp"):
                with contextlib.suppress(FileNotFoundError):  # another worker cleans up too
                    if left.stat().st_mtime < time.time() - _LEFT_OVER_SECONDS:
                        left.unlink()
                    else:
                        self._left_over.append(left)

    def begin(self, token: str) -> None:
        """Name the next flush."""
        self._token, self._batches = token, []

    def write(self, batch: Batch) -> None:
        """Collect the rows."""
        if self.config.format == "ndjson":
            values = batch.rows.column("value")
            if values.null_count:
                refused = pc.indices_nonzero(values.is_null()).to_pylist()
                self._batches = []
                reason = "a tombstone (a record without value) has no line in NDJSON"
                raise InvalidRecord(reason, rows=dict.fromkeys(refused, reason))
        self._batches.append(batch.rows)

    def flush(self) -> None:
        """Put the file in place."""
        batches, self._batches = self._batches, []
        token, self._token = self._token, None
        if not batches:
            return
        stem = self.config.prefix + (token or f"{time.time_ns()}-{uuid.uuid4().hex[:8]}")
        parts = _lines(batches) if self.config.format == "ndjson" else _tables(batches)
        for number, part in enumerate(parts):
            self._put(stem, self._name(stem, number), self._written(part))
        if token is not None:
            self._remove_parts(stem, len(parts))
            for left in self._left_over:
                if left.name.startswith(f".{stem}~"):
                    left.unlink(missing_ok=True)

    def close(self) -> None:
        """Forget what was not flushed."""
        self._place, self._token, self._batches = None, None, []

    # --- how

    def _at(self) -> Location:
        assert self._place is not None, "the sink is not open"
        return self._place

    def _name(self, stem: str, part: int) -> str:
        return f"{stem}{f'~{part}' if part else ''}{self.config.suffix}"

    def _written(self, part: pa.Buffer | pa.Table) -> pa.Buffer:
        out = pa.BufferOutputStream()
        if self.config.format == "parquet":
            pyarrow.parquet.write_table(part, out, compression=self.config.codec or "none")
            return out.getvalue()
        write: Callable[[Any], None] = (
            (lambda to: to.write(part)) if self.config.format == "ndjson" else lambda to: _write_csv(part, to)
        )
        if self.config.codec is None:
            write(out)
        else:
            with pa.CompressedOutputStream(out, self.config.codec) as packed:
                write(packed)
        return out.getvalue()

    def _put(self, stem: str, name: str, content: pa.Buffer) -> None:
        place = self._at()
        if not place.local:
            place.fs.pipe_file(f"{place.path.rstrip('/')}/{name}", content.to_pybytes())
            return
        folder = Path(place.path)
        hidden = folder / f".{stem}~{uuid.uuid4().hex[:8]}.tmp"
        try:
            with hidden.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            hidden.replace(folder / name)
        except BaseException:
            hidden.unlink(missing_ok=True)
            raise
        _sync(folder)

    def _remove_parts(self, stem: str, number: int) -> None:
        place = self._at()
        while place.fs.exists(path := f"{place.path.rstrip('/')}/{self._name(stem, number)}"):
            place.fs.rm_file(path)
            number += 1


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _lines(batches: list[pa.RecordBatch]) -> list[pa.Buffer]:
    """All documents, each with a newline behind it."""
    values = pa.chunked_array([batch.column("value") for batch in batches]).combine_chunks()
    text = _joined(values)
    if text.count(b"\n") != len(values) or b"\r" in text:
        for newline in (b"\n", b"\r"):
            values = pc.replace_substring(values, newline, b" ")
        text = _joined(values)
    return [pa.py_buffer(text)]


def _joined(values: pa.Array) -> bytes:
    whole = pa.ListArray.from_arrays(pa.array([0, len(values)], pa.int32()), values)
    joined: bytes = pc.binary_join(whole, b"\n")[0].as_buffer().to_pybytes()
    return joined + b"\n"


def _tables(batches: list[pa.RecordBatch]) -> list[pa.Table]:
    """As few tables as hold the rows in order without changing a value; a missing column is null."""
    tables: list[pa.Table] = []
    for batch in batches:
        table = pa.Table.from_batches([batch])
        if tables:
            try:
                tables[-1] = pa.concat_tables([tables[-1], table], promote_options="default")
                continue
            except (pa.ArrowInvalid, pa.ArrowTypeError):
                pass
        tables.append(table)
    return [table.combine_chunks() for table in tables]


def _write_csv(table: pa.Table, out: Any) -> None:
    columns = [_flat(column, field) for column, field in zip(table.columns, table.schema, strict=True)]
    pyarrow.csv.write_csv(pa.table(columns, names=table.schema.names), out)


def _flat(column: pa.ChunkedArray, field: pa.Field) -> pa.ChunkedArray:
    """A column that CSV can hold."""
    if pa.types.is_nested(field.type) or pa.types.is_binary(field.type):
        made = pa.chunked_array([texts(chunk, field) for chunk in column.chunks], pa.string())
        return pc.replace_substring_regex(made, '^"|"$', "") if pa.types.is_binary(field.type) else made
    return column.cast(pa.string()) if pa.types.is_null(field.type) else column
