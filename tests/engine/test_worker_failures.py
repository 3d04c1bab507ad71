"""What the worker does when something fails: retries, doubt, fencing, rebalances, refused records."""

from __future__ import annotations

import contextlib
import json
import threading
import time

import pytest

from airflow_provider_connect.engine import reader
from airflow_provider_connect.engine.batch import Checkpoint
from airflow_provider_connect.engine.checkpoints import open_store
from airflow_provider_connect.engine.connector import Share, SinkContext
from airflow_provider_connect.engine.errors import Fatal, Fenced, Retryable
from airflow_provider_connect.testing.memory import (
    Assign,
    ListLog,
    ListSource,
    Lose,
    MemoryIdempotentSink,
    MemorySink,
    MemoryTarget,
    MemoryTransactionalSink,
    Raise,
    Revoke,
)
from tests.engine.flows import Running, drain, numbers, plan_of, until

KINDS = [MemorySink, MemoryIdempotentSink, MemoryTransactionalSink]


@pytest.fixture(autouse=True)
def _own_checkpoints(tmp_path, monkeypatch):
    monkeypatch.setenv("AIRFLOW_CONNECT_STATE", str(tmp_path / "checkpoints.db"))


# --- errors that pass


@pytest.mark.parametrize("operation", ["open", "write", "flush", "claim", "commit", "positions"])
@pytest.mark.parametrize("nth", [1, 2, 3])
def test_a_passing_error_anywhere_in_a_transactional_sink_loses_and_repeats_nothing(operation, nth):
    log, target = ListLog({"0": numbers(20), "1": numbers(20, "b")}), MemoryTarget()
    target.fail(operation, nth, Retryable("connection reset"))
    if operation == "positions":
        target.fail("commit", 1, Retryable("connection reset"))
        target.fail("commit", 2, Retryable("connection reset"))
        target.fail("commit", 3, Retryable("connection reset"))
    drain(plan_of(log, target))
    assert sorted(target.values()) == sorted(numbers(20) + numbers(20, "b"))


@pytest.mark.parametrize("operation", ["open", "write", "flush"])
@pytest.mark.parametrize("kind", [MemorySink, MemoryIdempotentSink])
def test_a_passing_error_in_other_sinks_loses_nothing(kind, operation):
    log, target = ListLog({"0": numbers(20)}), MemoryTarget()
    target.fail(operation, 2, Retryable("connection reset"))
    drain(plan_of(log, target, kind=kind))
    assert target.values() == numbers(20)


@pytest.mark.parametrize("landed", [True, False])
@pytest.mark.parametrize("nth", [1, 2, 4])
def test_a_commit_in_doubt_is_decided_by_reading_back(landed, nth):
    """Case 6: the connection is lost between COMMIT and its answer."""
    log, target = ListLog({"0": numbers(20)}), MemoryTarget()
    target.fail("commit", nth, Retryable("connection lost"), landed=landed)
    summary = drain(plan_of(log, target))
    assert target.values() == numbers(20)
    assert summary.records == 20


@pytest.mark.parametrize("kind", KINDS)
def test_a_passing_error_of_the_source_reads_on_from_the_last_commit(kind):
    log = ListLog({"0": [*numbers(7), Raise(Retryable("broker away")), *numbers(7, "b")]})
    target = MemoryTarget()
    drain(plan_of(log, target, kind=kind, batch_size=100))
    assert target.values() == numbers(7) + numbers(7, "b")


def test_retries_end_and_the_error_comes_out():
    log, target = ListLog({"0": numbers(3)}), MemoryTarget()
    for nth in range(1, 30):
        target.fail("flush", nth, Retryable("still down"))
    with pytest.raises(Retryable, match="still down"):
        drain(plan_of(log, target))
    assert target.values() == []
    assert target.checkpoint("orders") == {}


def test_an_unknown_error_is_fatal_and_commits_nothing():
    log, target = ListLog({"0": numbers(3)}), MemoryTarget()
    target.fail("write", 1, RuntimeError("what is this"))
    with pytest.raises(Fatal, match="what is this"):
        drain(plan_of(log, target))
    assert target.values() == []


