"""Live events: orders, each with a number of its own, so that a lost or repeated one shows."""

import itertools
import json
import random
import threading
import time
from datetime import UTC, datetime

from confluent_kafka import KafkaError, Message, Producer

ITEMS = ("tea", "coffee", "bread", "cheese", "olives", "wine", "honey")


class Orders(threading.Thread):
    """Sends orders to a topic, so many per second, until `finish`."""

    def __init__(self, bootstrap_servers: str, topic: str, per_second: float) -> None:
        super().__init__(name="orders", daemon=True)
        own = {"enable.idempotence": True, "linger.ms": 5, "log_level": 0}
        self._producer = Producer({"bootstrap.servers": bootstrap_servers, **own})
        self._topic, self._per_second = topic, per_second
        self._finished = threading.Event()
        self.delivered = 0
        self.failed = 0

    def run(self) -> None:
        """Send at the chosen rate; what a slow moment left out is caught up on."""
        began = time.monotonic()
        for number in itertools.count(1):
            due = began + number / self._per_second
            while (early := due - time.monotonic()) > 0:
                self._producer.poll(0)
                if self._finished.wait(min(early, 0.1)):
                    return
            if self._finished.is_set():
                return
            value = json.dumps(
                {
                    "order": number,
                    "item": random.choice(ITEMS),
                    "quantity": random.randint(1, 9),
                    "price": round(random.uniform(1, 99), 2),
                    "at": datetime.now(UTC).isoformat(),
                }
            )
            self._producer.produce(self._topic, value, str(number), on_delivery=self._delivered)
            self._producer.poll(0)

    def finish(self) -> int:
        """Stop sending; returns how many orders Kafka has."""
        self._finished.set()
        self.join()
        self._producer.flush(30)
        return self.delivered

    def _delivered(self, error: KafkaError | None, _: Message) -> None:
        if error is None:
            self.delivered += 1
        else:
            self.failed += 1
