"""CSV and Parquet: the rows of a file as columns, streamed in bounded memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from airflow_provider_connect.connectors.file.config import Csv
from airflow_provider_connect.connectors.file.ndjson import Piece
from airflow_provider_connect.engine.errors import Fatal

BLOCK = 1024 * 1024
"""Bytes of CSV parsed at once; the types of columns are told from the first block."""

_ROWS = 10_000


class Rows:
    """Reads the rows of one file from a row number on, up to row `stop`."""

    def __init__(self, batches: Iterator[pa.RecordBatch], name: str, start: int, stop: int | None) -> None:
        self._batches, self._name, self._at, self._stop = batches, name, start, stop
        self._batch: pa.RecordBatch | None = self._next()

    def read(self, max_records: int) -> Piece | None:
        """The next rows; None beyond `stop`. The end of the file is told with its last rows."""
        if self._stop is not None:
            max_records = min(max_records, self._stop - self._at)
        if max_records <= 0:
            return None
        if self._batch is None:
            return Piece(pa.RecordBatch.from_pylist([], pa.schema([])), pa.array([], pa.int64()), self._at, True)
        rows = self._batch.slice(0, max_records)
        places = pa.array(range(self._at, self._at + rows.num_rows), pa.int64())
        self._at += rows.num_rows
        left = self._batch.slice(rows.num_rows)
        self._batch = left if left.num_rows else self._next()
        return Piece(rows, places, self._at, self._batch is None)

    def close(self) -> None:
        """Let go of the file."""
        self._batches = iter(())

    def _next(self) -> pa.RecordBatch | None:
        try:
            for batch in self._batches:
                if batch.num_rows:
                    return batch.replace_schema_metadata(None)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            raise Fatal(f"file '{self._name}' cannot be read: {error}") from error
        return None


def csv_rows(
    open_file: Callable[[], pa.NativeFile], name: str, options: Csv, delimiter: str, start: int, stop: int | None
) -> Rows:
    """The rows of a CSV file. An unquoted empty field is null, a quoted one is empty text."""

    def batches() -> Iterator[pa.RecordBatch]:
        try:
            reader = _csv_reader(open_file(), options, delimiter, options.types)
            empty = {field.name: pa.string() for field in reader.schema if pa.types.is_null(field.type)}
            if empty:  # nothing in the first block, which need not mean nothing in the file
                reader = _csv_reader(open_file(), options, delimiter, empty | options.types)
        except pa.ArrowInvalid as error:
            if "Empty CSV file" in str(error):
                return
            raise
        skip = start
        for batch in reader:
            yield batch.slice(skip)
            skip = max(0, skip - batch.num_rows)

    return Rows(batches(), name, start, stop)


def parquet_rows(file: pa.NativeFile, name: str, start: int, stop: int | None) -> Rows:
    """The rows of a Parquet file, from the row group that holds `start` on."""

    def batches() -> Iterator[pa.RecordBatch]:
        with pyarrow.parquet.ParquetFile(file) as parquet:
            skip = start
            groups = list(range(parquet.num_row_groups))
            while groups and skip >= (rows := parquet.metadata.row_group(groups[0]).num_rows):
                skip -= rows
                groups.pop(0)
            for batch in parquet.iter_batches(_ROWS, row_groups=groups):
                yield batch.slice(skip)
                skip = max(0, skip - batch.num_rows)

    return Rows(batches(), name, start, stop)


def parquet_count(file: pa.NativeFile) -> int:
    """The number of rows of a Parquet file, by its footer."""
    with pyarrow.parquet.ParquetFile(file) as parquet:
        return int(parquet.metadata.num_rows)


def _csv_reader(
    stream: pa.NativeFile, options: Csv, delimiter: str, types: dict[str, pa.DataType]
) -> pyarrow.csv.CSVStreamingReader:
    return pyarrow.csv.open_csv(
        stream,
        read_options=pyarrow.csv.ReadOptions(
            use_threads=False,
            block_size=BLOCK,
            column_names=options.column_names,
            autogenerate_column_names=not options.header and options.column_names is None,
        ),
        parse_options=pyarrow.csv.ParseOptions(delimiter=delimiter, newlines_in_values=True),
        convert_options=pyarrow.csv.ConvertOptions(
            column_types=types, null_values=[""], strings_can_be_null=True, quoted_strings_can_be_null=False
        ),
    )
