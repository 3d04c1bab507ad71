"""The worker's promises, on connectors that keep theirs: delivery, flush limits, modes, stop, lanes."""

from __future__ import annotations

import json
import time
from dataclasses import replace

import pytest

from airflow_provider_connect.engine.batch import Checkpoint
from airflow_provider_connect.engine.connector import Share
from airflow_provider_connect.engine.errors import Fatal, FlowError, Retryable
from airflow_provider_connect.engine.plan import Limits
from airflow_provider_connect.engine.retry import RetryPolicy
from airflow_provider_connect.engine.worker import Worker
from airflow_provider_connect.testing.memory import (
    Gap,
    ListLog,
    ListSource,
    MemoryIdempotentSink,
    MemorySink,
    MemorySinkConfig,
    MemoryTarget,
    MemoryTransactionalSink,
    Raise,
    Slow,
)
from tests.engine.flows import Running, drain, numbers, plan_of, until

KINDS = [MemorySink, MemoryIdempotentSink, MemoryTransactionalSink]


@pytest.fixture(autouse=True)
def _own_checkpoints(tmp_path, monkeypatch):
    monkeypatch.setenv("AIRFLOW_CONNECT_STATE", str(tmp_path / "checkpoints.db"))


@pytest.mark.parametrize("kind", KINDS)
def test_drain_delivers_everything_in_order_and_ends(kind):
    log, target = ListLog({"0": numbers(10), "1": numbers(7, "b")}), MemoryTarget()
    summary = drain(plan_of(log, target, kind=kind))
    for split in ("0", "1"):
        wanted = log.values(split)
        assert [value for value in target.values() if value in wanted] == wanted
    assert len(target.values()) == 17
    assert (summary.records, summary.dead_letters) == (17, 0)
    assert summary.checkpoint == {"0": 10, "1": 7}


@pytest.mark.parametrize("kind", KINDS)
def test_second_run_delivers_only_what_is_new(kind):
    log, target = ListLog({"0": numbers(5)}), MemoryTarget()
    drain(plan_of(log, target, kind=kind))
    assert drain(plan_of(log, target, kind=kind)).records == 0
    log.append("0", b'"new"')
    assert drain(plan_of(log, target, kind=kind)).records == 1
    assert target.values() == [*numbers(5), b'"new"']


def test_summary_is_json():
    log, target = ListLog({"0": numbers(5)}), MemoryTarget()
    summary = json.loads(json.dumps(drain(plan_of(log, target)).as_dict()))
    assert set(summary) == {"records", "bytes", "seconds", "dead_letters", "checkpoint"}
    assert summary["records"] == 5
    assert summary["checkpoint"] == {"0": 5}


def test_drain_ends_although_a_producer_goes_on():
    log, target = ListLog({"0": numbers(5)}), MemoryTarget()
    target.on("commit", 1, lambda: log.append("0", *numbers(5, "late")), after=True)
    assert drain(plan_of(log, target, read=2)).records == 5


def test_stretches_without_records_move_the_checkpoint():
    """Case 20: what is filtered or a marker must not be read again for ever."""
    log, target = ListLog({"0": [Gap(), Gap(), *numbers(2), Gap(), Gap(), Gap()]}), MemoryTarget()
    summary = drain(plan_of(log, target))
    assert target.values() == numbers(2)
    assert summary.checkpoint == {"0": 7}
    assert target.checkpoint("orders") == {"0": 7}


def test_source_is_told_what_is_durable_and_only_that():
    log, target = ListLog({"0": numbers(6)}), MemoryTarget()
    drain(plan_of(log, target, read=2))
    assert log.acknowledged
    assert log.acknowledged[-1] == {"0": 6}
    log2, target2 = ListLog({"0": numbers(6)}), MemoryTarget()
    for nth in range(1, 20):
        target2.fail("commit", nth, Fatal("no"))
    with pytest.raises(Fatal, match="no"):
        drain(plan_of(log2, target2))
    assert log2.acknowledged == []


# --- flush limits


def commits(target: MemoryTarget) -> list[int]:
    """Rows of each commit."""
    return [rows for operation, _, rows in target.journal if operation == "commit"]


def test_batch_size_is_a_threshold():
    log, target = ListLog({"0": numbers(12)}), MemoryTarget()
    drain(plan_of(log, target, batch_size=12, interval=0, read=2))
    assert commits(target) == [12]


def test_nothing_is_flushed_before_the_size_is_reached_but_the_rest_at_the_end():
    log, target = ListLog({"0": numbers(12)}), MemoryTarget()
    drain(plan_of(log, target, batch_size=1000, interval=0, read=5))
    assert commits(target) == [12]


def test_flush_by_time_does_not_wait_for_the_next_record():
    """Case 21."""
    log, target = ListLog({"0": numbers(3)}), MemoryTarget()
    with Running(plan_of(log, target, batch_size=0, interval=0.2)) as running:
        began = time.monotonic()
        until(lambda: len(target.values()) == 3)
        assert time.monotonic() - began >= 0.15
    assert running.summary.records == 3


