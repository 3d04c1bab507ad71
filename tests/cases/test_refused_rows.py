"""PostgreSQL refuses a row late, when the rest of a large COPY is long sent."""

import json

import pytest

from tests.cases.flows import assert_each_once, drain, from_kafka, to_kafka, to_postgresql

COUNT = 20_000
LATE = {COUNT - 7: -1, COUNT - 6: "not a number", COUNT - 1: 10**30}
"""Where, and what stands there for a positive bigint: refused by a constraint, the syntax and the range."""


@pytest.fixture
def schema(postgresql):
    name = postgresql.create_schema()
    yield name
    postgresql.execute(f"DROP SCHEMA {name} CASCADE")


@pytest.fixture
def topic(kafka):
    """Records whose field `amount` is their number, but for those of LATE."""
    name = kafka.create_topic(1)
    rows = [json.dumps({"id": i, "amount": LATE.get(i, i + 1)}).encode() for i in range(COUNT)]
    kafka.produce(name, [(str(i).encode(), row) for i, row in enumerate(rows)])
    return name


def letters_in(target: str, kafka, postgresql, table: str, topic: str) -> list[dict]:
    if target == "kafka":
        return [json.loads(record.value) for record in kafka.consume_all(topic)]
    return [letter for (letter,) in postgresql.execute(f"SELECT data FROM {table}")]


@pytest.mark.parametrize("errors", ["kafka", "postgresql"])
def test_the_good_rows_land_and_the_bad_ones_are_set_aside(errors, kafka, postgresql, schema, topic):
    """Case 25: everything is one transaction, which the last row would have spoilt."""
    table, refused, name, aside = f"{schema}.rows", f"{schema}.refused", kafka.unique_name("flow"), kafka.create_topic()
    postgresql.execute(f"CREATE TABLE {table} (id int, amount bigint CHECK (amount > 0))")
    postgresql.execute(f"CREATE TABLE {refused} (data jsonb)")
    sinks = {
        "kafka": to_kafka(kafka.bootstrap_servers, aside, checkpointTopic=kafka.unique_name("checkpoints")),
        "postgresql": to_postgresql(postgresql, refused),
    }
    whole = {"batchSize": COUNT, "batchFlushIntervalSeconds": 60}
    ends = from_kafka(kafka, topic), to_postgresql(postgresql, table, **whole)
    summary = drain(name, *ends, errors=sinks[errors], readRecords=5000)
    assert (summary.records, summary.dead_letters) == (COUNT, len(LATE))
    ((pieces,),) = postgresql.execute(f"SELECT count(DISTINCT xmin::text) FROM {table}")
    assert pieces <= 50, "a few savepoints, not one for each row"
    assert drain(name, *ends, errors=sinks[errors]).records == 0
    landed = [i for (i,) in postgresql.execute(f"SELECT id FROM {table}")]
    letters = letters_in(errors, kafka, postgresql, refused, aside)
    assert_each_once(landed + [letter["original_message"]["id"] for letter in letters], COUNT)
    assert {letter["original_message"]["id"]: letter["original_message"]["amount"] for letter in letters} == LATE
    assert {letter["error"]["metadata"]["id"] for letter in letters} == {f"{topic}:0:{at}" for at in LATE}


@pytest.mark.parametrize("errors", ["kafka", "postgresql"])
def test_a_commit_that_fails_after_the_dead_letters_loses_none(
    errors, kafka, postgresql, postgresql_proxy, schema, topic
):
    """Case 9: two sinks are two transactions. The dead letters may come twice, with the same id; the rows do not."""
    table, refused, name, aside = f"{schema}.rows", f"{schema}.refused", kafka.unique_name("flow"), kafka.create_topic()
    postgresql.execute(f"CREATE TABLE {table} (id int, amount bigint CHECK (amount > 0))")
    postgresql.execute(f"CREATE TABLE {refused} (data jsonb)")
    sinks = {
        "kafka": to_kafka(kafka.bootstrap_servers, aside, checkpointTopic=kafka.unique_name("checkpoints")),
        "postgresql": to_postgresql(postgresql, refused),
    }
    sink = to_postgresql(postgresql.through(postgresql_proxy), table, batchSize=COUNT, batchFlushIntervalSeconds=60)
    postgresql_proxy.cut_before_request(b"SET position =")  # the commit's first statement
    summary = drain(name, from_kafka(kafka, topic), sink, errors=sinks[errors], readRecords=5000)
    assert postgresql_proxy.wait_for_cut(0)
    assert summary.records == COUNT
    letters = letters_in(errors, kafka, postgresql, refused, aside)
    landed = [i for (i,) in postgresql.execute(f"SELECT id FROM {table}")]
    identities = [letter["error"]["metadata"]["id"] for letter in letters]
    assert set(identities) == {f"{topic}:0:{at}" for at in LATE}
    assert max(map(identities.count, identities)) <= 2
    assert_each_once(landed + list({letter["original_message"]["id"] for letter in letters}), COUNT)
