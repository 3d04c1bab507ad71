"""The path to Trino: an Iceberg table of its own server, which is started unless `CONNECT_TEST_TRINO` names one."""

import contextlib
import os
from typing import Any, ClassVar

from tests.benchmarks import dataset
from tests.benchmarks.paths import Path
from tests.services.trino import Trino
from tests.services.trino_server import TrinoServer


class KafkaToTrino(Path):
    """JSON documents into one varchar column of an Iceberg table, at least once."""

    name = "kafka-trino"
    raw_variants = (("--lanes", "1"), ("--lanes", "2"))
    settings: ClassVar[dict[str, Any]] = {}

    def prepare(self) -> None:
        self._stack = contextlib.ExitStack()
        url = os.environ.get("CONNECT_TEST_TRINO")
        self._trino = Trino(url or self._stack.enter_context(contextlib.closing(TrinoServer())).url)
        self._schema = self._trino.create_schema("iceberg")
        self._topic = dataset.fill_topic(self.kafka, self.rows)

    def clean(self) -> None:
        dataset.drop_topic(self.kafka, self._topic)
        self._trino.drop_schema("iceberg", self._schema)
        self._stack.close()

    def new_target(self) -> str:
        table = self._trino.unique_name("bench")
        self._trino.execute(f"CREATE TABLE iceberg.{self._schema}.{table} (data varchar{self._more_columns()})")
        return table

    def _more_columns(self) -> str:
        return ", connect_token varchar, connect_row bigint" if self.settings.get("idempotent") else ""

    def flow(self, target: str, lanes: int) -> dict[str, Any]:
        brokers = self.kafka.bootstrap_servers.split(",")
        place = {"serverURL": self._trino.url, "catalog": "iceberg", "schema": self._schema, "table": target}
        return {
            "parallelism": lanes,
            "source": {"type": "kafka", "kafka": {"brokers": brokers, "topic": self._topic, "consumerGroup": target}},
            "sink": {"type": "trino", "trino": {**place, "batchSize": 50_000, **self.settings}},
        }

    def raw(self, target: str) -> list[str]:
        return [
            "tests.benchmarks.raw.kafka_to_trino",
            *("--bootstrap", self.kafka.bootstrap_servers, "--topic", self._topic),
            *("--url", self._trino.url, "--table", f"iceberg.{self._schema}.{target}"),
        ]

    def check(self, target: str) -> None:
        ((rows, distinct, odd),) = self._trino.execute(
            "SELECT count(*), count(DISTINCT json_extract_scalar(data, '$.id')),"
            f" count_if(strpos(data, 'C:\\\\door') > 0) FROM iceberg.{self._schema}.{target}"
        )
        self._expect(target, rows=(rows, self.rows), distinct=(distinct, self.rows), odd=(odd, self.odd_notes))

    def drop(self, target: str) -> None:
        self._trino.execute(f"DROP TABLE iceberg.{self._schema}.{target}")


class KafkaToTrinoUnderTokens(KafkaToTrino):
    """The same effectively once; the raw loop does not do that."""

    name = "kafka-trino-idempotent"
    raw_variants = (("--lanes", "1"),)
    settings: ClassVar = {"idempotent": True}


TRINO_PATHS: tuple[type[Path], ...] = (KafkaToTrino, KafkaToTrinoUnderTokens)