# --- refused records


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("batch_size", [1, 4, 100])
def test_refused_records_are_set_aside_and_all_others_delivered(kind, known, batch_size):
    log, target, errors = ListLog({"0": numbers(30)}), MemoryTarget(), MemoryTarget()
    bad = {b'"0"', b'"7"', b'"8"', b'"29"'}
    target.poison.update(dict.fromkeys(bad, "poison"))
    target.names_poison = known
    summary = drain(plan_of(log, target, kind=kind, errors=errors, batch_size=batch_size, read=7))
    assert sorted(target.values()) == sorted(set(numbers(30)) - bad)
    letters = [json.loads(value) for value in errors.values()]
    assert sorted(letter["original_message"] for letter in letters) == ["0", "29", "7", "8"]
    assert summary.dead_letters == 4
    assert summary.records == 30
    first = letters[0]["error"]
    assert set(first) == {"message", "type", "timestamp", "original_sink", "metadata"}
    assert first["metadata"]["flow"] == "orders"
    assert first["metadata"]["id"].startswith("list:0:")


def test_without_an_errors_sink_a_refused_record_stops_the_flow_and_says_the_remedy():
    log, target = ListLog({"0": numbers(10)}), MemoryTarget()
    target.poison[b'"5"'] = "poison"
    with pytest.raises(Fatal, match="errors:"):
        drain(plan_of(log, target, batch_size=100))
    assert b'"5"' not in target.values()
    assert target.checkpoint("orders") == {}


def test_dead_letters_are_durable_before_the_commit_that_passes_them():
    """Case 9: a crash between the two repeats a dead letter, and never loses one."""
    journal: list = []
    log = ListLog({"0": numbers(10)})
    target, errors = MemoryTarget(journal=journal), MemoryTarget(journal=journal)
    target.poison[b'"5"'] = "poison"
    target.fail("commit", 1, Fatal("crash"))
    with pytest.raises(Fatal, match="crash"):
        drain(plan_of(log, target, errors=errors, batch_size=100))
    assert len(errors.values()) == 1
    drain(plan_of(log, target, errors=errors, batch_size=100))
    ids = {json.loads(value)["error"]["metadata"]["id"] for value in errors.values()}
    assert ids == {"list:0:5"}
    assert len(target.values()) == 9
    committed = [flow for operation, flow, _ in journal if operation == "commit"]
    assert committed.index("orders.errors") < committed.index("orders")


def test_a_failing_errors_sink_stops_the_commit():
    log, target, errors = ListLog({"0": numbers(10)}), MemoryTarget(), MemoryTarget()
    target.poison[b'"5"'] = "poison"
    errors.fail("write", 1, Fatal("errors sink is full"))
    with pytest.raises(Fatal, match="full"):
        drain(plan_of(log, target, errors=errors, batch_size=100))
    assert target.values() == []


@pytest.mark.parametrize("kind", KINDS)
def test_a_policy_that_keeps_the_checkpoint_before_a_refused_record(kind):
    """`ackPolicy: never`: the record is set aside and read again until it is accepted; nothing is lost or passed."""
    log, target, errors = ListLog({"0": numbers(10)}), MemoryTarget(), MemoryTarget()
    target.poison[b'"5"'] = "poison"
    plan = plan_of(log, target, kind=kind, errors=errors, batch_size=1, read=2, passes_dead_letters=False)
    whole = kind is MemoryIdempotentSink  # it can write a flush, or not, but not take it apart and stop
    for _ in range(2):
        with pytest.raises(Fatal, match=r"list:0:[0-9] to .*ackPolicy" if whole else r"list:0:5.*poison.*ackPolicy"):
            drain(plan)
        assert {json.loads(value)["error"]["metadata"]["id"] for value in errors.values()} == (
            set() if whole else {"list:0:5"}
        )
        if kind is not MemorySink:
            assert not {b'"6"', b'"7"', b'"8"', b'"9"'} & set(target.values()), "nothing passes the refused record"
    target.poison.clear()
    drain(plan)
    assert set(target.values()) == set(numbers(10))
    if kind is not MemorySink:
        assert sorted(target.values()) == numbers(10)


