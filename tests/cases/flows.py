"""Flows between real servers in this process, their records, and how they are counted."""

import json
import threading
from collections import Counter

from airflow_provider_connect.engine.flow import dataflow
from airflow_provider_connect.engine.plan import Limits, Summary
from airflow_provider_connect.engine.worker import Worker
from tests.engine.flows import Running

PER_COMMIT = {"batchSize": 50, "batchFlushIntervalSeconds": 1}
PATIENT = {"attempts": 200, "firstSeconds": 0.05, "longestSeconds": 0.5}
"""A retry policy that outlasts what tests do to a server."""


def flow(name: str, source: tuple, sink: tuple, **spec):
    """A flow of small batches that does not give up."""
    return dataflow(name, source=source, sink=sink, **{"retry": PATIENT, "readRecords": 50, **spec})


def drain(*arguments, **spec) -> Summary:
    """Run a flow to its end."""
    return Worker(flow(*arguments, **spec).plan(), Limits(mode="drain")).run()


def running(*arguments, **spec) -> Running:
    """Run a flow for as long as the block lasts."""
    return Running(flow(*arguments, **spec).plan())


def from_kafka(kafka, topic: str, **settings) -> tuple:
    return "kafka", {"brokers": [kafka.bootstrap_servers], "topic": topic, **settings}


def to_kafka(brokers: str, topic: str, **settings) -> tuple:
    return "kafka", {"brokers": [brokers], "topic": topic, **PER_COMMIT, **settings}


def from_postgresql(postgresql, table: str, **settings) -> tuple:
    return "postgresql", {"connectionString": postgresql.dsn, "table": table, "pollInterval": 0.2, **settings}


def to_postgresql(postgresql, table: str, **settings) -> tuple:
    return "postgresql", {"connectionString": postgresql.dsn, "table": table, **PER_COMMIT, **settings}


def keyed(start: int, count: int) -> list[tuple[bytes, bytes]]:
    """Records with keys of their own."""
    return [(str(i).encode(), json.dumps({"id": i}).encode()) for i in range(start, start + count)]


def assert_each_once(ids: list[int], wanted: int) -> None:
    """Counted by key: of 0 … wanted - 1 nothing is missing, nothing is there twice, and nothing else is."""
    counted = Counter(ids)
    assert {i: n for i, n in counted.items() if n > 1} == {}, "repeated"
    assert set(range(wanted)) - set(counted) == set(), "lost"
    assert len(counted) == wanted


class Repeatedly:
    """Does something again and again on a thread for as long as the block lasts, `pause()` seconds in between."""

    def __init__(self, action, pause) -> None:
        self._action, self._pause = action, pause
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.times = 0

    def _run(self) -> None:
        while not self._done.wait(self._pause()):
            self._action()
            self.times += 1

    def __enter__(self) -> "Repeatedly":
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._done.set()
        self._thread.join()
