"""The PostgreSQL CDC source: what changes look like, where it goes on, what it refuses; on a real server."""

import json
import threading
import time

import psycopg
import pytest

from airflow_provider_connect.connectors.postgresql_cdc import PostgreSQLCdcSource, PostgreSQLCdcSourceConfig
from airflow_provider_connect.engine.batch import Checkpoint
from airflow_provider_connect.engine.errors import EndOfInput, Fatal, FlowError, Retryable
from airflow_provider_connect.testing.source import RecordedContext
from tests.services.postgresql import PostgreSQL
from tests.services.postgresql_server import PostgreSQLServer

SPLIT = "changes"
PATIENCE = 20.0


class Follower:
    """A flow in miniature: what it reads counts as committed at once."""

    def __init__(self, postgresql, name, **settings):
        self.postgresql, self.name = postgresql, name
        self.settings = {"tables": name, "slot": name, **settings}
        self.position = None
        self.batches = []
        self._source = None

    def make(self, dsn=None):
        return PostgreSQLCdcSource(
            PostgreSQLCdcSourceConfig(connection_string=dsn or self.postgresql.dsn, **self.settings)
        )

    def open(self, drain=False, dsn=None):
        self.close()
        self._source = self.make(dsn)
        stored = {SPLIT: self.position} if self.position is not None else {}
        self._source.open(RecordedContext(f"flow-{self.name}", "json", stored=stored, drain=drain))
        return self._source

    def read(self, max_records=1000):
        """One batch's records as (key, value); None if nothing came. Its checkpoint is committed."""
        batch = self._source.read(max_records, 0.1)
        if batch is None:
            return None
        self.position = json.loads(json.dumps(batch.checkpoint[SPLIT]))
        self.batches.append(batch)
        self._source.acknowledge(batch.checkpoint)
        rows = batch.rows
        pairs = zip(rows.column("key").to_pylist(), rows.column("value").to_pylist(), strict=True)
        return [tuple(None if text is None else json.loads(text) for text in pair) for pair in pairs]

    def drain(self, max_records=1000):
        """Everything that is there now."""
        found, until = [], time.monotonic() + PATIENCE
        self.open(drain=True)
        try:
            while time.monotonic() < until:
                found += self.read(max_records) or []
        except EndOfInput:
            return found
        finally:
            self.close()
        raise AssertionError("no end")

    def wait_for(self, count, max_records=1000):
        """So many records of a source that is open."""
        found, until = [], time.monotonic() + PATIENCE
        while len(found) < count and time.monotonic() < until:
            found += self.read(max_records) or []
        assert len(found) == count
        return found

    def close(self):
        if self._source is not None:
            self._source.close()
            self._source = None


@pytest.fixture
def follow(postgresql):
    """Makes a table, and followers of it; takes all away again."""
    followers = []

    def make(columns="id int PRIMARY KEY, text text", name=None, **settings):
        name = name or postgresql.unique_name("cdc")
        if columns:
            postgresql.execute(f"CREATE TABLE {name} ({columns})")
        followers.append(Follower(postgresql, name, **settings))
        return followers[-1]

    yield make
    for follower in followers:
        follower.close()
        postgresql.drop_replication(follower.settings["slot"])
        postgresql.execute(f"DROP TABLE IF EXISTS {follower.name} CASCADE")


def started(follower):
    """Its slot and publication are there, nothing is in the table yet."""
    follower.drain()
    return follower


def ops(events):
    """(op, before, after) of Debezium's envelope."""
    return [(value["op"], value["before"], value["after"]) for _, value in events]


