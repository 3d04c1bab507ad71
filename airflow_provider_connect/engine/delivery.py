"""Delivery: from a batch to its commit, and back to the last commit when something fails.

The commit, in the order that the guarantees rest on:

    1. the sink accepts everything written (`flush`; an idempotent sink under a token whose range was logged first);
    2. the dead letters of the same stretch are durable;
    3. the ledger commits the checkpoint: for a transactional sink together with the rows.

Batches are kept until then, so that a refused bulk load can be taken apart and a broken connection started over.
"""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from airflow_provider_connect.engine.batch import Batch, Checkpoint
from airflow_provider_connect.engine.checkpoints import CheckpointStore, Intent
from airflow_provider_connect.engine.connector import IdempotentSink, Sink, TransactionalSink
from airflow_provider_connect.engine.dead_letters import DeadLetters
from airflow_provider_connect.engine.errors import ConnectError, Fatal, Fenced, InvalidRecord
from airflow_provider_connect.engine.formats import Conversion
from airflow_provider_connect.engine.ledger import Ledger
from airflow_provider_connect.engine.transform import Transform


@dataclass(frozen=True, slots=True)
class Committed:
    """What one commit made durable. `oldest` is the earliest record's timestamp, epoch seconds, where it has one."""

    checkpoint: Checkpoint
    records: int
    bytes: int
    dead_letters: int
    seconds: float
    oldest: float | None


