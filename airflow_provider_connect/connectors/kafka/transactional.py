"""KafkaTransactionalSink: records and checkpoint in one Kafka transaction, with every split guarded by its owner."""

from __future__ import annotations

import logging
import random
import threading
import time
import uuid
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import pyarrow as pa
from confluent_kafka import KafkaError, KafkaException

from airflow_provider_connect.connectors.kafka.client import Cluster
from airflow_provider_connect.connectors.kafka.config import KafkaSinkConfig
from airflow_provider_connect.connectors.kafka.errors import FENCED, classified
from airflow_provider_connect.connectors.kafka.ledgers import CheckpointTopic, Entry, GroupOffsets, PositionStore
from airflow_provider_connect.connectors.kafka.limits import TopicLimits
from airflow_provider_connect.connectors.kafka.sink import KafkaSink, check_topic, prepare_topic
from airflow_provider_connect.connectors.kafka.source import KafkaSource
from airflow_provider_connect.connectors.kafka.writer import Writer
from airflow_provider_connect.engine.batch import Batch, Checkpoint
from airflow_provider_connect.engine.config import SinkConfig
from airflow_provider_connect.engine.connector import Sink, SinkContext, TransactionalSink
from airflow_provider_connect.engine.errors import ConnectError, Fatal, Fenced, Retryable

log = logging.getLogger(__name__)

_CALL_SECONDS = 10.0
_ABORT_SECONDS = 5.0
_MARGIN_SECONDS = 10.0

_claiming: dict[str, threading.Lock] = defaultdict(threading.Lock)
"""Lanes of one process claim one after the other, so that they do not fence each other."""


