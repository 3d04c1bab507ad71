"""Writer: a producer that takes Arrow rows and does not lose sight of a single failed record."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable
from itertools import repeat
from operator import length_hint
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from confluent_kafka import KafkaError, KafkaException, Message, Producer

from airflow_provider_connect.connectors.kafka.client import Trouble, producer_properties
from airflow_provider_connect.connectors.kafka.config import KafkaSinkConfig
from airflow_provider_connect.connectors.kafka.errors import sorted_error
from airflow_provider_connect.connectors.kafka.routing import Routing
from airflow_provider_connect.engine.errors import ConnectError, Retryable

log = logging.getLogger(__name__)

_ANY_PARTITION = -1
_NOW = 0
_NO_TOPIC = "-"
"""Of which nobody knows anything, to ask for the brokers alone."""
_MARGIN_SECONDS = 5.0
CALL_SECONDS = 10.0
"""How long a call of the transactional API may take."""


class Writer:
    """One librdkafka producer. All methods belong to one thread; errors escape as ConnectErrors."""

    def __init__(self, config: KafkaSinkConfig, largest: int, transactional_id: str | None = None) -> None:
        """`largest`: bytes of the largest request that the topics take."""
        routing = Routing(config)
        self._topic = routing.topic
        self._where = f"{routing.label} at {', '.join(config.brokers)}"
        self._failed: list[KafkaError] = []
        self._failures = 0
        self.trouble = Trouble()
        properties = producer_properties(config, self.trouble, max(largest, 1_000))
        if transactional_id is not None:
            properties["transactional.id"] = transactional_id
            properties["transaction.timeout.ms"] = config.transaction_timeout_seconds * 1000
        self._patience = properties["message.timeout.ms"] / 1000 + _MARGIN_SECONDS
        try:
            self.producer = Producer({**properties, "on_delivery": self._delivered}, logger=log)
        except KafkaException as error:
            raise sorted_error(error.args[0], "librdkafka refuses the configuration") from error

    def write(self, rows: pa.RecordBatch) -> None:
        """Pass envelope rows on that have their addresses; see `Targets`."""
        columns = self._columns(rows)
        values = columns[1]
        produce, count = self.producer.produce, len(rows)
        while True:
            try:
                deque(map(produce, *columns), maxlen=0)
                break
            except BufferError:
                # map() has taken the refused record from the iterators: go back by one.
                at = count - length_hint(values) - 1
                self._make_room()
                rows = rows.slice(at)
                columns = self._columns(rows)
                values, count = columns[1], len(rows)
            except KafkaException as error:
                raise self.trouble.explain(error.args[0], self._where) from error
        self.producer.poll(0)
        if self._failures:
            self.flush()

    def flush(self) -> None:
        """Wait until the brokers have accepted every record; raise what became of one that they did not."""
        left = self.producer.flush(self._patience)
        if (error := self.failure()) is not None:
            raise error
        if left:
            reason = f" ({self.trouble.last.str()})" if self.trouble.last is not None else ""
            raise Retryable(f"{self._where}: {left} records not accepted within {self._patience:g} s{reason}")

    def failure(self) -> ConnectError | None:
        """What became of records that the brokers did not accept, since this was last asked."""
        failed, self._failed, failures, self._failures = self._failed, [], self._failures, 0
        if not failed:
            return None
        # What a person or the worker must act on outranks what follows from it.
        errors = [self.trouble.explain(error, self._where) for error in failed]
        worst = next((error for error in errors if not isinstance(error, Retryable)), errors[0])
        worst.args = (f"{failures} records were not delivered: {worst}",)
        return worst

    def reason(self, raised: Exception) -> Exception:
        """What is behind an exception of this producer. The client library raises a fatal error from within its
        callbacks, where the next callback may turn it into a SystemError; the next call then tells the error again."""
        if not isinstance(raised, SystemError):
            return raised
        try:
            self.producer.begin_transaction()
        except KafkaException as error:
            return error
        return Retryable(f"{self._where}: {raised}")

    def discard_failures(self) -> None:
        """The records that failed were thrown away on purpose."""
        self.producer.poll(0)
        self._failed, self._failures = [], 0

    def initialise(self) -> None:
        """Become the one producer with our transactional.id: what another one has open is aborted, and it is fenced."""
        try:
            # Where no broker is connected yet, looking for the coordinator takes half a second more. The first call
            # returns from a bootstrap connection, the second from one that counts.
            for _ in range(2):
                self.producer.list_topics(self._topic or _NO_TOPIC, CALL_SECONDS)
            self._patiently(lambda: self.producer.init_transactions(CALL_SECONDS))
        except KafkaException as error:
            raise self.trouble.explain(error.args[0], f"beginning transactions at {self._where}") from error

    def commit(self) -> None:
        """Commit the open transaction; KafkaException if that fails."""
        self._patiently(lambda: self.producer.commit_transaction(CALL_SECONDS))

    def _patiently(self, call: Callable[[], None]) -> None:
        """Call again after an error that librdkafka asks to be tried again, for a few seconds."""
        until = time.monotonic() + CALL_SECONDS
        while True:
            try:
                call()
                return
            except KafkaException as error:
                if not error.args[0].retriable() or time.monotonic() > until or self.trouble.refused is not None:
                    raise

    def close(self) -> None:
        """Throw away what is queued and free the producer; waits for no broker."""
        try:
            self.producer.purge()
        except KafkaException as error:
            log.debug("purging the producer's queue failed: %s", error)
        del self.producer

    def _columns(self, rows: pa.RecordBatch) -> list[Any]:
        """The arguments of `produce` as columns, the value second."""
        topics = repeat(self._topic) if self._topic is not None else iter(rows.column("topic").to_pylist())
        return [topics, *map(iter, _columns(rows))]

    def _delivered(self, error: KafkaError | None, message: Message) -> None:
        if error is not None:
            self._failures += 1
            if len(self._failed) < 100:
                self._failed.append(error)

    def _make_room(self) -> None:
        """Wait until a good part of the queue is sent; its records fail by themselves if that takes too long."""
        until = time.monotonic() + self._patience
        enough = len(self.producer) * 3 // 4
        while len(self.producer) > enough and not self._failures:
            self.producer.poll(0.02)
            if time.monotonic() > until:
                raise Retryable(f"{self._where}: the brokers take nothing any more")


def _columns(rows: pa.RecordBatch) -> list[Any]:
    """The arguments of `produce` after the topic, as columns; the later ones only if they are not the default."""
    values, keys = rows.column("value").to_pylist(), rows.column("key").to_pylist()
    timestamps, headers = rows.column("timestamp"), rows.column("headers")
    columns: list[Any] = [values, keys]
    with_headers = headers.null_count < len(headers)
    if timestamps.null_count < len(timestamps) or with_headers:
        milliseconds = timestamps.cast(pa.timestamp("ms", tz="UTC"), safe=False).view(pa.int64())
        # Kafka has no time before 1970; and to librdkafka 0 means now.
        milliseconds = pc.max_element_wise(milliseconds, _NOW)
        columns += [repeat(_ANY_PARTITION), repeat(None), repeat(None), milliseconds.to_pylist()]
    if with_headers:
        pairs = [[(h["key"], h["value"]) for h in row] if row else None for row in headers.to_pylist()]
        columns.append(pairs)
    return columns
