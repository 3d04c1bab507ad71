"""What the tests of the PostgreSQL connector share: a schema of their own, sources and sinks on its tables."""

import json
import time

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
from airflow_provider_connect.engine.errors import EndOfInput, InvalidRecord
from airflow_provider_connect.testing.source import RecordedContext


def json_batch(*values, keys=None):
    """Documents, each given as what its JSON is made of, as its bytes, or as None."""
    texts = [value if value is None or isinstance(value, bytes) else json.dumps(value).encode() for value in values]
    columns = {"key": pa.array(keys, pa.binary())} if keys is not None else {}
    return Batch(documents(pa.array(texts, pa.binary()), "json", **columns), Checkpoint())


def column_batch(**columns):
    return Batch(pa.RecordBatch.from_pydict(columns), Checkpoint())


class OnSchema:
    """A schema that nobody else uses, and the table `t` in it."""

    @pytest.fixture(autouse=True)
    def _schema(self, postgresql):
        self.postgresql = postgresql
        self.schema = postgresql.create_schema()
        self.table = f"{self.schema}.t"
        self.opened = []
        yield
        for one in self.opened:
            one.close()
        postgresql.execute(f"DROP SCHEMA {self.schema} CASCADE")

    def create(self, columns, name="t"):
        self.postgresql.execute(f'CREATE TABLE {self.schema}."{name}" ({columns})')
        return f"{self.schema}.{name}"

    def rows(self, what="*", table=None):
        return self.postgresql.execute(f"SELECT {what} FROM {table or self.table} t ORDER BY 1")

    def columns(self):
        """The columns of the table, with their types as the server writes them."""
        return dict(
            self.postgresql.execute(
                "SELECT attname, format_type(atttypid, atttypmod) FROM pg_attribute"
                " WHERE attrelid = %s::regclass AND attnum > 0 AND NOT attisdropped ORDER BY attnum",
                self.table,
            )
        )

    # --- sinks

    def sink(self, claim=True, source=None, lane=0, **config):
        config = {"connection_string": self.postgresql.dsn, "table": self.table, **config}
        sink = PostgreSQLSink(PostgreSQLSinkConfig(**config))
        self.opened.append(sink)
        sink.open(SinkContext(self.schema, lane, source))
        if claim:
            sink.claim([str(lane)])
        return sink

    def deliver(self, sink, *batches, position=1, split="0"):
        for batch in batches:
            sink.write(batch)
        sink.flush()
        sink.commit(Checkpoint({split: position}))

    def refused(self, sink, *batches):
        with pytest.raises(InvalidRecord) as raised:
            for batch in batches:
                sink.write(batch)
            sink.flush()
        return raised.value

    # --- sources

    def source(self, **config):
        config = {"connection_string": self.postgresql.dsn, "poll_interval": 0.05, **config}
        source = PostgreSQLSource(PostgreSQLSourceConfig(**config))
        self.opened.append(source)
        return source

    def reading(self, format="json", stored=None, until=None, drain=True, **config):
        source = self.source(**config)
        source.open(RecordedContext("flow", format, stored=stored, until=until, drain=drain))
        return source

    def batches(self, source, max_records=1000, seconds=20):
        """All that the source has until it ends."""
        found, deadline = [], time.monotonic() + seconds
        while time.monotonic() < deadline:
            try:
                batch = source.read(max_records, 0.2)
            except EndOfInput:
                return found
            if batch is not None:
                found.append(batch)
        pytest.fail("no end of input")

    def documents(self, source, **options):
        return [json.loads(v) for b in self.batches(source, **options) for v in b.rows.column("value").to_pylist()]

    def next_batch(self, source, max_records):
        """The next batch; other sessions of a shared server may hold it up."""
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            batch = source.read(max_records, 0.2)
            if batch is not None:
                return batch
        pytest.fail("no batch")

    def next_ids(self, source, count):
        """The ids of the next batches, until there are so many."""
        found = []
        while len(found) < count:
            found += [json.loads(v)["id"] for v in self.next_batch(source, 1000).rows.column("value").to_pylist()]
        return found

    def ids_within(self, source, seconds):
        """The ids that arrive within so many seconds, of a source that does not end."""
        found, deadline = [], time.monotonic() + seconds
        while time.monotonic() < deadline:
            batch = source.read(1000, 0.1)
            if batch is not None:
                found += [json.loads(value)["id"] for value in batch.rows.column("value").to_pylist()]
        return found
