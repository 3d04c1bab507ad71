"""`python -m tests.services up`: see the docstring of the package."""

import argparse
import contextlib
import signal
import sys

from tests.services.kafka_server import KafkaServer
from tests.services.postgresql_server import PostgreSQLServer


def main() -> int:
    """Start the servers, say where they are, and keep them until ^C."""
    parser = argparse.ArgumentParser(prog="python -m tests.services", description="Servers for tests and development.")
    parser.add_argument("command", choices=["up"], help="start Kafka and PostgreSQL and keep them up until ^C")
    parser.parse_args()
    with contextlib.ExitStack() as stack:
        stack.enter_context(contextlib.suppress(KeyboardInterrupt))
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        postgresql = stack.enter_context(contextlib.closing(PostgreSQLServer()))
        print(f"export CONNECT_TEST_POSTGRESQL={postgresql.dsn}", flush=True)
        kafka = stack.enter_context(contextlib.closing(KafkaServer()))
        print(f"export CONNECT_TEST_KAFKA={kafka.bootstrap_servers}", flush=True)
        print("Ready; ^C ends them.", file=sys.stderr)
        signal.pause()
    return 0


if __name__ == "__main__":
    sys.exit(main())
