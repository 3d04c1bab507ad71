"""KafkaTransactionalSink: records and checkpoint in one Kafka transaction, with every split guarded by its owner."""

from __future__ import annotations

import logging
import threading
import uuid
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import pyarrow as pa
from confluent_kafka import KafkaError, KafkaException

from airflow_provider_connect.connectors.kafka.client import Cluster
from airflow_provider_connect.connectors.kafka.config import KafkaSinkConfig
from airflow_provider_connect.connectors.kafka.errors import classified
from airflow_provider_connect.connectors.kafka.ledgers import CheckpointTopic, Entry, GroupOffsets, PositionStore
from airflow_provider_connect.connectors.kafka.ownership import all_of, take_over
from airflow_provider_connect.connectors.kafka.sink import KafkaProducing
from airflow_provider_connect.connectors.kafka.source import KafkaSource
from airflow_provider_connect.connectors.kafka.targets import Targets
from airflow_provider_connect.connectors.kafka.writer import Writer
from airflow_provider_connect.engine.batch import Batch, Checkpoint
from airflow_provider_connect.engine.connector import SinkContext, TransactionalSink
from airflow_provider_connect.engine.errors import ConnectError, Fenced, Retryable

log = logging.getLogger(__name__)

_ABORT_SECONDS = 5.0
_MARGIN_SECONDS = 10.0
_FENCED_TRIES = 3

_claiming: dict[str, threading.Lock] = defaultdict(threading.Lock)
"""Lanes of one process claim one after the other, so that they do not fence each other."""


