"""kill -9 of a worker that follows a table, and of the server: the target is the source, each change came once."""

import json
import time
from collections import Counter

import pytest

from tests.crash.victim import Victim, kill_repeatedly, write_flow
from tests.services.postgresql import PostgreSQL
from tests.services.postgresql_server import PostgreSQLServer

KILLS = 8
ROUND = 2_000
ROWS_BEFORE = 30_000

pytestmark = [pytest.mark.crash, pytest.mark.timeout(300)]

PER_COMMIT = {"batchSize": 200, "batchFlushIntervalSeconds": 1}
SMALL_READS = {"readRecords": 100}


@pytest.fixture
def table(postgresql):
    name = postgresql.unique_name("cdc")
    yield name
    forget(postgresql, name)


def forget(postgresql, name):
    for victim in Victim.started:
        if victim.process.poll() is None:
            victim.kill()
    postgresql.drop_replication(name)
    postgresql.execute(f"DROP TABLE IF EXISTS {name}, {name}_target")


def create(postgresql, name):
    """A table with rows that the snapshot needs a while for."""
    postgresql.execute(f"CREATE TABLE {name} (id int PRIMARY KEY, version int, text text)")
    postgresql.execute(f"INSERT INTO {name} SELECT i * 10, 0, 'row ' || i FROM generate_series(1, {ROWS_BEFORE}) i")


