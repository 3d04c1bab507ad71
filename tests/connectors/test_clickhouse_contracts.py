"""The contracts, on ClickHouse: the sink on its kinds of tables, the source by its cursors, over both protocols."""

import importlib
import json
from typing import ClassVar

import pyarrow as pa
import pytest

from airflow_provider_connect.connectors.clickhouse import (
    ClickHouseSink,
    ClickHouseSinkConfig,
    ClickHouseSource,
    ClickHouseSourceConfig,
)
from airflow_provider_connect.testing import IdempotentSinkContract, SourceContract
from airflow_provider_connect.testing.sink_rows import Record
from tests.services.process import free_port

PACKAGE = "airflow_provider_connect.connectors.clickhouse"
DIED_ELSEWHERE = {"test_death_at_any_line_and_a_repetition_write_once": "each module is died in once, in other classes"}


class OfTable:
    """Each check has a table of its own; `protocol` is how the connector speaks to the server."""

    protocol = "http"
    create = ""

    @pytest.fixture(autouse=True)
    def _table(self, clickhouse):
        self.clickhouse = clickhouse
        self.table = clickhouse.unique_name("contract")
        if self.create:
            clickhouse.execute(f"CREATE TABLE {self.table} {self.create}")
        yield
        clickhouse.execute(f"DROP TABLE IF EXISTS {self.table}")

    @property
    def url(self):
        return self.clickhouse.url(self.protocol)

    @property
    def dead_url(self):
        scheme = "http" if self.protocol == "http" else "clickhouse"
        return f"{scheme}://127.0.0.1:{free_port()}/default?dial_timeout=2s"

    def select(self, columns):
        if not self.clickhouse.execute(f"SELECT 1 FROM system.tables WHERE name = '{self.table}'"):
            return []
        return self.clickhouse.execute(f"SELECT {columns} FROM {self.table}")


class OnTable(OfTable, IdempotentSinkContract):
    settings: ClassVar[dict[str, object]] = {}

    crash_in: ClassVar[tuple[str, ...]] = ()
    """Modules to die in: each once, in the subclass that uses most of it."""

    def crash_modules(self):
        return [importlib.import_module(f"{PACKAGE}.{name}") for name in self.crash_in]

    def make_sink(self, url):
        return ClickHouseSink(ClickHouseSinkConfig(connection_string=url, table=self.table, **self.settings))

    def make(self):
        return self.make_sink(self.url)

    def make_unreachable(self):
        return self.make_sink(self.dead_url)


class TestSinkOnDocuments(OnTable):
    settings: ClassVar = {"auto_create_table": True}
    crash_in = ("sink",)

    def stored(self):
        return [Record(**json.loads(data)) for (data,) in self.select("data")]

    def poison_rows(self, format):
        rows = self.rows([Record(9001, "good"), Record(9000, "a tombstone"), Record(9002, "good")], format)
        value = rows.column("value").to_pylist()
        value[1] = None
        return rows.set_column(
            rows.schema.get_field_index("value"), rows.schema.field("value"), pa.array(value, pa.binary())
        )


class TestSinkOnDocumentsNatively(TestSinkOnDocuments):
    protocol = "native"
    crash_in = ("native_client",)


class TestSinkOnColumns(OnTable):
    create = "(id Int64, text String) ENGINE = MergeTree ORDER BY id SETTINGS non_replicated_deduplication_window = 100"
    crash_in = ("loading",)

    def stored(self):
        return [Record(*row) for row in self.select("id, text")]

    def poison_rows(self, format):
        rows = self.rows([Record(9001, "good"), Record(9000, "bad"), Record(9002, "good")], format)
        return rows.set_column(0, "id", pa.array(["9001", "no number", "9002"]))


class TestSinkOnColumnsNatively(TestSinkOnColumns):
    protocol = "native"
    exempt: ClassVar = DIED_ELSEWHERE


class TestSinkOnTypedColumnsItMakes(OnTable):
    settings: ClassVar = {"auto_create_table": "typed"}
    exempt: ClassVar = DIED_ELSEWHERE

    def stored(self):
        return [Record(*row) for row in self.select("id, text")]

    def poison_rows(self, format):
        self.clickhouse.execute(
            f"CREATE TABLE IF NOT EXISTS {self.table} (id Int64, text String) ENGINE = MergeTree ORDER BY id"
            " SETTINGS non_replicated_deduplication_window = 100"
        )
        rows = self.rows([Record(9001, "good"), Record(9000, "bad"), Record(9002, "good")], format)
        return rows.set_column(0, "id", pa.array(["9001", "no number", "9002"]))


class TestSourceById(OfTable, SourceContract):
    create = "(id UInt64, text String, created_at DateTime64(6)) ENGINE = MergeTree ORDER BY id"
    settings: ClassVar[dict[str, object]] = {"late_rows_seconds": 0}
    made = 0

    def source(self, url):
        return ClickHouseSource(
            ClickHouseSourceConfig(connection_string=url, table=self.table, poll_interval=0.05, **self.settings)
        )

    def make(self):
        return self.source(self.url)

    def make_unreachable(self):
        return self.source(self.dead_url)

    def produce(self, count):
        ids = list(range(self.made, self.made + count))
        self.made += count
        self.clickhouse.execute(
            f"INSERT INTO {self.table} SELECT {2**63} + number, concat('text ', toString(number)), now64(6)"
            f" FROM numbers({ids[0]}, {count})"
        )
        return {self.table: [2**63 + i for i in ids]}

    def identify(self, rows):
        if "id" in rows.schema.names:
            return rows.column("id").to_pylist()
        return [self.identify_document(json.loads(value)) for value in rows.column("value").to_pylist()]

    def identify_document(self, document):
        return document["id"]


class TestSourceByIdNatively(TestSourceById):
    protocol = "native"


class TestSourceByEqualTimestamps(TestSourceById):
    """All rows of a `produce` have one timestamp, so batches end amid equal cursor values."""

    create = "(number UInt64, text String, created_at DateTime) ENGINE = MergeTree ORDER BY tuple()"

    def produce(self, count):
        numbers = list(range(self.made, self.made + count))
        self.made += count
        self.clickhouse.execute(
            f"INSERT INTO {self.table} SELECT number, 'x', toDateTime({1_700_000_000 + numbers[0] // 4})"
            f" FROM numbers({numbers[0]}, {count})"
        )
        by_hash = self.clickhouse.execute(
            f"SELECT number FROM {self.table} WHERE number >= {numbers[0]} AND number < {self.made}"
            " ORDER BY created_at, cityHash64(tuple(number, text, created_at))"
        )
        return {self.table: [number for (number,) in by_hash]}

    def identify(self, rows):
        return rows.column("number").to_pylist()


class TestSourceByNamedColumnsInRawMode(TestSourceById):
    settings: ClassVar = {
        "late_rows_seconds": 0, "cursor": ["created_at"], "tie_break": "id", "raw_mode": True,
    }  # fmt: skip
    protocol = "native"

    def identify_document(self, document):
        assert document["_metadata"] == {"table": self.table, "id": document["value"]["id"]}
        return document["value"]["id"]