class KafkaTransactionalSink(KafkaProducing, TransactionalSink[KafkaSinkConfig]):
    """Writes topics exactly once. The checkpoint is a part of the transaction (`ledgers`), and so is the proof that
    its splits are ours (`ownership`)."""

    def __init__(self, config: KafkaSinkConfig) -> None:
        super().__init__(config)
        self._id = ""
        self._flow = ""
        self._owned: dict[str, Any] = {}
        """Claimed splits with their last committed positions; kept over `close`, until they are released."""
        self._leaving: dict[str, Entry] = {}
        self._targets: Targets | None = None
        self._store: PositionStore | None = None
        self._writer: Writer | None = None
        self._begun = False
        self._broken = False
        """Whether the open transaction can only be aborted."""
        self._accepted: list[pa.RecordBatch] = []
        self._unflushed: list[pa.RecordBatch] = []

    # --- life cycle

    def open(self, context: SinkContext) -> None:
        """Look at the topic, find the place of the checkpoints and make the producer."""
        self.close()
        self._flow = context.flow
        self._id = self._id or f"{context.flow}-{context.lane}-{uuid.uuid4().hex}"
        cluster = Cluster(self.config)
        self._targets = Targets(cluster, self.config)
        self._store = self._place(cluster, context)
        self._connect()

    def _place(self, cluster: Cluster, context: SinkContext) -> PositionStore:
        source = context.source
        if isinstance(source, KafkaSource) and Cluster(source.config).cluster_id() == cluster.cluster_id():
            source.transactional_offsets = True
            return GroupOffsets(cluster, self.config, source, context.flow)
        return CheckpointTopic(cluster, self.config, context.flow)

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
        rows = self._open_targets().address(batch.rows)
        self._in_transaction(lambda writer: writer.write(rows))
        self._unflushed.append(rows)

    def flush(self) -> None:
        """Wait until all replicas in sync have the rows."""
        if self._unflushed:
            self._in_transaction(Writer.flush)
            self._accepted += self._unflushed
            self._unflushed = []

    def abort(self) -> None:
        """Throw away the open transaction."""
        self._forget_rows()
        self._roll_back()

    def _in_transaction(self, action: Callable[[Writer], None]) -> None:
        """Do something in the open transaction; if it fails, what is unflushed is gone.

        Being fenced here only tells that one of our splits was claimed: the rows of the others are still ours, so all
        are written again in a new transaction, and `commit` finds out.
        """
        for _ in range(_FENCED_TRIES):
            try:
                action(self._resumed())
                return
            except Exception as raised:
                error = classified(self._reason(raised))
                if not isinstance(error, Fenced):
                    self._broken, self._unflushed = True, []
                    raise error from raised
                self._drop()
        raise Retryable(f"the splits of flow '{self._flow}' keep moving between workers")

    def _resumed(self) -> Writer:
        """Our producer in a transaction with all rows that we keep. Kafka has no savepoints: after a refusal what
        earlier flushes accepted is written again."""
        if self._broken:
            self._roll_back()
        writer = self._connect()
        if not self._begun:
            writer.producer.begin_transaction()
            self._begun = True
            for rows in (*self._accepted, *self._unflushed):
                writer.write(rows)
        return writer

    def _forget_rows(self) -> None:
        self._accepted, self._unflushed = [], []

    def _roll_back(self) -> None:
        writer, begun, broken = self._writer, self._begun, self._broken
        self._begun = self._broken = False
        if writer is None or not begun:
            return
        if broken:  # the producer may go on failing what comes next
            self._drop()
            return
        try:
            writer.producer.abort_transaction(_ABORT_SECONDS)
            writer.discard_failures()
        except (KafkaException, SystemError) as error:
            log.debug("aborting failed, so the next producer will: %s", error)
            self._drop()

    # --- the ledger

    def claim(self, splits: Iterable[str]) -> Checkpoint:
        """Become the owner; `ownership` says how."""
        wanted = tuple(splits)
        self._connect()
        with _claiming[self._flow]:
            entries = take_over(self._open_store(), self._flow, self._id, wanted, self._initialised, self._patience)
        self._owned |= {split: entry.position for split, entry in entries.items()}
        for split in wanted:
            self._leaving.pop(split, None)
        return _positions(entries)

    def positions(self, splits: Iterable[str]) -> Checkpoint:
        """What is stored, after a transaction of ours whose outcome is unknown has been decided."""
        wanted = tuple(splits)
        self._connect()
        entries = self._stored(wanted)
        if lost := [split for split, entry in entries.items() if entry.owner != self._id]:
            raise self._fenced(lost)
        return _positions(entries)

    def commit(self, checkpoint: Checkpoint) -> None:
        """Commit the transaction with the positions in it."""
        for _ in range(_FENCED_TRIES):
            if foreign := set(checkpoint) - set(self._owned):
                raise self._fenced(foreign)
            try:
                writer = self._resumed()
                entries = {split: Entry(position, self._id) for split, position in checkpoint.items()}
                self._open_store().stage(writer.producer, {**self._leaving, **entries})
                writer.commit()
            except Exception as raised:
                error = self._of_failed_commit(raised)
                if not isinstance(error, Fenced):
                    raise error from raised
                self._drop()
                self._connect()  # which decides the transaction, and finds out what is still ours
                if not self._has_landed(checkpoint):
                    continue
            self._begun = False
            self._forget_rows()
            self._leaving = {}
            self._owned.update(checkpoint)
            return
        raise Retryable(f"the splits of flow '{self._flow}' keep moving between workers")

    def release(self, splits: Iterable[str]) -> None:
        """Clear our name. What fails here costs the next owner no more than a moment."""
        freed = {split: Entry(self._owned.pop(split), None) for split in splits if split in self._owned}
        self._leaving |= freed
        if not freed or self._begun:
            return  # if rows of other splits are in the open transaction, their commit takes it along
        try:
            writer = self._resumed()
            self._open_store().stage(writer.producer, freed)
            writer.commit()
            self._begun = False
        except Exception as error:
            log.info("releasing %s failed: %s", ", ".join(freed), error)
            self._drop()
        self._leaving = {}

    def _of_failed_commit(self, raised: Exception) -> ConnectError:
        """The kind of a commit's error; what it leaves of the transaction is settled."""
        raised = self._reason(raised)
        error = classified(raised)
        reason: KafkaError | None = raised.args[0] if isinstance(raised, KafkaException) else None
        if self._writer is not None and reason is not None:
            error = self._writer.failure() or self._writer.trouble.explain(reason, f"committing flow '{self._flow}'")
        if isinstance(error, Fenced):
            return error
        if reason is not None and reason.txn_requires_abort():
            self._broken, self._unflushed = True, []
            return error
        self._drop()
        return error if isinstance(error, Retryable) else Retryable(f"{error}; whether it has landed is not known")

    def _has_landed(self, checkpoint: Checkpoint) -> bool:
        """Whether a commit that ended in being fenced was the last thing we did, or never happened."""
        if foreign := set(checkpoint) - set(self._owned):
            raise self._fenced(foreign)
        if all(self._owned[split] == position for split, position in checkpoint.items()):
            return False  # it would not have moved anything
        return _positions(self._stored(tuple(checkpoint))) == checkpoint

    def _reason(self, raised: Exception) -> Exception:
        return raised if self._writer is None else self._writer.reason(raised)

    def _fenced(self, splits: Iterable[str]) -> Fenced:
        names = tuple(sorted(splits))
        return Fenced(f"another worker of flow '{self._flow}' owns {', '.join(names)}", splits=names)

    # --- our producer

    def _connect(self) -> Writer:
        """Our producer. A new one first ends what an earlier one of the same id left open, then looks which of our
        splits still are ours; who takes one of them from here on fences it."""
        if self._writer is None:
            if self._store is None:
                raise RuntimeError("the sink is not open")
            self._begun = self._broken = False
            writer = self._initialised(self._id)
            try:
                if self._owned:
                    entries = self._stored(tuple(self._owned))
                    self._owned = {split: at for split, at in self._owned.items() if entries[split].owner == self._id}
            except BaseException:
                writer.close()
                raise
            self._writer = writer
        return self._writer

    def _initialised(self, transactional_id: str) -> Writer:
        writer = Writer(self.config, self._open_targets().largest, transactional_id)
        try:
            writer.initialise()
        except BaseException:
            writer.close()
            raise
        return writer

    def _stored(self, splits: tuple[str, ...]) -> dict[str, Entry]:
        return all_of(splits, self._open_store().read(splits, self._patience))

    @property
    def _patience(self) -> float:
        """Seconds after which every transaction that is open now has ended."""
        return self.config.transaction_timeout_seconds + _MARGIN_SECONDS

    def _drop(self) -> None:
        """Part from our producer; the next one decides what it left open."""
        writer, self._writer = self._writer, None
        self._begun = self._broken = False
        if writer is not None:
            writer.close()

    def _open_targets(self) -> Targets:
        if self._targets is None:
            raise RuntimeError("the sink is not open")
        return self._targets

    def _open_store(self) -> PositionStore:
        if self._store is None:
            raise RuntimeError("the sink is not open")
        return self._store


def _positions(entries: Mapping[str, Entry]) -> Checkpoint:
    return Checkpoint({split: entry.position for split, entry in entries.items() if entry.position is not None})
