"""The contracts, on PostgreSQL: the source by primary key and by timestamp, the sink on each kind of table."""

import importlib
import json
from typing import ClassVar

import psycopg
import pyarrow as pa
import pytest

from airflow_provider_connect.connectors.postgresql import (
    PostgreSQLSink,
    PostgreSQLSinkConfig,
    PostgreSQLSource,
    PostgreSQLSourceConfig,
)
from airflow_provider_connect.engine.batch import Batch, Checkpoint, documents
from airflow_provider_connect.engine.connector import SinkContext
from airflow_provider_connect.testing import SourceContract, TransactionalSinkContract
from airflow_provider_connect.testing.sink_rows import Record, numbered
from tests.services.process import free_port

PACKAGE = "airflow_provider_connect.connectors.postgresql"


def unreachable():
    return f"postgresql://nobody@127.0.0.1:{free_port()}/none"


class OfSchema:
    """Each check has a schema of its own, with the table `t` in it."""

    columns = ""

    @pytest.fixture(autouse=True)
    def _schema(self, postgresql):
        self.postgresql = postgresql
        self.schema = postgresql.create_schema()
        self.table = f"{self.schema}.t"
        if self.columns:
            postgresql.execute(f"CREATE TABLE {self.table} ({self.columns})")
        yield
        postgresql.execute(f"DROP SCHEMA {self.schema} CASCADE")


class TestSourceByPrimaryKey(OfSchema, SourceContract):
    columns = "id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, text text, at timestamptz NOT NULL"
    settings: ClassVar[dict[str, object]] = {}
    at = "clock_timestamp()"

    def source(self, dsn):
        return PostgreSQLSource(
            PostgreSQLSourceConfig(connection_string=dsn, table=self.table, poll_interval=0.05, **self.settings)
        )

    def make(self):
        return self.source(self.postgresql.dsn)

    def make_unreachable(self):
        return self.source(unreachable())

    def produce(self, count):
        rows = self.postgresql.execute(
            f"INSERT INTO {self.table} (text, at) SELECT 'text ' || n, {self.at} FROM generate_series(1, %s) AS n"
            " RETURNING id, text, at",
            count,
        )
        return {self.table: [row[0] for row in sorted(rows, key=self.sort_key)]}

    def sort_key(self, row):
        return row[0]

    def identify(self, rows):
        return [int(value.split(b"\t")[0]) for value in rows.column("value").to_pylist()]


class TestSourceByEqualTimestamps(TestSourceByPrimaryKey):
    """All rows of a `produce` have one timestamp, so batches end amid equal cursor values."""

    settings: ClassVar = {"cursor": "at"}
    at = "now()"

    def sort_key(self, row):
        return row[2], row[0]


class TestSourceInRawMode(TestSourceByPrimaryKey):
    settings: ClassVar = {"raw_mode": True}

    def identify(self, rows):
        return [json.loads(value)["_metadata"]["id"] for value in rows.column("value").to_pylist()]


