"""The paths that are measured: their data, our flow, the raw loop, and the count afterwards."""

import re
import sys
from abc import ABC, abstractmethod
from typing import Any

from confluent_kafka import OFFSET_BEGINNING, Consumer, TopicPartition
from psycopg import sql

from tests.benchmarks import dataset
from tests.benchmarks.measure import RunFailed
from tests.services.kafka import Kafka
from tests.services.postgresql import PostgreSQL


class Path(ABC):
    """From a source that is filled once to targets that are new for each run."""

    name: str
    raw_variants: tuple[tuple[str, ...], ...]
    """Options of the raw loop worth trying; the best counts."""

    def __init__(self, kafka: Kafka, postgresql: PostgreSQL, rows: int) -> None:
        self.kafka, self.postgresql, self.rows = kafka, postgresql, rows

    @abstractmethod
    def prepare(self) -> None:
        """Fill the source."""

    @abstractmethod
    def new_target(self) -> str:
        """A new, empty target."""

    @abstractmethod
    def flow(self, target: str, lanes: int) -> dict[str, Any]:
        """`spec` of our flow."""

    @abstractmethod
    def raw(self, target: str) -> list[str]:
        """Module and arguments of the raw loop."""

    @abstractmethod
    def check(self, target: str) -> None:
        """RunFailed unless every record of the source is in the target once, unspoilt."""

    @abstractmethod
    def drop(self, target: str) -> None:
        """Remove a target."""

    @abstractmethod
    def clean(self) -> None:
        """Remove the source."""

    def raw_command(self, target: str, variant: tuple[str, ...]) -> list[str]:
        """The command line of the raw loop."""
        return [sys.executable, "-m", *self.raw(target), *variant]

    def _new_table(self, columns: str | None) -> str:
        table = self.postgresql.unique_name("bench")
        with self.postgresql.connect(autocommit=True) as connection:
            if columns is None:
                dataset.create_table(connection, table)
            else:
                connection.execute(sql.SQL("CREATE TABLE {} (" + columns + ")").format(sql.Identifier(table)))
            connection.execute("CHECKPOINT")  # so that no run pays for the one before
        return table

    def _drop_table(self, table: str) -> None:
        self.postgresql.execute(f"DROP TABLE IF EXISTS {table}")

    def _expect(self, target: str, **found: tuple[int, int]) -> None:
        wrong = [f"{what}: {got}, wanted {wanted}" for what, (got, wanted) in found.items() if got != wanted]
        if wrong:
            raise RunFailed(f"{self.name}: wrong records in {target}: {'; '.join(wrong)}")

    @property
    def odd_notes(self) -> int:
        """How many records have quotes and a backslash in them."""
        return (self.rows + 63) // 64


class KafkaToPostgreSQL(Path):
    """JSON documents into one JSONB column."""

    name = "kafka-postgresql"
    raw_variants = (("--lanes", "1"), ("--lanes", "2"))

    def prepare(self) -> None:
        self._topic = dataset.fill_topic(self.kafka, self.rows)

    def clean(self) -> None:
        dataset.drop_topic(self.kafka, self._topic)

    def new_target(self) -> str:
        return self._new_table("data jsonb NOT NULL")

    def flow(self, target: str, lanes: int) -> dict[str, Any]:
        return {
            "parallelism": lanes,
            "source": {
                "type": "kafka",
                "kafka": {
                    "brokers": self.kafka.bootstrap_servers.split(","),
                    "topic": self._topic,
                    "consumerGroup": target,
                },
            },
            "sink": {
                "type": "postgresql",
                "postgresql": {"connectionString": self.postgresql.dsn, "table": target, "batchSize": 50_000},
            },
        }

    def raw(self, target: str) -> list[str]:
        return [
            "tests.benchmarks.raw.kafka_to_postgresql",
            *("--bootstrap", self.kafka.bootstrap_servers, "--topic", self._topic),
            *("--dsn", self.postgresql.dsn, "--table", target),
        ]

    def check(self, target: str) -> None:
        ((rows, distinct, odd),) = self.postgresql.execute(
            f"SELECT count(*), count(DISTINCT (data->>'id')::bigint),"
            f" count(*) FILTER (WHERE data->>'note' LIKE '%\"hello\" at C:\\\\door') FROM {target}"
        )
        self._expect(target, rows=(rows, self.rows), distinct=(distinct, self.rows), odd=(odd, self.odd_notes))

    def drop(self, target: str) -> None:
        self._drop_table(target)