def test_a_flush_that_an_idempotent_sink_refuses_is_not_there_in_parts_when_the_flow_is_mended():
    log, target = ListLog({"0": numbers(10)}), MemoryTarget()
    target.poison[b'"5"'] = "poison"
    target.names_poison = False
    plan = plan_of(log, target, kind=MemoryIdempotentSink, batch_size=100)
    with pytest.raises(Fatal, match=r"list:0:0 to list:0:9.*none is committed.*errors:"):
        drain(plan)
    assert target.values() == []
    target.poison.clear()
    drain(plan)
    assert sorted(target.values()) == numbers(10)


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("crash", range(1, 9))
def test_an_idempotent_flush_taken_apart_is_repeated_in_other_batches(known, crash):
    """A crash amid the parts of a refused flush: the repeated flush is cut otherwise, its parts are not."""
    log, target, errors = ListLog({"0": numbers(20)}), MemoryTarget(), MemoryTarget()
    bad = {b'"3"', b'"4"', b'"17"'}
    target.poison.update(dict.fromkeys(bad, "poison"))
    target.names_poison = known
    target.fail("flush", crash, Fatal("crash"))
    plans = [
        plan_of(log, target, kind=MemoryIdempotentSink, errors=errors, batch_size=100, read=read) for read in (3, 7)
    ]
    with contextlib.suppress(Fatal):
        drain(plans[0])
    drain(plans[1])
    assert sorted(target.values()) == sorted(set(numbers(20)) - bad)
    assert {json.loads(value)["original_message"] for value in errors.values()} == {"3", "4", "17"}


# --- ownership


def test_an_older_worker_of_fixed_splits_is_fenced_and_stops():
    log, target = ListLog({"0": numbers(3)}), MemoryTarget()
    with pytest.raises(Fenced), Running(plan_of(log, target, read=1)):
        until(lambda: len(target.values()) == 3)
        usurper = MemoryTransactionalSink(target)
        usurper.open(SinkContext("orders"))
        assert usurper.claim(["0"]) == {"0": 3}
        log.append("0", *numbers(3, "late"))
        time.sleep(0.5)
    assert target.values() == numbers(3)


def test_a_fenced_member_of_a_group_joins_again():
    log, target = ListLog({"0": numbers(3)}), MemoryTarget()
    with Running(plan_of(log, target, read=1, negotiated=True)):
        until(lambda: len(target.values()) == 3)
        usurper = MemoryTransactionalSink(target)
        usurper.open(SinkContext("orders"))
        usurper.claim(["0"])
        log.append("0", *numbers(3, "late"))
        until(lambda: len(target.values()) == 6)
    assert target.values() == numbers(3) + numbers(3, "late")


def test_revocation_commits_first_and_assignment_starts_at_the_sinks_position():
    """Cases 1 and 3."""
    log = ListLog({"0": [*numbers(5), Revoke("0"), *numbers(5, "x")], "1": [*numbers(8, "b"), Assign("0")]})
    target = MemoryTarget()
    with Running(plan_of(log, target, read=1, batch_size=1000, interval=0.5, negotiated=True)):
        until(lambda: target.checkpoint("orders").get("0") == 5)
        until(lambda: len(target.values()) == 18)
    assert sorted(target.values()) == sorted(numbers(5) + numbers(5, "x") + numbers(8, "b"))


def test_lost_splits_commit_nothing():
    log = ListLog({"0": [*numbers(5), Lose("0", "1"), *numbers(1, "never")], "1": []})
    target = MemoryTarget()
    with Running(plan_of(log, target, read=1, batch_size=1000, interval=60, negotiated=True)) as running:
        until(lambda: running.worker.metrics.value("connect_records_total", stage="read") == 5)
        time.sleep(0.3)
    assert target.values() == []
    assert target.checkpoint("orders") == {}


def test_a_sink_that_hangs_does_not_hold_the_group_up(monkeypatch):
    """Case 3: the wait of a revocation has an end; what comes to its commit later is fenced by the new owner."""
    monkeypatch.setattr(reader, "_REQUEST_SECONDS", 0.3)
    log, target = ListLog({"0": numbers(5)}), MemoryTarget()
    sources, hang, moved = [], threading.Event(), threading.Event()

    class Member(ListSource):
        negotiated = True

        def open(self, context):
            sources.append(self)
            super().open(context)

        def keep_alive(self):
            moved.set()
            super().keep_alive()

    target.on("commit", 1, lambda: hang.wait(10))
    with Running(plan_of(log, target, source=Member, batch_size=5, interval=0)):
        until(lambda: target.calls["commit"] == 1)
        sources[0].inbox.put(Revoke("0"))
        assert moved.wait(5), "the member waits for a sink that hangs"
        other = MemoryTransactionalSink(target)
        other.open(SinkContext("orders"))
        assert other.claim(["0"]) == {}
        hang.set()
        until(lambda: len(target.values()) == 5)
    assert target.values() == numbers(5)


