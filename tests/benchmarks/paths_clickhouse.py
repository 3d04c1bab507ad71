"""The paths from and to ClickHouse, over HTTP."""

import contextlib
import os
from typing import Any

from tests.benchmarks import dataset
from tests.benchmarks.paths import Path
from tests.services.clickhouse import ClickHouse
from tests.services.clickhouse_server import ClickHouseServer

TYPED = {
    "id": "Int64",
    "customer": "String",
    "product": "String",
    "quantity": "Int32",
    "price": "Float64",
    "paid": "Bool",
    "created_at": "DateTime64(6, 'UTC')",
    "note": "String",
}
WINDOW = "SETTINGS non_replicated_deduplication_window = 10000"
ODD = "note LIKE '%\"hello\" at C:%door'"


class OfClickHouse(Path):
    """With a server of its own, unless the environment names one."""

    raw_variants = (("--lanes", "1"), ("--lanes", "2"))

    def start(self) -> None:
        """Have a server."""
        self._stack = contextlib.ExitStack()
        address = os.environ.get("CONNECT_TEST_CLICKHOUSE")
        if not address:
            address = self._stack.enter_context(contextlib.closing(ClickHouseServer())).address
        self.clickhouse = ClickHouse.at(address)

    def clean(self) -> None:
        self._stack.close()

    def create(self, columns: str = "", order: str = "id") -> str:
        """A table: of typed columns, unless others are given."""
        table = self.clickhouse.unique_name("bench")
        declared = columns or ", ".join(f"{name} {kind}" for name, kind in TYPED.items())
        self.clickhouse.execute(f"CREATE TABLE {table} ({declared}) ENGINE = MergeTree ORDER BY {order} {WINDOW}")
        return table

    def drop(self, target: str) -> None:
        self.clickhouse.execute(f"DROP TABLE IF EXISTS {target}")

    def block(self, table: str, **settings: Any) -> dict[str, Any]:
        """The source or sink of our flow; without compression, as the raw loops are, for client and server share a
        machine."""
        url = self.clickhouse.url("http", "compress=none")
        return {"type": "clickhouse", "clickhouse": {"connectionString": url, "table": table, **settings}}

    def http(self, table: str) -> list[str]:
        """Where the raw loop finds the server."""
        return ["--host", self.clickhouse.host, "--port", str(self.clickhouse.http_port), "--table", table]

    def expect(self, table: str, id_: str = "id", odd: str = ODD) -> None:
        """RunFailed unless every record is there once, unspoilt."""
        found = self.clickhouse.execute(f"SELECT count(), uniqExact({id_}), countIf({odd}) FROM {table}")
        ((rows, distinct, odd_notes),) = found
        self._expect(table, rows=(rows, self.rows), distinct=(distinct, self.rows), odd=(odd_notes, self.odd_notes))


class KafkaToClickHouse(OfClickHouse):
    """JSON documents into typed columns; the server parses them."""

    name = "kafka-clickhouse"
    shape = "typed"

    def prepare(self) -> None:
        self.start()
        self._topic = dataset.fill_topic(self.kafka, self.rows)

    def clean(self) -> None:
        dataset.drop_topic(self.kafka, self._topic)
        super().clean()

    def new_target(self) -> str:
        return self.create()

    def flow(self, target: str, lanes: int) -> dict[str, Any]:
        kafka = {"brokers": self.kafka.bootstrap_servers.split(","), "topic": self._topic, "consumerGroup": target}
        return {
            "parallelism": lanes,
            "source": {"type": "kafka", "kafka": kafka},
            "sink": self.block(target, batchSize=50_000),
        }

    def raw(self, target: str) -> list[str]:
        return [
            "tests.benchmarks.raw.kafka_to_clickhouse",
            *("--bootstrap", self.kafka.bootstrap_servers, "--topic", self._topic, "--shape", self.shape),
            *self.http(target),
        ]

    def check(self, target: str) -> None:
        self.expect(target)


class KafkaToClickHouseDocuments(KafkaToClickHouse):
    """JSON documents as they are, into one column."""

    name = "kafka-clickhouse-documents"
    shape = "documents"

    def new_target(self) -> str:
        return self.create("data String, created_at DateTime DEFAULT now()", "created_at")

    def check(self, target: str) -> None:
        self.expect(
            target, "JSONExtractInt(data, 'id')", f"JSONExtractString(data, 'note') {ODD.removeprefix('note ')}"
        )


class PostgreSQLToClickHouse(OfClickHouse):
    """Typed rows into typed columns."""

    name = "postgresql-clickhouse"

    def prepare(self) -> None:
        self.start()
        self._table = dataset.fill_table(self.postgresql, self.rows)

    def clean(self) -> None:
        self._drop_table(self._table)
        super().clean()

    def new_target(self) -> str:
        return self.create()

    def flow(self, target: str, lanes: int) -> dict[str, Any]:
        source = {"connectionString": self.postgresql.dsn, "table": self._table}
        return {
            "parallelism": lanes,
            "source": {"type": "postgresql", "postgresql": source},
            "sink": self.block(target, batchSize=50_000),
        }

    def raw(self, target: str) -> list[str]:
        return [
            "tests.benchmarks.raw.postgresql_to_clickhouse",
            *("--dsn", self.postgresql.dsn, "--source", self._table),
            *self.http(target),
        ]

    def check(self, target: str) -> None:
        self.expect(target)


class ClickHouseToPostgreSQL(OfClickHouse):
    """Typed rows into typed columns."""

    name = "clickhouse-postgresql"

    def prepare(self) -> None:
        self.start()
        self._source = self.create()
        # Made like the tables of the other paths.
        filled = dataset.fill_table(self.postgresql, self.rows)
        copied = f"COPY {filled} TO STDOUT"
        with self.postgresql.connect() as connection, connection.cursor() as cursor, cursor.copy(copied) as copy:
            data = b"".join(bytes(part) for part in copy)
        self._drop_table(filled)
        self.clickhouse.execute(
            f"INSERT INTO {self._source} FORMAT TabSeparated", data, date_time_input_format="best_effort"
        )
        self.clickhouse.execute(f"OPTIMIZE TABLE {self._source} FINAL")

    def clean(self) -> None:
        super().drop(self._source)
        super().clean()

    def new_target(self) -> str:
        return self._new_table(None)

    def flow(self, target: str, lanes: int) -> dict[str, Any]:
        sink = {"connectionString": self.postgresql.dsn, "table": target, "batchSize": 50_000}
        return {
            "parallelism": lanes,
            # Nobody writes to this table.
            "source": self.block(self._source, lateRowsSeconds=0, tieBreak="id", cursor="id"),
            "sink": {"type": "postgresql", "postgresql": sink},
        }

    def raw(self, target: str) -> list[str]:
        return [
            "tests.benchmarks.raw.clickhouse_to_postgresql",
            *("--dsn", self.postgresql.dsn, "--target", target),
            *self.http(self._source),
        ]

    def check(self, target: str) -> None:
        odd = "note LIKE '%\"hello\" at C:\\\\door'"
        ((rows, distinct, notes),) = self.postgresql.execute(
            f"SELECT count(*), count(DISTINCT id), count(*) FILTER (WHERE {odd}) FROM {target}"
        )
        self._expect(target, rows=(rows, self.rows), distinct=(distinct, self.rows), odd=(notes, self.odd_notes))

    def drop(self, target: str) -> None:
        self._drop_table(target)


CLICKHOUSE_PATHS: tuple[type[Path], ...] = (
    KafkaToClickHouse,
    KafkaToClickHouseDocuments,
    PostgreSQLToClickHouse,
    ClickHouseToPostgreSQL,
)