class PostgreSQLToKafka(Path):
    """Typed rows out as JSON documents."""

    name = "postgresql-kafka"
    raw_variants = (("--lanes", "1"), ("--lanes", "2"))

    def prepare(self) -> None:
        self._table = dataset.fill_table(self.postgresql, self.rows)

    def clean(self) -> None:
        self._drop_table(self._table)

    def new_target(self) -> str:
        return self.kafka.create_topic(dataset.PARTITIONS, name=self.kafka.unique_name("bench"))

    def flow(self, target: str, lanes: int) -> dict[str, Any]:
        return {
            "parallelism": lanes,
            "source": {
                "type": "postgresql",
                "postgresql": {"connectionString": self.postgresql.dsn, "table": self._table},
            },
            "sink": {
                "type": "kafka",
                "kafka": {
                    "brokers": self.kafka.bootstrap_servers.split(","),
                    "topic": target,
                    "batchSize": 50_000,
                },
            },
        }

    def raw(self, target: str) -> list[str]:
        return [
            "tests.benchmarks.raw.postgresql_to_kafka",
            *("--bootstrap", self.kafka.bootstrap_servers, "--topic", target),
            *("--dsn", self.postgresql.dsn, "--table", self._table),
        ]

    def check(self, target: str) -> None:
        seen = bytearray(self.rows)
        rows = odd = 0
        number = re.compile(rb'"id":\s*(\d+)').search
        consumer = self._reader(target)
        try:
            # All that is wanted, and then a look for what is too much.
            while messages := consumer.consume(10_000, 5.0 if rows < self.rows else 0.5):
                for message in messages:
                    value = message.value()
                    found = number(value)
                    if found is None or int(found[1]) >= self.rows:
                        raise RunFailed(f"{self.name}: a record in {target} that was never in the source: {value!r}")
                    seen[int(found[1])] = 1
                    odd += b"C:\\\\door" in value
                rows += len(messages)
        finally:
            consumer.close()
        self._expect(target, rows=(rows, self.rows), distinct=(sum(seen), self.rows), odd=(odd, self.odd_notes))

    def _reader(self, topic: str) -> Consumer:
        consumer = Consumer(
            {
                "bootstrap.servers": self.kafka.bootstrap_servers,
                "group.id": self.kafka.unique_name("bench"),
                "enable.auto.commit": False,
                "isolation.level": "read_committed",
                "fetch.queue.backoff.ms": 10,
            }
        )
        consumer.assign([TopicPartition(topic, number, OFFSET_BEGINNING) for number in self.kafka.partitions(topic)])
        return consumer

    def drop(self, target: str) -> None:
        dataset.drop_topic(self.kafka, target)


class PostgreSQLToPostgreSQL(Path):
    """Typed rows from one table to another."""

    name = "postgresql-postgresql"
    raw_variants = (("--lanes", "1", "--binary"), ("--lanes", "2", "--binary"))

    def prepare(self) -> None:
        self._table = dataset.fill_table(self.postgresql, self.rows)
        self._digest = self._digest_of(self._table)

    def clean(self) -> None:
        self._drop_table(self._table)

    def new_target(self) -> str:
        return self._new_table(None)

    def flow(self, target: str, lanes: int) -> dict[str, Any]:
        return {
            "parallelism": lanes,
            "source": {
                "type": "postgresql",
                "postgresql": {"connectionString": self.postgresql.dsn, "table": self._table},
            },
            "sink": {
                "type": "postgresql",
                "postgresql": {"connectionString": self.postgresql.dsn, "table": target, "batchSize": 50_000},
            },
        }

    def raw(self, target: str) -> list[str]:
        return [
            "tests.benchmarks.raw.postgresql_to_postgresql",
            *("--dsn", self.postgresql.dsn, "--table", self._table, "--target", target),
        ]

    def check(self, target: str) -> None:
        rows, digest = self._digest_of(target)
        self._expect(target, rows=(rows, self.rows), digest=(digest, self._digest[1]))

    def _digest_of(self, table: str) -> tuple[int, int]:
        ((rows, digest),) = self.postgresql.execute(
            f"SELECT count(*), sum(hashtextextended(t::text, 0)) FROM {table} t"
        )
        return rows, digest

    def drop(self, target: str) -> None:
        self._drop_table(target)


PATHS: dict[str, type[Path]] = {
    path.name: path for path in (KafkaToPostgreSQL, PostgreSQLToKafka, PostgreSQLToPostgreSQL)
}
