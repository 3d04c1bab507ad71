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
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import psycopg

from demo.events import Orders
from demo.kafka import TOPIC, Kafka, running_kafka
from tests.services.airflow_server import USER, AirflowServer
from tests.services.postgresql_server import PostgreSQLServer
from tests.services.process import ServerFailed, Unavailable

ROOT = Path(__file__).resolve().parent.parent
HOME = ROOT / "build" / "demo"
PER_SECOND = 200
CI_ORDERS = 10_000
ARRIVAL_SECONDS = 240.0
FLOW = "orders-to-postgresql"


@dataclass(frozen=True)
class Arrived:
    """What is in the table: rows, and distinct orders among them."""

    rows: int = 0
    orders: int = 0


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
            airflow.wait_for_dag(FLOW)
            airflow.api("PATCH", f"/dags/{FLOW}", {"is_paused": False})
            say(f"ready after {time.monotonic() - began:.0f} s\n")
            introduce(airflow, kafka, database.dsn)
            orders = Orders(kafka.bootstrap_servers, TOPIC, PER_SECOND)
            orders.start()
            return prove(orders, database.dsn) if ci else show(orders, database.dsn)
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
    }
    environment = {f"AIRFLOW_CONN_{name}": json.dumps(value) for name, value in connections.items()}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    return AirflowServer(HOME / "airflow", ROOT / "dags", environment)


def introduce(airflow: AirflowServer, kafka: Kafka, dsn: str) -> None:
    """Where to look, and how to get in."""
    say(f"  Airflow      {airflow.url}/dags/{FLOW}")
    say(f"  user         {USER}")
    say(f"  password     {airflow.password}")
    say(f"  Kafka        {kafka.bootstrap_servers} ({kafka.kind}), topic {TOPIC}, {PER_SECOND} orders per second")
    say(f"  PostgreSQL   psql '{dsn}' -c 'SELECT count(*) FROM orders'\n")


def show(orders: Orders, dsn: str) -> int:
    """Show how the orders arrive, for ever."""
    say("  ^C ends it\n")
    while True:
        time.sleep(2)
        report(orders, arrived(dsn))


def prove(orders: Orders, dsn: str) -> int:
    """Send the orders, wait for them, count them; 0 if each arrived once."""
    while orders.delivered < CI_ORDERS:
        time.sleep(2)
        report(orders, arrived(dsn))
    sent = orders.finish()
    deadline = time.monotonic() + ARRIVAL_SECONDS
    while (found := arrived(dsn)).rows < sent and time.monotonic() < deadline:
        report(orders, found)
        time.sleep(2)
    report(orders, found)
    good = orders.failed == 0 and found == Arrived(sent, sent)
    verdict = "each exactly once" if good else "NOT each exactly once"
    say(f"\n{sent} orders sent, {found.rows} rows in PostgreSQL, {found.orders} different orders: {verdict}")
    return 0 if good else 1


def arrived(dsn: str) -> Arrived:
    """What is in the table by now."""
    try:
        with psycopg.connect(dsn) as connection:
            row = connection.execute("SELECT count(*), count(DISTINCT data->>'order') FROM orders").fetchone()
    except psycopg.errors.UndefinedTable:
        return Arrived()
    assert row is not None
    return Arrived(*row)


def report(orders: Orders, found: Arrived) -> None:
    """One line; on a terminal always the same one."""
    text = f"  {orders.delivered:>9,} sent   {found.rows:>9,} in PostgreSQL, {found.rows - found.orders} twice"
    print(f"\r{text}" if sys.stdout.isatty() else text, end="" if sys.stdout.isatty() else "\n", flush=True)


def say(text: str) -> None:
    """Print at once."""
    print(text, flush=True)


def _interrupt(_: int, __: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