class KafkaTransactionalSink(TransactionalSink[KafkaSinkConfig]):
    """Writes a topic exactly once.

    Ownership. With every position the transactional.id of its owner is stored, in the same transaction. A stored entry
    may only be replaced by a producer with its owner's transactional.id (of `<flow>.unowned` where there is none), so
    brokers' epochs make every replacement a compare-and-set: whoever claims a split initialises a producer under the
    old owner's id, which aborts what that one had open and fences it, reads what is decided, and writes itself in as
    the owner with that same producer. If anybody else did so in between, this producer is fenced in turn, and the
    claim starts over. Nothing waits for a transaction time-out, also after kill -9.
    """

    config_type = KafkaSinkConfig

    def __init__(self, config: KafkaSinkConfig) -> None:
        super().__init__(config)
        self._id = ""
        self._flow = ""
        self._owned: dict[str, Any] = {}
        """Claimed splits with their last committed positions; kept over `close`, until they are released."""
        self._leaving: dict[str, Entry] = {}
        self._limits = TopicLimits()
        self._store: PositionStore | None = None
        self._writer: Writer | None = None
        self._begun = False
        self._broken: str | None = None
        """Why the open transaction can only be aborted."""
        self._accepted: list[pa.RecordBatch] = []
        self._unflushed: list[pa.RecordBatch] = []

    @classmethod
    def choose(cls, config: SinkConfig) -> type[Sink[Any]]:
        """By `guarantee`."""
        return KafkaSink.choose(config)

    def classify(self, error: Exception) -> ConnectError:
        """librdkafka's errors by their code."""
        return classified(error)

    def accepts(self) -> tuple[str, ...]:
        """JSON documents, and bytes of any kind."""
        return ("json", "bytes")

    # --- life cycle

    def open(self, context: SinkContext) -> None:
        """Look at the topic, find the place of the checkpoints and make the producer."""
        self.close()
        self._flow = context.flow
        self._id = self._id or f"{context.flow}-{context.lane}-{uuid.uuid4().hex}"
        cluster = Cluster(self.config)
        self._limits = prepare_topic(cluster, self.config)
        self._store = self._place(cluster, context)
        self._connect()

    def _place(self, cluster: Cluster, context: SinkContext) -> PositionStore:
        source = context.source
        if isinstance(source, KafkaSource) and Cluster(source.config).cluster_id() == cluster.cluster_id():
            source.transactional_offsets = True
            return GroupOffsets(cluster, self.config, source, context.flow)
        return CheckpointTopic(cluster, self.config, context.flow)

    def check(self) -> str:
        """Ask for the topic."""
        return check_topic(self.config)

    def close(self) -> None:
        """Free the clients. The brokers abort an open transaction when it times out, or when its splits are claimed."""
        self._drop()
        self._forget_rows()
        store, self._store = self._store, None
        if store is not None:
            store.close()

    # --- rows

    def write(self, batch: Batch) -> None:
        """Queue the rows in the open transaction, beginning one where there is none."""
        self._limits.check(batch.rows)
        self._resume()
        self._unflushed.append(batch.rows)
        self._step(lambda writer: writer.write(batch.rows))

    def flush(self) -> None:
        """Wait until all replicas in sync have the rows."""
        self._resume()
        self._step(Writer.flush)
        self._accepted += self._unflushed
        self._unflushed = []

    def abort(self) -> None:
        """Throw away the open transaction."""
        self._forget_rows()
        self._roll_back()

    def _resume(self) -> None:
        """An open transaction with all that earlier flushes accepted; a Kafka transaction has no savepoint to go back
        to, so after a refusal these rows are written again."""
        writer = self._connect()
        if self._broken is not None:
            self._roll_back()
            writer = self._connect()
        if self._begun:
            return
        writer.producer.begin_transaction()
        self._begun = True
        for rows in self._accepted:
            self._step(lambda writer, rows=rows: writer.write(rows))  # type: ignore[misc]

    def _step(self, action: Callable[[Writer], None]) -> None:
        """Do something in the transaction; if it fails, what is unflushed is gone with it."""
        writer = self._connect()
        try:
            action(writer)
        except Exception as error:
            self._broken = str(error)
            self._unflushed = []
            found = classified(error)
            if isinstance(found, Fenced):
                self._drop()
                found = self._fenced_or_retryable(found)
            raise found from error

    def _forget_rows(self) -> None:
        self._accepted, self._unflushed = [], []

    def _roll_back(self) -> None:
        writer, begun = self._writer, self._begun
        self._begun, self._broken = False, None
        if writer is None or not begun:
            return
        try:
            writer.producer.abort_transaction(_ABORT_SECONDS)
            writer.discard_failures()
        except KafkaException as error:
            log.debug("aborting failed, so a new producer will: %s", error)
            self._drop()

    # --- the ledger

    def claim(self, splits: Iterable[str]) -> Checkpoint:
        """Become the owner; see the class."""
        wanted = tuple(splits)
        self._connect()
        until = time.monotonic() + self.config.transaction_timeout_seconds + _MARGIN_SECONDS
        with _claiming[self._flow]:
            attempt = 0
            while (entries := self._take_over(wanted, until)) is None:
                if time.monotonic() > until:
                    raise Retryable(f"claiming {', '.join(wanted)}: others kept claiming them too")
                attempt += 1
                time.sleep(random.uniform(0.0, min(2.0, 0.05 * 2 ** min(attempt, 6))))
        self._owned |= {split: entry.position for split, entry in entries.items()}
        for split in wanted:
            self._leaving.pop(split, None)
        return _positions(entries)

    def _take_over(self, splits: tuple[str, ...], until: float) -> dict[str, Entry] | None:
        """One try to become the owner; None if somebody else was quicker."""
        store = self._open_store()
        by_id: dict[str, Writer] = {}
        unowned = f"{self._flow}.unowned"
        try:
            owners = {unowned} | store.glance(splits)
            while missing := owners - by_id.keys() - {self._id}:
                for owner in missing:
                    by_id[owner] = self._initialised(owner)
                entries = self._all(splits, store.read(splits, max(1.0, until - time.monotonic())))
                owners = {entry.owner or unowned for entry in entries.values()}
            taken: dict[str, dict[str, Entry]] = defaultdict(dict)
            for split, entry in entries.items():
                if entry.owner != self._id:
                    taken[entry.owner or unowned][split] = Entry(entry.position, self._id)
            for owner, changes in taken.items():
                producer = by_id[owner].producer
                producer.begin_transaction()
                store.stage(producer, changes)
                self._commit_transaction(by_id[owner])
            # What was staged for a split without a position may have given it one.
            return self._all(splits, store.read(splits, max(1.0, until - time.monotonic()))) if taken else entries
        except KafkaException as error:
            if error.args[0].code() in FENCED:
                return None
            raise classified(error) from error
        finally:
            for writer in by_id.values():
                writer.close()

    @staticmethod
    def _all(splits: Iterable[str], entries: Mapping[str, Entry]) -> dict[str, Entry]:
        return {split: entries.get(split, Entry()) for split in splits}

    def positions(self, splits: Iterable[str]) -> Checkpoint:
        """What is stored, after a transaction of ours whose outcome is unknown has been decided."""
        wanted = tuple(splits)
        self._connect()
        return _positions(self._verified(wanted))

    def commit(self, checkpoint: Checkpoint) -> None:
        """Commit the transaction with the positions in it."""
        if foreign := tuple(sorted(set(checkpoint) - set(self._owned))):
            raise Fenced(f"{', '.join(foreign)} of flow '{self._flow}' are not ours", splits=foreign)
        self._resume()
        store, writer = self._open_store(), self._connect()
        entries = {split: Entry(position, self._id) for split, position in checkpoint.items()}
        try:
            store.stage(writer.producer, {**self._leaving, **entries})
            self._commit_transaction(writer)
        except (KafkaException, BufferError) as error:
            raise self._after_failed_commit(error, writer) from error
        self._begun = False
        self._leaving = {}
        self._forget_rows()
        self._owned.update(checkpoint)

    def release(self, splits: Iterable[str]) -> None:
        """Clear our name. What fails here costs the next owner no more than a moment."""
        freed = {split: Entry(self._owned.pop(split), None) for split in splits if split in self._owned}
        if not freed:
            return
        self._leaving |= freed
        if self._begun:
            return  # rows of other splits are in the open transaction: their commit takes it along
        try:
            writer = self._connect()
            writer.producer.begin_transaction()
            self._begun = True
            self._open_store().stage(writer.producer, freed)
            self._commit_transaction(writer)
            self._begun = False
        except (KafkaException, BufferError, ConnectError) as error:
            log.info("releasing %s failed: %s", ", ".join(freed), error)
            self._drop()
        self._leaving = {}

    # --- transactions

    def _commit_transaction(self, writer: Writer) -> None:
        """Commit; what librdkafka calls retriable is tried again for a few seconds, as it asks for."""
        until = time.monotonic() + _CALL_SECONDS
        while True:
            try:
                writer.producer.commit_transaction(_CALL_SECONDS)
                return
            except KafkaException as error:
                if not error.args[0].retriable() or time.monotonic() > until:
                    raise

    def _after_failed_commit(self, error: Exception, writer: Writer) -> ConnectError:
        """The ConnectError of a commit that did not succeed; the transaction is over in any case."""
        reason: KafkaError | None = error.args[0] if isinstance(error, KafkaException) else None
        found = writer.failure() or (
            writer.trouble.explain(reason, f"committing to topic '{self.config.topic}'")
            if reason is not None
            else Retryable(f"committing to topic '{self.config.topic}': {error}")
        )
        if reason is not None and reason.txn_requires_abort() and not isinstance(found, Fenced):
            self._broken = str(reason)
            self._unflushed = []
            return found if not isinstance(found, Fatal) else Retryable(str(found))
        self._drop()
        if isinstance(found, Fenced):
            return self._fenced_or_retryable(found)
        return Retryable(f"{found}; whether it has landed is not known")

    def _fenced_or_retryable(self, error: ConnectError) -> ConnectError:
        """Our producer was fenced: by a new owner, or because its transaction took too long?"""
        try:
            self._connect()
        except ConnectError as found:
            return found
        return Retryable(f"{error}; but no other owner is stored, so the transaction was aborted by the brokers")

    def _connect(self) -> Writer:
        """Our producer. A new one first ends what an earlier one of the same id left open, then looks whether our
        splits still are ours: who would take them from us from here on would fence it."""
        if self._writer is None:
            if not self._flow:
                raise RuntimeError("the sink is not open")
            self._begun, self._broken = False, None
            writer = self._initialised(self._id)
            try:
                if self._owned:
                    self._verified(tuple(self._owned))
            except BaseException:
                writer.close()
                raise
            self._writer = writer
        return self._writer

    def _initialised(self, transactional_id: str) -> Writer:
        writer = Writer(self.config, self._limits, transactional_id)
        until = time.monotonic() + _CALL_SECONDS
        while True:
            try:
                writer.producer.init_transactions(_CALL_SECONDS)
                return writer
            except KafkaException as error:
                reason: KafkaError = error.args[0]
                if not reason.retriable() or time.monotonic() > until or writer.trouble.refused:
                    writer.close()
                    raise writer.trouble.explain(reason, f"transactional id '{transactional_id}'") from error

    def _verified(self, splits: tuple[str, ...]) -> dict[str, Entry]:
        """What is stored of the splits. Fenced if one of them has another owner."""
        patience = self.config.transaction_timeout_seconds + _MARGIN_SECONDS
        entries = self._all(splits, self._open_store().read(splits, patience))
        lost = tuple(sorted(split for split, entry in entries.items() if entry.owner != self._id))
        if lost:
            raise Fenced(f"another worker of flow '{self._flow}' owns {', '.join(lost)}", splits=lost)
        return entries

    def _drop(self) -> None:
        """Part from our producer; the next one decides what it left open."""
        writer, self._writer = self._writer, None
        self._begun, self._broken = False, None
        self._unflushed = []
        if writer is not None:
            writer.close()

    def _open_store(self) -> PositionStore:
        if self._store is None:
            raise RuntimeError("the sink is not open")
        return self._store


def _positions(entries: Mapping[str, Entry]) -> Checkpoint:
    return Checkpoint({split: entry.position for split, entry in entries.items() if entry.position is not None})
