"""The in-memory connectors' faults: what the contracts do not ask for, but the worker's tests rely on."""

import pyarrow as pa
import pytest

from airflow_provider_connect.engine.batch import Batch, Checkpoint, documents
from airflow_provider_connect.engine.connector import Share, SinkContext, SourceContext
from airflow_provider_connect.engine.errors import EndOfInput, Fatal, Fenced, InvalidRecord, Retryable
from airflow_provider_connect.testing.memory import (
    Assign,
    End,
    Gap,
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


class Context(SourceContext):
    def __init__(self, stored=None, *, drain=False, until=None, fixed=False):
        self.flow, self.format, self.share, self.fixed_splits = "flow", "json", Share(), fixed
        self.drain, self.until = drain, Checkpoint(until or {})
        self.stored, self.seen = Checkpoint(stored or {}), []

    def claim(self, splits):
        self.seen.append(("claim", *splits))
        return self.stored.only(splits)

    def revoked(self, splits):
        self.seen.append(("revoked", *splits))

    def lost(self, splits):
        self.seen.append(("lost", *splits))


def read_all(source):
    batches = []
    while True:
        try:
            batch = source.read(100, 0.2)
        except EndOfInput:
            return batches
        assert batch is not None, "idle, and not at the end"
        batches.append(batch)


def values(batches):
    return [value for batch in batches for value in batch.rows.column("value").to_pylist()]


def batch(*items, checkpoint=None):
    return Batch(documents(pa.array(items, pa.binary()), "json"), Checkpoint(checkpoint or {}))


def test_faults_fire_once_and_the_log_goes_on():
    log = ListLog({"0": [b"1", Raise(Retryable("cut")), b"2", Gap(), None, End(), b"never"]})
    source = ListSource(log)
    source.open(Context())
    assert values([source.read(10, 0)]) == [b"1"]
    with pytest.raises(Retryable, match="cut"):
        source.read(10, 0)
    source.open(Context({"0": 1}))
    rest = read_all(source)
    assert values(rest) == [b"2", None]
    assert rest[-1].checkpoint == {"0": 4}
    assert rest[-1].rows.column("offset").to_pylist() == [1, 3]


def test_a_batch_of_gaps_only_is_empty_and_moves_the_checkpoint():
    source = ListSource(ListLog({"0": [Gap(), Gap()]}))
    source.open(Context(drain=True))
    (only,) = read_all(source)
    assert (len(only), only.checkpoint) == (0, {"0": 2})


def test_rebalances_happen_where_the_log_says():
    log = ListLog({"0": [b"a", Assign("1"), b"b", Revoke("1"), b"c", Lose("0")], "1": [b"x"]})
    source, context = ListSource(log, assigned=["0"]), Context()
    source.open(context)
    seen = [source.read(1, 0.1) for _ in range(4)]
    assert sorted(values(seen)) == [b"a", b"b", b"c", b"x"]
    assert source.read(1, 0) is None
    assert context.seen == [("claim", "0"), ("claim", "1"), ("revoked", "1"), ("lost", "0")]


def test_a_rebalance_from_outside_happens_at_the_next_read():
    source, context = ListSource(ListLog({"0": [b"a"], "1": [b"x"]}), assigned=["0"]), Context(drain=True)
    source.open(context)
    source.inbox.put(Revoke("0"))
    source.inbox.put(Assign("1"))
    assert values(read_all(source)) == [b"x"]
    assert context.seen == [("claim", "0"), ("revoked", "0"), ("claim", "1")]


def test_fixed_splits_never_move():
    context = Context(until={"0": 2}, fixed=True)
    source = ListSource(ListLog({"0": [b"a", Lose("0"), b"b", b"c"], "1": [b"x"]}))
    source.open(context)
    assert values(read_all(source)) == [b"a", b"b"]
    assert context.seen == [("claim", "0")]


def test_poison_is_refused_with_or_without_rows():
    target = MemoryTarget()
    target.poison[b"bad"] = "smells"
    sink = MemorySink(target)
    sink.open(SinkContext("flow"))
    with pytest.raises(InvalidRecord) as named:
        sink.write(batch(b"good", b"bad"))
    assert named.value.rows == {1: "smells"}
    target.refuses_at, target.names_poison = "flush", False
    sink.write(batch(b"good", b"bad"))
    with pytest.raises(InvalidRecord) as unnamed:
        sink.flush()
    assert unnamed.value.rows is None
    sink.write(batch(b"fine"))
    sink.flush()
    assert target.values() == [b"fine"]


@pytest.mark.parametrize(("landed", "expected"), [(True, ([b"1"], {"0": 1})), (False, ([], {}))])
def test_a_commit_of_unknown_outcome_landed_or_got_lost(landed, expected):
    target = MemoryTarget()
    sink = MemoryTransactionalSink(target)
    sink.open(SinkContext("flow"))
    sink.claim(["0"])
    target.fail("commit", 1, Retryable("connection lost"), landed=landed)
    sink.write(batch(b"1"))
    sink.flush()
    with pytest.raises(Retryable):
        sink.commit(Checkpoint({"0": 1}))
    sink.abort()
    assert (target.values(), sink.positions(["0"])) == expected


def test_a_failure_hits_the_nth_call_only():
    target = MemoryTarget()
    sink = MemorySink(target)
    sink.open(SinkContext("flow"))
    target.fail("flush", 2, Retryable("second"))
    for nth in (1, 2, 3):
        sink.write(batch(str(nth).encode()))
        if nth == 2:
            with pytest.raises(Retryable, match="second"):
                sink.flush()
        else:
            sink.flush()
    assert target.values() == [b"1", b"3"]


def test_something_else_can_happen_just_before_a_commit():
    target = MemoryTarget()
    old, new = MemoryTransactionalSink(target), MemoryTransactionalSink(target)
    for sink in (old, new):
        sink.open(SinkContext("flow"))
    old.claim(["0", "1"])
    target.on("commit", 1, lambda: new.claim(["1"]))
    with pytest.raises(Fenced) as fenced:
        old.commit(Checkpoint({"0": 1, "1": 1}))
    assert fenced.value.splits == ("1",)
    old.abort()
    old.commit(Checkpoint({"0": 1}))
    assert target.checkpoint("flow") == {"0": 1}


def test_a_token_is_dropped_the_second_time():
    target = MemoryTarget()
    sink = MemoryIdempotentSink(target)
    sink.open(SinkContext("flow"))
    for token in ("a", "a", "b"):
        sink.begin(token)
        sink.write(batch(token.encode()))
        sink.flush()
    assert target.values() == [b"a", b"b"]
    sink.write(batch(b"c"))
    with pytest.raises(Fatal, match="begin"):
        sink.flush()


def test_the_journal_tells_the_order_across_targets():
    journal = []
    main, errors = MemoryTarget(journal=journal), MemoryTarget(journal=journal)
    for target, flow in ((main, "main"), (errors, "errors")):
        sink = MemorySink(target)
        sink.open(SinkContext(flow))
        sink.write(batch(b"1", b"2"))
        sink.flush()
    assert journal == [("flush", "main", 2), ("flush", "errors", 2)]
