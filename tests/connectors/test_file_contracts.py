"""The file connector keeps the contracts, in each format, on this machine and in a store."""

import json
import tempfile
import uuid
from pathlib import Path
from typing import ClassVar

import fsspec
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest

from airflow_provider_connect.connectors.file import FileSink, FileSinkConfig, FileSource, FileSourceConfig
from airflow_provider_connect.engine.batch import documents
from airflow_provider_connect.testing import IdempotentSinkContract, SourceContract
from airflow_provider_connect.testing.sink import Record


class InFiles(SourceContract):
    """Three files; `kind` is how they are written."""

    kind: str
    raw = False
    names = ("a", "b", "c")

    @pytest.fixture(autouse=True)
    def _system(self, tmp_path):
        self.folder = tmp_path / "in"
        self.folder.mkdir()
        self.count = 0

    def make(self):
        return FileSource(
            FileSourceConfig(path=str(self.folder), format=self.kind, poll_interval=0.05, raw_mode=self.raw)
        )

    def make_unreachable(self):
        return FileSource(FileSourceConfig(path=str(self.folder / "not" / "there"), format=self.kind))

    def produce(self, count):
        """`count` records in three new files."""
        stretch = self.count
        produced = {f"{name}{stretch:05}.{self.kind}": [] for name in self.names}
        for name in sorted(produced):
            ids = list(range(self.count, self.count + count // 3))
            self.count += count // 3
            self.write(self.folder / name, ids)
            produced[name] = ids
        return produced

    def write(self, path, ids):
        hidden = path.with_name(f".{path.name}.tmp")
        table = pa.table({"id": ids, "text": [f"text of {i}" for i in ids]})
        if self.kind == "csv":
            pyarrow.csv.write_csv(table, hidden)
        elif self.kind == "parquet":
            pyarrow.parquet.write_table(table, hidden, row_group_size=2)
        else:
            hidden.write_text("".join(json.dumps(row) + "\n" for row in table.to_pylist()))
        hidden.replace(path)

    def identify(self, rows):
        if "value" in rows.schema.names:
            found = [json.loads(value) for value in rows.column("value").to_pylist()]
            return [(row["value"] if self.raw else row)["id"] for row in found]
        return rows.column("id").to_pylist() if rows.num_rows else []


class TestNdjsonSource(InFiles):
    kind = "ndjson"


class TestAppendedNdjsonSource(InFiles):
    """The same three files, appended to."""

    kind = "ndjson"

    def produce(self, count):
        produced = {}
        for name in self.names:
            ids = list(range(self.count, self.count + count // 3))
            self.count += count // 3
            with (self.folder / f"{name}.ndjson").open("a") as file:
                file.write("".join(json.dumps({"id": i}) + "\n" for i in ids))
            produced[f"{name}.ndjson"] = ids
        return produced


class TestRawNdjsonSource(InFiles):
    kind = "ndjson"
    raw = True


class TestCsvSource(InFiles):
    kind = "csv"


class TestRawCsvSource(InFiles):
    kind = "csv"
    raw = True


class TestParquetSource(InFiles):
    kind = "parquet"


class ToFiles(IdempotentSinkContract):
    """A folder; `kind` and `compression` are how it is written."""

    kind: str
    compression: str | None = None

    @pytest.fixture(autouse=True)
    def _system(self, tmp_path):
        memory = Path("/dev/shm")  # for dying at each line means to sync a thousand files
        with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else tmp_path) as folder:
            self.path = f"{folder}/out"
            self.fs = fsspec.filesystem("file")
            self.read = {}
            yield

    def make(self):
        return FileSink(FileSinkConfig(path=self.path, format=self.kind, compression=self.compression))

    def make_unreachable(self):
        (self.fs.pipe_file(f"{self.path}.txt", b""))
        return FileSink(FileSinkConfig(path=f"{self.path}.txt/out", format=self.kind))

    def files(self):
        return [path for path in sorted(self.fs.find(self.path)) if not path.rsplit("/", 1)[-1].startswith(".")]

    def stored(self):
        return [record for path in self.files() for record in self.records(path)]

    def records(self, path):
        version = (path, str(self.fs.created(path)), self.fs.info(path).get("ino"))
        if version not in self.read:
            with self.fs.open(path, "rb") as raw:
                data = pa.input_stream(raw, compression=self.packed).read()
            self.read[version] = [Record(**row) for row in self.parsed(data)]
        return self.read[version]

    @property
    def packed(self):
        return None if self.kind == "parquet" else self.compression

    def parsed(self, data):
        if self.kind == "ndjson":
            return [json.loads(line) for line in data.split(b"\n")[:-1]]
        if self.kind == "parquet":
            return pyarrow.parquet.read_table(pa.BufferReader(data)).to_pylist()
        parse = pyarrow.csv.ParseOptions(newlines_in_values=True)
        convert = pyarrow.csv.ConvertOptions(column_types={"text": pa.string()}, strings_can_be_null=False)
        read = pyarrow.csv.ReadOptions(block_size=1 << 24)
        return pyarrow.csv.read_csv(pa.BufferReader(data), read, parse, convert).to_pylist()


NO_REFUSAL = "any value of any type that a column has can be written"


class TestNdjsonSink(ToFiles):
    kind = "ndjson"

    def poison_rows(self, format):
        good = self.rows([Record(1), Record(2)], format).column("value").to_pylist()
        return documents(pa.array([good[0], None, good[1]], pa.binary()), format)


class TestGzippedNdjsonSink(TestNdjsonSink):
    compression = "gzip"


class TestCsvSink(ToFiles):
    kind = "csv"
    compression = "zstd"
    exempt: ClassVar = {
        "test_a_refused_batch_is_an_invalid_record_and_leaves_nothing": NO_REFUSAL,
        "test_good_rows_can_be_written_after_a_refused_batch": NO_REFUSAL,
    }


class TestParquetSink(ToFiles):
    kind = "parquet"
    exempt: ClassVar = TestCsvSink.exempt


class TestSinkToAStore(TestNdjsonSink):
    """fsspec's store in memory."""

    exempt: ClassVar = {"test_death_at_any_line_and_a_repetition_write_once": "what is in memory dies with the process"}

    @pytest.fixture(autouse=True)
    def _system(self, tmp_path):
        self.path = f"memory://{uuid.uuid4().hex}/out"
        self.fs = fsspec.filesystem("memory")
        self.read = {}

    def make_unreachable(self):
        return FileSink(FileSinkConfig(path="http://127.0.0.1:1/out", format=self.kind))
