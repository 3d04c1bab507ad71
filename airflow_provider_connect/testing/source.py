"""SourceContract: what every source keeps. Subclass it, name the subclass Test..., and give it four methods."""

from __future__ import annotations

import json
import time
from abc import abstractmethod
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pytest

from airflow_provider_connect.engine.batch import COLUMNS, ENVELOPE, Batch, Checkpoint
from airflow_provider_connect.engine.connector import Share, Source, SourceContext
from airflow_provider_connect.engine.errors import EndOfInput
from airflow_provider_connect.testing.contract import ConnectorContract

Records = dict[str, list[Hashable]]
"""Split to the identities of its records, in its order."""


class RecordedContext(SourceContext):
    """A worker's side of a source, that hands out the positions it was made with and keeps what it was told."""

    def __init__(
        self,
        flow: str,
        format: str,
        *,
        stored: Mapping[str, Any] | None = None,
        until: Mapping[str, Any] | None = None,
        share: Share | None = None,
        drain: bool = False,
        fixed_splits: bool = True,
    ) -> None:
        self.flow, self.format, self.share = flow, format, share or Share()
        self.fixed_splits, self.drain, self.until = fixed_splits, drain, Checkpoint(until or {})
        self.stored = Checkpoint(stored or {})
        self.claims: list[str] = []
        self.moved: list[tuple[str, str]] = []

    def claim(self, splits: Sequence[str]) -> Checkpoint:
        self.claims.extend(splits)
        return self.stored.only(splits)

    def revoked(self, splits: Sequence[str]) -> None:
        self.moved.extend(("revoked", split) for split in splits)

    def lost(self, splits: Sequence[str]) -> None:
        self.moved.extend(("lost", split) for split in splits)