class Delivery:
    """One lane's way into its sink. All methods belong to the lane's writer thread.

    Errors that escape are ConnectErrors: after Retryable call `restore` on a sink that was opened again, after any
    other call `discard` or leave.
    """

    def __init__(
        self,
        flow: str,
        lane: str,
        sink: Sink[Any],
        ledger: Ledger,
        store: CheckpointStore | None,
        dead_letters: DeadLetters,
        conversion: Conversion,
        transforms: Sequence[Transform[Any]],
    ) -> None:
        self._flow, self._lane = flow, lane
        self._sink, self._ledger, self._store = sink, ledger, store
        self._dead_letters = dead_letters
        self._conversion, self._transforms = conversion, transforms
        self._owned = Checkpoint()
        self._claimed: set[str] = set()
        self._intent: Intent | None = None
        self._repeated: Intent | None = None
        self._sequence = 0
        self._careful = False
        self.discard()

    # --- ownership

    def claim(self, splits: Iterable[str]) -> Checkpoint:
        """Own these splits from now on; returns their stored positions. Nothing may be uncommitted."""
        positions: Checkpoint = self._sorted(lambda: self._ledger.claim(splits))
        self._claimed.update(splits)
        self._owned = self._owned.advance(positions)
        return positions

    def release(self, splits: Iterable[str]) -> None:
        """Give splits up in good order. Nothing may be uncommitted."""
        held = [split for split in splits if split in self._claimed]
        if held:
            self._sorted(lambda: self._ledger.release(held))
        self.forget(held)

    def forget(self, splits: Iterable[str]) -> None:
        """These splits are not ours any more."""
        gone = set(splits)
        self._claimed -= gone
        self._owned = self._owned.only(self._claimed)

    @property
    def claimed(self) -> frozenset[str]:
        """The splits that are ours."""
        return frozenset(self._claimed)

    # --- rows

    @property
    def pending(self) -> bool:
        """Whether anything is uncommitted."""
        return bool(self._batches)

    def add(self, batch: Batch) -> None:
        """Take a batch, and pass its rows on unless the sink wants the whole flush at once."""
        self._batches.append(batch)
        self.records += len(batch)
        self.bytes += batch.nbytes
        if isinstance(self._sink, IdempotentSink):
            return
        if self._careful:
            self._write_apart(batch)
            return
        try:
            self._write(batch)
        except InvalidRecord as error:
            self._take_apart(error)

    def commit(self) -> Committed:
        """Make everything added since the last commit durable, together with its checkpoint."""
        began = time.monotonic()
        checkpoint = Checkpoint()
        for batch in self._batches:
            checkpoint = checkpoint.advance(batch.checkpoint)
        if self._sequence == 0 and self._store is not None and isinstance(self._sink, IdempotentSink):
            self._sequence = self._last_sequence()
        try:
            if isinstance(self._sink, IdempotentSink):
                self._write_under_token(self._sink, checkpoint)
            self._sorted(self._sink.flush)
        except InvalidRecord as error:
            self._take_apart(error)
        dead = self._dead_letters.flush(checkpoint)
        try:
            self._commit_checkpoint(checkpoint)
        except InvalidRecord as error:
            # A constraint that the target only checks at its commit.
            self._take_apart(error)
            dead += self._dead_letters.flush(checkpoint)
            self._commit_checkpoint(checkpoint)
        committed = Committed(checkpoint, self.records, self.bytes, dead, time.monotonic() - began, self._oldest())
        self._owned = self._owned.advance(checkpoint)
        self.discard()
        return committed

    def discard(self) -> None:
        """Forget everything uncommitted; the source will be read from the last commit again."""
        self._batches: list[Batch] = []
        self._careful = False
        self._in_doubt: Checkpoint | None = None
        self.records = 0
        self.bytes = 0
        self._dead_letters.forget()

    def abort(self) -> None:
        """Discard, also in the sink."""
        if isinstance(self._sink, TransactionalSink):
            self._sink.abort()
        self.discard()

    def restore(self) -> Committed | None:
        """Bring the sink, newly opened after an error, to where it was: everything uncommitted is written again.

        If the error left a commit in doubt and it turns out to have landed, returns it and nothing is pending.
        """
        if self._claimed and (self._in_doubt is not None or isinstance(self._sink, TransactionalSink)):
            stored = self._sorted(lambda: self._ledger.positions(self._claimed))
            before = self._owned.only(self._claimed)
            if self._in_doubt is not None and stored == before.advance(self._in_doubt):
                landed = Committed(self._in_doubt, self.records, self.bytes, 0, 0.0, self._oldest())
                self._owned = self._owned.advance(self._in_doubt)
                self.discard()
                return landed
            if stored != before:
                raise Fenced(
                    f"the positions of flow '{self._flow}' moved under us", splits=tuple(sorted(self._claimed))
                )
        self._in_doubt = None
        self._dead_letters.forget()
        if not isinstance(self._sink, IdempotentSink):
            self._careful = False
            try:
                for batch in self._batches:
                    self._write(batch)
            except InvalidRecord as error:
                self._take_apart(error)
        return None

    # --- how

    def _commit_checkpoint(self, checkpoint: Checkpoint) -> None:
        self._in_doubt = checkpoint
        try:
            self._sorted(lambda: self._ledger.commit(checkpoint))
        except InvalidRecord:
            self._in_doubt = None
            raise

    def _write(self, batch: Batch) -> None:
        rows = self._convert(batch)
        if rows.num_rows:
            converted = batch if rows is batch.rows else batch.with_rows(rows)
            self._sorted(lambda: self._sink.write(converted))

    def _convert(self, batch: Batch) -> pa.RecordBatch:
        """The rows as the sink wants them; those that cannot be converted become dead letters."""
        while True:
            try:
                return self._conversion.apply(batch, self._transforms)
            except InvalidRecord as error:
                if not error.rows:
                    raise
                self._dead_letters.add(batch.rows, error.rows, "invalid_record")
                batch = batch.with_rows(_without(batch.rows, error.rows))

    def _take_apart(self, refused: InvalidRecord) -> None:
        """Find the rows that the sink refuses, set them aside and write all others again."""
        if isinstance(self._sink, TransactionalSink):
            self._sink.abort()
        elif isinstance(self._sink, IdempotentSink) and not self._dead_letters.passed:
            # The flow stops, and may be mended: then the whole flush comes again under its token, and none of its rows
            # may be there already under that of a part.
            first, last = self._batches[0].rows, self._batches[-1].rows
            self._dead_letters.stop(first.slice(0, 1), last.slice(last.num_rows - 1), refused)
        self._dead_letters.forget()
        self._careful = True
        if isinstance(self._sink, IdempotentSink):
            converted = [batch.with_rows(rows) for batch in self._batches if (rows := self._convert(batch)).num_rows]
            self._write_span(self._sink, converted, 0, sum(map(len, converted)), frozenset())
        else:
            for batch in self._batches:
                self._write_apart(batch)

    def _write_span(
        self, sink: IdempotentSink[Any], batches: Sequence[Batch], start: int, stop: int, refused: frozenset[int]
    ) -> None:
        """Write the rows of a flush from `start` to `stop`, but for those that are known to be refused.

        The token is made of the rows' places in the flush, so it means the same rows when the flush is repeated after
        a crash, though it may be cut into other batches then. For the same reason a refusal that names rows has the
        whole span written again, without them, and only one that does not is answered by halving.
        """
        left = [place for place in range(start, stop) if place not in refused]
        if not left:
            return
        assert self._intent is not None
        token = f"{self._intent.token}-{start}-{stop}{_digest(sorted(refused)) if refused else ''}"
        self._sorted(lambda: sink.begin(token))
        try:
            first = 0
            for batch in batches:
                places = [place for place in left if first <= place < first + len(batch)]
                rows = batch.rows.take(pa.array([place - first for place in places], pa.int64()))
                first += len(batch)
                if not places:
                    continue
                try:
                    self._sorted(lambda: sink.write(batch.with_rows(rows)))  # noqa: B023  # called at once
                except InvalidRecord as error:
                    if not error.rows:
                        raise
                    self._dead_letters.add(rows, error.rows, "invalid_record")
                    named = {places[row] for row in error.rows}
                    self._write_span(sink, batches, start, stop, refused | named)
                    return
            self._sorted(sink.flush)
        except InvalidRecord as error:
            if len(left) > 1:
                middle = left[len(left) // 2]
                self._write_span(sink, batches, start, middle, refused)
                self._write_span(sink, batches, middle, stop, refused)
                return
            first = 0
            for batch in batches:
                if first <= left[0] < first + len(batch):
                    reason = next(iter(error.rows.values()), str(error)) if error.rows else str(error)
                    self._dead_letters.add(batch.rows.slice(left[0] - first, 1), {0: reason}, "invalid_record")
                first += len(batch)

    def _write_apart(self, batch: Batch) -> None:
        rows = self._convert(batch)
        if rows.num_rows:
            self._write_halving(rows, batch.checkpoint)

    def _write_halving(self, rows: pa.RecordBatch, checkpoint: Checkpoint) -> None:
        try:
            self._sorted(lambda: self._sink.write(Batch(rows, checkpoint)))
            self._sorted(self._sink.flush)
        except InvalidRecord as error:
            if error.rows:
                self._dead_letters.add(rows, error.rows, "invalid_record")
                rest = _without(rows, error.rows)
                if rest.num_rows:
                    self._write_halving(rest, checkpoint)
            elif rows.num_rows == 1:
                self._dead_letters.add(rows, {0: str(error)}, "invalid_record")
            else:
                middle = rows.num_rows // 2
                self._write_halving(rows.slice(0, middle), checkpoint)
                self._write_halving(rows.slice(middle), checkpoint)

    def _write_under_token(self, sink: IdempotentSink[Any], checkpoint: Checkpoint) -> None:
        start = self._owned.only(checkpoint)
        if self._repeated is not None and (self._repeated.start, self._repeated.end) != (start, checkpoint):
            raise Fatal(
                f"the source did not give the range of the interrupted flush {self._repeated.token} again: "
                f"wanted {self._repeated.start} to {self._repeated.end}, got {start} to {checkpoint}"
            )
        if self._intent is None or (self._intent.start, self._intent.end) != (start, checkpoint):
            self._sequence += 1
            self._intent = Intent(_token(self._flow, self._lane, self._sequence, start, checkpoint), start, checkpoint)
            if self._store is not None:
                self._store.log_intent(self._flow, self._lane, self._intent)
        token = self._intent.token
        self._sorted(lambda: sink.begin(token))
        for batch in self._batches:
            self._write(batch)

    def resume(self, intent: Intent) -> None:
        """The next commit is the repetition of `intent`."""
        self._intent = self._repeated = intent

    def _last_sequence(self) -> int:
        assert self._store is not None
        intents = self._store.intents(self._flow).values()
        sequences = [re.search(r"-(\d{12})-[0-9a-f]+$", intent.token) for intent in intents]
        return max((int(found[1]) for found in sequences if found), default=0)

    def _oldest(self) -> float | None:
        for batch in self._batches:
            if "timestamp" in batch.rows.schema.names and pa.types.is_timestamp(
                batch.rows.schema.field("timestamp").type
            ):
                first = pc.min(batch.rows.column("timestamp")).as_py()
                return first.timestamp() if first is not None else None
            return None
        return None

    def _sorted(self, call: Any) -> Any:
        """Run a call of the sink or ledger; what escapes is a ConnectError."""
        try:
            return call()
        except ConnectError:
            raise
        except Exception as error:
            raise self._sink.classify(error) from error


def _without(rows: pa.RecordBatch, refused: Iterable[int]) -> pa.RecordBatch:
    gone = set(refused)
    return rows.take(pa.array([i for i in range(rows.num_rows) if i not in gone], pa.int64()))


def _token(flow: str, lane: str, sequence: int, start: Checkpoint, end: Checkpoint) -> str:
    readable = re.sub(r"[^A-Za-z0-9._=-]", "_", f"{flow}-{lane}")[:120]
    return f"{readable}-{sequence:012d}{_digest([flow, lane, start, end])}"


def _digest(what: Any) -> str:
    return f"-{hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:12]}"
