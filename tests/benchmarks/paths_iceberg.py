"""The paths from and to Iceberg: tables in a SQL catalog on the local disk, and in Nessie."""

import contextlib
import os
import tempfile
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json
from pyiceberg.catalog import Catalog, load_catalog

from tests.benchmarks import dataset
from tests.benchmarks.paths import Path
from tests.services.nessie_server import NessieServer

NAMESPACE = "bench"
TYPED = pa.schema(
    [
        pa.field("id", pa.int64()),
        pa.field("customer", pa.string()),
        pa.field("product", pa.string()),
        pa.field("quantity", pa.int32()),
        pa.field("price", pa.float64()),
        pa.field("paid", pa.bool_()),
        pa.field("created_at", pa.timestamp("us", "UTC")),
        pa.field("note", pa.string()),
    ]
)
DOCUMENTS = pa.schema([pa.field("data", pa.string())])


class OfIceberg(Path):
    """With a SQL catalog in a folder of its own."""

    schema = TYPED
    raw_variants = ((),)

    def open_catalog(self) -> None:
        """Have a catalog with our namespace."""
        self._stack = contextlib.ExitStack()
        folder = self._stack.enter_context(tempfile.TemporaryDirectory())
        self.properties = {
            "type": "sql",
            "uri": f"sqlite:///{folder}/catalog.db",
            "warehouse": f"file://{folder}/warehouse",
        }
        self.component: dict[str, Any] = {
            "type": "iceberg",
            "iceberg": {
                "catalog": "sql",
                "uri": self.properties["uri"],
                "warehouse": self.properties["warehouse"],
                "catalogName": "raw",
                "namespace": NAMESPACE,
            },
        }
        self.catalog().create_namespace_if_not_exists(NAMESPACE)

    def catalog(self) -> Catalog:
        """A client of it."""
        return load_catalog("raw", **self.properties)

    def clean(self) -> None:
        self._stack.close()

    def new_target(self) -> str:
        table = self.postgresql.unique_name("bench")
        self.catalog().create_table(f"{NAMESPACE}.{table}", self.schema)
        return table

    def drop(self, target: str) -> None:
        self.catalog().drop_table(f"{NAMESPACE}.{target}")

    def block(self, table: str, **settings: Any) -> dict[str, Any]:
        """The source or sink of our flow."""
        kind = self.component["type"]
        return {"type": kind, kind: {**self.component[kind], "table": table, **settings}}

    def catalog_arguments(self) -> list[str]:
        """For the raw loop."""
        return ["--catalog", *(f"{key}={value}" for key, value in self.properties.items())]

    def count(self, target: str) -> None:
        """RunFailed unless all records are there once."""
        found = self.catalog().load_table(f"{NAMESPACE}.{target}").scan().to_arrow()
        if self.schema is DOCUMENTS:
            texts = found.column("data")
            ids = pc.struct_field(pc.extract_regex(texts, r'"id":(?P<id>\d+)'), "id").cast(pa.int64())
            odd = pc.sum(pc.match_substring(texts, r"C:\\door")).as_py()
        else:
            ids = found.column("id")
            odd = pc.sum(pc.match_substring(found.column("note"), r"C:\door")).as_py()
        self._expect(
            target,
            rows=(found.num_rows, self.rows),
            distinct=(pc.count_distinct(ids).as_py(), self.rows),
            odd=(odd, self.odd_notes),
        )


class KafkaToIceberg(OfIceberg):
    """JSON documents into one string column."""

    name = "kafka-iceberg"
    schema = DOCUMENTS
    raw_variants = (("--lanes", "1"), ("--lanes", "2"))

    def prepare(self) -> None:
        self.open_catalog()
        self._topic = dataset.fill_topic(self.kafka, self.rows)

    def clean(self) -> None:
        dataset.drop_topic(self.kafka, self._topic)
        super().clean()

    def flow(self, target: str, lanes: int) -> dict[str, Any]:
        brokers = self.kafka.bootstrap_servers.split(",")
        return {
            "parallelism": lanes,
            "source": {"type": "kafka", "kafka": {"brokers": brokers, "topic": self._topic, "consumerGroup": target}},
            "sink": self.block(target, batchSize=50_000),
        }

    def raw(self, target: str) -> list[str]:
        return [
            "tests.benchmarks.raw.kafka_to_iceberg",
            *("--bootstrap", self.kafka.bootstrap_servers, "--topic", self._topic),
            *("--table", f"{NAMESPACE}.{target}", *self.catalog_arguments()),
        ]

    def check(self, target: str) -> None:
        self.count(target)


