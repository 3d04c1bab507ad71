"""TransactionalSinkContract: what a sink keeps that delivers exactly once, beyond SinkContract."""

from __future__ import annotations

import json
import time
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import pytest

from airflow_provider_connect.engine.batch import Checkpoint
from airflow_provider_connect.engine.connector import SinkContext, TransactionalSink
from airflow_provider_connect.engine.errors import Fenced
from airflow_provider_connect.testing.sink import SinkContract
from airflow_provider_connect.testing.sink_rows import Record, numbered

POSITIONS: dict[str, Any] = {
    "zero": 0,
    "beyond float": 2**53 + 1,
    "int64": 2**63 - 1,
    "negative": -1,
    "text": "2026-11-20T12:00:00.123456+00:00",
    "quotes": 'it\'s "quoted" \\ and `ticked`',
    "unicode": "日本語 🙂 Ł",
    "list": ["2026-11-20 12:00:00.000001", 9007199254740993, None, True],
    "nested": {"lsn": "0/16B3748", "part": {"n": [1, [2, {"three": 3}]]}},
    "empty": {},
    "split with 'quotes', dots.and:colons/日本": 1,
}


class TransactionalSinkContract(SinkContract):
    """Beyond SinkContract: rows and checkpoint are visible together or not at all, and only owners commit.

    Every check delivers to splits of the check's own flow. `split` is the one that one split is enough for.
    """

    split = "0"
    patience_seconds: float = 20.0
    """Longest time a claim may take, whatever another worker is in the middle of."""

    @abstractmethod
    def make(self) -> TransactionalSink[Any]:
        """A new sink on the system under test."""

    def start(self, sink: Any, name: str = "0") -> None:
        sink.claim([f"delivery {name}"])

    def finish(self, sink: Any, name: str = "0") -> None:
        sink.flush()
        sink.commit(Checkpoint({f"delivery {name}": 1}))

    def give_up(self, sink: Any) -> None:
        sink.abort()

    def pass_on(self, sink: Any, records: Sequence[Record]) -> None:
        """Write and flush, but do not commit."""
        self.write(sink, records)
        sink.flush()

    def owner(self, *splits: str, lane: int = 0, flow: str | None = None) -> Any:
        """A new sink that has claimed these splits."""
        sink = self.open(lane, flow)
        sink.claim(list(splits))
        return sink

    def claimed(self, *splits: str, flow: str | None = None) -> Checkpoint:
        """What a new owner of these splits would be told."""
        sink = self.open(flow=flow)
        found: Checkpoint = sink.claim(list(splits))
        sink.close()
        return found

    def refused(self, sink: Any, checkpoint: dict[str, Any]) -> Fenced:
        """The Fenced that a commit must raise."""
        try:
            sink.commit(Checkpoint(checkpoint))
        except Exception as raised:
            error = raised if isinstance(raised, Fenced) else sink.classify(raised)
            assert isinstance(error, Fenced), f"a stale owner got {type(error).__name__}, not Fenced: {error}"
            return error
        pytest.fail("a stale owner could commit")

    # -- rows and checkpoint ------------------------------------------------------------------------------------------

    def test_nothing_is_visible_before_commit(self) -> None:
        sink = self.owner(self.split)
        self.pass_on(sink, numbered(0, 3))
        self.assert_stored([])
        sink.commit(Checkpoint({self.split: 3}))
        self.assert_stored(numbered(0, 3))

    def test_claim_returns_what_was_committed(self) -> None:
        sink = self.open()
        assert sink.claim([self.split]) == {}, "a split that was never committed is absent"
        self.pass_on(sink, numbered(0, 3))
        sink.commit(Checkpoint({self.split: 3}))
        assert self.claimed(self.split) == {self.split: 3}
        self.assert_stored(numbered(0, 3))

    def test_every_commit_adds_its_rows_once(self) -> None:
        sink = self.owner(self.split)
        for start in range(0, 9, 3):
            self.pass_on(sink, numbered(start, start + 3))
            sink.commit(Checkpoint({self.split: start + 3}))
        self.assert_stored(numbered(0, 9))
        assert self.claimed(self.split) == {self.split: 9}

    def test_several_flushes_are_one_commit(self) -> None:
        sink = self.owner(self.split)
        for start in range(0, 9, 3):
            self.pass_on(sink, numbered(start, start + 3))
        self.assert_stored([])
        sink.commit(Checkpoint({self.split: 9}))
        self.assert_stored(numbered(0, 9))

    def test_abort_leaves_no_trace(self) -> None:
        sink = self.owner(self.split)
        self.pass_on(sink, numbered(0, 3))
        self.write(sink, numbered(3, 6))
        sink.abort()
        self.pass_on(sink, numbered(6, 9))
        sink.commit(Checkpoint({self.split: 9}))
        self.assert_stored(numbered(6, 9))

    def test_abort_never_raises(self) -> None:
        sink = self.owner(self.split)
        sink.abort()
        sink.abort()
        sink.close()
        sink.abort()

    def test_close_commits_nothing(self) -> None:
        sink = self.owner(self.split)
        self.pass_on(sink, numbered(0, 3))
        sink.close()
        self.assert_stored([])
        assert self.claimed(self.split) == {}

    def test_an_empty_commit_moves_the_positions(self) -> None:
        sink = self.owner(self.split)
        sink.commit(Checkpoint({self.split: 7}))
        sink.flush()
        sink.commit(Checkpoint({self.split: 8}))
        assert self.claimed(self.split) == {self.split: 8}
        self.assert_stored([])

    def test_a_flush_is_a_savepoint(self) -> None:
        sink = self.owner(self.split)
        self.pass_on(sink, numbered(0, 3))
        self.refusal(sink)
        self.pass_on(sink, numbered(3, 6))
        sink.commit(Checkpoint({self.split: 6}))
        self.assert_stored(numbered(0, 6))

    def test_positions_of_every_kind_survive(self) -> None:
        sink = self.owner(*POSITIONS)
        sink.commit(Checkpoint(POSITIONS))
        for found in (sink.positions(list(POSITIONS)), self.claimed(*POSITIONS)):
            assert json.dumps(found, sort_keys=True) == json.dumps(POSITIONS, sort_keys=True)

    def test_positions_are_those_of_the_last_commit(self) -> None:
        sink = self.owner("a", "b")
        assert sink.positions(["a", "b"]) == {}
        sink.commit(Checkpoint({"a": 1}))
        assert sink.positions(["a", "b"]) == {"a": 1}
        sink.commit(Checkpoint({"a": 2, "b": 5}))
        assert sink.positions(["b", "a"]) == {"a": 2, "b": 5}
        assert sink.positions(["b"]) == {"b": 5}

    # -- who owns what ------------------------------------------------------------------------------------------------

    def test_flows_do_not_share_checkpoints(self) -> None:
        one, other = f"{self.flow}-1", f"{self.flow}-2"
        sink = self.owner(self.split, flow=one)
        sink.commit(Checkpoint({self.split: 3}))
        assert self.claimed(self.split, flow=other) == {}
        sink.commit(Checkpoint({self.split: 4}))
        assert self.claimed(self.split, flow=one) == {self.split: 4}

    def test_splits_do_not_share_checkpoints(self) -> None:
        sink = self.owner("a", "b", "ab")
        sink.commit(Checkpoint({"a": 1, "ab": 3}))
        sink.commit(Checkpoint({"a": 2}))
        assert self.claimed("a", "b", "ab") == {"a": 2, "ab": 3}

    def test_a_zombie_is_fenced_and_its_rows_are_not_written(self) -> None:
        zombie = self.owner(self.split)
        self.pass_on(zombie, numbered(0, 3))
        began = time.monotonic()
        heir = self.owner(self.split)
        assert time.monotonic() - began < self.patience_seconds, "the zombie's transaction kept the heir waiting"
        assert self.refused(zombie, {self.split: 3}).splits in {(self.split,), ()}
        self.pass_on(heir, numbered(0, 3))
        heir.commit(Checkpoint({self.split: 3}))
        self.assert_stored(numbered(0, 3))

    def test_a_zombie_stays_fenced(self) -> None:
        zombie = self.owner(self.split)
        heir = self.owner(self.split)
        for _ in range(2):
            self.refused(zombie, {self.split: 3})
            zombie.abort()
        heir.commit(Checkpoint({self.split: 1}))
        self.refused(zombie, {self.split: 3})
        assert heir.positions([self.split]) == {self.split: 1}

    def test_fencing_spares_the_owner_of_another_split(self) -> None:
        innocent = self.owner("b", lane=1)
        self.owner("a")
        self.owner("a", lane=2)
        self.pass_on(innocent, numbered(0, 3))
        innocent.commit(Checkpoint({"b": 3}))
        self.assert_stored(numbered(0, 3))

    def test_a_commit_of_several_splits_is_all_or_none(self) -> None:
        zombie = self.owner("a", "b")
        zombie.commit(Checkpoint({"a": 1, "b": 1}))
        heir = self.owner("b", lane=1)
        self.pass_on(zombie, numbered(0, 3))
        self.refused(zombie, {"a": 2, "b": 2})
        zombie.abort()
        self.assert_stored([])
        assert zombie.positions(["a"]) == {"a": 1}
        assert heir.positions(["b"]) == {"b": 1}
        self.pass_on(zombie, numbered(3, 6))
        zombie.commit(Checkpoint({"a": 2}))
        self.assert_stored(numbered(3, 6))

    def test_two_lanes_with_open_transactions_both_commit(self) -> None:
        first, second = self.owner("a"), self.owner("b", lane=1)
        self.pass_on(first, numbered(0, 3))
        self.pass_on(second, numbered(3, 6))
        second.commit(Checkpoint({"b": 3}))
        self.assert_stored(numbered(3, 6))
        first.commit(Checkpoint({"a": 3}))
        self.assert_stored(numbered(0, 6))
        assert self.claimed("a", "b") == {"a": 3, "b": 3}

    def test_positions_fence_a_stale_owner(self) -> None:
        zombie = self.owner("a", "b")
        self.owner("a", lane=1)
        with pytest.raises(Exception) as raised:
            zombie.positions(["a", "b"])
        assert isinstance(raised.value, Fenced) or isinstance(zombie.classify(raised.value), Fenced)
        assert zombie.positions(["b"]) == {}

    def test_the_last_claim_wins(self) -> None:
        first, second = self.owner(self.split), self.owner(self.split)
        first.claim([self.split])
        self.refused(second, {self.split: 1})
        first.commit(Checkpoint({self.split: 2}))
        assert self.claimed(self.split) == {self.split: 2}

    def test_a_split_that_was_never_claimed_cannot_be_committed(self) -> None:
        sink = self.owner("a")
        with pytest.raises(Exception):  # noqa: B017
            sink.commit(Checkpoint({"a": 1, "b": 1}))
        sink.abort()
        assert self.claimed("a", "b") == {}

    def test_a_released_split_goes_on_with_another_owner(self) -> None:
        first = self.owner(self.split)
        first.commit(Checkpoint({self.split: 1}))
        first.release([self.split])
        second = self.open(lane=1)
        assert second.claim([self.split]) == {self.split: 1}
        self.pass_on(second, numbered(0, 3))
        second.commit(Checkpoint({self.split: 2}))
        self.assert_stored(numbered(0, 3))
        assert first.claim([self.split]) == {self.split: 2}, "who released a split may claim it again"

    def test_claims_survive_close_and_open(self) -> None:
        sink = self.owner("a", "b")
        sink.commit(Checkpoint({"a": 1}))
        sink.close()
        sink.open(SinkContext(self.flow))
        assert sink.positions(["a", "b"]) == {"a": 1}
        self.pass_on(sink, numbered(0, 3))
        sink.commit(Checkpoint({"a": 2, "b": 1}))
        self.assert_stored(numbered(0, 3))

    def test_opening_again_does_not_take_a_split_back(self) -> None:
        zombie = self.owner(self.split)
        zombie.close()
        heir = self.owner(self.split)
        zombie.open(SinkContext(self.flow))
        self.refused(zombie, {self.split: 3})
        heir.commit(Checkpoint({self.split: 1}))
        assert heir.positions([self.split]) == {self.split: 1}

    # -- death --------------------------------------------------------------------------------------------------------

    def test_death_at_any_line_leaves_rows_and_checkpoint_both_old_or_both_new(self) -> None:
        attempts = 0
        for death in self.deaths(self.deliver_on):
            attempts = death.attempt
            position = self.claimed(self.split).get(self.split, 0)
            self.assert_stored(numbered(0, position), f"at position {position} after a child {death}")
        assert attempts > 10, "hardly a line of the sink was executed"
        position = self.claimed(self.split)[self.split]
        self.assert_stored(numbered(0, position), "after the worker that survived")

    def deliver_on(self, attempt: int) -> None:
        """A worker that goes on from the stored position: an abort, a commit of two flushes, a commit of one."""
        sink = self.make()
        sink.open(SinkContext(self.flow))
        position = int(sink.claim([self.split]).get(self.split, 0))
        self.write(sink, [Record(-1, "aborted")])
        sink.abort()
        self.pass_on(sink, numbered(position, position + 1))
        self.pass_on(sink, numbered(position + 1, position + 2))
        sink.commit(Checkpoint({self.split: position + 2}))
        self.pass_on(sink, numbered(position + 2, position + 4))
        sink.commit(Checkpoint({self.split: position + 4}))
        sink.release([self.split])
        sink.close()
