"""The first consumer group of a new broker: its coordinator is loading, moves, and is asked for meanwhile."""

from __future__ import annotations

from contextlib import closing

import pytest

from tests.conftest import start_or_skip
from tests.crash.victim import Victim, write_flow
from tests.services.kafka import Kafka
from tests.services.kafka_server import KafkaServer

pytestmark = [pytest.mark.integration, pytest.mark.slow]


@pytest.mark.parametrize("attempt", range(3))
def test_a_drain_on_a_new_broker(attempt, tmp_path):
    """Asking such a broker for a group's offsets once killed the process, in one of four starts."""
    with closing(start_or_skip(KafkaServer)) as server:
        kafka = Kafka(server.bootstrap_servers)
        source, target = kafka.create_topic(2), kafka.create_topic(2)
        kafka.produce(source, [(b"%d" % i, b'{"id": %d}' % i) for i in range(1000)])
        flow = write_flow(
            tmp_path,
            "first",
            {"type": "kafka", "kafka": {"brokers": [server.bootstrap_servers], "topic": source}},
            {"type": "kafka", "kafka": {"brokers": [server.bootstrap_servers], "topic": target}},
        )
        assert Victim(flow, "--drain").finish()["records"] == 1000
        assert sorted(int(record.key) for record in kafka.consume_all(target)) == list(range(1000))