class TestEnvelope:
    def test_inserts_updates_deletes_and_their_origin(self, follow, postgresql):
        follower = started(follow())
        with postgresql.connect() as connection:
            connection.execute(f"INSERT INTO {follower.name} VALUES (1, 'a'), (2, 'b')")
            connection.execute(f"UPDATE {follower.name} SET text = 'c' WHERE id = 1")
            connection.execute(f"DELETE FROM {follower.name} WHERE id = 2")
            (xid,) = connection.execute("SELECT pg_current_xact_id()::text::bigint").fetchone()
        events = follower.drain()
        assert ops(events) == [
            ("c", None, {"id": 1, "text": "a"}),
            ("c", None, {"id": 2, "text": "b"}),
            ("u", None, {"id": 1, "text": "c"}),
            ("d", {"id": 2}, None),
        ]
        assert [key for key, _ in events] == [{"id": 1}, {"id": 2}, {"id": 1}, {"id": 2}]
        sources = [value["source"] for _, value in events]
        assert {source["txId"] for source in sources} == {xid}
        assert len({source["commitLsn"] for source in sources}) == 1
        assert [source["index"] for source in sources] == [0, 1, 2, 3]
        assert sorted(source["lsn"] for source in sources) == [source["lsn"] for source in sources]
        assert all(source["lsn"] <= source["commitLsn"] for source in sources)
        first = events[0][1]
        assert first["source"] | {"ts_ms": 0, "txId": 0, "lsn": 0, "commitLsn": 0} == {
            "connector": "postgresql", "name": f"flow-{follower.name}", "ts_ms": 0, "snapshot": "false",
            "db": "postgres", "schema": "public", "table": follower.name,
            "txId": 0, "lsn": 0, "commitLsn": 0, "index": 0,
        }  # fmt: skip
        assert abs(first["ts_ms"] / 1000 - time.time()) < 60
        rows = follower.batches[-2].rows if len(follower.batches[-1]) == 0 else follower.batches[-1].rows
        assert set(rows.column("topic").to_pylist()) == {f"public.{follower.name}"}
        assert rows.column("timestamp").to_pylist()[0].timestamp() == pytest.approx(first["ts_ms"] / 1000)

    def test_a_changed_key_is_a_delete_and_an_insert(self, follow, postgresql):
        follower = started(follow(tombstones=True))
        postgresql.execute(f"INSERT INTO {follower.name} VALUES (1, 'a')")
        postgresql.execute(f"UPDATE {follower.name} SET id = 7 WHERE id = 1")
        events = follower.drain()
        assert [(key, value and value["op"]) for key, value in events] == [
            ({"id": 1}, "c"),
            ({"id": 1}, "d"),
            ({"id": 1}, None),
            ({"id": 7}, "c"),
        ]

    def test_the_whole_old_row_with_replica_identity_full(self, follow, postgresql):
        follower = follow()
        postgresql.execute(f"ALTER TABLE {follower.name} REPLICA IDENTITY FULL")
        started(follower)
        postgresql.execute(f"INSERT INTO {follower.name} VALUES (1, 'a')")
        postgresql.execute(f"UPDATE {follower.name} SET text = NULL")
        postgresql.execute(f"UPDATE {follower.name} SET id = 2, text = 'c'")
        postgresql.execute(f"DELETE FROM {follower.name}")
        events = follower.drain()
        assert ops(events) == [
            ("c", None, {"id": 1, "text": "a"}),
            ("u", {"id": 1, "text": "a"}, {"id": 1, "text": None}),
            ("d", {"id": 1, "text": None}, None),
            ("c", None, {"id": 2, "text": "c"}),
            ("d", {"id": 2, "text": "c"}, None),
        ]
        assert [key["id"] for key, _ in events] == [1, 1, 1, 2, 2]

    def test_truncate_is_an_event(self, follow, postgresql):
        follower = started(follow())
        postgresql.execute(f"INSERT INTO {follower.name} VALUES (1, 'a')")
        postgresql.execute(f"TRUNCATE {follower.name}")
        postgresql.execute(f"INSERT INTO {follower.name} VALUES (2, 'b')")
        events = follower.drain()
        assert [(key, value["op"]) for key, value in events] == [({"id": 1}, "c"), (None, "t"), ({"id": 2}, "c")]
        assert events[1][1]["source"]["table"] == follower.name

    def test_an_index_may_identify_rows(self, follow, postgresql):
        follower = follow("a int NOT NULL, b text NOT NULL, c text, UNIQUE (b, a)")
        postgresql.execute(f"ALTER TABLE {follower.name} REPLICA IDENTITY USING INDEX {follower.name}_b_a_key")
        postgresql.execute(f"INSERT INTO {follower.name} VALUES (1, 'x', 'c'), (2, 'B', 'c'), (10, 'a', 'c')")
        events = follower.drain(max_records=1)
        assert [key for key, _ in events] == [{"b": "B", "a": 2}, {"b": "a", "a": 10}, {"b": "x", "a": 1}]
        postgresql.execute(f"DELETE FROM {follower.name} WHERE a = 1")
        ((key, value),) = follower.drain()
        assert (key, value["before"]) == ({"b": "x", "a": 1}, {"b": "x", "a": 1})

    def test_a_table_without_key_when_told_so(self, follow, postgresql):
        follower = follow("a int, b text", snapshot="never")
        postgresql.execute(f"ALTER TABLE {follower.name} REPLICA IDENTITY FULL")
        started(follower)
        postgresql.execute(f"INSERT INTO {follower.name} VALUES (1, 'x')")
        postgresql.execute(f"DELETE FROM {follower.name}")
        assert [(key, value["op"]) for key, value in follower.drain()] == [(None, "c"), (None, "d")]


class TestFlat:
    def test_rows_and_tombstones(self, follow, postgresql):
        follower = follow(envelope="flat")
        postgresql.execute(f"INSERT INTO {follower.name} VALUES (1, 'a'), (2, NULL)")
        assert follower.drain() == [({"id": 1}, {"id": 1, "text": "a"}), ({"id": 2}, {"id": 2, "text": None})]
        with postgresql.connect() as connection:
            connection.execute(f"UPDATE {follower.name} SET id = 3 WHERE id = 1")
            connection.execute(f"DELETE FROM {follower.name} WHERE id = 2")
        assert follower.drain() == [({"id": 1}, None), ({"id": 3}, {"id": 3, "text": "a"}), ({"id": 2}, None)]

    def test_truncate_stops_the_flow_behind_what_came_before(self, follow, postgresql):
        follower = started(follow(envelope="flat"))
        postgresql.execute(f"INSERT INTO {follower.name} VALUES (1, 'a')")
        postgresql.execute(f"TRUNCATE {follower.name}")
        follower.open()
        assert follower.wait_for(1) == [({"id": 1}, {"id": 1, "text": "a"})]
        for _ in range(2):
            with pytest.raises(Fatal, match=r"TRUNCATE.*truncate: ignore"):
                for _ in range(50):
                    assert not follower.read()
            follower.open()
        follower.settings["truncate"] = "ignore"
        assert follower.drain() == []


LARGE = "repeat(md5(random()::text), 500)"
"""Text that is stored out of line."""