def test_flush_by_time_can_be_switched_off():
    log, target = ListLog({"0": numbers(3)}), MemoryTarget()
    with Running(plan_of(log, target, batch_size=5, interval=0)):
        time.sleep(0.4)
        assert target.values() == []
        log.append("0", *numbers(2, "more"))
        until(lambda: len(target.values()) == 5)


# --- limits of a run


def test_max_records_are_exact():
    log, target = ListLog({"0": numbers(100)}), MemoryTarget()
    assert drain(plan_of(log, target, read=30), max_records=45).records == 45
    assert len(target.values()) == 45
    assert drain(plan_of(log, target, read=30)).records == 55
    assert target.values() == numbers(100)


def test_max_seconds_ends_a_continuous_run():
    log, target = ListLog({"0": numbers(10)}), MemoryTarget()
    began = time.monotonic()
    summary = Worker(plan_of(log, target), Limits(mode="continuous", max_seconds=0.5)).run()
    assert 0.4 < time.monotonic() - began < 5
    assert summary.records == 10


def test_stop_flushes_commits_acknowledges_and_leaves():
    """Case 24."""
    log, target = ListLog({"0": numbers(10)}), MemoryTarget()
    with Running(plan_of(log, target, batch_size=1000, interval=60, read=10)) as running:
        until(lambda: running.worker.metrics.value("connect_records_total", stage="read") == 10)
    assert running.summary.records == 10
    assert target.checkpoint("orders") == {"0": 10}
    assert log.acknowledged[-1] == {"0": 10}


def test_stop_is_quick_while_the_sink_is_down():
    """Case 22: back-off does not hold up SIGTERM."""
    log, target = ListLog({"0": numbers(10)}), MemoryTarget()
    for nth in range(1, 50):
        target.fail("commit", nth, Retryable("down"))
    slow = RetryPolicy(attempts=50, first_seconds=1000, longest_seconds=1000)
    began = time.monotonic()
    with Running(plan_of(log, target, retry=slow)) as running:
        until(lambda: running.worker.metrics.value("connect_errors_total", kind="retryable") == 1)
    assert time.monotonic() - began < 5
    assert target.values() == []


def test_back_pressure_bounds_what_is_read_ahead_and_keeps_the_session_alive():
    log, target = ListLog({"0": [b'"' + b"x" * 1000 + b'"' for _ in range(500)]}), MemoryTarget()
    sources = []

    class Watched(ListSource):
        def open(self, context):
            sources.append(self)
            super().open(context)

    ahead = []
    target.on("commit", 1, lambda: (time.sleep(2.5), ahead.append(sources[0]._positions["0"])))
    plan = plan_of(log, target, source=Watched, read=10, prefetch_bytes=50_000)
    assert drain(plan).records == 500
    assert ahead[0] <= 200, "the reader went on reading without room"
    assert sources[0].kept_alive >= 1


# --- lanes and shares


def test_lanes_share_the_splits():
    log, target = ListLog({str(i): numbers(20, f"{i}-") for i in range(4)}), MemoryTarget()
    summary = drain(plan_of(log, target, parallelism=2))
    assert summary.records == 80
    assert sorted(target.values()) == sorted(value for i in range(4) for value in log.values(str(i)))
    assert summary.checkpoint == {str(i): 20 for i in range(4)}


def test_workers_with_shares_divide_the_splits():
    log, target = ListLog({str(i): numbers(5, f"{i}-") for i in range(3)}), MemoryTarget()
    assert drain(plan_of(log, target), share=Share(0, 2)).checkpoint == {"0": 5, "2": 5}
    assert drain(plan_of(log, target), share=Share(1, 2)).checkpoint == {"1": 5}


def test_a_failing_lane_stops_the_others_in_good_order():
    log = ListLog({"0": [*numbers(3), Raise(Fatal("split 0 is broken"))], "1": [*numbers(3, "b"), Slow(0.05)]})
    target = MemoryTarget()
    with pytest.raises(Fatal, match="split 0 is broken"):
        Worker(plan_of(log, target, parallelism=2, read=1), Limits(mode="continuous")).run()
    assert set(numbers(3)) <= set(target.values())


def test_no_common_format_is_a_flow_error_before_anything_is_read():
    log, target = ListLog({"0": numbers(3)}), MemoryTarget()
    plan = plan_of(log, target)
    odd = replace(plan, sink=lambda: MemoryTransactionalSink(target, MemorySinkConfig(accepted_formats=("martian",))))
    with pytest.raises(FlowError, match="martian"):
        drain(odd)


def test_progress_and_lag_are_told():
    log, target = ListLog({"0": numbers(10)}), MemoryTarget()
    seen = []
    Worker(plan_of(log, target), Limits(max_seconds=1.2), on_progress=seen.append).run()
    assert seen[-1].records == 10
    assert seen[-1].bytes > 0


def test_checkpoints_are_json_values_per_split():
    assert Checkpoint({"a": 1}).advance({"b": [2, "x"]}) == {"a": 1, "b": [2, "x"]}
    assert Checkpoint({"a": 1, "b": 2}).only(["b"]) == {"b": 2}
