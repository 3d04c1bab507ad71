"""Broken transactional sinks, one per check of TransactionalSinkContract."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import pyarrow as pa

from airflow_provider_connect.engine.batch import Batch, Checkpoint
from airflow_provider_connect.engine.connector import SinkContext
from airflow_provider_connect.engine.errors import Fatal, Fenced, InvalidRecord
from airflow_provider_connect.testing.doubles import breaks
from airflow_provider_connect.testing.memory_sinks import MemoryTransactionalSink
from airflow_provider_connect.testing.sqlite import SqliteTransactionalSink


@breaks(
    "nothing_is_visible_before_commit",
    "a_commit_of_several_splits_is_all_or_none",
    "a_zombie_is_fenced_and_its_rows_are_not_written",
    "abort_leaves_no_trace",
    "close_commits_nothing",
    "several_flushes_are_one_commit",
    "two_lanes_with_open_transactions_both_commit",
)
class VisibleAtFlush(MemoryTransactionalSink):
    """A reader sees what was flushed."""

    def _accept(self, batches: list[pa.RecordBatch]) -> None:
        super()._accept(batches)
        self.target.batches.extend(self._flushed)
        self._flushed = []


@breaks(
    "claim_returns_what_was_committed",
    "a_released_split_goes_on_with_another_owner",
    "an_empty_commit_moves_the_positions",
    "every_commit_adds_its_rows_once",
    "flows_do_not_share_checkpoints",
    "positions_of_every_kind_survive",
    "splits_do_not_share_checkpoints",
    "the_last_claim_wins",
    "two_lanes_with_open_transactions_both_commit",
)
class Forgets(MemoryTransactionalSink):
    """A new owner starts from the beginning."""

    def claim(self, splits: Iterable[str]) -> Checkpoint:
        super().claim(splits)
        return Checkpoint()


@breaks(
    "every_commit_adds_its_rows_once",
    "every_accepted_format_is_written",
    "what_was_flushed_is_visible_once",
)
class CommitsAgain(MemoryTransactionalSink):
    """What was committed is committed again with the next."""

    def commit(self, checkpoint: Checkpoint) -> None:
        flushed = self._flushed
        super().commit(checkpoint)
        self._flushed = flushed


@breaks(
    "several_flushes_are_one_commit",
    "a_flush_is_a_savepoint",
)
class KeepsTheLastFlush(MemoryTransactionalSink):
    """A second flush replaces the first."""

    def _accept(self, batches: list[pa.RecordBatch]) -> None:
        if batches:
            self._flushed = []
        super()._accept(batches)


@breaks(
    "abort_leaves_no_trace",
    "a_commit_of_several_splits_is_all_or_none",
)
class AbortsHalf(MemoryTransactionalSink):
    """abort() forgets what was written, but not what was flushed."""

    def abort(self) -> None:
        self._written = []


@breaks("abort_never_raises")
class AbortsNoTransaction(MemoryTransactionalSink):
    """abort() on a connection that is gone raises."""

    def abort(self) -> None:
        if self.context is None:
            raise Fatal("connection is closed")
        super().abort()


@breaks("close_commits_nothing")
class CommitsAtClose(MemoryTransactionalSink):
    """close() ends the transaction by committing it."""

    def close(self) -> None:
        self.target.batches.extend(self._flushed)
        super().close()


@breaks(
    "an_empty_commit_moves_the_positions",
    "a_commit_of_several_splits_is_all_or_none",
    "a_released_split_goes_on_with_another_owner",
    "a_zombie_stays_fenced",
    "claims_survive_close_and_open",
    "flows_do_not_share_checkpoints",
    "opening_again_does_not_take_a_split_back",
    "positions_are_those_of_the_last_commit",
    "positions_of_every_kind_survive",
    "splits_do_not_share_checkpoints",
    "the_last_claim_wins",
)
class SkipsEmptyCommits(MemoryTransactionalSink):
    """Without rows nothing is committed."""

    def commit(self, checkpoint: Checkpoint) -> None:
        if self._flushed:
            super().commit(checkpoint)
        else:
            self._still_own(checkpoint)


@breaks("a_flush_is_a_savepoint")
class NoSavepoints(MemoryTransactionalSink):
    """A refused batch takes the whole transaction with it."""

    def write(self, batch: Batch) -> None:
        try:
            super().write(batch)
        except InvalidRecord:
            self._flushed = []
            raise


@breaks("positions_of_every_kind_survive")
class NumbersAreFloats(MemoryTransactionalSink):
    """Positions go through a JSON that knows only floats."""

    def commit(self, checkpoint: Checkpoint) -> None:
        def whole(text: str) -> int:
            return int(float(text))

        super().commit(Checkpoint(json.loads(json.dumps(checkpoint), parse_int=whole)))


@breaks(
    "positions_are_those_of_the_last_commit",
    "a_commit_of_several_splits_is_all_or_none",
    "a_zombie_stays_fenced",
    "claims_survive_close_and_open",
    "opening_again_does_not_take_a_split_back",
    "positions_of_every_kind_survive",
)
class CachesPositions(MemoryTransactionalSink):
    """positions() answers what claim() found."""

    def claim(self, splits: Iterable[str]) -> Checkpoint:
        self._found = super().claim(splits)
        return self._found

    def positions(self, splits: Iterable[str]) -> Checkpoint:
        super().positions(splits)
        return self._found.only(splits)


@breaks("flows_do_not_share_checkpoints")
class OneFlow(MemoryTransactionalSink):
    """Checkpoints are kept per split only."""

    def open(self, context: SinkContext) -> None:
        super().open(SinkContext("all", context.lane))


@breaks("splits_do_not_share_checkpoints", "positions_of_every_kind_survive")
class OneLetterSplits(MemoryTransactionalSink):
    """Splits are told apart by their first letter."""

    def commit(self, checkpoint: Checkpoint) -> None:
        super().commit(checkpoint)
        for split, position in checkpoint.items():
            for flow, other in self.target.owners:
                if flow == self.flow and other[:1] == split[:1]:
                    self.target.stored[(flow, other)] = json.dumps(position)


@breaks(
    "a_zombie_is_fenced_and_its_rows_are_not_written",
    "a_commit_of_several_splits_is_all_or_none",
)
class RowsBeforeTheFence(MemoryTransactionalSink):
    """The rows are written before the owner is looked at."""

    def commit(self, checkpoint: Checkpoint) -> None:
        self.target.batches.extend(self._flushed)
        self._flushed = []
        super().commit(checkpoint)


@breaks(
    "a_zombie_is_fenced_and_its_rows_are_not_written",
    "a_commit_of_several_splits_is_all_or_none",
    "a_zombie_stays_fenced",
    "opening_again_does_not_take_a_split_back",
    "positions_fence_a_stale_owner",
    "the_last_claim_wins",
)
class NoFence(MemoryTransactionalSink):
    """Whoever comes may commit."""

    def _still_own(self, splits: Iterable[str]) -> None:
        for split in splits:
            if split not in self._epochs:
                raise Fatal("claim it first")


@breaks(
    "a_zombie_stays_fenced",
    "a_commit_of_several_splits_is_all_or_none",
    "a_zombie_is_fenced_and_its_rows_are_not_written",
    "opening_again_does_not_take_a_split_back",
    "the_last_claim_wins",
)
class ClaimsAgain(MemoryTransactionalSink):
    """Being fenced is healed by a new claim."""

    def commit(self, checkpoint: Checkpoint) -> None:
        try:
            super().commit(checkpoint)
        except Fenced:
            self.claim(checkpoint)
            raise


@breaks(
    "fencing_spares_the_owner_of_another_split",
    "a_commit_of_several_splits_is_all_or_none",
    "positions_fence_a_stale_owner",
    "two_lanes_with_open_transactions_both_commit",
)
class EpochPerFlow(MemoryTransactionalSink):
    """A claim fences everybody else of the flow."""

    def claim(self, splits: Iterable[str]) -> Checkpoint:
        found = super().claim(splits)
        for flow, split in self.target.owners:
            if flow == self.flow and split not in self._epochs:
                self.target.owners[(flow, split)] += 1
        return found


@breaks(
    "a_commit_of_several_splits_is_all_or_none",
    "a_split_that_was_never_claimed_cannot_be_committed",
)
class SplitBySplit(MemoryTransactionalSink):
    """Splits are committed one after the other."""

    def commit(self, checkpoint: Checkpoint) -> None:
        for split, position in checkpoint.items():
            super().commit(Checkpoint({split: position}))


@breaks(
    "two_lanes_with_open_transactions_both_commit",
    "a_commit_of_several_splits_is_all_or_none",
    "a_flush_is_a_savepoint",
    "a_zombie_is_fenced_and_its_rows_are_not_written",
    "abort_leaves_no_trace",
    "several_flushes_are_one_commit",
)
class SharedStaging(MemoryTransactionalSink):
    """All lanes stage their rows in one place, and the first commit takes them all."""

    def _accept(self, batches: list[pa.RecordBatch]) -> None:
        super()._accept(batches)
        staged: list[Any] = self.target.__dict__.setdefault("staged", [])
        staged.extend(batches)
        self._flushed = staged

    def commit(self, checkpoint: Checkpoint) -> None:
        super().commit(checkpoint)
        self.target.__dict__.setdefault("staged", []).clear()


@breaks("positions_fence_a_stale_owner")
class PositionsForAll(MemoryTransactionalSink):
    """positions() does not look at the owner."""

    def positions(self, splits: Iterable[str]) -> Checkpoint:
        return self.target.checkpoint(self.flow).only(splits)


@breaks("the_last_claim_wins")
class ClaimsOnce(MemoryTransactionalSink):
    """A split that this object has claimed before is not claimed anew."""

    def claim(self, splits: Iterable[str]) -> Checkpoint:
        super().claim([split for split in splits if split not in self._epochs])
        return self.target.checkpoint(self.flow).only(splits)


@breaks("a_split_that_was_never_claimed_cannot_be_committed")
class CommitsAnything(MemoryTransactionalSink):
    """A split without an owner may be committed by anybody."""

    def _still_own(self, splits: Iterable[str]) -> None:
        super()._still_own([split for split in splits if split in self._epochs])


@breaks("a_released_split_goes_on_with_another_owner")
class ReleasesPositions(MemoryTransactionalSink):
    """release() deletes what was stored."""

    def release(self, splits: Iterable[str]) -> None:
        super().release(splits)
        for split in splits:
            self.target.stored.pop((self.flow, split), None)


@breaks(
    "claims_survive_close_and_open",
    "opening_again_does_not_take_a_split_back",
)
class ForgetsClaims(MemoryTransactionalSink):
    """close() forgets what was claimed."""

    def close(self) -> None:
        super().close()
        self._epochs = {}


@breaks("opening_again_does_not_take_a_split_back")
class ClaimsAtOpen(MemoryTransactionalSink):
    """open() claims what the object owned before."""

    def open(self, context: SinkContext) -> None:
        super().open(context)
        self.claim(list(self._epochs))


@breaks("death_at_any_line_leaves_rows_and_checkpoint_both_old_or_both_new")
class TwoTransactions(SqliteTransactionalSink):
    """The owner is checked, the rows are committed, then the checkpoint is."""

    def commit(self, checkpoint: Checkpoint) -> None:
        with self._transaction() as connection:
            gone = [s for s, position in checkpoint.items() if not self._advance(connection, s, position)]
            if gone:
                raise self._fenced(gone)
            connection.execute("ROLLBACK")
            connection.execute("BEGIN IMMEDIATE")
            connection.execute(
                f"INSERT INTO records (flow, value) SELECT {self._quoted_flow()}, value FROM temp.staged ORDER BY rowid"
            )
            connection.execute("DELETE FROM temp.staged")
        with self._transaction() as connection:
            for split, position in checkpoint.items():
                self._advance(connection, split, position)