class TestUnavailableValues:
    """Large values that an UPDATE does not touch are not in the WAL."""

    columns = "id int PRIMARY KEY, small int, large text, larger text"

    def after_updates(self, follow, postgresql, **settings):
        follower = follow(self.columns, **settings)
        for column in ("large", "larger"):
            postgresql.execute(f"ALTER TABLE {follower.name} ALTER {column} SET STORAGE EXTERNAL")
        postgresql.execute(f"INSERT INTO {follower.name} SELECT i, 0, {LARGE}, {LARGE} FROM generate_series(1, 3) i")
        self.large, self.larger = postgresql.execute(f"SELECT large, larger FROM {follower.name} WHERE id = 1")[0]
        follower.drain()
        with postgresql.connect() as connection:
            connection.execute(f"UPDATE {follower.name} SET small = 1 WHERE id = 1")
            connection.execute(f"UPDATE {follower.name} SET large = 'new' WHERE id = 2")
            connection.execute(f"UPDATE {follower.name} SET large = NULL, larger = 'both' WHERE id = 3")
        return [value for _, value in follower.drain()]

    def test_are_left_out_of_flat_rows(self, follow, postgresql):
        assert self.after_updates(follow, postgresql, envelope="flat") == [
            {"id": 1, "small": 1},
            {"id": 2, "small": 0, "large": "new"},
            {"id": 3, "small": 0, "large": None, "larger": "both"},
        ]

    def test_are_a_placeholder_in_the_envelope(self, follow, postgresql):
        nothing = "__debezium_unavailable_value"
        assert [value["after"] for value in self.after_updates(follow, postgresql)] == [
            {"id": 1, "small": 1, "large": nothing, "larger": nothing},
            {"id": 2, "small": 0, "large": "new", "larger": nothing},
            {"id": 3, "small": 0, "large": None, "larger": "both"},
        ]

    def test_a_changed_key_leaves_gaps_that_are_warned_of(self, follow, postgresql, caplog):
        follower = follow(self.columns, envelope="flat")
        postgresql.execute(f"ALTER TABLE {follower.name} ALTER large SET STORAGE EXTERNAL")
        postgresql.execute(f"INSERT INTO {follower.name} SELECT 1, 0, {LARGE}, 'x'")
        follower.drain()
        postgresql.execute(f"UPDATE {follower.name} SET id = 2")
        assert follower.drain() == [({"id": 1}, None), ({"id": 2}, {"id": 2, "small": 0, "larger": "x"})]
        assert f"table=public.{follower.name} an UPDATE changed the key" in caplog.text
        assert "REPLICA IDENTITY FULL" in caplog.text

    def test_come_from_the_old_row_with_replica_identity_full(self, follow, postgresql):
        follower = follow(self.columns)
        postgresql.execute(f"ALTER TABLE {follower.name} REPLICA IDENTITY FULL, ALTER large SET STORAGE EXTERNAL")
        postgresql.execute(f"INSERT INTO {follower.name} SELECT 1, 0, {LARGE}, NULL")
        ((large,),) = postgresql.execute(f"SELECT large FROM {follower.name}")
        follower.drain()
        postgresql.execute(f"UPDATE {follower.name} SET small = 1")
        ((_, value),) = follower.drain()
        assert value["after"] == {"id": 1, "small": 1, "large": large, "larger": None}


VALUES = {
    "smallint": ["-32768", "NULL"],
    "bigint": ["9223372036854775807", "-1"],
    "numeric": ["12345678901234567890.123456789012345678901234567890", "'NaN'", "'-Infinity'", "-0.5"],
    "real": ["1e-30", "'NaN'"],
    "double precision": ["0.1", "1e300", "'-Infinity'"],
    "boolean": ["true", "false", "NULL"],
    "text": ["''", "E'quote \" back\\\\slash \\n\\t\\x01 end'", "'žluťoučký 🐎'", "'null'"],
    "varchar(5)": ["'ab'"],
    "char(5)": ["'ab'"],
    "bytea": ["'\\x00ff22'", "''"],
    "date": ["'2024-02-29'", "'infinity'", "'0044-03-15 BC'"],
    "time": ["'12:34:56.789012'"],
    "timestamp": ["'2024-02-29 12:34:56.789012'", "'infinity'", "'0044-03-15 00:00 BC'"],
    "timestamptz": ["'2024-02-29 12:34:56.789012+05:30'", "'-infinity'", "'0044-03-15 00:00+00 BC'"],
    "interval": ["'1 year 2 mons -3 days 04:05:06.7'"],
    "uuid": ["'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'"],
    "json": ["'{\"a\":  [1, 2.50, null]}'", "'\"text\"'", "'null'"],
    "jsonb": ['\'{"a": [1, 2.50, null], "b": "ž"}\''],
    "inet": ["'10.0.0.1/8'"],
    "int4range": ["'[1,5)'"],
    "int[]": ["'{1,NULL,3}'", "'{}'", "'{{1,2},{3,4}}'", "'[0:1]={7,8}'"],
    "text[]": ["ARRAY['a', NULL, 'NULL', '', 'x \"y\" \\ {z}, ž']"],
    "boolean[]": ["'{t,f,NULL}'"],
    "jsonb[]": ["ARRAY['{\"a\": 1}'::jsonb, '\"b\"'::jsonb]"],
    "timestamptz[]": ["ARRAY['2024-02-29 12:34:56+00'::timestamptz]"],
    "numeric[]": ["'{1.50,NaN}'"],
}