def change(postgresql, name, number):
    """One round of changes all over the table: some in one large transaction, some in small ones."""
    with postgresql.connect(autocommit=True) as connection:
        connection.execute(
            f"WITH gone AS (DELETE FROM {name} WHERE id %% 97 = %s RETURNING id)"
            f" INSERT INTO {name} SELECT id + 1000000 * %s, 1000, 'moved' FROM gone",
            [number, number + 1],
        )
        connection.execute(f"UPDATE {name} SET version = version + 1 WHERE (id / 10) %% 8 = %s", [number % 8])
        for part in range(10):
            with connection.transaction():
                first = 100_000_000 + number * ROUND + part * ROUND // 10
                connection.execute(
                    f"INSERT INTO {name} SELECT i, 0, 'new' FROM generate_series(%s::int, %s::int) i",
                    [first, first + ROUND // 10 - 1],
                )
                connection.execute(f"UPDATE {name} SET id = id + 500000000 WHERE id = %s", [first + 3])
                connection.execute(
                    f"UPDATE {name} SET version = version + 1 WHERE id BETWEEN %s AND %s", [first, first + 20]
                )
                connection.execute(f"DELETE FROM {name} WHERE id = %s", [first + 7])


def source_of(postgresql, name, **settings):
    return {
        "type": "postgresql-cdc",
        "postgresql-cdc": {"connectionString": postgresql.dsn, "tables": f"public.{name}", "slot": name, **settings},
    }


def into_postgresql(folder, postgresql, name):
    postgresql.execute(f"CREATE TABLE {name}_target (LIKE {name} INCLUDING ALL)")
    sink = {"connectionString": postgresql.dsn, "table": f"{name}_target", "upsertMode": True, **PER_COMMIT}
    source = source_of(postgresql, name, envelope="flat")
    return write_flow(folder, f"flow-{name}", source, {"type": "postgresql", "postgresql": sink}, **SMALL_READS)


def assert_same(postgresql, name):
    for one, other in ((name, f"{name}_target"), (f"{name}_target", name)):
        assert postgresql.execute(f"SELECT * FROM {one} EXCEPT ALL SELECT * FROM {other} LIMIT 5") == []
    ((count,),) = postgresql.execute(f"SELECT count(*) FROM {name}_target")
    assert count > ROWS_BEFORE


def test_a_table_follows_another(table, postgresql, tmp_path):
    create(postgresql, table)
    flow = into_postgresql(tmp_path, postgresql, table)
    assert kill_repeatedly(flow, lambda number: change(postgresql, table, number), KILLS, seed=5) == KILLS
    assert_same(postgresql, table)


def test_every_change_is_in_kafka_once(table, postgresql, kafka, tmp_path):
    create(postgresql, table)
    topic = kafka.create_topic(1)
    sink = {"type": "kafka", "kafka": {"brokers": [kafka.bootstrap_servers], "topic": topic, **PER_COMMIT}}
    flow = write_flow(tmp_path, f"flow-{table}", source_of(postgresql, table), sink, **SMALL_READS)
    victim = Victim(flow)
    victim.wait_until_committing()  # the first of very many commits of the snapshot
    assert victim.kill()
    assert kill_repeatedly(flow, lambda number: change(postgresql, table, number), KILLS, seed=6) == KILLS
    events = [(json.loads(record.key)["id"], json.loads(record.value)) for record in kafka.consume_all(topic)]
    places = Counter(
        (value["source"]["commitLsn"], value["source"]["index"], value["op"], key)
        for key, value in events
        if value["op"] != "r"
    )
    assert {place: count for place, count in places.items() if count > 1} == {}, "repeated"
    assert len(places) > KILLS * ROUND
    # Order and completeness: each event follows from the state before it.
    state = {}
    for key, value in events:
        op, after = value["op"], value["after"]
        if op == "d":
            assert state.pop(key, None) is not None, f"{key} was deleted, but never there"
        elif op in ("c", "r"):
            assert key not in state, f"{key} came twice"
            state[key] = after["version"]
        else:
            assert after["version"] == state[key] + 1, f"{key}: {value} follows version {state[key]}"
            state[key] += 1
    assert state == dict(postgresql.execute(f"SELECT id, version FROM {table}"))
    stretches = {value["source"]["lsn"] for _, value in events if value["op"] == "r"}
    assert len(stretches) > 1, "the kill did not interrupt the snapshot"


def test_every_change_is_in_one_file(table, postgresql, tmp_path):
    """A sink that is effectively once: a flush that was interrupted is read again from the slot, exactly."""
    create(postgresql, table)
    postgresql.execute(f"CREATE PUBLICATION {table} FOR TABLE {table}")
    postgresql.execute("SELECT pg_create_logical_replication_slot(%s, 'pgoutput')", table)
    target = tmp_path / "changes"
    sink = {"type": "file", "file": {"path": str(target), "format": "ndjson", **PER_COMMIT}}
    source = source_of(postgresql, table, snapshot="never")
    flow = write_flow(tmp_path, f"flow-{table}", source, sink, **SMALL_READS)
    assert kill_repeatedly(flow, lambda number: change(postgresql, table, number), 3, seed=7) == 3
    events = [json.loads(line) for file in target.glob("*.ndjson") for line in file.read_text().splitlines()]
    places = Counter((event["source"]["commitLsn"], event["source"]["index"], event["op"]) for event in events)
    assert {place: count for place, count in places.items() if count > 1} == {}, "repeated"
    # Complete: what was made, less what was deleted, is what is there of it.
    created, deleted = (
        {event[side]["id"] for event in events if event["op"] == op} for op, side in (("c", "after"), ("d", "before"))
    )
    ((rows,),) = postgresql.execute(f"SELECT count(*) FROM {table}")
    assert ROWS_BEFORE + len(created) - len(deleted) == rows


def test_a_server_that_is_killed_while_it_is_followed(tmp_path):
    server = PostgreSQLServer()
    postgresql, name = PostgreSQL(server.dsn), "followed"
    try:
        create(postgresql, name)
        flow = into_postgresql(tmp_path, postgresql, name)
        victim = Victim(flow).wait_until_committing()
        for number in range(3):
            change(postgresql, name, number)
            time.sleep(0.3)
            server.kill()
            server.start()
        change(postgresql, name, 3)
        time.sleep(1)
        victim.stop()
        assert "trying again" in victim.tail()
        Victim(flow, "--drain").finish()
        assert_same(postgresql, name)
    finally:
        forget(postgresql, name)
        server.close()
