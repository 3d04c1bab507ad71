"""Broken sinks that only promise at least once, or effectively once: one per check of their contracts."""

from __future__ import annotations

import hashlib
from typing import Any

import pyarrow as pa

from airflow_provider_connect.engine.batch import Batch
from airflow_provider_connect.engine.connector import SinkContext
from airflow_provider_connect.engine.errors import Fatal, InvalidRecord
from airflow_provider_connect.testing.doubles import breaks
from airflow_provider_connect.testing.memory_sinks import MemoryIdempotentSink, MemorySink, MemoryTarget
from airflow_provider_connect.testing.sqlite import SqliteIdempotentSink


def _with_values(batch: Batch, values: list[Any]) -> Batch:
    at = batch.rows.schema.get_field_index("value")
    return batch.with_rows(batch.rows.set_column(at, batch.rows.schema.field(at), pa.array(values, pa.binary())))


@breaks("what_was_flushed_is_visible_once", "every_accepted_format_is_written")
class FlushesAgain(MemorySink):
    """What was flushed is flushed again with the next."""

    def flush(self) -> None:
        written = list(self._written)
        super().flush()
        self._written = written


@breaks("a_flush_covers_several_batches")
class KeepsTheLastBatch(MemorySink):
    """A second write replaces the first."""

    def write(self, batch: Batch) -> None:
        self._written = []
        super().write(batch)


@breaks("every_accepted_format_is_written")
class PromisesTooMuch(MemorySink):
    """accepts() names a format that write does not take."""

    def write(self, batch: Batch) -> None:
        if batch.format == "bytes":
            raise Fatal("cannot write bytes")
        super().write(batch)


@breaks("odd_values_survive")
class Ascii(MemorySink):
    """What is not ASCII gets lost."""

    def write(self, batch: Batch) -> None:
        values = batch.rows.column("value").to_pylist()
        super().write(_with_values(batch, [value.decode("ascii", "ignore").encode() for value in values]))


@breaks("a_sliced_batch_is_written_as_sliced")
class IgnoresOffsets(MemorySink):
    """Reads Arrow's buffers from their beginning."""

    def write(self, batch: Batch) -> None:
        value = batch.rows.column("value")
        whole = pa.Array.from_buffers(value.type, len(value), value.buffers())
        super().write(_with_values(batch, whole.to_pylist()))


@breaks("a_refused_batch_is_an_invalid_record_and_leaves_nothing")
class KnowsNoInvalidRecord(MemorySink):
    """A refusal is an error that nobody knows, so the flow stops at the first bad record."""

    def write(self, batch: Batch) -> None:
        try:
            super().write(batch)
        except InvalidRecord as error:
            raise ValueError(str(error)) from error


@breaks("a_refused_batch_is_an_invalid_record_and_leaves_nothing", "good_rows_can_be_written_after_a_refused_batch")
class FlushesBatchByBatch(MemorySink):
    """What comes before a refused batch stays."""

    def __init__(self, target: MemoryTarget) -> None:
        super().__init__(target)
        target.refuses_at = "flush"

    def flush(self) -> None:
        written, self._written = self._written, []
        for rows in written:
            self._written = [rows]
            super().flush()


@breaks("good_rows_can_be_written_after_a_refused_batch")
class KeepsTheRefused(MemorySink):
    """A refused batch is tried again with the next, for ever."""

    def __init__(self, target: MemoryTarget) -> None:
        super().__init__(target)
        target.refuses_at = "flush"

    def flush(self) -> None:
        written = list(self._written)
        try:
            super().flush()
        except InvalidRecord:
            self._written = written
            raise


@breaks("two_lanes_can_open_at_once")
class WantsToBeAlone(MemorySink):
    """A second sink cannot open while the first is."""

    def open(self, context: SinkContext) -> None:
        super().open(context)
        with self.target.lock:
            self.target.calls["opened"] += 1
            if self.target.calls["opened"] > 1:
                raise Fatal("relation already exists")

    def close(self) -> None:
        if self.context is not None:
            self.target.calls["opened"] -= 1
        super().close()


@breaks("can_be_opened_again_after_close", "what_was_never_flushed_is_not_written_after_opening_again")
class OpensOnce(MemorySink):
    """What `close` freed is not made again by `open`."""

    _closed = False

    def write(self, batch: Batch) -> None:
        if self._closed:
            raise Fatal("connection closed")
        super().write(batch)

    def close(self) -> None:
        super().close()
        self._closed = True