class SourceContract(ConnectorContract):
    """The checks of a source. Each check starts with the system as the subclass's fixtures make it: empty."""

    patience_seconds: float = 30.0
    """Longest time that reading a few records may take."""

    @abstractmethod
    def make(self) -> Source[Any]:
        """A new source of the system under test; the same configuration each time within one check."""

    @abstractmethod
    def make_unreachable(self) -> Source[Any]:
        """A source whose system does not answer."""

    @abstractmethod
    def produce(self, count: int) -> Records:
        """Append `count` new, distinct records to the system, visible at once, spread over its splits.

        Returns what `identify` will make of them, per split and in the split's order.
        """

    def identify(self, rows: pa.RecordBatch) -> list[Hashable]:
        """What tells the records in `rows` (in the favourite format) apart. Default: the payloads."""
        found: list[Hashable] = rows.column("value").to_pylist()
        return found

    # -- reading ------------------------------------------------------------------------------------------------------

    def open(self, **context: Any) -> tuple[Source[Any], RecordedContext]:
        """A new source, opened in its favourite format with a `RecordedContext` of these keywords."""
        source: Source[Any] = self._until_the_end_of_the_check(self.make())
        told = RecordedContext(self.flow, **{"format": source.formats()[0], **context})
        source.open(told)
        return source, told

    def read_to_end(self, source: Source[Any], max_records: int = 1000) -> list[Batch]:
        """All batches until `EndOfInput`; fails when that takes too long."""
        deadline = time.monotonic() + self.patience_seconds
        batches: list[Batch] = []
        while time.monotonic() < deadline:
            try:
                batch = source.read(max_records, 0.2)
            except EndOfInput:
                return batches
            if batch is not None:
                batches.append(batch)
        pytest.fail(f"no EndOfInput within {self.patience_seconds} seconds, after {len(batches)} batches")

    def read(self, max_records: int = 1000, **context: Any) -> list[Batch]:
        """All batches of a new source that drains, unless `context` says otherwise."""
        source, _ = self.open(**{"drain": True, **context})
        batches = self.read_to_end(source, max_records)
        source.close()
        return batches

    def identities(self, batches: Iterable[Batch]) -> list[Hashable]:
        return [identity for batch in batches for identity in self.identify(batch.rows)]

    def per_split(self, batches: Iterable[Batch], produced: Records) -> Records:
        """The identities in `batches`, sorted into the splits that they were produced to."""
        home = {identity: split for split, identities in produced.items() for identity in identities}
        assert len(home) == sum(map(len, produced.values())), "produce() must make distinct records"
        found: Records = {split: [] for split in produced}
        for identity in self.identities(batches):
            assert identity in home, f"read {identity!r}, which nobody produced"
            found[home[identity]].append(identity)
        return found

    def stretches(self, produced: Records) -> list[tuple[Checkpoint, list[Hashable]]]:
        """Checkpoints on the way through what was produced, each with the identities delivered before it."""
        checkpoint, seen = Checkpoint(), list[Hashable]()
        found = []
        for batch in self.read(max_records=2):
            checkpoint = checkpoint.advance(batch.checkpoint)
            seen.extend(self.identify(batch.rows))
            found.append((checkpoint, list(seen)))
        assert sorted(map(repr, seen)) == sorted(map(repr, _all(produced))), "not all was read"
        assert len(found) > 1, "read(max_records=2) gave all records as one batch: produce() more, or cut batches"
        return found

    # -- the checks ---------------------------------------------------------------------------------------------------

    def test_names_its_formats_without_open(self) -> None:
        formats = self.make_unreachable().formats()
        assert formats and all(isinstance(name, str) and name for name in formats)

    def test_reads_everything_in_order_per_split(self) -> None:
        produced = self.produce(12)
        assert self.per_split(self.read(), produced) == produced

    def test_claims_each_split_once_before_its_first_record(self) -> None:
        produced = self.produce(12)
        source, context = self.open(drain=True)
        deadline = time.monotonic() + self.patience_seconds
        count = 0
        while count < 12 and time.monotonic() < deadline:
            batch = source.read(2, 0.2)
            if batch is not None:
                assert set(batch.checkpoint) <= set(context.claims), "a batch of a split that was not claimed"
                count += len(batch)
        assert len(context.claims) == len(set(context.claims)), "a split was claimed twice"
        assert set(produced) <= set(context.claims)

    def test_a_position_names_the_next_record(self) -> None:
        produced = self.produce(12)
        for checkpoint, before in self.stretches(produced):
            rest = self.per_split(self.read(stored=checkpoint), produced)
            left = {split: [i for i in identities if i not in before] for split, identities in produced.items()}
            assert rest == left, f"resumed at {checkpoint}"

    def test_a_checkpoint_survives_json(self) -> None:
        produced = self.produce(8)
        for checkpoint, before in self.stretches(produced):
            again = json.loads(json.dumps(checkpoint))
            assert again == checkpoint, "the checkpoint is not the same after JSON"
            assert not _floats(again), f"positions are never floats: {checkpoint}"
            assert len(self.identities(self.read(stored=again))) == len(_all(produced)) - len(before)

    def test_the_same_stretch_read_again_is_the_same(self) -> None:
        produced = self.produce(12)
        # The first batches may be empty, and only tell where a split begins.
        checkpoints = [checkpoint for checkpoint, before in self.stretches(produced) if before]
        first, last = checkpoints[0], checkpoints[-1]
        rows = 0
        for split in last:  # how splits interleave is up to the source
            stretch = {"stored": first.only([split]), "until": last.only([split]), "drain": False}
            once, again = (_rows(self.read(max_records=3, **stretch)) for _ in range(2))
            assert once == again, "a logged stretch must be made again row by row, or tokens are worth nothing"
            rows += len(once)
        assert 0 < rows < len(_all(produced))

    def test_until_is_exact(self) -> None:
        produced = self.produce(12)
        for checkpoint, before in self.stretches(produced):
            batches = self.read(until=checkpoint, drain=False)
            assert set(self.identities(batches)) == set(before), f"until {checkpoint}"
            assert len(self.identities(batches)) == len(before), f"until {checkpoint}"
            reached = Checkpoint()
            for batch in batches:
                reached = reached.advance(batch.checkpoint)
            assert reached == checkpoint, "the checkpoint at the end is the bound"

    def test_until_reads_only_the_splits_it_names(self) -> None:
        produced = self.produce(12)
        whole = self.stretches(produced)[-1][0]
        for split in produced:
            batches = self.read(until=whole.only([split]), drain=False)
            expected = {name: identities if name == split else [] for name, identities in produced.items()}
            assert self.per_split(batches, produced) == expected

    def test_drain_of_an_empty_source_ends(self) -> None:
        assert not self.identities(self.read())

    def test_drain_ends_while_records_keep_coming(self) -> None:
        produced = self.produce(6)
        source, _ = self.open(drain=True)
        seen: list[Hashable] = []
        deadline = time.monotonic() + self.patience_seconds
        for _ in range(100):
            try:
                batch = source.read(1, 0.2)
            except EndOfInput:
                break
            assert time.monotonic() < deadline, "no end within the patience of this contract"
            if batch is not None:
                seen.extend(self.identify(batch.rows))
                self.produce(3)
        else:
            pytest.fail("the source runs after what arrives later, so draining a busy system would never end")
        assert set(_all(produced)) <= set(seen), "draining left out what was there at the start"

    def test_an_idle_read_returns_within_its_timeout(self) -> None:
        source, _ = self.open(fixed_splits=False)
        for _ in range(3):
            began = time.monotonic()
            batch = source.read(10, 0.2)
            assert time.monotonic() - began < 1.5, "read(timeout=0.2) kept the worker waiting"
            assert batch is None or len(batch) == 0

    def test_records_that_arrive_later_are_read(self) -> None:
        source, _ = self.open()
        assert not self.identify_maybe(source.read(10, 0.2))
        produced = self.produce(6)
        seen: list[Hashable] = []
        deadline = time.monotonic() + self.patience_seconds
        while len(seen) < 6 and time.monotonic() < deadline:
            seen.extend(self.identify_maybe(source.read(10, 0.2)))
        assert sorted(map(repr, seen)) == sorted(map(repr, _all(produced)))

    def identify_maybe(self, batch: Batch | None) -> list[Hashable]:
        return [] if batch is None else self.identify(batch.rows)

    def test_a_batch_is_about_as_large_as_asked(self) -> None:
        self.produce(36)
        assert max(len(batch) for batch in self.read(max_records=2)) <= 4

    def test_can_be_opened_again_after_close(self) -> None:
        produced = self.produce(6)
        source, _ = self.open(drain=True)
        source.close()
        source.open(RecordedContext(self.flow, source.formats()[0], drain=True))
        assert self.per_split(self.read_to_end(source), produced) == produced

    def test_keep_alive_loses_nothing(self) -> None:
        produced = self.produce(12)
        source, _ = self.open(drain=True)
        batches = []
        deadline = time.monotonic() + self.patience_seconds
        while time.monotonic() < deadline:
            began = time.monotonic()
            source.keep_alive()
            assert time.monotonic() - began < 0.5, "keep_alive must not block"
            try:
                batch = source.read(2, 0.2)
            except EndOfInput:
                break
            if batch is not None:
                batches.append(batch)
        assert self.per_split(batches, produced) == produced

    def test_acknowledging_an_old_checkpoint_harms_nothing(self) -> None:
        produced = self.produce(12)
        source, _ = self.open(drain=True, fixed_splits=False)
        batches = self.read_to_end(source, max_records=3)
        checkpoint = Checkpoint()
        for batch in batches:
            checkpoint = checkpoint.advance(batch.checkpoint)
            source.acknowledge(checkpoint)
        for batch in reversed(batches):
            source.acknowledge(batch.checkpoint)
        source.acknowledge(Checkpoint())
        assert not self.identities(self.read_to_end(source)), "an old acknowledgement made it read again"
        source.close()
        assert not self.identities(self.read(stored=checkpoint, fixed_splits=False))
        assert self.per_split(batches, produced) == produced

    def test_the_stored_position_wins_over_what_was_acknowledged(self) -> None:
        produced = self.produce(12)
        checkpoint, before = self.stretches(produced)[0]
        source, _ = self.open(drain=True, fixed_splits=False)
        last = Checkpoint()
        for batch in self.read_to_end(source):
            last = last.advance(batch.checkpoint)
        source.acknowledge(last)
        source.close()
        rest = self.per_split(self.read(stored=checkpoint, fixed_splits=False), produced)
        for split in checkpoint:
            assert rest.get(split, []) == [i for i in produced.get(split, []) if i not in before], (
                f"split {split} was to be read from {checkpoint[split]!r}, not from what the system was told"
            )

    def test_lag_is_right_or_unknown_and_changes_nothing(self) -> None:
        produced = self.produce(12)
        for checkpoint, before in self.stretches(produced):
            lag = self._until_the_end_of_the_check(self.make()).lag(checkpoint)
            assert lag is None or lag == 12 - len(before), f"lag({checkpoint}) is {lag}"
        assert self.per_split(self.read(fixed_splits=False), produced) == produced

    def test_splits_are_stable_and_need_no_open(self) -> None:
        produced = self.produce(12)
        source = self._until_the_end_of_the_check(self.make())
        splits = list(source.splits())
        assert splits == list(source.splits()) == list(self._until_the_end_of_the_check(self.make()).splits())
        assert len(splits) == len(set(splits))
        assert set(produced) <= set(splits)

    def test_shares_cover_every_split_once(self) -> None:
        produced = self.produce(12)
        parts = [self.read(share=Share(index, 2)) for index in range(2)]
        both = self.per_split([batch for part in parts for batch in part], produced)
        assert both == produced, "the shares 0/2 and 1/2 together are the whole, once"
        splits = [set().union(*(batch.checkpoint for batch in part)) for part in parts]
        assert not splits[0] & splits[1], "a split was read by two shares"

    def test_every_format_can_be_read(self) -> None:
        self.produce(6)
        for name in self.make().formats():
            batches = self.read(format=name)
            assert sum(map(len, batches)) == 6, f"format '{name}'"
            for batch in batches:
                assert batch.format == name
                if name != COLUMNS:
                    assert batch.rows.schema.equals(ENVELOPE), f"format '{name}' is not the envelope"


def _all(produced: Records) -> list[Hashable]:
    return [identity for identities in produced.values() for identity in identities]


def _rows(batches: Sequence[Batch]) -> list[dict[str, Any]]:
    return [row for batch in batches for row in batch.rows.to_pylist()]


def _floats(value: Any) -> bool:
    if isinstance(value, dict):
        return any(map(_floats, value.values()))
    if isinstance(value, list):
        return any(map(_floats, value))
    return isinstance(value, float)
