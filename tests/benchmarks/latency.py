"""How soon a record is there: after the start of a worker, and from the producer's clock to the commit."""

import contextlib
import json
import statistics
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import yaml

from tests.benchmarks import dataset
from tests.benchmarks.measure import ROOT, RunFailed, connect, environment
from tests.services.kafka import Kafka
from tests.services.postgresql import PostgreSQL

RATE = 1_000
SECONDS = 15.0
WARM_UP_SECONDS = 3.0
FLUSH_SECONDS = 0.01


@dataclass(frozen=True)
class Latencies:
    """Seconds; the quantiles are of `records` records at `RATE` per second."""

    first_record: float
    p50: float
    p99: float
    longest: float
    records: int

    def lines(self) -> list[str]:
        """For people."""
        p50, p99, longest = (f"{seconds * 1000:.1f} ms" for seconds in (self.p50, self.p99, self.longest))
        return [
            f"first record: {self.first_record:.2f} s from the start of the process to the first commit",
            f"end to end: p50 {p50}, p99 {p99}, longest {longest} ({self.records:,} records at {RATE:,}/s,"
            f" flushed every {FLUSH_SECONDS * 1000:.0f} ms)",
        ]


def measure_all(kafka: Kafka, postgresql: PostgreSQL, starts: int = 3) -> Latencies:
    """Both figures, on Kafka to PostgreSQL with one lane and exactly once."""
    first = statistics.median(_first_record(kafka, postgresql) for _ in range(starts))
    ages = sorted(_ages(kafka, postgresql))
    quantiles = statistics.quantiles(ages, n=100, method="inclusive")
    return Latencies(first, quantiles[49], quantiles[98], ages[-1], len(ages))


class Commits:
    """When each transaction of a table became visible: a statement trigger notifies, and delivery is at the commit."""

    def __init__(self, postgresql: PostgreSQL) -> None:
        self.postgresql = postgresql
        self.table = postgresql.unique_name("bench")
        self.at: dict[int, float] = {}
        self._ended = threading.Event()
        # `tx` is the transaction itself, whatever savepoint the row was written in.
        postgresql.execute(f"CREATE TABLE {self.table} (data jsonb NOT NULL, tx xid8 DEFAULT pg_current_xact_id())")
        postgresql.execute(
            f"CREATE FUNCTION {self.table}_written() RETURNS trigger LANGUAGE plpgsql AS "
            f"$$ BEGIN PERFORM pg_notify('{self.table}', pg_current_xact_id()::text); RETURN NULL; END $$"
        )
        postgresql.execute(
            f"CREATE TRIGGER written AFTER INSERT ON {self.table} "
            f"FOR EACH STATEMENT EXECUTE FUNCTION {self.table}_written()"
        )
        self._connection = psycopg.connect(postgresql.dsn, autocommit=True)
        self._connection.execute(f"LISTEN {self.table}")
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def _listen(self) -> None:
        while not self._ended.is_set():
            for notification in self._connection.notifies(timeout=0.2):
                self.at.setdefault(int(notification.payload), time.time())

    def wait_for_first(self, seconds: float) -> float:
        """When the first commit came."""
        until = time.time() + seconds
        while not self.at:
            if time.time() > until:
                raise RunFailed(f"no record arrived within {seconds:.0f} s")
            time.sleep(0.002)
        return min(self.at.values())

    def close(self) -> None:
        self._ended.set()
        self._thread.join()
        self._connection.close()
        self.postgresql.execute(f"DROP TABLE {self.table}")
        self.postgresql.execute(f"DROP FUNCTION {self.table}_written")


def _first_record(kafka: Kafka, postgresql: PostgreSQL) -> float:
    with _topic(kafka) as topic, contextlib.closing(Commits(postgresql)) as commits:
        kafka.produce(topic, [b'{"id":%d}' % n for n in range(1_000)])
        began = time.time()
        with _worker(kafka, postgresql, topic, commits.table):
            return commits.wait_for_first(60) - began


@contextlib.contextmanager
def _topic(kafka: Kafka) -> Iterator[str]:
    topic = kafka.create_topic(dataset.PARTITIONS, name=kafka.unique_name("bench"))
    try:
        yield topic
    finally:
        dataset.drop_topic(kafka, topic)


def _ages(kafka: Kafka, postgresql: PostgreSQL) -> list[float]:
    with (
        _topic(kafka) as topic,
        contextlib.closing(Commits(postgresql)) as commits,
        _worker(kafka, postgresql, topic, commits.table),
    ):
        kafka.produce(topic, [b'{"sent":0}'])
        commits.wait_for_first(60)
        sent = _produce_steadily(kafka, topic)
        deadline = time.time() + 30
        while True:
            rows = postgresql.execute(f"SELECT (data->>'sent')::bigint, tx::text::bigint FROM {commits.table}")
            if len(rows) == sent + 1:
                break
            if time.time() > deadline:
                raise RunFailed(f"{len(rows)} records arrived, {sent + 1} were sent")
            time.sleep(0.2)
        time.sleep(0.5)
        begin = min(at for at, _ in rows if at) + WARM_UP_SECONDS * 1e9
        return [commits.at[tx] - at / 1e9 for at, tx in rows if at >= begin]


def _produce_steadily(kafka: Kafka, topic: str) -> int:
    producer = kafka.producer(linger_ms=0, acks="1")
    start = time.perf_counter()
    total = int(RATE * SECONDS)
    for number in range(total):
        pause = start + number / RATE - time.perf_counter()
        if pause > 0:
            time.sleep(pause)
        document = json.dumps({"sent": time.time_ns(), "id": number, "note": "x" * 150})
        producer.produce(topic, document.encode(), partition=number % dataset.PARTITIONS)
        producer.poll(0)
    producer.flush(30)
    return total


@contextlib.contextmanager
def _worker(kafka: Kafka, postgresql: PostgreSQL, topic: str, table: str) -> Iterator[None]:
    spec: dict[str, Any] = {
        "source": {
            "type": "kafka",
            "kafka": {"brokers": kafka.bootstrap_servers.split(","), "topic": topic, "consumerGroup": table},
        },
        "sink": {
            "type": "postgresql",
            "postgresql": {
                "connectionString": postgresql.dsn,
                "table": table,
                "batchSize": 0,
                "batchFlushIntervalSeconds": FLUSH_SECONDS,
            },
        },
    }
    flow = {"apiVersion": "dataflow.dataflow.io/v1", "kind": "DataFlow", "metadata": {"name": table}, "spec": spec}
    with tempfile.TemporaryDirectory() as folder:
        file, errors = Path(folder) / "flow.yaml", Path(folder) / "errors"
        file.write_text(yaml.safe_dump(flow))
        with errors.open("w") as stream:
            worker = subprocess.Popen(
                connect("run", str(file), "--json"), cwd=ROOT, env=environment(), stdout=subprocess.PIPE, stderr=stream
            )
        try:
            yield
        except RunFailed as error:
            raise RunFailed(f"{error}\n{errors.read_text()[-4000:]}") from error
        finally:
            worker.terminate()
            try:
                worker.communicate(timeout=30)
            except subprocess.TimeoutExpired:
                worker.kill()
                worker.communicate()
