"""`python -m tests.services up` or `download`: see the docstring of the package."""

import argparse
import contextlib
import signal
import sys

from tests.services import keycloak_server, nessie_server, schema_registry_server, trino_server
from tests.services.clickhouse_server import ClickHouseServer
from tests.services.kafka_server import KafkaServer, download
from tests.services.postgresql_server import PostgreSQLServer


def main() -> int:
    """Run the command that the arguments name."""
    parser = argparse.ArgumentParser(prog="python -m tests.services", description="Servers for tests and development.")
    commands = parser.add_subparsers(required=True)
    commands.add_parser("up", help="start Kafka, PostgreSQL and ClickHouse and keep them up until ^C").set_defaults(
        run=up
    )
    commands.add_parser("download", help="fetch what is not in the cache yet").set_defaults(run=download_all)
    parser.parse_args().run()
    return 0


def download_all() -> None:
    """Fetch what is not in the cache yet."""
    for fetch in (
        download,
        keycloak_server.download,
        nessie_server.download,
        schema_registry_server.download,
        trino_server.download,
    ):
        fetch()


def up() -> None:
    """Start the servers, say where they are, and keep them until ^C."""
    for ending in (signal.SIGINT, signal.SIGTERM):  # a shell's background process ignores SIGINT unless told
        signal.signal(ending, signal.default_int_handler)
    with contextlib.suppress(KeyboardInterrupt), contextlib.ExitStack() as stack:
        postgresql = stack.enter_context(contextlib.closing(PostgreSQLServer()))
        print(f"export CONNECT_TEST_POSTGRESQL={postgresql.dsn}", flush=True)
        clickhouse = stack.enter_context(contextlib.closing(ClickHouseServer()))
        print(f"export CONNECT_TEST_CLICKHOUSE={clickhouse.address}", flush=True)
        kafka = stack.enter_context(contextlib.closing(KafkaServer()))
        print(f"export CONNECT_TEST_KAFKA={kafka.bootstrap_servers}", flush=True)
        print("Ready; ^C ends them.", file=sys.stderr)
        signal.pause()


if __name__ == "__main__":
    sys.exit(main())
