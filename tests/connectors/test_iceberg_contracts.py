"""The contracts, on a SQL catalog with a local warehouse: the sink on its two kinds of tables, the source."""

import importlib
import json
import zlib
from typing import ClassVar

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyiceberg.exceptions import NoSuchTableError

from airflow_provider_connect.connectors._iceberg.rest import open_catalog
from airflow_provider_connect.connectors.iceberg import (
    IcebergSink,
    IcebergSinkConfig,
    IcebergSource,
    IcebergSourceConfig,
)
from airflow_provider_connect.engine.batch import documents
from airflow_provider_connect.testing import SourceContract, TransactionalSinkContract
from airflow_provider_connect.testing.sink_rows import Record
from tests.services.process import free_port

DEATH = "test_death_at_any_line_leaves_rows_and_checkpoint_both_old_or_both_new"
PACKAGE = "airflow_provider_connect.connectors._iceberg"


class OfCatalog:
    """Each check has a catalog of its own."""

    @pytest.fixture(autouse=True)
    def _catalog(self, tmp_path):
        self.uri, self.warehouse = f"sqlite:///{tmp_path}/catalog.db", f"file://{tmp_path}/warehouse"
        self.catalog = open_catalog("default", {"type": "sql", "uri": self.uri, "warehouse": self.warehouse})
        self.catalog.create_namespace("shop")
        yield
        self.catalog.close()

    def where(self):
        return {"catalog": "sql", "uri": self.uri, "warehouse": self.warehouse, "namespace": "shop", "table": "t"}

    def nowhere(self):
        return {"catalog": "rest", "uri": f"http://127.0.0.1:{free_port()}", "namespace": "shop", "table": "t"}


class OnTable(OfCatalog, TransactionalSinkContract):
    settings: ClassVar[dict[str, object]] = {}
    crash_in: ClassVar[tuple[str, ...]] = ()
    """Modules to die in."""

    def crash_modules(self):
        return [importlib.import_module(f"{PACKAGE}.{name}") for name in self.crash_in]

    def deaths(self, work):
        for death in super().deaths(work):
            yield death
            if death.attempt % 8 == 0:  # or the history of hundreds of deaths makes each one slower
                self.catalog.drop_table("shop.t")

    def make(self):
        return IcebergSink(IcebergSinkConfig(auto_create_table=True, **self.where(), **self.settings))

    def make_unreachable(self):
        return IcebergSink(IcebergSinkConfig(**self.nowhere()))

    def scanned(self):
        try:
            return self.catalog.load_table("shop.t").scan().to_arrow().to_pylist()
        except NoSuchTableError:
            return []


@pytest.mark.timeout(600)
class TestSinkOnDocuments(OnTable):
    crash_in = ("sink", "commits")

    def poison_rows(self, format):
        return documents(pa.array([b'{"id": 1, "text": "good"}', b'{"id": 2, "text": "\xff"}']), format)

    def stored(self):
        return [Record(**json.loads(row["data"])) for row in self.scanned()]


class TestSinkOnColumns(OnTable):
    exempt: ClassVar = {DEATH: "dies on documents, whose commits are the same"}
    settings: ClassVar = {"create_as": "typed"}

    def poison_rows(self, format):
        return pa.RecordBatch.from_pydict({"id": pa.array([1, 2]), "text": ["good", "bad"], "unknown": ["", "x"]})

    def stored(self):
        return [Record(row["id"], row["text"]) for row in self.scanned()]


SCHEMA = pa.schema([pa.field("id", pa.int64(), nullable=False), pa.field("text", pa.string())])


class OfTable(OfCatalog, SourceContract):
    """Each `produce` appends some snapshots, of one file each."""

    settings: ClassVar[dict[str, object]] = {}
    splits = ("0",)

    @pytest.fixture(autouse=True)
    def _table(self, _catalog):
        self.catalog.create_table("shop.t", SCHEMA)
        self.produced = 0

    def make(self):
        return IcebergSource(IcebergSourceConfig(poll_interval=0.05, **self.where(), **self.settings))

    def make_unreachable(self):
        return IcebergSource(IcebergSourceConfig(**self.nowhere(), **self.settings))

    def identify(self, rows):
        return rows.column("id").to_pylist() if rows.num_rows else []

    def append(self, ids):
        rows = pa.table({"id": ids, "text": [f"text {id}" for id in ids]}, SCHEMA)
        self.catalog.load_table("shop.t").append(rows)

    def produce(self, count):
        ids = list(range(self.produced, self.produced + count))
        self.produced += count
        for start in range(0, count, 3):
            self.append(ids[start : start + 3])
        return self.by_split(ids)

    def by_split(self, ids):
        return {"0": ids}


class TestSource(OfTable):
    pass


class TestSourceInParts(OfTable):
    settings: ClassVar = {"splits": 2}

    def by_split(self, ids):
        found = {"0": [], "1": []}
        table = self.catalog.load_table("shop.t")
        for task in table.scan().plan_files():
            part = zlib.crc32(task.file.file_path.encode()) % 2
            with table.io.new_input(task.file.file_path).open() as file:
                found[str(part)] += [id for id in pq.read_table(file).column("id").to_pylist() if id in ids]
        return {split: sorted(ids) for split, ids in found.items()}