class TestValues:
    def cases(self, follow, postgresql, **settings):
        """A follower of a table with a column of every type, some of them of our own; and the statements to fill it."""
        types = [*VALUES, "{s}_mood", "{s}_mood[]", "{s}_money", "{s}_pair"]
        name = postgresql.unique_name("cdc")
        postgresql.execute(f"CREATE TYPE {name}_mood AS ENUM ('sad', 'ha\"ppy')")
        postgresql.execute(f"CREATE DOMAIN {name}_money AS numeric CHECK (value >= 0)")
        postgresql.execute(f"CREATE TYPE {name}_pair AS (a int, b text)")
        columns = ", ".join(f"c{number} {kind.format(s=name)}" for number, kind in enumerate(types))
        follower = follow(f"id int PRIMARY KEY, {columns}", name=name, **settings)
        own = [["'ha\"ppy'"], ["'{sad,NULL}'"], ["1.50"], ["'(1,\"x y\")'"]]
        statements = []
        for number, values in enumerate([*VALUES.values(), *own]):
            statements += [f"INSERT INTO {name} (id, c{number}) VALUES ({{id}}, {value})" for value in values]
        return follower, [statement.replace("{id}", str(id), 1) for id, statement in enumerate(statements, 1)]

    def dropped(self, postgresql, name):
        postgresql.execute(f"DROP TABLE {name}")
        postgresql.execute(f"DROP TYPE {name}_mood, {name}_pair")
        postgresql.execute(f"DROP DOMAIN {name}_money")

    def expected(self, postgresql, name):
        """As the server itself makes JSON of the rows, by text, so that no digit hides behind a float."""
        rows = postgresql.execute(f"SELECT to_json(t)::text FROM {name} t ORDER BY id")
        return [json.loads(text, parse_float=str) for (text,) in rows]

    def read(self, follower):
        events = []
        follower.drain()
        for batch in follower.batches:
            events += [json.loads(value, parse_float=str) for value in batch.rows.column("value").to_pylist()]
        return events

    def test_are_what_the_server_makes_of_them_in_snapshots_and_changes(self, follow, postgresql):
        follower, statements = self.cases(follow, postgresql, envelope="flat")
        half = len(statements) // 2
        try:
            for statement in statements[::2]:
                postgresql.execute(statement)
            snapshot = self.read(follower)
            follower.batches.clear()
            for statement in statements[1::2]:
                postgresql.execute(statement)
            # Every value once more as a change.
            postgresql.execute(f"UPDATE {follower.name} SET id = id")
            changes = self.read(follower)
            expected = {row["id"]: row for row in self.expected(postgresql, follower.name)}
            assert len(snapshot) == len(statements[::2]) and len(changes) == len(statements[1::2]) + len(statements)
            for row in snapshot + changes:
                # Composite types are texts here, with the types they have there.
                assert {**row, f"c{len(VALUES) + 3}": None} == {**expected[row["id"]], f"c{len(VALUES) + 3}": None}
            assert half > 20
            pair = [row[f"c{len(VALUES) + 3}"] for row in changes if row[f"c{len(VALUES) + 3}"] is not None]
            assert set(pair) == {'(1,"x y")'}
        finally:
            follower.close()
            postgresql.drop_replication(follower.name)
            self.dropped(postgresql, follower.name)

    def test_numeric_as_string(self, follow, postgresql):
        follower = follow("id int PRIMARY KEY, n numeric", numeric="string", envelope="flat")
        postgresql.execute(f"INSERT INTO {follower.name} VALUES (1, 1.50)")
        assert follower.drain() == [({"id": 1}, {"id": 1, "n": "1.50"})]


