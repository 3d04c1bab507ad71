"""Death at every line of the source's own modules: what was delivered before and after it makes each change once."""

import contextlib
import importlib
import itertools
import json

import psycopg
import pytest

from airflow_provider_connect.connectors.postgresql_cdc import PostgreSQLCdcSource, PostgreSQLCdcSourceConfig
from airflow_provider_connect.engine.batch import Checkpoint
from airflow_provider_connect.engine.errors import EndOfInput
from airflow_provider_connect.testing.crash import crash_at
from airflow_provider_connect.testing.source import RecordedContext

PACKAGE = "airflow_provider_connect.connectors.postgresql_cdc"
MODULES = ("source", "snapshot", "slot", "publication", "changes", "replication", "position")
"""Those that speak to the server or know where we stand; the others only make texts of bytes."""

SPLIT = "changes"
EVERY = 11
"""A run executes some 570 lines, many of them repeatedly; dying at each of them (1) takes minutes."""

pytestmark = pytest.mark.timeout(200)


class Worker:
    """A worker with a transactional sink, in one table: events and position are one transaction."""

    def __init__(self, postgresql):
        self.postgresql, self.name = postgresql, postgresql.unique_name("cdc")
        postgresql.execute(f"CREATE TABLE {self.name} (id int PRIMARY KEY, version int)")
        postgresql.execute(
            f"CREATE TABLE {self.name}_sink (n int GENERATED ALWAYS AS IDENTITY, value jsonb, position text)"
        )
        self.reset()

    def reset(self):
        """As if the flow had never run: six rows, no slot."""
        self.postgresql.drop_replication(self.name)
        with self.postgresql.connect() as connection:
            connection.execute(f"TRUNCATE {self.name}, {self.name}_sink RESTART IDENTITY")
            connection.execute(f"INSERT INTO {self.name} SELECT i, 0 FROM generate_series(1, 6) i")

    def drop(self):
        self.postgresql.drop_replication(self.name)
        self.postgresql.execute(f"DROP TABLE {self.name}, {self.name}_sink")

    def change(self, connection):
        """Some of everything, all over the table: each version is one more than the last."""
        ((new,),) = connection.execute(f"SELECT greatest(10, max(abs(id)) + 1) FROM {self.name}").fetchall()
        with connection.transaction():
            connection.execute(f"UPDATE {self.name} SET version = version + 1")
            connection.execute(f"INSERT INTO {self.name} VALUES (%s, 0)", [new])
        connection.execute(f"UPDATE {self.name} SET id = -id WHERE id = %s OR id = 5", [new])
        connection.execute(f"DELETE FROM {self.name} WHERE id = %s", [-new + 2])

    def run(self, attempt=0, changing=True):
        """Go on from the stored position to the end of what is there; a change comes in the middle of it."""
        config = PostgreSQLCdcSourceConfig(
            connection_string=self.postgresql.dsn, tables=self.name, slot=self.name, publication=self.name
        )
        source = PostgreSQLCdcSource(config)
        with psycopg.connect(self.postgresql.dsn, autocommit=True) as connection:
            row = connection.execute(
                f"SELECT position FROM {self.name}_sink WHERE position IS NOT NULL ORDER BY n DESC LIMIT 1"
            ).fetchone()
            stored = {SPLIT: json.loads(row[0])} if row is not None else {}
            with source:
                source.open(RecordedContext(f"flow-{self.name}", "json", stored=stored, drain=True))
                with contextlib.suppress(EndOfInput):
                    for number in itertools.count():
                        batch = source.read(4, 0.1)
                        if batch is not None:
                            self.commit(connection, batch)
                            source.acknowledge(batch.checkpoint)
                        if number == 0 and changing:
                            self.change(connection)
                source.keep_alive()

    def commit(self, connection, batch):
        values = [value.decode() for value in batch.rows.column("value").to_pylist()]
        with connection.transaction():
            connection.execute(f"INSERT INTO {self.name}_sink (value) SELECT unnest(%s::text[])::jsonb", [values])
            position = json.dumps(Checkpoint(batch.checkpoint)[SPLIT])
            connection.execute(f"INSERT INTO {self.name}_sink (position) VALUES (%s)", [position])

    def assert_exact(self, death):
        """The events, one after the other, lead to what the table is now, and none is there twice."""
        rows = self.postgresql.execute(f"SELECT value FROM {self.name}_sink WHERE value IS NOT NULL ORDER BY n")
        state = {}
        for (value,) in rows:
            op, before, after = value["op"], value["before"], value["after"]
            if op == "d":
                assert state.pop(before["id"], None) is not None, death
            elif op == "u":
                assert after["version"] == state[after["id"]] + 1, death
                state[after["id"]] += 1
            else:
                assert after["id"] not in state, death
                state[after["id"]] = after["version"]
        assert state == dict(self.postgresql.execute(f"SELECT id, version FROM {self.name}")), death


@pytest.fixture
def worker(postgresql):
    made = Worker(postgresql)
    yield made
    made.drop()


def test_death_at_every_line(worker, postgresql):
    """Of a run from the beginning; at every so many executed lines."""
    modules = [importlib.import_module(f"{PACKAGE}.{name}") for name in MODULES]
    died: list[tuple[str, int]] = []
    for attempt in itertools.count(1, EVERY):
        death = crash_at(attempt, modules, worker.run)
        if death is None:
            break
        died.append((death.file, death.line))
        with postgresql.connect(autocommit=True) as connection:
            worker.change(connection)
        worker.run(changing=False)
        worker.assert_exact(death)
        worker.reset()
    assert len(set(died)) > 40, "hardly a line of the source was executed"
    worker.run(changing=False)
    worker.assert_exact("the worker that survived")