@breaks("what_was_never_flushed_is_not_written_after_opening_again")
class RemembersWrites(MemorySink):
    """What was written before `close` is flushed after `open`."""

    def open(self, context: SinkContext) -> None:
        written = self._written
        super().open(context)
        self._written = written

    def close(self) -> None:
        written = self._written
        super().close()
        self._written = written


@breaks("the_same_token_twice_is_written_once", "an_old_token_is_remembered_after_newer_ones")
class LooksAtOpen(MemoryIdempotentSink):
    """The tokens of others are known, its own are not."""

    def open(self, context: SinkContext) -> None:
        super().open(context)
        self._known = set(self.target.tokens)

    def flush(self) -> None:
        mine = self.target.tokens - self._known
        self.target.tokens -= mine
        super().flush()
        self.target.tokens |= mine


@breaks(
    "the_same_token_from_another_worker_is_written_once",
    "the_cut_into_batches_does_not_matter_to_a_token",
    "a_token_may_be_long_and_use_its_whole_alphabet",
)
class RemembersInMemory(MemoryIdempotentSink):
    """Tokens die with the object."""

    def open(self, context: SinkContext) -> None:
        super().open(context)
        self.target.tokens.clear()


@breaks("the_cut_into_batches_does_not_matter_to_a_token")
class TokensPerBatch(MemoryIdempotentSink):
    """Each batch has a token of its own, numbered in the flush."""

    def _accept(self, batches: list[pa.RecordBatch]) -> None:
        self._token = f"{self._token}/{len(batches)}"
        super()._accept(batches)


@breaks(
    "another_token_adds_even_equal_rows",
    "the_cut_into_batches_does_not_matter_to_a_token",
)
class DropsEqualRows(MemoryIdempotentSink):
    """Equal blocks are dropped, whatever their token."""

    def _accept(self, batches: list[pa.RecordBatch]) -> None:
        content = repr([rows.column("value").to_pylist() for rows in batches])
        self._token = hashlib.sha256(content.encode()).hexdigest()
        super()._accept(batches)


@breaks("an_old_token_is_remembered_after_newer_ones", "a_token_may_be_long_and_use_its_whole_alphabet")
class RemembersOne(MemoryIdempotentSink):
    """Only the last token is remembered."""

    def _accept(self, batches: list[pa.RecordBatch]) -> None:
        self.target.tokens &= {(self.flow, str(self._token))}
        super()._accept(batches)


@breaks("a_token_may_be_long_and_use_its_whole_alphabet")
class CutsTokens(MemoryIdempotentSink):
    """Tokens are cut to a hundred characters."""

    def begin(self, token: str) -> None:
        super().begin(token[:100])


@breaks(
    "a_crash_before_the_flush_is_overwritten",
    "a_refused_batch_is_an_invalid_record_and_leaves_nothing",
    "good_rows_can_be_written_after_a_refused_batch",
    "the_same_token_twice_is_written_once",
    "the_same_token_from_another_worker_is_written_once",
    "the_cut_into_batches_does_not_matter_to_a_token",
    "an_old_token_is_remembered_after_newer_ones",
    "a_token_may_be_long_and_use_its_whole_alphabet",
)
class WritesThrough(MemoryIdempotentSink):
    """Rows are visible before their token is remembered."""

    def write(self, batch: Batch) -> None:
        super().write(batch)
        self._written = []
        self.target.batches.append(batch.rows)


@breaks(
    "a_crash_before_the_flush_is_overwritten",
)
class ReservesTokens(MemoryIdempotentSink):
    """The token is taken by the first write, so the repetition of a crashed flush is dropped."""

    _mine: str | None = None

    def write(self, batch: Batch) -> None:
        if self._mine != self._token and (self.flow, str(self._token)) in self.target.tokens:
            return
        self._mine = self._token
        self.target.tokens.add((self.flow, str(self._token)))
        super().write(batch)

    def flush(self) -> None:
        self.target.tokens.discard((self.flow, str(self._token)) if self._written else ("", ""))
        super().flush()
        self._mine = None


@breaks("death_at_any_line_and_a_repetition_write_once")
class TwoTransactions(SqliteIdempotentSink):
    """Rows and token are committed one after the other."""

    def flush(self) -> None:
        written, self._written = self._written, []
        token, self._token = self._token, None
        connection = self._opened()
        known = connection.execute("SELECT 1 FROM tokens WHERE flow = ? AND token = ?", (self._flow, token)).fetchone()
        if known:
            return
        with self._transaction():
            connection.executemany(f"INSERT INTO records (flow, value) VALUES ({self._quoted_flow()}, ?)", written)
        connection.execute("INSERT INTO tokens VALUES (?, ?)", (self._flow, token))
