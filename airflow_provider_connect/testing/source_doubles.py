"""Broken sources, one per check of SourceContract and of what every connector keeps."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from contextlib import suppress
from itertools import count
from typing import Any

import pyarrow as pa

from airflow_provider_connect.engine.batch import Batch, Checkpoint
from airflow_provider_connect.engine.connector import Share, SourceContext
from airflow_provider_connect.engine.errors import ConnectError, EndOfInput, Fatal, Retryable
from airflow_provider_connect.testing.doubles import breaks
from airflow_provider_connect.testing.memory import ListLog, ListSource, ListSourceConfig


class _BareConfig(ListSourceConfig):
    speed: int = 1


@breaks("every_config_field_is_documented")
class Undocumented(ListSource):
    """A field has no docstring."""

    config_type = _BareConfig

    def __init__(self, log: ListLog) -> None:
        super().__init__(log, _BareConfig())


@breaks("making_one_does_no_io")
class ConnectsEarly(ListSource):
    """The constructor waits for the system."""

    def __init__(self, log: ListLog) -> None:
        super().__init__(log)
        if not log.reachable:
            time.sleep(0.6)


@breaks("check_answers_in_one_line")
class Mute(ListSource):
    """check() says nothing."""

    def check(self) -> str:
        answer = super().check()
        return "" if answer else answer


@breaks("check_can_be_repeated")
class ChecksOnce(ListSource):
    """check() leaves something behind that stops the next one; `open` does not."""

    _checked = False

    def open(self, context: SourceContext) -> None:
        super().open(context)
        self._checked = False

    def check(self) -> str:
        if self._checked:
            raise Fatal("already connected")
        self._checked = True
        return super().check()


@breaks("check_of_an_unreachable_system_says_what_is_wrong")
class Optimist(ListSource):
    """check() does not look."""

    def check(self) -> str:
        return "all is well"


@breaks("close_is_safe_twice_and_without_open")
class ClosesOnce(ListSource):
    """The second close in a row raises."""

    _closed = False

    def open(self, context: SourceContext) -> None:
        super().open(context)
        self._closed = False

    def close(self) -> None:
        super().close()
        if self._closed:
            raise RuntimeError("already closed")
        self._closed = True


@breaks("an_unknown_error_is_fatal")
class RetriesEverything(ListSource):
    """What it does not know is tried again for ever."""

    def classify(self, error: Exception) -> ConnectError:
        return error if isinstance(error, ConnectError) else Retryable(str(error))


@breaks("names_its_formats_without_open")
class AsksForFormats(ListSource):
    """formats() needs the system."""

    def formats(self) -> tuple[str, ...]:
        self.check()
        return super().formats()


@breaks(
    "reads_everything_in_order_per_split",
    "a_position_names_the_next_record",
    "until_reads_only_the_splits_it_names",
    "can_be_opened_again_after_close",
    "keep_alive_loses_nothing",
    "acknowledging_an_old_checkpoint_harms_nothing",
    "the_stored_position_wins_over_what_was_acknowledged",
    "lag_is_right_or_unknown_and_changes_nothing",
    "shares_cover_every_split_once",
)
class Backwards(ListSource):
    """The records of a batch come last first."""

    def _rows(self, split: str, position: int, items: Sequence[Any]) -> pa.RecordBatch:
        rows = super()._rows(split, position, items)
        return rows.take(pa.array(range(rows.num_rows - 1, -1, -1), pa.int64()))


@breaks("claims_each_split_once_before_its_first_record")
class ClaimsTwice(ListSource):
    """Each split is claimed twice."""

    def _assign(self, splits: Sequence[str]) -> None:
        if splits:
            self._opened().claim(splits)
        super()._assign(splits)


@breaks(
    "a_position_names_the_next_record",
    "a_checkpoint_survives_json",
    "acknowledging_an_old_checkpoint_harms_nothing",
    "the_stored_position_wins_over_what_was_acknowledged",
)
class RepeatsTheLast(ListSource):
    """A stored position is taken for the last record seen, which is read again."""

    def _assign(self, splits: Sequence[str]) -> None:
        super()._assign(splits)
        if not self._opened().until:
            for split in splits:
                self._positions[split] = max(0, self._positions[split] - 1)


@breaks("a_checkpoint_survives_json")
class Floats(ListSource):
    """Positions are floats."""

    def _read_split(self, split: str, most: int) -> tuple[Batch | None, bool]:
        batch, more = super()._read_split(split, most)
        if batch is not None:
            batch = Batch(batch.rows, Checkpoint({s: float(p) for s, p in batch.checkpoint.items()}))
        return batch, more

    def _assign(self, splits: Sequence[str]) -> None:
        context = self._opened()
        claimed = context.claim(splits) if splits else Checkpoint()
        for split in splits:
            self._positions[split] = int(claimed.get(split, 0))
            if context.until:
                self._bounds[split] = int(context.until[split])
            elif context.drain:
                self._bounds[split] = self.log.end(split)


@breaks("the_same_stretch_read_again_is_the_same")
class StampsNow(ListSource):
    """Records carry the time of reading."""

    _clock = count()

    def _rows(self, split: str, position: int, items: Sequence[Any]) -> pa.RecordBatch:
        rows = super()._rows(split, position, items)
        if "timestamp" not in rows.schema.names:
            return rows
        at = rows.schema.get_field_index("timestamp")
        now = pa.array([next(self._clock)] * rows.num_rows, pa.timestamp("ms", tz="UTC"))
        return pa.RecordBatch.from_arrays([*rows.columns[:at], now], schema=rows.schema)


@breaks("until_is_exact")
class ReadsPastUntil(ListSource):
    """`until` is taken for the last record to read."""

    def _assign(self, splits: Sequence[str]) -> None:
        super()._assign(splits)
        if self._opened().until:
            for split in splits:
                self._bounds[split] = min(self._bounds[split] + 1, self.log.end(split))


@breaks(
    "until_reads_only_the_splits_it_names",
    "the_same_stretch_read_again_is_the_same",
    "until_is_exact",
)
class ReadsOtherSplitsToo(ListSource):
    """Splits that `until` does not name are read to their end."""

    def open(self, context: SourceContext) -> None:
        if context.until:
            ends = {split: self.log.end(split) for split in self.log.splits()}
            context.until = Checkpoint({**ends, **context.until})
        super().open(context)


@breaks("drain_of_an_empty_source_ends")
class WaitsForTheFirst(ListSource):
    """Drain waits until there is something."""

    def read(self, max_records: int, timeout: float) -> Batch | None:
        if not any(map(self.log.end, self.log.splits())):
            time.sleep(timeout)
            return None
        return super().read(max_records, timeout)


@breaks("drain_ends_while_records_keep_coming")
class RunsAfterTheEnd(ListSource):
    """Drain ends when the source has caught up, which it never may."""

    def read(self, max_records: int, timeout: float) -> Batch | None:
        context = self._opened()
        if context.drain and not context.until:
            self._bounds = {split: self.log.end(split) for split in self._positions}
        return super().read(max_records, timeout)


@breaks("an_idle_read_returns_within_its_timeout")
class BlocksInTheGroup(ListSource):
    """read() waits for its group, however long that takes."""

    def read(self, max_records: int, timeout: float) -> Batch | None:
        batch = super().read(max_records, timeout)
        if batch is None and not self._opened().fixed_splits:
            time.sleep(1.6)
        return batch


@breaks("records_that_arrive_later_are_read")
class LooksOnce(ListSource):
    """What arrives after `open` is never seen."""

    def _assign(self, splits: Sequence[str]) -> None:
        super()._assign(splits)
        for split in splits:
            self._bounds.setdefault(split, self.log.end(split))

    def read(self, max_records: int, timeout: float) -> Batch | None:
        try:
            return super().read(max_records, timeout)
        except EndOfInput:
            context = self._opened()
            if context.drain or context.until:
                raise
            return None


@breaks("a_batch_is_about_as_large_as_asked")
class Greedy(ListSource):
    """`max_records` is ignored."""

    def read(self, max_records: int, timeout: float) -> Batch | None:
        return super().read(self.config.batch_records, timeout)


@breaks("can_be_opened_again_after_close")
class OpensOnce(ListSource):
    """What `close` freed is not made again by `open`."""

    _closed = False

    def read(self, max_records: int, timeout: float) -> Batch | None:
        if self._closed:
            raise Fatal("consumer closed")
        return super().read(max_records, timeout)

    def close(self) -> None:
        super().close()
        self._closed = True


@breaks("keep_alive_loses_nothing")
class KeepsAliveByReading(ListSource):
    """keep_alive() reads, and throws away what came."""

    def keep_alive(self) -> None:
        super().keep_alive()
        with suppress(EndOfInput):
            self.read(1, 0)


@breaks("acknowledging_an_old_checkpoint_harms_nothing")
class ObeysAcknowledgements(ListSource):
    """acknowledge() moves where it reads."""

    def acknowledge(self, checkpoint: Checkpoint) -> None:
        super().acknowledge(checkpoint)
        self._positions.update(checkpoint)


@breaks("the_stored_position_wins_over_what_was_acknowledged")
class TrustsTheSystem(ListSource):
    """Goes on where the system was told that all is durable, not where the worker says."""

    def _assign(self, splits: Sequence[str]) -> None:
        super()._assign(splits)
        if self.log.acknowledged:
            self._positions.update(self.log.acknowledged[-1].only(splits))


@breaks("lag_is_right_or_unknown_and_changes_nothing")
class CountsFromTheLast(ListSource):
    """The lag is one short."""

    def lag(self, checkpoint: Checkpoint) -> int | None:
        lag = super().lag(checkpoint)
        return lag - 1 if lag else lag


@breaks("splits_are_stable_and_need_no_open")
class ShufflesSplits(ListSource):
    """splits() lists them as they come out of a set."""

    def splits(self) -> list[str]:
        return random.sample([*super().splits(), *map(str, range(100, 150))], k=50 + len(super().splits()))


@breaks("shares_cover_every_split_once")
class TakesAll(ListSource):
    """The share is ignored."""

    def open(self, context: SourceContext) -> None:
        context.share = Share()
        super().open(context)


@breaks("every_format_can_be_read")
class OneFormat(ListSource):
    """Whatever is asked for, it is JSON."""

    def open(self, context: SourceContext) -> None:
        context.format = "json"
        super().open(context)