class TestSnapshot:
    def test_rows_changed_while_it_is_read_come_once_in_each_state(self, follow, postgresql):
        """Interrupted three times; between, rows on both sides of the place where it goes on are changed."""
        follower = follow()
        postgresql.execute(f"INSERT INTO {follower.name} SELECT i * 10, 'old' FROM generate_series(1, 30) i")
        events = []
        for number in range(3):
            follower.open()
            for _ in range(3):
                events += follower.read(3)
            follower.close()
            name, at = follower.name, 90 * (number + 1)
            with postgresql.connect() as connection:
                connection.execute(f"UPDATE {name} SET text = text || %s", [str(number)])
                connection.execute(f"INSERT INTO {name} VALUES (%s, 'low'), (%s, 'high')", [at - 5, at + 5])
                connection.execute(f"DELETE FROM {name} WHERE id IN (%s, %s)", [at - 20, at + 20])
                # Over the boundary, in both directions.
                connection.execute(f"UPDATE {name} SET id = %s WHERE id = %s", [at + 7, at - 30])
                connection.execute(f"UPDATE {name} SET id = %s WHERE id = %s", [at - 7, at + 30])
        assert follower.position["snapshot"] == "running" and len(follower.position["tables"]["public." + name]) == 3
        postgresql.execute(f"UPDATE {name} SET text = text || '!'")
        events += follower.drain(max_records=5)
        postgresql.execute(f"UPDATE {name} SET text = text || '?'")
        events += follower.drain()
        assert "tables" not in follower.position, "what the snapshot holds is forgotten once it is passed"
        state = {}
        for key, value in events:
            if value["op"] == "d":
                assert state.pop(key["id"], None) is not None, f"{key} was deleted, but never there"
            elif value["op"] in "cr":
                assert key["id"] not in state, f"{key} came twice"
                state[key["id"]] = value["after"]["text"]
            else:
                # Each change adds to the text, so that one too many or too few shows.
                before = state[key["id"]]
                assert value["after"]["text"][:-1] == before, f"{key}: {before} became {value['after']}"
                state[key["id"]] = value["after"]["text"]
        assert state == dict(postgresql.execute(f"SELECT id, text FROM {name}"))

    @pytest.mark.parametrize(
        ("type_", "made"),
        [
            ("text", "chr(64 + (i * 7) % 60) || 'x' || i"),
            ("uuid", "md5(i::text)::uuid"),
            ("numeric", "(i * 7) % 60 - 30 + i / 100.0"),
            ("timestamptz", "'2024-01-01'::timestamptz + i * interval '36 hours'"),
            ("bigint", "(i * 7919) % 1000 - 500"),
            ("char(6)", "((i * 7) % 60)::text"),
        ],
    )
    def test_keys_of_any_type_and_collation(self, type_, made, follow, postgresql):
        follower = follow(f"a {type_}, b text, n int DEFAULT 0, PRIMARY KEY (a, b)")
        name = follower.name
        postgresql.execute(f"INSERT INTO {name} SELECT {made}, 'é' || i % 3 FROM generate_series(1, 40) i")
        seen, changed = [], []
        for _ in range(4):
            follower.open()
            for _ in range(2):
                seen += follower.read(4)
            follower.close()
            postgresql.execute(f"UPDATE {name} SET n = n + 1")
        for key, value in follower.drain(max_records=7):
            (seen if value["op"] == "r" else changed).append((key, value))
        assert len({json.dumps(key) for key, _ in seen}) == len(seen) == 40
        state = {json.dumps(key): value["after"]["n"] for key, value in seen}
        for key, value in changed:
            assert value["after"]["n"] == state[json.dumps(key)] + 1
            state[json.dumps(key)] += 1
        assert set(state.values()) == {4}

    def test_names_that_need_quotes(self, follow, postgresql):
        name = f"Odd.\"N%s'{postgresql.unique_name()}"
        sql = '"' + name.replace('"', '""') + '"'
        follower = follow("", tables=[f"public.{sql}"])
        with postgresql.connect(autocommit=True) as connection:
            connection.execute(f'CREATE TABLE {sql} ("I""d%%\' x" text PRIMARY KEY, "Ž" int)'.encode())
            try:
                connection.execute(f"INSERT INTO {sql} VALUES ('a''%', 1), ('b\"\\', 2)".encode())
                events = follower.drain(max_records=1)
                connection.execute(f'UPDATE {sql} SET "Ž" = 3'.encode())
                events += follower.drain()
                column = "I\"d%%' x"
                assert [(value["op"], value["after"]) for _, value in events] == [
                    ("r", {column: "a'%", "Ž": 1}),
                    ("r", {column: 'b"\\', "Ž": 2}),
                    ("u", {column: "a'%", "Ž": 3}),
                    ("u", {column: 'b"\\', "Ž": 3}),
                ]
                assert [key for key, _ in events[:2]] == [{column: "a'%"}, {column: 'b"\\'}]
                assert {value["source"]["table"] for _, value in events} == {name}
            finally:
                connection.execute(f"DROP TABLE {sql}".encode())

    def test_several_tables_and_a_whole_schema(self, follow, postgresql):
        schema = postgresql.create_schema()
        follower = follow("", tables=f"{schema}.*")
        try:
            for table in ("a", "b", "Odd.Name"):
                postgresql.execute(f'CREATE TABLE {schema}."{table}" (id int PRIMARY KEY)')
                postgresql.execute(f'INSERT INTO {schema}."{table}" VALUES (1), (2)')
            postgresql.execute(f"CREATE TABLE {schema}.empty (id int PRIMARY KEY)")
            events = follower.drain(max_records=1)
            assert [(value["source"]["table"], value["after"]["id"]) for _, value in events] == [
                (table, id) for table in ("Odd.Name", "a", "b") for id in (1, 2)
            ]
            # Made later: its changes come from the flow's next start on.
            postgresql.execute(f"CREATE TABLE {schema}.later (id int PRIMARY KEY)")
            follower.drain()
            postgresql.execute(f"INSERT INTO {schema}.later VALUES (1)")
            assert [value["source"]["table"] for _, value in follower.drain()] == ["later"]
        finally:
            follower.close()
            postgresql.execute(f"DROP SCHEMA {schema} CASCADE")

    def test_columns_and_rows_of_a_publication(self, follow, postgresql):
        follower = follow("id int PRIMARY KEY, shown text, hidden text", tables="")
        follower.settings["publication"] = name = follower.name
        postgresql.execute(f"CREATE PUBLICATION {name} FOR TABLE {name} (id, shown) WHERE (id > 1)")
        postgresql.execute(f"INSERT INTO {name} VALUES (1, 'a', 'x'), (2, 'b', 'y')")
        assert ops(follower.drain()) == [("r", None, {"id": 2, "shown": "b"})]
        postgresql.execute(f"INSERT INTO {name} VALUES (0, 'c', 'x'), (3, 'd', 'y')")
        assert ops(follower.drain()) == [("c", None, {"id": 3, "shown": "d"})]

    def test_partitions_are_their_table(self, follow, postgresql):
        follower = follow("")
        name = follower.name
        postgresql.execute(f"CREATE TABLE {name} (id int PRIMARY KEY, text text) PARTITION BY RANGE (id)")
        for number in range(2):
            bounds = f"FROM ({number * 10}) TO ({number * 10 + 10})"
            postgresql.execute(f"CREATE TABLE {name}_{number} PARTITION OF {name} FOR VALUES {bounds}")
        postgresql.execute(f"INSERT INTO {name} VALUES (1, 'a'), (11, 'b')")
        events = follower.drain()
        postgresql.execute(f"INSERT INTO {name} VALUES (2, 'c'), (12, 'd')")
        postgresql.execute(f"UPDATE {name} SET id = 13 WHERE id = 2")
        events += follower.drain()
        assert {value["source"]["table"] for _, value in events} == {name}
        assert [(value["op"], key["id"]) for key, value in events] == [
            ("r", 1), ("r", 11), ("c", 2), ("c", 12), ("d", 2), ("c", 13),
        ]  # fmt: skip

    def test_transactions_that_are_open_at_its_beginning_come_as_changes(self, follow, postgresql):
        follower = started(follow())
        postgresql.drop_replication(follower.name)
        follower.position = None
        with postgresql.connect() as connection:
            connection.execute(f"INSERT INTO {follower.name} VALUES (1, 'open')")
            found = []
            thread = threading.Thread(target=lambda: found.extend(follower.drain()))
            thread.start()
            time.sleep(0.5)
            assert thread.is_alive(), "the slot waits for it"
            connection.execute(f"INSERT INTO {follower.name} VALUES (2, 'open')")
            connection.commit()
        thread.join(PATIENCE)
        assert sorted(value["after"]["id"] for _, value in found) == [1, 2]


