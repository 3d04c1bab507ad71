"""Data files: rows into Parquet files of a table, which nobody sees until a commit names them."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Iterable, Iterator

import pyarrow as pa
import pyarrow.parquet as pq
from pyiceberg.io.fileformat import FileFormatFactory
from pyiceberg.io.pyarrow import (
    _determine_partitions,
    _get_parquet_writer_kwargs,
    _to_requested_schema,
    compute_statistics_plan,
    data_file_statistics_from_parquet_metadata,
    parquet_path_to_id_mapping,
    schema_to_pyarrow,
)
from pyiceberg.manifest import DataFile, DataFileContent, FileFormat
from pyiceberg.partitioning import PartitionKey
from pyiceberg.schema import Schema, sanitize_column_names
from pyiceberg.table import Table
from pyiceberg.typedef import Record

from airflow_provider_connect.connectors._iceberg.types import small

ROW_GROUP_ROWS = 250_000
ROW_GROUP_BYTES = 64 * 1024 * 1024
"""Of Arrow's memory. Rows are kept back until a row group is full, for a small one reads badly."""


class DataFiles:
    """The files of one flush: an open one per partition, and those that are finished."""

    def __init__(self, table: Table, target_bytes: int) -> None:
        self._target_bytes = target_bytes
        self._open: dict[tuple[object, ...], _OpenFile] = {}
        self._finished: list[DataFile] = []
        self.use(table)

    def use(self, table: Table) -> None:
        """What is written from now on has this state of the table: its schema, partitions and properties."""
        self._finish_open()
        self._table = table
        self._spec, self._schema = table.spec(), table.schema()
        self._file_schema = sanitize_column_names(self._schema)
        self._arrow_schema = small(schema_to_pyarrow(self._file_schema, include_field_ids=True))

    def write(self, rows: pa.RecordBatch) -> None:
        """Take rows that have the table's columns."""
        for key, part in self._parts(rows):
            values = tuple(key.partition[at] for at in range(len(self._spec.fields))) if key is not None else ()
            file = self._open.get(values)
            if file is None:
                file = self._open[values] = _OpenFile(self._table, key, self._arrow_schema)
            file.write(self._renamed(part))
            if file.size >= self._target_bytes:
                self._finished.append(self._open.pop(values).finish(self._file_schema))

    def finish(self) -> list[DataFile]:
        """All files, complete and in the store."""
        self._finish_open()
        return self._finished

    def discard(self) -> None:
        """Delete everything, as far as the store lets us."""
        for file in self._open.values():
            file.discard()
        delete_files(self._table, self._finished)
        self._open, self._finished = {}, []

    def _finish_open(self) -> None:
        while self._open:
            values = next(iter(self._open))
            self._finished.append(self._open[values].finish(self._file_schema))
            del self._open[values]

    def _parts(self, rows: pa.RecordBatch) -> Iterator[tuple[PartitionKey | None, pa.RecordBatch]]:
        if self._spec.is_unpartitioned():
            yield None, rows
            return
        for part in _determine_partitions(self._spec, self._schema, pa.Table.from_batches([rows])):
            for batch in part.arrow_table_partition.to_batches():
                yield part.partition_key, batch

    def _renamed(self, rows: pa.RecordBatch) -> pa.RecordBatch:
        """The rows with the names and field ids that the file has."""
        if self._file_schema is self._schema or self._file_schema == self._schema:
            return pa.RecordBatch.from_arrays(
                [column.cast(field.type) for column, field in zip(rows.columns, self._arrow_schema, strict=True)],
                schema=self._arrow_schema,
            )
        model = FileFormatFactory.get(FileFormat.PARQUET)
        renamed = _to_requested_schema(
            self._file_schema, self._schema, rows, include_field_ids=True, format_model=model
        )
        return renamed.cast(self._arrow_schema)


class _OpenFile:
    """A Parquet file that is being written."""

    def __init__(self, table: Table, key: PartitionKey | None, schema: pa.Schema) -> None:
        self._table, self._key, self._schema = table, key, schema
        self.path = table.location_provider().new_data_location(f"{uuid.uuid4()}.parquet", key)
        self._output = table.io.new_output(self.path)
        self._stream = self._output.create(overwrite=True)
        self._writer = pq.ParquetWriter(
            self._stream, schema, store_decimal_as_integer=True, **_get_parquet_writer_kwargs(table.properties)
        )
        self._rows: list[pa.RecordBatch] = []
        self._count = self._bytes = 0

    @property
    def size(self) -> int:
        """Bytes that are in the file so far."""
        return int(self._stream.tell())

    def write(self, rows: pa.RecordBatch) -> None:
        self._rows.append(rows)
        self._count += rows.num_rows
        self._bytes += rows.nbytes
        if self._count >= ROW_GROUP_ROWS or self._bytes >= ROW_GROUP_BYTES:
            self._write_row_group()

    def finish(self, schema: Schema) -> DataFile:
        """End the file; what a manifest says of it."""
        self._write_row_group()
        self._writer.close()
        self._stream.close()
        statistics = data_file_statistics_from_parquet_metadata(
            parquet_metadata=self._writer.writer.metadata,
            stats_columns=compute_statistics_plan(schema, self._table.properties),
            parquet_column_mapping=parquet_path_to_id_mapping(schema),
        )
        file = DataFile.from_args(
            content=DataFileContent.DATA,
            file_path=self.path,
            file_format=FileFormat.PARQUET,
            partition=self._key.partition if self._key is not None else Record(),
            file_size_in_bytes=len(self._output),
            sort_order_id=None,
            equality_ids=None,
            key_metadata=None,
            **statistics.to_serialized_dict(),
        )
        file.spec_id = self._table.metadata.default_spec_id
        return file

    def discard(self) -> None:
        with contextlib.suppress(Exception):
            self._writer.close()
        with contextlib.suppress(Exception):
            self._stream.close()
        with contextlib.suppress(Exception):
            self._table.io.delete(self.path)

    def _write_row_group(self) -> None:
        if self._rows:
            self._writer.write_table(pa.Table.from_batches(self._rows, self._schema), row_group_size=self._count)
        self._rows, self._count, self._bytes = [], 0, 0


def delete_files(table: Table, files: Iterable[DataFile]) -> None:
    """Delete files that no snapshot names. What cannot be deleted stays, and harms nobody."""
    for file in files:
        with contextlib.suppress(Exception):
            table.io.delete(file.file_path)
