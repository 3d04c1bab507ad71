"""Positions that are not counts, values that are not floats, and rows that become visible out of order."""

import time

import pytest
from confluent_kafka import Consumer, TopicPartition

from tests.cases.flows import (
    assert_each_once,
    drain,
    flow,
    from_kafka,
    from_postgresql,
    keyed,
    running,
    to_kafka,
    to_postgresql,
)
from tests.engine.flows import until


@pytest.fixture
def schema(postgresql):
    name = postgresql.create_schema()
    yield name
    postgresql.execute(f"DROP SCHEMA {name} CASCADE")


@pytest.mark.parametrize("offset", [0, 30, 100], ids=["lags", "is older", "leads"])
def test_the_groups_offset_is_not_believed(offset, kafka, postgresql, schema):
    """Case 1: some other tool has committed offsets for the group."""
    topic, table, name = kafka.create_topic(1), f"{schema}.copied", kafka.unique_name("flow")
    postgresql.execute(f"CREATE TABLE {table} (data jsonb)")
    ends = from_kafka(kafka, topic), to_postgresql(postgresql, table)
    kafka.produce(topic, keyed(0, 60))
    assert drain(name, *ends).records == 60
    tool = Consumer({"bootstrap.servers": kafka.bootstrap_servers, "group.id": name})
    tool.commit(offsets=[TopicPartition(topic, 0, offset)], asynchronous=False)
    tool.close()
    kafka.produce(topic, keyed(60, 60))
    assert drain(name, *ends).records == 60
    assert_each_once([i for (i,) in postgresql.execute(f"SELECT (data->>'id')::int FROM {table}")], 120)


def test_records_that_are_filtered_out_are_not_read_again(kafka, postgresql, schema):
    """Case 20: nothing is delivered, and yet the flow gets on."""
    topic, table, name = kafka.create_topic(1), f"{schema}.copied", kafka.unique_name("flow")
    postgresql.execute(f"CREATE TABLE {table} (data jsonb)")
    ends = from_kafka(kafka, topic), to_postgresql(postgresql, table)
    nothing = [{"type": "filter", "filter": {"field": "id", "op": "<", "value": 0}}]
    kafka.produce(topic, keyed(0, 300))
    summary = drain(name, *ends, transformations=nothing)
    assert (summary.records, dict(summary.checkpoint)) == (300, {f"{topic}:0": 300})
    assert drain(name, *ends, transformations=nothing).records == 0
    assert postgresql.execute(f"SELECT count(*) FROM {table}") == [(0,)]


def transaction(producer, topic: str, values: list[bytes], finish: str) -> None:
    producer.begin_transaction()
    for value in values:
        producer.produce(topic, value, partition=0)
    producer.flush()
    getattr(producer, f"{finish}_transaction")()


@pytest.mark.parametrize("target", ["postgresql", "kafka"])
def test_a_transactional_topic_is_read_to_its_end(target, kafka, postgresql, schema):
    """Cases 5 and 20: markers and aborted records move the checkpoint, also where they are all there is."""
    topic, copied, name = kafka.create_topic(1), kafka.create_topic(1), kafka.unique_name("flow")
    table = f"{schema}.copied"
    postgresql.execute(f"CREATE TABLE {table} (data jsonb)")
    source = from_kafka(kafka, topic)
    sink = to_postgresql(postgresql, table) if target == "postgresql" else to_kafka(kafka.bootstrap_servers, copied)
    producer = kafka.producer(transactional_id=kafka.unique_name("writer"))
    producer.init_transactions(10)

    for first, finish in [(0, "commit"), (0, "abort"), (5, "commit"), (5, "abort")]:
        transaction(producer, topic, [b'{"id": %d}' % i for i in range(first, first + 5)], finish)
    summary = drain(name, source, sink)
    assert (summary.records, dict(summary.checkpoint)) == (10, {f"{topic}:0": 24})
    with flow(name, source, sink).plan().source() as reader:
        assert reader.lag(summary.checkpoint) == 0

    transaction(producer, topic, [b'{"id": -1}'] * 3, "abort")
    with flow(name, source, sink).plan().source() as reader:
        assert reader.lag(summary.checkpoint) == 4
    summary = drain(name, source, sink)
    assert (summary.records, dict(summary.checkpoint)) == (0, {f"{topic}:0": 28})
    assert drain(name, source, sink).checkpoint in ({}, {f"{topic}:0": 28})
    if target == "postgresql":
        ids = [i for (i,) in postgresql.execute(f"SELECT (data->>'id')::int FROM {table}")]
        stored = postgresql.execute(f"SELECT position FROM {schema}.airflow_connect_checkpoint WHERE flow = %s", name)
        assert stored == [(28,)]
    else:
        ids = [int(record.value[7:-1]) for record in kafka.consume_all(copied)]
        assert kafka.committed_offsets(topic, name) == {0: 28}
    assert_each_once(ids, 10)