class KafkaToNessie(KafkaToIceberg):
    """The same, into S3 and with REST."""

    name = "kafka-nessie"
    raw_variants = (("--lanes", "1"),)  # pyiceberg cannot repeat a commit that met another one in Nessie

    def open_catalog(self) -> None:
        self._stack = contextlib.ExitStack()
        url = os.environ.get("CONNECT_TEST_NESSIE")
        if not url:
            url = self._stack.enter_context(contextlib.closing(NessieServer())).url
        self.properties = {"type": "rest", "uri": f"{url}/iceberg/main"}
        self.component = {"type": "nessie", "nessie": {"baseURL": url, "namespace": NAMESPACE}}
        self.catalog().create_namespace_if_not_exists(NAMESPACE)


class PostgreSQLToIceberg(OfIceberg):
    """Typed rows into typed columns."""

    name = "postgresql-iceberg"

    def prepare(self) -> None:
        self.open_catalog()
        self._table = dataset.fill_table(self.postgresql, self.rows)

    def clean(self) -> None:
        self._drop_table(self._table)
        super().clean()

    def flow(self, target: str, lanes: int) -> dict[str, Any]:
        reading = {"connectionString": self.postgresql.dsn, "table": self._table}
        return {
            "parallelism": lanes,
            "source": {"type": "postgresql", "postgresql": reading},
            "sink": self.block(target, batchSize=50_000),
        }

    def raw(self, target: str) -> list[str]:
        return [
            "tests.benchmarks.raw.postgresql_to_iceberg",
            *("--dsn", self.postgresql.dsn, "--table", self._table),
            *("--target", f"{NAMESPACE}.{target}", *self.catalog_arguments()),
        ]

    def check(self, target: str) -> None:
        self.count(target)


class IcebergToPostgreSQL(OfIceberg):
    """Typed columns into typed rows."""

    name = "iceberg-postgresql"

    def prepare(self) -> None:
        self.open_catalog()
        self._source = super().new_target()
        table = self.catalog().load_table(f"{NAMESPACE}.{self._source}")
        for start in range(0, self.rows, 250_000):
            lines = b"\n".join(dataset.documents(min(250_000, self.rows - start), start))
            table.append(pa.json.read_json(pa.BufferReader(lines)).cast(TYPED))

    def new_target(self) -> str:
        return self._new_table(None)

    def drop(self, target: str) -> None:
        self._drop_table(target)

    def flow(self, target: str, lanes: int) -> dict[str, Any]:
        writing = {"connectionString": self.postgresql.dsn, "table": target, "batchSize": 50_000}
        return {
            "parallelism": lanes,
            "source": self.block(self._source, splits=lanes),
            "sink": {"type": "postgresql", "postgresql": writing},
        }

    def raw(self, target: str) -> list[str]:
        return [
            "tests.benchmarks.raw.iceberg_to_postgresql",
            *("--dsn", self.postgresql.dsn, "--target", target),
            *("--table", f"{NAMESPACE}.{self._source}", *self.catalog_arguments()),
        ]

    def check(self, target: str) -> None:
        ((rows, distinct, odd),) = self.postgresql.execute(
            f"SELECT count(*), count(DISTINCT id), count(*) FILTER (WHERE note LIKE '%\"hello\" at C:\\\\door')"
            f" FROM {target}"
        )
        self._expect(target, rows=(rows, self.rows), distinct=(distinct, self.rows), odd=(odd, self.odd_notes))


ICEBERG_PATHS = (KafkaToIceberg, KafkaToNessie, PostgreSQLToIceberg, IcebergToPostgreSQL)
