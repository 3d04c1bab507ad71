"""The contracts, on Trino: the source by a cursor, the sinks on tables of documents and of columns."""

import importlib
import itertools
import json
import os
import time
from dataclasses import replace
from typing import ClassVar

import pyarrow as pa
import pytest

from airflow_provider_connect.connectors.trino import TrinoSink, TrinoSinkConfig, TrinoSource, TrinoSourceConfig
from airflow_provider_connect.engine.errors import Retryable
from airflow_provider_connect.testing import IdempotentSinkContract, SinkContract, SourceContract
from airflow_provider_connect.testing.crash import crash_at
from airflow_provider_connect.testing.sink_rows import Record
from tests.services.process import free_port

LINES_BETWEEN_DEATHS = 149
PACKAGE = "airflow_provider_connect.connectors.trino"


def unreachable():
    return f"http://127.0.0.1:{free_port()}"


class OfTable:
    """Each check has a table of its own."""

    catalog = "iceberg"
    columns = ""

    @pytest.fixture(autouse=True)
    def _table(self, trino, trino_schemas):
        self.trino = trino
        schema = trino_schemas[self.catalog]
        self.place = {"catalog": self.catalog, "schema": schema}
        self.table = trino.unique_name()
        self.name = f"{self.catalog}.{schema}.{self.table}"
        if self.columns:
            trino.execute(f"CREATE TABLE {self.name} ({self.columns})")


class TestSource(OfTable, SourceContract):
    """Rows share a timestamp with others, so batches end amid equal cursor values."""

    catalog = "memory"
    columns = "id bigint, text varchar, at timestamp(6) with time zone"

    def source(self, url):
        return TrinoSource(
            TrinoSourceConfig(
                server_url=url, **self.place, table=self.table, poll_interval=0.05, cursor="at", tie_break="id"
            )
        )

    def make(self):
        return self.source(self.trino.url)

    def make_unreachable(self):
        return self.source(unreachable())

    def produce(self, count):
        first = self.__dict__.setdefault("produced", 0)
        self.produced += count
        ids = list(range(first, first + count))
        rows = ", ".join(f"({n}, 'text {n}', TIMESTAMP '2026-11-20 10:00:00.{n // 5:06} UTC')" for n in ids)
        self.trino.execute(f"INSERT INTO {self.name} VALUES {rows}")
        return {self.table: ids}

    def identify(self, rows):
        return rows.column("id").to_pylist()


class OnTable(OfTable):
    settings: ClassVar[dict[str, object]] = {}

    def sink(self, url):
        config = TrinoSinkConfig(server_url=url, **self.place, table=self.table, **self.settings)
        return TrinoSink.choose(config)(config)

    def make(self):
        return self.sink(self.trino.url)

    def make_unreachable(self):
        return self.sink(unreachable())

    def stored(self):
        tables = [
            name for (name,) in self.trino.execute(f"SHOW TABLES FROM {self.place['catalog']}.{self.place['schema']}")
        ]
        if self.table not in tables:
            return []
        return self.read()

    def read(self):
        return [Record(*row) for row in self.trino.execute(f"SELECT id, text FROM {self.name}")]


class OnDocuments(OnTable):
    settings: ClassVar[dict[str, object]] = {"auto_create_table": True}

    def read(self):
        return [Record(**json.loads(text)) for (text,) in self.trino.execute(f"SELECT data FROM {self.name}")]


def no_text(rows):
    """The rows with a value that is no text, where text is wanted."""
    values = rows.column("value").to_pylist()
    values[1] = b"\xff\xfe"
    return rows.set_column(rows.schema.get_field_index("value"), "value", pa.array(values, pa.binary()))


class TestSinkOnDocuments(OnDocuments, SinkContract):
    catalog = "memory"
    poison = Record(9000, "to be spoiled")

    def poison_rows(self, format):
        return no_text(super().poison_rows(format))


class TestIdempotentSinkOnColumns(OnTable, IdempotentSinkContract):
    columns = "id bigint, text varchar NOT NULL, connect_token varchar, connect_row bigint"
    settings: ClassVar = {"idempotent": True}

    def poison_rows(self, format):
        rows = self.rows([Record(9001, "good"), Record(9000), Record(9002, "good")], format)
        return rows.set_column(1, "text", pa.array(["good", None, "good"]))

    def deaths(self, work):
        """Some of the lines, as each takes seconds; all of them on demand."""
        files = [importlib.import_module(f"{PACKAGE}.{name}") for name in ("sink", "statements", "client")]
        step = 1 if os.environ.get("CONNECT_TEST_EVERY_LINE") else LINES_BETWEEN_DEATHS
        for number in itertools.count(1):
            death = crash_at(number * step, files, lambda _, number=number: work(number))
            if death is None:
                return
            yield replace(death, attempt=number)

    def repeated(self, repeat, death):
        """As the worker does it: ours is tried again where it conflicts with a statement of the dead one that still
        ran."""
        for _ in range(10):
            try:
                return super().repeated(repeat, death)
            except Retryable as error:
                assert "ICEBERG_COMMIT_ERROR" in str(error)
                time.sleep(0.3)
        pytest.fail("it conflicts for ever")
