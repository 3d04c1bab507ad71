"""A Kafka with nothing to install: librdkafka's mock cluster, for as long as this process lives.

It answers producers, consumer groups and commits, and keeps the newest few megabytes of each partition; enough for a
demonstration. Started as a program, which prints the address as one line: `bootstrap.servers=host:port`.
"""

import signal
import sys

from confluent_kafka import Producer

MARK = "bootstrap.servers="
PARTITIONS = 4


def main() -> int:
    """Serve until a signal comes."""
    producer = Producer({"test.mock.num.brokers": 1, "bootstrap.servers": "unused", "log_level": 0})
    (broker,) = producer.list_topics(timeout=10).brokers.values()
    print(f"{MARK}{broker.host}:{broker.port}", flush=True)
    signal.pause()
    return 0


if __name__ == "__main__":
    sys.exit(main())