class TestGoingOn:
    def test_amid_a_large_transaction(self, follow, postgresql):
        follower = started(follow())
        rows = 5000
        postgresql.execute(f"INSERT INTO {follower.name} SELECT i, repeat('x', 500) FROM generate_series(1, {rows}) i")
        seen = []
        for _ in range(3):
            follower.open()
            events = follower.wait_for(700, max_records=70)
            seen += [key["id"] for key, _ in events]
            assert follower.position["index"] == len(seen)
            follower.close()
        assert len({batch.checkpoint[SPLIT]["lsn"] for batch in follower.batches if len(batch)}) == 1
        seen += [key["id"] for key, _ in follower.drain()]
        assert seen == list(range(1, rows + 1))

    def test_columns_that_come_and_go(self, follow, postgresql):
        follower = started(follow())
        with postgresql.connect() as connection:
            connection.execute(f"INSERT INTO {follower.name} VALUES (1, 'a')")
            connection.execute(f"ALTER TABLE {follower.name} ADD more int DEFAULT 5")
            connection.execute(f"INSERT INTO {follower.name} VALUES (2, 'b')")
            connection.execute(f"ALTER TABLE {follower.name} DROP text")
            connection.execute(f"INSERT INTO {follower.name} VALUES (3)")
            connection.execute(f"ALTER TABLE {follower.name} RENAME more TO other")
            connection.execute(f"UPDATE {follower.name} SET other = 6 WHERE id = 1")
        assert [value["after"] for _, value in follower.drain()] == [
            {"id": 1, "text": "a"},
            {"id": 2, "text": "b", "more": 5},
            {"id": 3, "more": 5},
            {"id": 1, "other": 6},
        ]

    def test_the_slot_is_confirmed_by_what_was_acknowledged_only(self, follow, postgresql):
        follower = started(follow())
        confirmed = "SELECT confirmed_flush_lsn::text FROM pg_replication_slots WHERE slot_name = %s"
        before = postgresql.execute(confirmed, follower.name)
        postgresql.execute(f"INSERT INTO {follower.name} VALUES (1, 'a')")
        source = follower.open()
        batch = None
        while batch is None or not len(batch):
            batch = source.read(10, 0.1)
        source.keep_alive()
        time.sleep(1.1)
        source.keep_alive()
        assert postgresql.execute(confirmed, follower.name) == before
        source.acknowledge(batch.checkpoint)
        follower.close()
        assert postgresql.execute(confirmed, follower.name) == [(batch.checkpoint[SPLIT]["lsn"],)]

    def test_idle_tables_of_a_busy_server_hold_nothing_up(self, follow, postgresql):
        follower = started(follow(heartbeat_interval=0.2))
        other = follow()
        stood = follower.position["lsn"]
        source = follower.open()
        until = time.monotonic() + PATIENCE
        while follower.position["lsn"] == stood and time.monotonic() < until:
            postgresql.execute(
                f"INSERT INTO {other.name} SELECT i FROM generate_series(1, 100) i ON CONFLICT DO NOTHING"
            )
            found = follower.read()
            assert not found, "a batch without rows moves the position"
        assert follower.position["lsn"] != stood
        postgresql.execute(f"INSERT INTO {follower.name} VALUES (1, 'a')")
        assert follower.wait_for(1)[0][0] == {"id": 1}
        assert source.lag_bytes(Checkpoint({SPLIT: {"lsn": stood, "index": 0}})) > 1000
        assert source.lag(Checkpoint({SPLIT: follower.position})) is None
        assert source.lag_bytes(Checkpoint()) is None

    def test_the_session_lives_while_nobody_reads(self, follow, postgresql):
        """Longer than the server waits for a sign of life."""
        follower = started(follow())
        dsn = f"{postgresql.dsn}?wal_sender_timeout=1500"
        source = follower.open(dsn=dsn)
        assert not follower.read()
        postgresql.execute(f"INSERT INTO {follower.name} SELECT i, repeat('x', 900) FROM generate_series(1, 9000) i")
        until = time.monotonic() + 4.0
        while time.monotonic() < until:
            source.keep_alive()
            time.sleep(0.5)
        assert len(follower.wait_for(9000)) == 9000

    def test_a_transaction_of_prepared_kind(self, follow, postgresql):
        follower = started(follow())
        with postgresql.connect(autocommit=True) as connection:
            connection.execute("BEGIN")
            connection.execute(f"INSERT INTO {follower.name} VALUES (1, 'a')")
            connection.execute(f"PREPARE TRANSACTION '{follower.name}'")
            assert follower.drain() == []
            connection.execute(f"COMMIT PREPARED '{follower.name}'")
        assert ops(follower.drain()) == [("c", None, {"id": 1, "text": "a"})]


