"""Run the demonstration: see `make demo`.

It starts PostgreSQL, Kafka and Airflow, with files only below `build/demo` and in temporary folders, sends orders to
Kafka without end, and shows how they arrive. ^C ends everything. With CI=true it sends a fixed number, waits until all
have arrived, counts them, and says by its exit code whether each arrived exactly once.
"""

import contextlib
import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import psycopg
from pyarrow.parquet import read_metadata

from demo.events import Orders
from demo.kafka import TOPIC, Kafka, running_kafka
from tests.services.airflow_server import USER, AirflowServer
from tests.services.postgresql_server import PostgreSQLServer
from tests.services.process import ServerFailed, Unavailable

ROOT = Path(__file__).resolve().parent.parent
HOME = ROOT / "build" / "demo"
PARQUET = HOME / "parquet"
PER_SECOND = 200
CI_ORDERS = 10_000
ARRIVAL_SECONDS = 240.0
TO_POSTGRESQL, TO_PARQUET = "orders-to-postgresql", "orders-to-parquet"


@dataclass(frozen=True)
class Arrived:
    """Rows in the table, distinct orders among them, and rows in the Parquet files made from the table."""

    rows: int = 0
    orders: int = 0
    in_files: int = 0


@dataclass(frozen=True)
class Demonstration:
    """What runs, once all is up."""

    airflow: AirflowServer
    kafka: Kafka
    dsn: str
    orders: Orders

    def introduce(self) -> None:
        """Where to look, and how to get in."""
        say(f"  Airflow      {self.airflow.url}/dags/{TO_POSTGRESQL}")
        say(f"  user         {USER}")
        say(f"  password     {self.airflow.password}")
        say(f"  Kafka        {self.kafka.bootstrap_servers} ({self.kafka.kind}), {PER_SECOND} orders per second")
        say(f"  PostgreSQL   psql '{self.dsn}' -c 'SELECT count(*) FROM orders'")
        say(f"  Parquet      {PARQUET}\n")

    def start(self) -> None:
        """Send orders, and run both flows; the second one needs the table that the first one makes."""
        self.orders.start()
        self.airflow.api("PATCH", f"/dags/{TO_POSTGRESQL}", {"is_paused": False})
        self.wait_for(lambda found: found.rows > 0)
        self.airflow.api("PATCH", f"/dags/{TO_PARQUET}", {"is_paused": False})

    def prove(self) -> int:
        """Wait until all orders are sent and have arrived; 0 if each arrived once."""
        self.wait_for(lambda _: self.orders.delivered >= CI_ORDERS)
        sent = self.orders.finish()
        found = self.wait_for(lambda found: found.rows >= sent)
        if found.in_files < sent:
            self.airflow.trigger(TO_PARQUET)
        found = self.wait_for(lambda found: found.in_files >= sent)
        good = self.orders.failed == 0 and found == Arrived(sent, sent, sent)
        verdict = "each exactly once" if good else "NOT each exactly once"
        say(f"\n{sent} orders sent, {found.rows} rows ({found.orders} different), {found.in_files} in files: {verdict}")
        return 0 if good else 1

    def wait_for(self, done: Callable[[Arrived], bool], seconds: float = ARRIVAL_SECONDS) -> Arrived:
        """Show what has arrived until `done`, or for so many seconds; returns it."""
        deadline = time.monotonic() + seconds
        while True:
            found = arrived(self.dsn)
            self.show(found)
            if done(found) or time.monotonic() > deadline:
                return found
            time.sleep(2)

    def show(self, found: Arrived) -> None:
        """One line; on a terminal always the same one."""
        sent, terminal = self.orders.delivered, sys.stdout.isatty()
        text = f"  {sent:>9,} sent   {found.rows:>9,} in PostgreSQL   {found.in_files:>9,} in Parquet files"
        print(f"\r{text}" if terminal else text, end="" if terminal else "\n", flush=True)


def main() -> int:
    """Run until ^C, a signal, or (in CI) the proof; 0 means that it went well."""
    ci = os.environ.get("CI", "").lower() in {"1", "true", "yes"}
    signal.signal(signal.SIGTERM, _interrupt)
    began = time.monotonic()
    try:
        with contextlib.ExitStack() as stack:
            say("starting PostgreSQL 18 and Kafka ...")
            database = stack.enter_context(contextlib.closing(PostgreSQLServer()))
            kafka = stack.enter_context(running_kafka())
            say("starting Airflow (about a minute) ...")
            airflow = stack.enter_context(contextlib.closing(start_airflow(kafka, database.dsn)))
            for flow in (TO_POSTGRESQL, TO_PARQUET):
                airflow.wait_for_dag(flow)
            say(f"ready after {time.monotonic() - began:.0f} s\n")
            orders = Orders(kafka.bootstrap_servers, TOPIC, PER_SECOND)
            demonstration = Demonstration(airflow, kafka, database.dsn, orders)
            demonstration.introduce()
            demonstration.start()
            if ci:
                return demonstration.prove()
            say("\n  ^C ends it\n")
            demonstration.wait_for(lambda _: False, float("inf"))
            return 0
    except KeyboardInterrupt:
        say("\nended; nothing is left running")
        return 130 if ci else 0
    except (Unavailable, ServerFailed) as error:
        say(f"the demonstration cannot go on: {error}")
        return 1


def start_airflow(kafka: Kafka, dsn: str) -> AirflowServer:
    """Airflow with the flows of `dags/` and the connections that they name."""
    shutil.rmtree(HOME, ignore_errors=True)
    connections = {
        "ORDERS_KAFKA": {"conn_type": "connect_kafka", "host": kafka.bootstrap_servers},
        "ORDERS_POSTGRESQL": {"conn_type": "connect_postgresql", "extra": {"uri": dsn}},
        "ORDERS_FILES": {"conn_type": "connect_file", "host": str(PARQUET)},
    }
    environment = {f"AIRFLOW_CONN_{name}": json.dumps(value) for name, value in connections.items()}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    return AirflowServer(HOME / "airflow", ROOT / "dags", environment)


def arrived(dsn: str) -> Arrived:
    """What has arrived by now."""
    try:
        with psycopg.connect(dsn) as connection:
            row = connection.execute("SELECT count(*), count(DISTINCT data->>'order') FROM orders").fetchone()
    except psycopg.errors.UndefinedTable:
        return Arrived()
    assert row is not None
    return Arrived(*row, in_files=sum(read_metadata(path).num_rows for path in PARQUET.glob("*.parquet")))


def say(text: str) -> None:
    """Print at once."""
    print(text, flush=True)


def _interrupt(_: int, __: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
