"""The contracts, on Nessie: the sink on its two kinds of tables, the source."""

import json
from typing import ClassVar

import pyarrow as pa
import pytest

from airflow_provider_connect.connectors.nessie import NessieSink, NessieSinkConfig, NessieSource, NessieSourceConfig
from airflow_provider_connect.engine.batch import documents
from airflow_provider_connect.testing import SourceContract, TransactionalSinkContract
from airflow_provider_connect.testing.sink_rows import Record
from tests.services.process import free_port

DEATH = "what dies is the same code as with a SQL catalog, where it does; here workers are killed (test_nessie.py)"


class OfNessie:
    """Each check has a table of its own."""

    @pytest.fixture(autouse=True)
    def _table(self, nessie):
        self.nessie = nessie
        self.namespace, self.name = nessie.create_namespace(), nessie.unique_name()
        self.table = f"{self.namespace}.{self.name}"

    def where(self):
        return {"base_url": self.nessie.url, "namespace": self.namespace, "table": self.name}

    def nowhere(self):
        return {**self.where(), "base_url": f"http://127.0.0.1:{free_port()}"}


class TestSink(OfNessie, TransactionalSinkContract):
    exempt: ClassVar = {"test_death_at_any_line_leaves_rows_and_checkpoint_both_old_or_both_new": DEATH}

    def make(self):
        return NessieSink(NessieSinkConfig(auto_create_table=True, **self.where()))

    def make_unreachable(self):
        return NessieSink(NessieSinkConfig(**self.nowhere()))

    def poison_rows(self, format):
        return documents(pa.array([b'{"id": 1, "text": "good"}', b'{"id": 2, "text": "\xff"}']), format)

    def stored(self):
        return [Record(**json.loads(row["data"])) for row in self.nessie.rows(self.table)]


SCHEMA = pa.schema([pa.field("id", pa.int64(), nullable=False), pa.field("text", pa.string())])


class TestSource(OfNessie, SourceContract):
    """Each `produce` appends some snapshots, of one file each; Nessie shows the last one only."""

    @pytest.fixture(autouse=True)
    def _filled(self, _table):
        self.target = self.nessie.catalog().create_table(self.table, SCHEMA)
        self.produced = 0

    def make(self):
        return NessieSource(NessieSourceConfig(poll_interval=0.05, **self.where()))

    def make_unreachable(self):
        return NessieSource(NessieSourceConfig(**self.nowhere()))

    def identify(self, rows):
        return rows.column("id").to_pylist() if rows.num_rows else []

    def produce(self, count):
        ids = list(range(self.produced, self.produced + count))
        self.produced += count
        for start in range(0, count, 6):
            part = ids[start : start + 6]
            self.target.append(pa.table({"id": part, "text": [f"text {id}" for id in part]}, SCHEMA))
        return {"0": ids}