class TestSlot:
    def test_a_position_behind_the_slot(self, follow, postgresql):
        follower = started(follow())
        early = follower.position
        postgresql.execute(f"INSERT INTO {follower.name} VALUES (1, 'a')")
        follower.drain()
        follower.position = early
        with pytest.raises(Fatal, match=r"stands at .*but slot .* was confirmed up to .*changes between are lost"):
            follower.open()

    def test_a_slot_that_is_gone(self, follow, postgresql):
        follower = started(follow())
        postgresql.drop_replication(follower.name)
        with pytest.raises(Fatal, match=r"slot .* is gone, and with it the changes since"):
            follower.open()

    def test_a_slot_made_before_is_reused(self, follow, postgresql):
        """Also with a snapshot: what lies between the two is in the snapshot only."""
        follower = follow()
        postgresql.execute(f"CREATE PUBLICATION {follower.name} FOR TABLE {follower.name}")
        postgresql.execute("SELECT pg_create_logical_replication_slot(%s, 'pgoutput')", follower.name)
        postgresql.execute(f"INSERT INTO {follower.name} VALUES (1, 'a')")
        postgresql.execute(f"UPDATE {follower.name} SET text = 'b'")
        assert ops(follower.drain()) == [("r", None, {"id": 1, "text": "b"})]

    def test_a_former_worker_is_ended(self, follow, postgresql, monkeypatch):
        monkeypatch.setattr("airflow_provider_connect.connectors.postgresql_cdc.slot.HANDOVER_SECONDS", 0.5)
        zombie, follower = started(follow()), None
        zombie.open()
        assert not zombie.read()
        follower = Follower(postgresql, zombie.name)
        follower.position = zombie.position
        follower.open()
        postgresql.execute(f"INSERT INTO {zombie.name} VALUES (1, 'a')")
        assert follower.wait_for(1)[0][0] == {"id": 1}
        with pytest.raises(psycopg.OperationalError, match="terminat") as raised:
            for _ in range(50):
                zombie.read()
        assert type(zombie.make().classify(raised.value)) is Retryable
        follower.close()

    def test_a_slot_in_use_by_another(self, follow, postgresql):
        follower = started(follow())
        other = Follower(postgresql, follower.name)
        source = other.make()
        source.open(RecordedContext("other flow", "json", stored={SPLIT: follower.position}))
        assert not source.read(1, 0.1)
        follower.open()
        with pytest.raises(Retryable, match=r"in use by process \d+ .*every flow needs one of its own"):
            follower.read()
        source.close()
        postgresql.execute(f"INSERT INTO {follower.name} VALUES (1, 'a')")
        assert len(follower.drain()) == 1

    def test_a_slot_for_something_else(self, follow, postgresql):
        follower = follow()
        postgresql.execute("SELECT pg_create_physical_replication_slot(%s)", follower.name)
        with pytest.raises(Fatal, match=r"is physical, not for pgoutput in this database; set `slot`"):
            follower.open()

    def test_names_come_from_the_flow(self, follow, postgresql):
        config = PostgreSQLCdcSourceConfig(connection_string="postgres://h/d", tables="t")
        assert config.slot_name("orders-cdc") == config.publication_name("orders-cdc") == "connect_orders_cdc"
        names = {config.slot_name(flow) for flow in ("Orders", "a-b", "a_b", "a.b", "ö" * 80, "o" * 80)}
        assert len(names) == 6 and all(len(name) <= 63 for name in names)
        assert config.model_copy(update={"slot": "own"}).publication_name("x") == "own"


class TestPublication:
    def test_tables_that_it_lacks_are_added(self, follow, postgresql):
        follower, other = follow(), follow()
        postgresql.execute(f"CREATE PUBLICATION {follower.name} FOR TABLE {other.name}")
        started(follower)
        for name in (other.name, follower.name):
            postgresql.execute(f"INSERT INTO {name} VALUES (1, 'a')")
        events = follower.drain()
        assert [value["source"]["table"] for _, value in events] == [follower.name], "others of it are left out"

    def test_one_that_leaves_changes_out_is_warned_of(self, follow, postgresql, caplog):
        follower = follow()
        postgresql.execute(f"CREATE PUBLICATION {follower.name} FOR ALL TABLES WITH (publish = 'insert')")
        follower.drain()
        assert f"publication {follower.name} leaves out" in caplog.text