def test_losing_one_of_two_splits_reads_the_others_uncommitted_rows_again():
    log = ListLog({"0": [*numbers(5), Lose("0")], "1": numbers(5, "b")})
    target = MemoryTarget()
    with Running(plan_of(log, target, read=1, batch_size=1000, interval=0.3, negotiated=True)):
        until(lambda: len(target.values()) == 10)
    assert sorted(target.values()) == sorted(numbers(5) + numbers(5, "b"))


# --- idempotent sinks


def test_an_interrupted_flush_is_repeated_exactly_under_its_token():
    """Case 10: the intent is logged before the write; after the crash exactly [from, to) comes again."""
    log, target = ListLog({"0": numbers(10)}), MemoryTarget()
    plan = plan_of(log, target, kind=MemoryIdempotentSink, read=4, batch_bytes=1)
    target.on("flush", 2, lambda: (_ for _ in ()).throw(Fatal("killed after the write")), after=True)
    with pytest.raises(Fatal, match="killed"):
        drain(plan)
    log.append("0", *numbers(10, "new"))
    drain(plan_of(log, target, kind=MemoryIdempotentSink, batch_size=7, interval=0, read=3))
    assert target.values() == numbers(10) + numbers(10, "new")


def test_tokens_differ_for_equal_rows():
    """Case 11: two honest identical batches are two batches."""
    log, target = ListLog({"0": [b'"same"'] * 6}), MemoryTarget()
    drain(plan_of(log, target, kind=MemoryIdempotentSink, read=2, batch_bytes=1))
    assert target.values() == [b'"same"'] * 6


def test_intents_of_a_flow_are_told_apart_by_lane():
    log = ListLog({"0": numbers(10), "1": numbers(10, "b")})
    target = MemoryTarget()
    drain(plan_of(log, target, kind=MemoryIdempotentSink, parallelism=2))
    store = open_store()
    intents = store.intents("orders")
    assert {lane: tuple(intent.end) for lane, intent in intents.items()} == {"0of2": ("0",), "1of2": ("1",)}


def interrupted(share: Share) -> tuple[ListLog, MemoryTarget]:
    """A flush of two workers' flow that the worker of this share did not get to commit."""
    log, target = ListLog({"0": numbers(4), "1": numbers(4, "b")}), MemoryTarget()
    target.on("flush", 1, lambda: (_ for _ in ()).throw(Fatal("killed")), after=True)
    with pytest.raises(Fatal, match="killed"):
        drain(plan_of(log, target, kind=MemoryIdempotentSink), share=share)
    return log, target


def test_a_worker_leaves_the_flushes_of_other_workers_alone():
    """They may be under way; to repeat one would fence a healthy worker."""
    log, target = interrupted(Share(0, 2))
    before = open_store().intents("orders")["0of2"]
    drain(plan_of(log, target, kind=MemoryIdempotentSink), share=Share(1, 2))
    assert open_store().intents("orders")["0of2"] == before
    assert open_store().ledger("orders").claim(["0"]) == {}
    drain(plan_of(log, target, kind=MemoryIdempotentSink), share=Share(0, 2))
    assert sorted(target.values()) == sorted(numbers(4) + numbers(4, "b"))


def test_a_source_that_is_not_replayable_goes_on_after_an_interrupted_flush():
    class Fickle(ListSource):
        replayable = False

    log, target = ListLog({"0": numbers(4)}), MemoryTarget()
    target.on("flush", 1, lambda: (_ for _ in ()).throw(Fatal("killed")), after=True)
    with pytest.raises(Fatal, match="killed"):
        drain(plan_of(log, target, kind=MemoryIdempotentSink, source=Fickle))
    drain(plan_of(log, target, kind=MemoryIdempotentSink, source=Fickle))
    assert set(target.values()) == set(numbers(4)), "at least once"


def test_flushes_of_lanes_that_are_no_more_are_repeated_by_the_first_worker():
    log, target = interrupted(Share(1, 2))
    drain(plan_of(log, target, kind=MemoryIdempotentSink))
    assert sorted(target.values()) == sorted(numbers(4) + numbers(4, "b"))


def test_checkpoint_helpers_do_not_share_state():
    one = Checkpoint({"a": 1})
    one.advance({"a": 2})
    assert one == {"a": 1}
