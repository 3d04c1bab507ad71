"""The path of PostgreSQL's changes to Kafka: one large transaction, decoded by a slot of each run's own."""

from typing import Any

from tests.benchmarks import dataset
from tests.benchmarks.paths import Path, PostgreSQLToKafka

BATCH = 50_000


class PostgreSQLCdcToKafka(PostgreSQLToKafka):
    """Inserted rows out as flat JSON documents. The server's decoding is part of both rates."""

    name = "postgresql-cdc-kafka"
    raw_variants = ((),)

    def prepare(self) -> None:
        filled = dataset.fill_table(self.postgresql, self.rows)
        self._table = self._slot = self.postgresql.unique_name("bench_cdc")
        with self.postgresql.connect(autocommit=True) as connection:
            dataset.create_table(connection, self._table, key=True)
            connection.execute(f"CREATE PUBLICATION {self._table} FOR TABLE {self._table}")
            # Never read itself: each run has a copy, which begins where this one does.
            connection.execute("SELECT pg_create_logical_replication_slot(%s, 'pgoutput')", [self._slot])
            connection.execute(f"INSERT INTO {self._table} SELECT * FROM {filled} ORDER BY id")
            connection.execute(f"DROP TABLE {filled}")

    def clean(self) -> None:
        self.postgresql.drop_replication(self._slot)
        self._drop_table(self._table)

    def new_target(self) -> str:
        target = self.kafka.create_topic(dataset.PARTITIONS, name=self.postgresql.unique_name("bench_cdc"))
        self.postgresql.execute("SELECT pg_copy_logical_replication_slot(%s, %s)", self._slot, target)
        return target

    def flow(self, target: str, lanes: int) -> dict[str, Any]:
        source = {
            "connectionString": self.postgresql.dsn,
            "tables": self._table,
            "slot": target,
            "publication": self._table,
            "snapshot": "never",
            "envelope": "flat",
        }
        sink = {"brokers": self.kafka.bootstrap_servers.split(","), "topic": target, "batchSize": BATCH}
        return {
            "source": {"type": "postgresql-cdc", "postgresql-cdc": source},
            "sink": {"type": "kafka", "kafka": sink},
        }

    def raw(self, target: str) -> list[str]:
        return [
            "tests.benchmarks.raw.postgresql_cdc_to_kafka",
            *("--bootstrap", self.kafka.bootstrap_servers, "--topic", target),
            *("--dsn", self.postgresql.dsn, "--publication", self._table),
        ]

    def drop(self, target: str) -> None:
        self.postgresql.drop_replication(target)
        super().drop(target)


POSTGRESQL_CDC_PATHS: tuple[type[Path], ...] = (PostgreSQLCdcToKafka,)
