"""SinkContract and IdempotentSinkContract: what a sink keeps that delivers at least once, and effectively once.

Subclass the one for your kind, name the subclass Test..., and give it three methods. The contract of the third kind,
which adds to SinkContract, is `transactional_sink.TransactionalSinkContract`.
"""

from __future__ import annotations

import sys
import threading
from abc import abstractmethod
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from airflow_provider_connect.engine.batch import Batch, Checkpoint
from airflow_provider_connect.engine.connector import IdempotentSink, Sink, SinkContext
from airflow_provider_connect.engine.errors import InvalidRecord
from airflow_provider_connect.testing.contract import ConnectorContract
from airflow_provider_connect.testing.crash import Death, Module, deaths
from airflow_provider_connect.testing.sink_rows import Record, numbered, rows_of

__all__ = ["IdempotentSinkContract", "Record", "SinkContract", "numbered", "rows_of"]

ODD_TEXTS = [
    "",
    " ",
    "Zażółć gęślą jaźń, 日本語, 🙂",
    "quotes ' \" ` and \\ back\\slashes \\N \\. \\x00",
    "tab\tnewline\nreturn\r\nend",
    "a,b;c|d",
    '{"looks": "like JSON"}',
    "$1 %s {} ?",
    "x" * 200_000,
]