@pytest.mark.parametrize("target", ["postgresql", "kafka", "file"])
def test_transactions_that_commit_in_the_reverse_order(target, kafka, postgresql, schema, tmp_path, monkeypatch):
    """Case 15: the row with the smallest id becomes visible last."""
    monkeypatch.setenv("AIRFLOW_CONNECT_STATE", str(tmp_path / "checkpoints.db"))
    table, copied, topic = f"{schema}.orders", f"{schema}.copied", kafka.create_topic(1)
    postgresql.execute(f"CREATE TABLE {table} (id bigserial PRIMARY KEY)")
    postgresql.execute(f"CREATE TABLE {copied} (id bigint)")
    folder = tmp_path / "out"
    sink = {
        "postgresql": to_postgresql(postgresql, copied),
        "kafka": to_kafka(kafka.bootstrap_servers, topic, checkpointTopic=kafka.unique_name("checkpoints")),
        "file": ("file", {"path": str(folder), "format": "ndjson", "batchFlushIntervalSeconds": 1}),
    }[target]

    def delivered() -> list[int]:
        if target == "postgresql":
            return [i for (i,) in postgresql.execute(f"SELECT id FROM {copied} ORDER BY ctid")]
        if target == "kafka":
            lines = [record.value for record in kafka.consume_all(topic)]
        else:
            files = sorted(folder.glob("*.ndjson"), key=lambda path: path.stat().st_mtime_ns)
            lines = [line for path in files for line in path.read_bytes().splitlines()]
        return [int(line.strip()[:-1].split(b":")[1]) for line in lines]

    insert = f"INSERT INTO {table} DEFAULT VALUES"
    postgresql.execute(insert)
    with running(kafka.unique_name("flow"), from_postgresql(postgresql, table), sink):
        until(lambda: delivered() == [1], 20)
        first, second, third = (postgresql.connect() for _ in range(3))
        try:
            for connection in (first, second, third):
                connection.execute(insert)
            for connection in (third, second):
                connection.commit()
                time.sleep(0.7)
            assert delivered() == [1], "a row was read past one that is not visible yet"
            first.commit()
            until(lambda: len(delivered()) == 4, 20)
        finally:
            for connection in (first, second, third):
                connection.close()
        postgresql.execute(insert)
        until(lambda: len(delivered()) == 5, 20)
    assert delivered() == [1, 2, 3, 4, 5]


def test_numbers_and_times_keep_every_digit_over_kafka(kafka, postgresql, schema):
    """Case 16: PostgreSQL to Kafka as JSON, and back into columns of the same types."""
    source, target, topic = f"{schema}.source", f"{schema}.target", kafka.create_topic(1)
    for table in (source, target):
        postgresql.execute(
            f"CREATE TABLE {table} (id bigint PRIMARY KEY, exact numeric, scaled numeric(38, 18), at timestamptz,"
            " local timestamp, clock time, real float8, span interval, text text)"
        )
    postgresql.execute(
        f"""INSERT INTO {source} VALUES
        (-9223372036854775808, 0.1, -0.000000000000000001, '2025-10-26 02:30:00.000001+02', '0001-01-01',
         '0:0:0.000001', 0.1, '1 mon 2 days 00:00:00.000003', ''),
        (9007199254740993, 12345678901234567890123456789012345678901234567890.000000000000000000000000000001,
         12345678901234567890.123456789012345678, '2025-10-26 02:30:00.999999+01', '9999-12-31 23:59:59.999999',
         '23:59:59.999999', 1.7976931348623157e308, '-1 years', 'ü\\"'),
        (9007199254740992, 1e100, 1, '1969-12-31 23:59:59.999999Z', '2025-10-26 02:30', '24:00', 5e-324, '0', NULL),
        (9223372036854775807, NULL, 0, 'epoch', 'epoch', '12:00', -0.0, NULL, E'a\\tb\\nc')"""
    )
    out = to_kafka(kafka.bootstrap_servers, topic, checkpointTopic=kafka.unique_name("checkpoints"))
    there = drain(kafka.unique_name("there"), from_postgresql(postgresql, source), out)
    assert dict(there.checkpoint) == {source: {"after": {"id": "9223372036854775807"}}}
    back = drain(kafka.unique_name("back"), from_kafka(kafka, topic), to_postgresql(postgresql, target))
    assert (there.records, back.records) == (4, 4)
    as_text = "SELECT t::text FROM {} t ORDER BY id"
    assert postgresql.execute(as_text.format(target)) == postgresql.execute(as_text.format(source))


def test_a_changed_row_comes_again_and_a_deleted_one_stays(kafka, postgresql, schema):
    """Case 17: what polling can see, and what it cannot."""
    source, target, name = f"{schema}.source", f"{schema}.target", kafka.unique_name("flow")
    postgresql.execute(f"CREATE TABLE {source} (id int PRIMARY KEY, text text, at timestamptz DEFAULT now())")
    postgresql.execute(f"ALTER TABLE {source} ALTER at SET NOT NULL")
    postgresql.execute(f"CREATE TABLE {target} (id int PRIMARY KEY, text text, at timestamptz)")
    postgresql.execute(f"INSERT INTO {source} SELECT i, 'old' FROM generate_series(1, 4) i")
    ends = from_postgresql(postgresql, source, cursor="at"), to_postgresql(postgresql, target, upsertMode=True)
    assert drain(name, *ends).records == 4
    postgresql.execute(f"UPDATE {source} SET text = 'lost', at = clock_timestamp() WHERE id = 2")
    postgresql.execute(f"UPDATE {source} SET text = 'new', at = clock_timestamp() WHERE id = 2")
    postgresql.execute(f"DELETE FROM {source} WHERE id = 3")
    assert drain(name, *ends).records == 1
    rows = postgresql.execute(f"SELECT id, text FROM {target} ORDER BY id")
    assert rows == [(1, "old"), (2, "new"), (3, "old"), (4, "old")]
