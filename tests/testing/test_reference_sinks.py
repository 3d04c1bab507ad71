"""The reference sinks join the contracts like any other."""

import json
from typing import ClassVar

import pyarrow as pa
import pytest

from airflow_provider_connect.engine.batch import COLUMNS, documents
from airflow_provider_connect.testing.memory import (
    MemoryIdempotentSink,
    MemorySink,
    MemoryTarget,
    MemoryTransactionalSink,
)
from airflow_provider_connect.testing.sink import IdempotentSinkContract, Record, SinkContract, rows_of
from airflow_provider_connect.testing.sqlite import (
    SqliteIdempotentSink,
    SqliteSink,
    SqliteSinkConfig,
    SqliteTransactionalSink,
    stored_values,
)
from airflow_provider_connect.testing.transactional_sink import TransactionalSinkContract

NO_DEATH = "what is in memory dies with the process"


class InMemory:
    poison = Record(666, "poison")

    @pytest.fixture(autouse=True)
    def _target(self):
        self.target = MemoryTarget()
        self.target.poison[self.rows([self.poison], "json").column("value")[0].as_py()] = "smells"

    def make(self):
        return self.kind(self.target)

    def make_unreachable(self):
        target = MemoryTarget()
        target.reachable = False
        return self.kind(target)

    def rows(self, records, format):
        rows = rows_of(records, "json")
        if format == COLUMNS:
            return rows.select(["value"]).replace_schema_metadata(None)
        return rows if format == "json" else documents(rows.column("value"), format)

    def stored(self):
        return [Record(**json.loads(value)) for value in self.target.values()]


class TestMemorySink(InMemory, SinkContract):
    kind = MemorySink


class TestMemoryIdempotentSink(InMemory, IdempotentSinkContract):
    kind = MemoryIdempotentSink
    exempt: ClassVar = {"test_death_at_any_line_and_a_repetition_write_once": NO_DEATH}


class TestMemoryTransactionalSink(InMemory, TransactionalSinkContract):
    kind = MemoryTransactionalSink
    exempt: ClassVar = {"test_death_at_any_line_leaves_rows_and_checkpoint_both_old_or_both_new": NO_DEATH}


class InSqlite:
    @pytest.fixture(autouse=True)
    def _file(self, tmp_path):
        self.path = tmp_path / "target.db"
        self.kind(SqliteSinkConfig(path=str(self.path)))._connect("rwc").close()

    def make(self):
        return self.kind(SqliteSinkConfig(path=str(self.path)))

    def make_unreachable(self):
        return self.kind(SqliteSinkConfig(path=str(self.path.parent / "not" / "there.db")))

    def poison_rows(self, format):
        good = self.rows([Record(1), Record(2)], format).column("value").to_pylist()
        return documents(pa.array([good[0], None, good[1]], pa.binary()), format)

    def stored(self):
        return [Record(**json.loads(value)) for value in stored_values(str(self.path))]


class TestSqliteSink(InSqlite, SinkContract):
    kind = SqliteSink


class TestSqliteIdempotentSink(InSqlite, IdempotentSinkContract):
    kind = SqliteIdempotentSink


class TestSqliteTransactionalSink(InSqlite, TransactionalSinkContract):
    kind = SqliteTransactionalSink