class SinkContract(ConnectorContract):
    """The checks of a sink. Each check starts with the target as the subclass's fixtures make it: without records."""

    poison: Record | None = None
    """A record that the target refuses; None needs `poison_rows` to be overridden, or the checks of it exempt."""

    @abstractmethod
    def make(self) -> Sink[Any]:
        """A new sink on the system under test; the same configuration each time within one check."""

    @abstractmethod
    def make_unreachable(self) -> Sink[Any]:
        """A sink whose system does not answer."""

    @abstractmethod
    def stored(self) -> Sequence[Record]:
        """What a reader of the target sees now, as often as it sees it, in any order; committed records only."""

    def rows(self, records: Sequence[Record], format: str) -> pa.RecordBatch:
        """The rows of `records` in a format that the sink accepts. Default: `rows_of`."""
        return rows_of(records, format)

    def poison_rows(self, format: str) -> pa.RecordBatch:
        """Rows of which the target refuses at least one. Default: a good record, `poison`, a good record."""
        assert self.poison is not None, "set `poison`, override `poison_rows`, or put the checks of it into `exempt`"
        return self.rows([Record(9001, "good"), self.poison, Record(9002, "good")], format)

    # -- writing ------------------------------------------------------------------------------------------------------

    def open(self, lane: int = 0, flow: str | None = None) -> Any:
        """A new sink, opened for the check's flow."""
        sink = self._until_the_end_of_the_check(self.make())
        sink.open(SinkContext(flow or self.flow, lane))
        return sink

    def batch(self, records: Sequence[Record], format: str, checkpoint: Any = None) -> Batch:
        return Batch(self.rows(records, format), Checkpoint(checkpoint or {}))

    def write(self, sink: Any, records: Sequence[Record], format: str | None = None) -> None:
        """Write records as one batch in the sink's favourite format."""
        sink.write(self.batch(records, format or sink.accepts()[0]))

    def start(self, sink: Any, name: str = "0") -> None:
        """What must come before the first write of a stretch of this name; overridden for each kind."""

    def finish(self, sink: Any, name: str = "0") -> None:
        """Make what was written visible; overridden for each kind."""
        sink.flush()

    def give_up(self, sink: Any) -> None:
        """What the worker does after a refused batch; overridden for transactional sinks."""

    def deliver(self, sink: Any, records: Sequence[Record], name: str = "0", format: str | None = None) -> None:
        """Write and make visible."""
        self.start(sink, name)
        self.write(sink, records, format)
        self.finish(sink, name)

    def assert_stored(self, expected: Sequence[Record], why: object = "") -> None:
        """The target holds exactly these records, each as often as it is named, in any order."""
        found, wanted = Counter(self.stored()), Counter(expected)
        missing, extra = wanted - found, found - wanted
        assert not missing and not extra, f"missing {_few(missing)}, too many {_few(extra)} {why}"

    def deaths(self, work: Callable[[int], object]) -> Any:
        """Deaths at every line of `crash_modules` while `work` runs."""
        return deaths(work, self.crash_modules())

    def crash_modules(self) -> list[Module]:
        """Where to die. Default: the module of the sink's class, or the connector's package if it has its own."""
        module = sys.modules[type(self.make()).__module__]
        if module.__name__.count(".") > 2 and module.__name__.startswith("airflow_provider_connect.connectors."):
            return sorted(Path(str(module.__file__)).parent.glob("*.py"))
        return [module]

    # -- the checks ---------------------------------------------------------------------------------------------------

    def test_what_was_flushed_is_visible_once(self) -> None:
        sink = self.open()
        self.deliver(sink, numbered(0, 3), "0")
        self.assert_stored(numbered(0, 3))
        self.deliver(sink, numbered(3, 5), "1")
        self.assert_stored(numbered(0, 5))

    def test_a_flush_covers_several_batches(self) -> None:
        sink = self.open()
        self.start(sink)
        for start in range(0, 9, 3):
            self.write(sink, numbered(start, start + 3))
        self.finish(sink)
        self.assert_stored(numbered(0, 9))

    def test_every_accepted_format_is_written(self) -> None:
        sink = self.open()
        formats = sink.accepts()
        assert formats and len(set(formats)) == len(formats)
        for at, name in enumerate(formats):
            self.deliver(sink, numbered(at * 3, at * 3 + 3), str(at), name)
        self.assert_stored(numbered(0, len(formats) * 3))

    def test_odd_values_survive(self) -> None:
        sink = self.open()
        odd = [Record(at, text) for at, text in enumerate(ODD_TEXTS)] + [Record(2**62 + 1, "beyond float")]
        self.deliver(sink, odd)
        self.assert_stored(odd)

    def test_a_sliced_batch_is_written_as_sliced(self) -> None:
        sink = self.open()
        self.start(sink)
        whole = self.rows(numbered(0, 10), sink.accepts()[0])
        sink.write(Batch(whole.slice(3, 4), Checkpoint()))
        self.finish(sink)
        self.assert_stored(numbered(3, 7))

    def test_a_refused_batch_is_an_invalid_record_and_leaves_nothing(self) -> None:
        sink = self.open()
        self.start(sink)
        self.write(sink, numbered(0, 3))
        error = self.refusal(sink)
        assert isinstance(error, InvalidRecord), f"classify made it {type(error).__name__}: {error}"
        if error.rows is not None:
            assert error.rows and all(reason for reason in error.rows.values()), "an empty refusal names no rows"
        sink.close()
        self.assert_stored([])

    def test_good_rows_can_be_written_after_a_refused_batch(self) -> None:
        sink = self.open()
        self.start(sink)
        self.write(sink, numbered(0, 3))
        self.refusal(sink)
        self.give_up(sink)
        self.deliver(sink, numbered(5, 8), "1")
        self.assert_stored(numbered(5, 8))

    def refusal(self, sink: Any) -> Exception:
        """How the sink refuses poison, sorted by its own `classify`."""
        try:
            sink.write(Batch(self.poison_rows(sink.accepts()[0]), Checkpoint()))
            sink.flush()
        except Exception as error:
            return error if isinstance(error, InvalidRecord) else sink.classify(error)
        pytest.fail("the target took the poison")

    def test_two_lanes_can_open_at_once(self) -> None:
        both, turn, errors = threading.Barrier(2), threading.Lock(), []

        def lane(number: int) -> None:
            try:
                both.wait(10)
                sink = self.open(number)
                with turn:
                    self.deliver(sink, numbered(number * 10, number * 10 + 3), str(number))
            except BaseException as error:
                errors.append(error)

        threads = [threading.Thread(target=lane, args=(number,)) for number in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert not errors, errors
        self.assert_stored([*numbered(0, 3), *numbered(10, 13)])

    def test_can_be_opened_again_after_close(self) -> None:
        sink = self.open()
        self.deliver(sink, numbered(0, 3), "0")
        sink.close()
        sink.open(SinkContext(self.flow))
        self.deliver(sink, numbered(3, 6), "1")
        self.assert_stored(numbered(0, 6))

    def test_what_was_never_flushed_is_not_written_after_opening_again(self) -> None:
        sink = self.open()
        self.start(sink)
        self.write(sink, numbered(0, 3))
        sink.close()
        before = list(self.stored())  # a target without transactions may have taken it
        sink.open(SinkContext(self.flow))
        self.deliver(sink, numbered(3, 6), "1")
        self.assert_stored([*before, *numbered(3, 6)])


class IdempotentSinkContract(SinkContract):
    """Beyond SinkContract: what is repeated under its token is written once."""

    @abstractmethod
    def make(self) -> IdempotentSink[Any]:
        """A new sink on the system under test."""

    def start(self, sink: Any, name: str = "0") -> None:
        sink.begin(f"{self.flow}-{name}")

    def test_the_same_token_twice_is_written_once(self) -> None:
        sink = self.open()
        for _ in range(2):
            self.deliver(sink, numbered(0, 3), "a")
        self.assert_stored(numbered(0, 3))

    def test_the_same_token_from_another_worker_is_written_once(self) -> None:
        for _ in range(2):
            sink = self.open()
            self.deliver(sink, numbered(0, 3), "a")
            sink.close()
        self.assert_stored(numbered(0, 3))

    def test_the_cut_into_batches_does_not_matter_to_a_token(self) -> None:
        for size in (6, 2):
            sink = self.open()
            self.start(sink, "a")
            for start in range(0, 6, size):
                self.write(sink, numbered(start, start + size))
            self.finish(sink, "a")
        self.assert_stored(numbered(0, 6))

    def test_another_token_adds_even_equal_rows(self) -> None:
        sink = self.open()
        self.deliver(sink, numbered(0, 3), "a")
        self.deliver(sink, numbered(0, 6), "b")
        self.deliver(sink, numbered(0, 3), "c")
        self.assert_stored([*numbered(0, 3), *numbered(0, 6), *numbered(0, 3)], "(equal rows, another token)")

    def test_an_old_token_is_remembered_after_newer_ones(self) -> None:
        sink = self.open()
        for start, name in ((0, "a"), (3, "b"), (6, "c"), (0, "a")):
            self.deliver(sink, numbered(start, start + 3), name)
        self.assert_stored(numbered(0, 9))

    def test_a_token_may_be_long_and_use_its_whole_alphabet(self) -> None:
        long = "Az09._=-" * 20
        for name in (long + "a", long + "b", long + "a"):
            self.deliver(self.open(), [Record(1, name)], name)
        self.assert_stored([Record(1, long + "a"), Record(1, long + "b")])

    def test_a_crash_before_the_flush_is_overwritten(self) -> None:
        crashed = self.open()
        self.start(crashed, "a")
        self.write(crashed, numbered(0, 3))
        self.deliver(self.open(), numbered(0, 3), "a")
        self.assert_stored(numbered(0, 3))

    def test_death_at_any_line_and_a_repetition_write_once(self) -> None:
        def work(attempt: int) -> None:
            sink = self.make()
            sink.open(SinkContext(self.flow))
            for part in range(2):
                self.deliver(sink, numbered(attempt * 4 + part * 2, attempt * 4 + part * 2 + 2), f"{attempt}-{part}")
            sink.close()

        def repeat(attempt: int) -> None:
            work(attempt)
            self.assert_stored(numbered(4, attempt * 4 + 4))

        attempts = 0
        for death in self.deaths(work):
            attempts = death.attempt
            self.repeated(repeat, death)
        assert attempts > 5, "hardly a line of the sink was executed"

    def repeated(self, repeat: Callable[[int], None], death: Death) -> None:
        try:
            repeat(death.attempt)
        except AssertionError as error:
            raise AssertionError(f"{error} after a child {death}") from error


def _few(records: Counter[Record]) -> str:
    named = [f"{times}x {record.id}:{record.text[:40]!r}" for record, times in list(records.items())[:5]]
    return f"{sum(records.values())} ({', '.join(named)})" if named else "none"