class TestRefusals:
    def test_a_table_without_key(self, follow, postgresql):
        follower = follow("a int")
        with pytest.raises(FlowError, match=r"has no primary key: published as it is.*UPDATE and DELETE"):
            follower.open()
        assert postgresql.execute("SELECT FROM pg_publication WHERE pubname = %s", follower.name) == []
        postgresql.execute(f"ALTER TABLE {follower.name} REPLICA IDENTITY FULL")
        with pytest.raises(FlowError, match=r"a snapshot that is interrupted.*`snapshot: never`"):
            follower.open()

    def test_a_table_that_is_not_there(self, follow):
        with pytest.raises(FlowError, match=r"there is no table 'public\.nothing_here'"):
            follow("", tables="nothing_here").open()

    def test_a_publication_that_is_not_there(self, follow):
        with pytest.raises(FlowError, match=r"there is no publication 'nothing_here'; set `tables`"):
            follow("", tables="", publication="nothing_here").open()

    def test_a_publication_that_shows_partitions(self, follow, postgresql):
        follower = follow("")
        name = follower.name
        postgresql.execute(f"CREATE TABLE {name} (id int PRIMARY KEY) PARTITION BY RANGE (id)")
        postgresql.execute(f"CREATE PUBLICATION {name} FOR TABLE {name}")
        with pytest.raises(Fatal, match="publish_via_partition_root = true"):
            follower.open()

    def test_a_role_that_may_not(self, follow, postgresql):
        follower = follow()
        role = postgresql.unique_name("role")
        postgresql.execute(f"CREATE ROLE {role} LOGIN")
        dsn = postgresql.dsn.replace("postgres@", f"{role}@", 1)
        try:
            for action in (lambda: follower.open(dsn=dsn), lambda: follower.make(dsn).check()):
                with pytest.raises(Fatal, match=f'may not replicate: run ALTER ROLE "{role}" REPLICATION'):
                    action()
            postgresql.execute(f"ALTER ROLE {role} REPLICATION")
            with pytest.raises(Fatal, match=r"may not change it.*let its owner run: CREATE PUBLICATION"):
                follower.open(dsn=dsn)
            postgresql.execute(f"CREATE PUBLICATION {follower.name} FOR TABLE {follower.name}")
            postgresql.execute(f"GRANT SELECT ON {follower.name} TO {role}")
            source = follower.open(dsn=dsn)
            assert not follower.read(), "with these rights it works"
            assert "wal_level logical" in source.check()
            follower.close()
        finally:
            postgresql.execute(f"DROP OWNED BY {role}")
            postgresql.execute(f"DROP ROLE {role}")

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({}, "nothing to follow: set `tables`"),
            ({"tables": "a.b.c"}, "no table name"),
            ({"tables": "t", "slot": "Upper"}, "lower-case letters"),
            ({"tables": "t", "envelope": "flat", "truncate": "event"}, "needs `envelope: debezium`"),
            ({"tables": "t", "heartbeat_interval": 0}, "greater than 0"),
        ],
    )
    def test_configurations(self, settings, message):
        with pytest.raises(ValueError, match=message):
            PostgreSQLCdcSourceConfig(connection_string="postgres://h/d", **settings)

    def test_a_position_of_something_else(self, follow):
        follower = follow()
        follower.position = {"id": 7}
        with pytest.raises(Fatal, match="is not one of a postgresql-cdc source"):
            follower.open()


class TestOtherServers:
    """What needs a server with other settings."""

    def test_wal_level_and_an_invalidated_slot(self):
        server = PostgreSQLServer({"wal_level": "replica", "max_slot_wal_keep_size": "1MB", "max_wal_size": "32MB"})
        try:
            postgresql = PostgreSQL(server.dsn)
            postgresql.execute("CREATE TABLE t (id int PRIMARY KEY, text text)")
            follower = Follower(postgresql, "t")
            for action in (follower.open, lambda: follower.make().check()):
                with pytest.raises(Fatal, match=r"wal_level is 'replica'.*ALTER SYSTEM SET wal_level = logical"):
                    action()
            with postgresql.connect(autocommit=True) as connection:
                connection.execute("ALTER SYSTEM SET wal_level = logical")
            server.stop()
            server.start()
            follower.drain()
            for _ in range(6):
                postgresql.execute("INSERT INTO t SELECT i FROM generate_series(1, 100) i ON CONFLICT DO NOTHING")
                postgresql.execute("SELECT pg_switch_wal()")
            with postgresql.connect(autocommit=True) as connection:
                connection.execute("CHECKPOINT")
            with pytest.raises(Fatal, match=r"slot 't' was invalidated.*changes are lost.*new snapshot"):
                follower.open()
        finally:
            server.close()

    def test_a_server_that_is_killed_loses_and_repeats_nothing(self):
        server = PostgreSQLServer()
        try:
            postgresql = PostgreSQL(server.dsn)
            postgresql.execute("CREATE TABLE t (id int PRIMARY KEY, text text)")
            follower = started(Follower(postgresql, "t"))
            seen = []
            for number in range(3):
                first = number * 100
                postgresql.execute(f"INSERT INTO t SELECT i, 'x' FROM generate_series({first}, {first + 99}) i")
                source = follower.open()
                seen += [key["id"] for key, _ in follower.wait_for(50, max_records=10)]
                server.kill()
                with pytest.raises(psycopg.OperationalError) as raised:
                    for _ in range(50):
                        seen += [key["id"] for key, _ in follower.read(10) or []]
                assert type(source.classify(raised.value)) is Retryable
                server.start()
            seen += [key["id"] for key, _ in follower.drain()]
            assert seen == list(range(300))
        finally:
            server.close()