class TestSourceInSplits(TestSourceByPrimaryKey):
    """Three splits that take turns every four values, so that each `produce` is spread over all of them."""

    settings: ClassVar = {"splits": 3, "split_size": 4}

    def produce(self, count):
        ((every, ids),) = super().produce(count).items()
        return {
            f"{every} {index}of3x4": mine for index in range(3) if (mine := [id for id in ids if id // 4 % 3 == index])
        }


class OnTable(OfSchema, TransactionalSinkContract):
    settings: ClassVar[dict[str, object]] = {}
    poison = Record(9000, "NUL \0 is no text")

    crash_in: ClassVar[tuple[str, ...]] = ()
    """Modules to die in: each once, in the subclass that uses most of it."""

    died_elsewhere: ClassVar = {
        "test_death_at_any_line_leaves_rows_and_checkpoint_both_old_or_both_new": "TestTombstones dies in these lines"
    }

    def crash_modules(self):
        return [importlib.import_module(f"{PACKAGE}.{name}") for name in self.crash_in]

    def make_sink(self, dsn):
        return PostgreSQLSink(PostgreSQLSinkConfig(connection_string=dsn, table=self.table, **self.settings))

    def make(self):
        return self.make_sink(self.postgresql.dsn)

    def make_unreachable(self):
        return self.make_sink(unreachable())


class TestSinkOnDocuments(OnTable):
    settings: ClassVar = {"auto_create_table": True}
    crash_in = ("sink", "ledger")

    def stored(self):
        try:
            rows = self.postgresql.execute(f"SELECT data FROM {self.table}")
        except psycopg.errors.UndefinedTable:
            return []
        return [Record(**document) for (document,) in rows]


class TestSinkOnTypedTable(OnTable):
    """A table that the sink makes of what it gets."""

    settings: ClassVar = {"auto_create_table": "typed"}
    crash_in = ("evolution", "target_lookup")

    def write(self, sink, records, format=None):
        super().write(sink, records, format or "json")

    def deliver_on(self, attempt):
        """One flush whose rows need a column that the table does not have."""
        sink = self.make()
        sink.open(SinkContext(self.flow))
        position = int(sink.claim([self.split]).get(self.split, 0))
        new = [{**record._asdict(), f"new{attempt}": 1} for record in numbered(position, position + 2)]
        sink.write(Batch(documents(pa.array([json.dumps(row) for row in new]), "json"), Checkpoint()))
        sink.flush()
        sink.commit(Checkpoint({self.split: position + 2}))
        sink.close()

    def stored(self):
        try:
            rows = self.postgresql.execute(f"SELECT id, text FROM {self.table}")
        except psycopg.errors.UndefinedTable:
            return []
        return [Record(*row) for row in rows]


class TestSinkOnColumns(OnTable):
    columns = "id bigint NOT NULL, text text"
    crash_in = ("loading",)

    def stored(self):
        return [Record(*row) for row in self.postgresql.execute(f"SELECT id, text FROM {self.table}")]


class TestSinkUpserting(OnTable):
    columns = "id bigint PRIMARY KEY, text text"
    settings: ClassVar = {"upsert_mode": True}
    exempt = OnTable.died_elsewhere

    def stored(self):
        return [Record(*row) for row in self.postgresql.execute(f"SELECT id, text FROM {self.table}")]


class TestSinkUpsertingNewerDocuments(OnTable):
    settings: ClassVar = {
        "auto_create_table": True,
        "upsert_mode": True,
        "conflict_key": "id",
        "upsert_strategy": "ifNewer",
        "upsert_version_column": "text",
        "soft_delete_column": "deleted_at",
    }
    exempt = OnTable.died_elsewhere

    stored = TestSinkOnDocuments.stored


class TestTombstones(OnTable):
    """Each record is written as a row and, once more, as one that is deleted with the same flush."""

    columns = "id bigint PRIMARY KEY, text text"
    settings: ClassVar = {"upsert_mode": True}
    crash_in = ("merge", "tombstones")

    def rows(self, records, format):
        rows = super().rows(records, format)
        if format != "json":
            return rows
        gone = [Record(-record.id - 10**6, record.text) for record in records]
        doomed = super().rows(gone, format)
        nulls = pa.nulls(len(gone), pa.binary())
        tombstones = doomed.set_column(doomed.schema.get_field_index("value"), "value", nulls)
        whole = pa.Table.from_batches([doomed, rows, tombstones.cast(doomed.schema)])
        return whole.combine_chunks().to_batches()[0]

    def write(self, sink, records, format=None):
        super().write(sink, records, format or "json")

    stored = TestSinkUpserting.stored

    def deliver_on(self, attempt):
        """One flush, as each runs through the same lines."""
        sink = self.make()
        sink.open(SinkContext(self.flow))
        position = int(sink.claim([self.split]).get(self.split, 0))
        self.pass_on(sink, numbered(position, position + 2))
        sink.commit(Checkpoint({self.split: position + 2}))
        sink.close()
