"""FileSource: each file is a split, read from where it was left."""

from __future__ import annotations

import json
import logging
import time
import zlib
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from airflow_provider_connect.codecs.json import codec as json_codec
from airflow_provider_connect.connectors.file import location
from airflow_provider_connect.connectors.file.config import FileSourceConfig
from airflow_provider_connect.connectors.file.location import Location, compression, locate
from airflow_provider_connect.connectors.file.ndjson import Lines, Piece
from airflow_provider_connect.connectors.file.tables import Rows, csv_rows, parquet_count, parquet_rows
from airflow_provider_connect.engine.batch import COLUMNS, Batch, Checkpoint, documents
from airflow_provider_connect.engine.connector import Share, Source, SourceContext
from airflow_provider_connect.engine.errors import ConnectError, EndOfInput, Fatal, FlowError

log = logging.getLogger(__name__)

_COUNTED_BYTES = 4 * 1024 * 1024


class FileSource(Source[FileSourceConfig]):
    """Reads files: NDJSON as documents, CSV and Parquet as columns.

    * A split is a file; its name is the file's, relative to the folder. Lanes and workers share files by a checksum of
      their names, which stays the same whatever else arrives. Each lane reads its files one after the other, in the
      order of names, and looks for new ones every `poll_interval` seconds; a late file is found whatever its name.
    * The position is `{"offset": n}` for NDJSON, the byte (after unpacking) where the next line begins, `{"row": n}`
      for CSV and Parquet. `"end": true` is added once the file is read through; then it is never opened again.
    * Files stay as they are once they are listed, so move them in whole. Plain NDJSON may be appended to: complete
      lines are taken as they come, and a last line without newline once it is a whole object. A file that got shorter
      than its position was replaced, and is Fatal.
    * A file that vanishes before it was read is passed over with a warning. A CSV line with another number of fields,
      or a value that is not of its column's type, is Fatal and the message names the file; NDJSON is not looked into.
    """

    config_type = FileSourceConfig

    def __init__(self, config: FileSourceConfig) -> None:
        super().__init__(config)
        self._place: Location | None = None
        self._context: SourceContext
        self._encoder = json_codec()
        self._forget()

    def _forget(self) -> None:
        self._positions: dict[str, dict[str, Any] | None] = {}
        self._sizes: dict[str, int] = {}
        self._queue: list[str] = []
        self._name = ""
        self._reader: Lines | Rows | None = None
        self._next_look = 0.0

    def formats(self) -> tuple[str, ...]:
        """NDJSON, and everything in raw mode, is "json"; CSV and Parquet are "columns"."""
        return ("json",) if self.config.kind == "ndjson" or self.config.raw_mode else (COLUMNS,)

    def check(self) -> str:
        """Lists the files."""
        sizes = self._located().sizes()
        return f"{len(sizes)} files with {sum(sizes.values())} bytes at {self.config.path}"

    def classify(self, error: Exception) -> ConnectError:
        """Errors of the file system that pass by themselves are Retryable."""
        return location.classify(error)

    def open(self, context: SourceContext) -> None:
        """List the files, claim those of this share and queue what is left of them."""
        self._forget()
        self._context = context
        self._place = self._located()
        self._sizes = self._place.sizes()
        if context.until:
            missing = sorted(name for name in context.until if name not in self._sizes)
            if missing:
                raise Fatal(f"{len(missing)} files to be read again are gone, e.g. '{missing[0]}'; put them back")
            self._enqueue(sorted(context.until))
        else:
            self._look()

    def read(self, max_records: int, timeout: float) -> Batch | None:
        """The next records of the file at hand, else of the next file."""
        deadline = time.monotonic() + timeout
        while True:
            if self._reader is None and not self._open_next():
                if self._context.drain or self._context.until:
                    raise EndOfInput
                wait = self._next_look - time.monotonic()
                left = deadline - time.monotonic()
                if wait > 0 or left <= 0:  # a file that holds half a line is looked into at every look
                    time.sleep(max(0.0, min(wait, left)))
                    if wait >= left:
                        return None
                self._sizes = self._at().sizes()
                self._look()
                if not self._queue:
                    return None
                continue
            assert self._reader is not None
            name = self._name
            piece = self._reader.read(max_records)
            if piece is not None:
                batch = self._batch(name, piece)
                if piece.end:
                    self._leave()
                return batch
            self._leave()
            if not self._grows(name) and self._bound(name) is None:
                return self._batch(name, self._nothing(name))

    def close(self) -> None:
        """Close the file at hand."""
        self._leave()
        self._forget()

    def splits(self) -> Sequence[str]:
        """The names of the files there are now."""
        return list(self._located().sizes())

    def lag(self, checkpoint: Checkpoint) -> int | None:
        """Records left: Parquet tells; small files are counted; beyond 4 MiB of others it is not known."""
        place = self._located()
        left = {n: size for n, size in place.sizes().items() if self._unread(n, size, checkpoint.get(n))}
        if self.config.kind == "parquet":
            rows = sum(parquet_count(place.open(name)) for name in left)
            return rows - sum(int((checkpoint.get(name) or {}).get("row", 0)) for name in left)
        read = sum((checkpoint.get(name) or {}).get("offset", 0) for name in left if self._grows(name))
        if sum(left.values()) - read > _COUNTED_BYTES:
            return None
        count = 0
        for name in left:
            reader = self._reader_of(place, name, checkpoint.get(name) or {}, None, None)
            while (piece := reader.read(1_000_000)) is not None:
                count += len(piece.places)
                if piece.end:
                    break
            reader.close()
        return count

    # --- files

    def _located(self) -> Location:
        return locate(self.config.path, self.config.storage_options)

    def _at(self) -> Location:
        assert self._place is not None, "the source is not open"
        return self._place

    def _look(self) -> None:
        """Claim files that are new and queue all that hold something unread."""
        self._next_look = time.monotonic() + self.config.poll_interval
        self._enqueue([name for name in self._sizes if _falls_to(self._context.share, name)])

    def _enqueue(self, names: list[str]) -> None:
        new = [name for name in names if name not in self._positions]
        if new:
            stored = self._context.claim(new)
            self._positions.update({name: stored.get(name) for name in new})
        self._queue = [name for name in names if self._unread(name, self._sizes[name], self._positions[name])]

    def _unread(self, name: str, size: int, position: dict[str, Any] | None) -> bool:
        if position is None:
            return True
        if not self._grows(name):
            return not position.get("end", False)
        if position["offset"] > size:
            raise Fatal(
                f"file '{name}' has {size} bytes, but {position['offset']} of it were read: it was replaced. "
                "Give new files new names, or the flow a new name to read everything again"
            )
        return bool(position["offset"] < size)

    def _open_next(self) -> bool:
        while self._queue:
            name = self._queue.pop(0)
            bound = self._bound(name)
            limit = self._sizes[name] if self._context.drain and self._grows(name) else None
            try:
                self._reader = self._reader_of(self._at(), name, self._positions[name] or {}, bound, limit)
            except FileNotFoundError:
                if self._context.until:
                    raise
                log.warning("file '%s' vanished before it was read", name)
                continue
            self._name = name
            return True
        return False

    def _reader_of(
        self, place: Location, name: str, position: dict[str, Any], bound: dict[str, Any] | None, limit: int | None
    ) -> Lines | Rows:
        unit = "offset" if self.config.kind == "ndjson" else "row"
        if unit not in (position or {unit: 0}):
            raise FlowError(
                f"file '{name}' was read in another format before; give the flow a new name, or format back"
            )
        start = position.get(unit, 0)
        stop = bound[unit] if bound is not None and not bound.get("end") else None
        if self.config.kind == "ndjson":
            return Lines(place.open(name), name, start, stop, limit, self._grows(name))
        if self.config.kind == "csv":
            return csv_rows(lambda: place.open(name), name, self.config.csv, self.config.delimiter, start, stop)
        return parquet_rows(place.open(name), name, start, stop)

    def _grows(self, name: str) -> bool:
        return self.config.kind == "ndjson" and compression(name) is None

    def _bound(self, name: str) -> dict[str, Any] | None:
        bound: dict[str, Any] | None = self._context.until.get(name)
        return bound

    def _leave(self) -> None:
        if self._reader is not None:
            self._reader.close()
            self._reader = None

    # --- batches

    def _batch(self, name: str, piece: Piece) -> Batch:
        position: dict[str, Any] = {"offset" if self.config.kind == "ndjson" else "row": piece.after}
        bound = self._bound(name)
        if piece.end and (bound is None or bound.get("end")):
            position["end"] = True
        self._positions[name] = position
        return Batch(self._rows(name, piece), Checkpoint({name: position}))

    def _rows(self, name: str, piece: Piece) -> pa.RecordBatch:
        if self.config.kind != "ndjson" and not self.config.raw_mode:
            return piece.rows
        texts = piece.rows
        if self.config.kind != "ndjson":
            texts = self._encoder.encode(piece.rows).column("value")
        if self.config.raw_mode:
            unit = "offset" if self.config.kind == "ndjson" else "row"
            origin = f',"_metadata":{{"file":{json.dumps(name)},"{unit}":'.encode()
            places = piece.places.cast(pa.string()).cast(pa.binary())
            texts = pc.binary_join_element_wise(b'{"value":', texts, origin, places, b"}}", b"")
        return documents(texts, "json")

    def _nothing(self, name: str) -> Piece:
        unit = "offset" if self.config.kind == "ndjson" else "row"
        empty = pa.array([], pa.binary()) if unit == "offset" else pa.RecordBatch.from_pylist([], pa.schema([]))
        return Piece(empty, pa.array([], pa.int64()), (self._positions[name] or {}).get(unit, 0), True)


def _falls_to(share: Share, name: str) -> bool:
    return zlib.crc32(name.encode()) % share.count == share.index
