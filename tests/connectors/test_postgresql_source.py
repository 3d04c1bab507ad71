"""The PostgreSQL source: what is read, when, and from where on."""

import json
import threading
import time
from typing import ClassVar

import pytest

from airflow_provider_connect.codecs.postgresql_copy import PostgresqlCopy
from airflow_provider_connect.connectors.postgresql import (
    PostgreSQLSink,
    PostgreSQLSinkConfig,
    PostgreSQLSource,
    PostgreSQLSourceConfig,
)
from airflow_provider_connect.engine.connector import Share, SinkContext
from airflow_provider_connect.engine.errors import Fatal, FlowError, Retryable
from airflow_provider_connect.testing.source import RecordedContext
from tests.connectors.postgresql_tables import OnSchema


class TestValues(OnSchema):
    kinds: ClassVar = {
        "big": ("bigint", "9007199254740993"),
        "exact": ("numeric(38,10)", "1234567890123456789012345678.0123456789"),
        "loose": ("numeric", "12345678901234567890123456789012345678901234567890.5"),
        "nan": ("double precision", "'NaN'"),
        "infinite": ("double precision", "'-Infinity'"),
        "flag": ("boolean", "true"),
        "empty": ("text", "''"),
        "nothing": ("text", "NULL"),
        "odd": ("text", r"E'tab\t newline\n return\r backslash\\ \\N quote\" \x01\x02 日本'"),
        "micros": ("timestamptz", "'2026-11-20 12:00:00.123456+02'"),
        "local": ("timestamp", "'2026-11-20 12:00:00.000001'"),
        "day": ("date", "'2024-02-29'"),
        "bytes": ("bytea", r"'\x00ff5c0a'"),
        "doc": ("jsonb", """'{"a": [1, "x\\\\y"], "n": 12345678901234567890}'"""),
        "raw": ("json", "E'{\n\t\"a\" : 1}'"),
        "ids": ("uuid", "'c0ffee00-0000-4000-8000-000000000001'"),
        "list": ("int[]", "ARRAY[1,NULL,3]"),
        "texts": ("text[]", """ARRAY['a,b', 'q"q', NULL, '']"""),
    }

    def filled(self):
        columns = ", ".join(f"{name} {kind}" for name, (kind, _) in self.kinds.items())
        table = self.create(f"id bigint PRIMARY KEY, {columns}")
        values = ", ".join(value for _, value in self.kinds.values())
        self.postgresql.execute(f"INSERT INTO {table} VALUES (1, {values})")
        return table

    def test_json_is_exact(self):
        value = self.batches(self.reading(table=self.filled()))[0].rows.column("value")[0].as_py()
        document = json.loads(value, parse_float=str)
        assert document["big"] == 9007199254740993
        assert document["exact"] == "1234567890123456789012345678.0123456789"
        assert document["loose"] == "12345678901234567890123456789012345678901234567890.5"
        assert (document["nan"], document["infinite"]) == ("NaN", "-Infinity")
        assert (document["empty"], document["nothing"]) == ("", None)
        assert document["odd"] == 'tab\t newline\n return\r backslash\\ \\N quote" \x01\x02 日本'
        assert document["micros"] == "2026-11-20T10:00:00.123456+00:00"
        assert document["local"] == "2026-11-20T12:00:00.000001"
        assert document["doc"] == {"a": [1, "x\\y"], "n": 12345678901234567890}
        assert document["raw"] == {"a": 1}
        assert document["texts"] == ["a,b", 'q"q', None, ""]

    def test_copy_text_decodes_to_typed_columns(self):
        batch = self.batches(self.reading("postgresql-copy", table=self.filled()))[0]
        columns = PostgresqlCopy().decode(batch.rows)
        row = columns.to_pylist()[0]
        assert str(columns.schema.field("micros").type) == "timestamp[us, tz=UTC]"
        assert row["micros"].isoformat() == "2026-11-20T10:00:00.123456+00:00"
        assert str(row["exact"]) == "1234567890123456789012345678.0123456789"
        assert row["bytes"] == b"\x00\xff\\\n"
        assert (row["empty"], row["nothing"]) == ("", None)
        assert row["odd"] == 'tab\t newline\n return\r backslash\\ \\N quote" \x01\x02 日本'

    def test_the_key_is_the_primary_keys_text(self):
        table = self.create("id text PRIMARY KEY, n int NOT NULL UNIQUE")
        self.postgresql.execute(f"INSERT INTO {table} VALUES (E'a\\tb\\\\', 1)")
        rows = self.batches(self.reading(table=table, cursor="n"))[0].rows
        assert rows.column("key").to_pylist() == [b"a\tb\\"]
        assert rows.schema.metadata[b"table"].decode() == table

    def test_raw_mode_wraps_rows(self):
        table = self.create("a int, b text, note text, PRIMARY KEY (a, b)")
        self.postgresql.execute(f"INSERT INTO {table} VALUES (1, 'x', NULL)")
        assert self.documents(self.reading(table=table, cursor="a", raw_mode=True)) == [
            {"value": {"a": 1, "b": "x", "note": None}, "_metadata": {"table": table, "id": {"a": 1, "b": "x"}}}
        ]

    def test_names_in_mixed_case(self):
        table = self.create('"Id" int PRIMARY KEY, "odd ""name""" text, "50%" int', "Orders")
        self.postgresql.execute(f"INSERT INTO {self.schema}.\"Orders\" VALUES (1, 'x', 2)")
        assert self.documents(self.reading(table=table)) == [{"Id": 1, 'odd "name"': "x", "50%": 2}]


class TestIncrements(OnSchema):
    def test_equal_timestamps_across_batches_and_polls(self):
        table = self.create("id int PRIMARY KEY, at timestamptz NOT NULL")
        self.postgresql.execute(f"INSERT INTO {table} SELECT n, '2026-01-01' FROM generate_series(1, 10) n")
        stored, seen = {}, []
        for size in (4, 4, 2):
            source = self.reading(table=table, cursor="at", stored=stored)
            batch = self.next_batch(source, 4)
            assert len(batch) == size
            source.close()
            seen += [json.loads(value)["id"] for value in batch.rows.column("value").to_pylist()]
            stored = batch.checkpoint
        self.postgresql.execute(f"INSERT INTO {table} VALUES (11, '2026-01-01')")
        seen += [row["id"] for row in self.documents(self.reading(table=table, cursor="at", stored=stored))]
        assert seen == list(range(1, 12))

    def test_microseconds_of_positions_are_kept(self):
        table = self.create("at timestamptz PRIMARY KEY")
        self.postgresql.execute(
            f"INSERT INTO {table} SELECT '2026-01-01'::timestamptz + n * interval '1 microsecond'"
            " FROM generate_series(1, 3) n"
        )
        batch = self.next_batch(self.reading(table=table), 2)
        assert batch.checkpoint == {table: {"after": {"at": "2026-01-01 00:00:00.000002+00"}}}
        assert self.documents(self.reading(table=table, stored=batch.checkpoint)) == [
            {"at": "2026-01-01T00:00:00.000003+00:00"}
        ]

    @pytest.mark.parametrize("cursor", ["id", "at"])
    def test_a_late_commit_is_not_lost(self, cursor):
        default = "now()"
        table = self.create(f"id bigserial PRIMARY KEY, at timestamptz NOT NULL DEFAULT {default}, name text")
        early, late = self.postgresql.connect(), self.postgresql.connect()
        try:
            early.execute(f"INSERT INTO {table} (name) VALUES ('early')")
            late.execute(f"INSERT INTO {table} (name) VALUES ('late')")
            late.commit()
            source = self.reading(table=table, cursor=cursor, drain=False)
            assert self.ids_within(source, 0.7) == [], "a row was read past an open transaction's"
            early.commit()
            assert self.next_ids(source, 2) == [1, 2]
        finally:
            early.close()
            late.close()

    def test_a_value_drawn_before_the_first_write_is_not_lost(self):
        """The case that looking at transaction ids misses: the sequence was asked, nothing is written yet."""
        table = self.create("id bigserial PRIMARY KEY")
        with self.postgresql.connect() as early:
            (drawn,) = early.execute(f"SELECT nextval('{table}_id_seq')").fetchone()
            self.postgresql.execute(f"INSERT INTO {table} DEFAULT VALUES")
            source = self.reading(table=table, drain=False)
            assert self.ids_within(source, 0.5) == []
            early.execute(f"INSERT INTO {table} VALUES (%s)", [drawn])
            early.commit()
            assert self.next_ids(source, 2) == [1, 2]

    def test_transactions_begun_later_hold_nothing_up(self):
        table = self.create("id bigserial PRIMARY KEY")
        self.postgresql.execute(f"INSERT INTO {table} DEFAULT VALUES")
        with self.postgresql.connect() as writer:
            source = self.reading(table=table, drain=False)
            assert self.next_ids(source, 1) == [1]
            writer.execute(f"INSERT INTO {table} DEFAULT VALUES")
            assert self.ids_within(source, 0.3) == []
        assert self.next_ids(source, 1) == [2]

    def test_the_flows_own_sink_is_not_waited_for(self):
        """Else a flow within one database would wait for its own commit, which waits for more rows."""
        table = self.create("id bigserial PRIMARY KEY")
        target = self.create("id bigint", "target")
        self.postgresql.execute(f"INSERT INTO {table} DEFAULT VALUES")
        sink = PostgreSQLSink(PostgreSQLSinkConfig(connection_string=self.postgresql.dsn, table=target))
        with sink:
            sink.open(SinkContext("flow"))
            source = self.reading("postgresql-copy", table=table, drain=False)
            sink.write(self.next_batch(source, 10))
            self.postgresql.execute(f"INSERT INTO {table} DEFAULT VALUES")
            sink.write(self.next_batch(source, 10))

    def test_late_commits_can_be_ignored(self):
        table = self.create("id bigserial PRIMARY KEY")
        with self.postgresql.connect() as early:
            early.execute(f"INSERT INTO {table} DEFAULT VALUES")
            self.postgresql.execute(f"INSERT INTO {table} DEFAULT VALUES")
            assert self.documents(self.reading(table=table, late_commits="ignore")) == [{"id": 2}]

    def test_nothing_is_lost_or_repeated_while_writers_go_on(self):
        table = self.create("id bigserial PRIMARY KEY, at timestamptz NOT NULL DEFAULT now()")
        stop = threading.Event()

        def write():
            with self.postgresql.connect(autocommit=True) as connection:
                while not stop.is_set():
                    with connection.transaction():
                        connection.execute(f"INSERT INTO {table} SELECT FROM generate_series(1, 3)")
                        time.sleep(0.005)
                        connection.execute(f"INSERT INTO {table} DEFAULT VALUES")

        writers = [threading.Thread(target=write) for _ in range(3)]
        for writer in writers:
            writer.start()
        source = self.reading(table=table, cursor="at", drain=False)
        seen = self.ids_within(source, 2.0)
        stop.set()
        for writer in writers:
            writer.join()
        written = [row[0] for row in self.postgresql.execute(f"SELECT id FROM {table}")]
        seen += self.next_ids(source, len(written) - len(seen))
        assert len(seen) == len(set(seen))
        assert sorted(seen) == sorted(written)
        assert len(seen) > 50

    def test_a_large_row_set_is_read_across_calls(self):
        table = self.create("id int PRIMARY KEY, filler text")
        self.postgresql.execute(f"INSERT INTO {table} SELECT n, repeat('x', 1000) FROM generate_series(1, 20000) n")
        batches = self.batches(self.reading("postgresql-copy", table=table), max_records=3000)
        assert sum(map(len, batches)) == 20000
        assert all(len(batch) <= 3000 for batch in batches)

    def test_a_query_with_cursor_is_incremental(self):
        table = self.create("id int PRIMARY KEY, name text")
        self.postgresql.execute(f"INSERT INTO {table} SELECT n, '50% ' || n FROM generate_series(1, 4) n")
        query = f"SELECT id, upper(name) AS name FROM {table} WHERE name LIKE '50%' -- only those"
        source = self.reading(query=query, cursor="id", tie_break="id")
        batch = self.next_batch(source, 3)
        assert batch.checkpoint == {"query": {"after": {"id": "3"}}}
        rest = self.reading(query=query, cursor="id", tie_break="id", stored=batch.checkpoint)
        assert self.documents(rest) == [{"id": 4, "name": "50% 4"}]

    def test_a_query_without_cursor_is_delivered_at_every_poll(self):
        table = self.create("id int")
        self.postgresql.execute(f"INSERT INTO {table} VALUES (1), (2)")
        query = f"SELECT * FROM {table};"
        assert not PostgreSQLSource(PostgreSQLSourceConfig(connection_string="postgres://h/", query=query)).replayable
        assert self.documents(self.reading(query=query)) == [{"id": 1}, {"id": 2}]
        assert self.next_ids(self.reading(query=query, drain=False), 4)[:4] == [1, 2, 1, 2]

    def test_poll_interval_is_kept(self):
        table = self.create("id bigserial PRIMARY KEY")
        source = self.reading(table=table, drain=False, poll_interval=1.0)
        assert source.read(10, 0.1) is None
        self.postgresql.execute(f"INSERT INTO {table} DEFAULT VALUES")
        assert self.ids_within(source, 0.5) == []
        assert self.next_ids(source, 1) == [1]

    def test_lag_counts_the_rest(self):
        table = self.create("id int PRIMARY KEY")
        self.postgresql.execute(f"INSERT INTO {table} SELECT generate_series(1, 10)")
        source = PostgreSQLSource(PostgreSQLSourceConfig(connection_string=self.postgresql.dsn, table=table))
        assert source.lag({}) == 10
        assert source.lag({table: {"after": {"id": "7"}}}) == 3

    def test_a_lost_connection_is_retryable(self):
        table = self.create("id int PRIMARY KEY, filler text")
        self.postgresql.execute(f"INSERT INTO {table} SELECT n, repeat('x', 5000) FROM generate_series(1, 20000) n")
        source = self.reading("postgresql-copy", table=table)
        assert len(self.next_batch(source, 10)) == 10
        pid = source._connection.info.backend_pid
        self.postgresql.execute("SELECT pg_terminate_backend(%s)", pid)
        with pytest.raises(Exception) as raised:
            self.batches(source)
        assert isinstance(source.classify(raised.value), Retryable), raised.value


class TestSplits(OnSchema):
    def shares(self, count, **config):
        """What each of `count` lanes reads, of as many as there are."""
        found = []
        for index in range(count):
            source = self.source(**config)
            source.open(RecordedContext("flow", "json", share=Share(index, count), drain=True))
            found.append([row["id"] for row in self.documents(source)])
            source.close()
        return found

    def test_every_row_is_in_one_split_also_below_zero_and_far_apart(self):
        table = self.create("id bigint PRIMARY KEY")
        ids = [*range(-25, 25), -(2**63), 2**63 - 1, 10**15, 10**15 + 9, 10**15 + 10]
        for number in ids:
            self.postgresql.execute(f"INSERT INTO {table} VALUES ({number})")
        found = self.shares(3, table=table, splits=3, split_size=10)
        assert sorted(number for share in found for number in share) == sorted(ids)
        for index, share in enumerate(found):
            assert share == sorted(share)
            assert {number // 10 % 3 for number in share} == {index}

    @pytest.mark.parametrize("lanes", [1, 2, 5])
    def test_lanes_take_all_splits(self, lanes):
        table = self.create("id int PRIMARY KEY, at timestamptz NOT NULL DEFAULT now()")
        self.postgresql.execute(f"INSERT INTO {table} SELECT generate_series(1, 1000)")
        found = self.shares(lanes, table=table, splits=4, split_size=7)
        assert sorted(number for share in found for number in share) == list(range(1, 1001))

    def test_new_rows_come_to_all_splits_and_nothing_is_looked_at_twice(self):
        table = self.create("id int PRIMARY KEY")
        self.postgresql.execute(f"INSERT INTO {table} SELECT generate_series(0, 99)")
        config = {"table": table, "splits": 2, "split_size": 10}
        source = self.reading(**config)
        batches = self.batches(source)
        ends = {split: position for batch in batches for split, position in batch.checkpoint.items()}
        assert ends == {f"{table} {index}of2x10": {"after": {"id": "99"}} for index in range(2)}
        assert self.documents(self.reading(stored=ends, **config)) == []
        self.postgresql.execute(f"INSERT INTO {table} SELECT generate_series(100, 119)")
        assert source.lag(ends) == 20
        assert source.lag(dict(list(ends.items())[:1])) == 70
        assert [row["id"] for row in self.documents(self.reading(stored=ends, **config))] == list(range(100, 120))

    def test_a_range_of_splits_is_read_again_exactly(self):
        table = self.create("id int PRIMARY KEY")
        self.postgresql.execute(f"INSERT INTO {table} SELECT generate_series(0, 199)")
        config = {"table": table, "splits": 3, "split_size": 16}
        stored, end, seen = {}, {}, []
        source = self.reading(**config)
        for number, batch in enumerate(self.batches(source, max_records=7)):
            stored = {**stored, **batch.checkpoint} if number < 5 else stored
            if 5 <= number < 20:
                end = {**end, **batch.checkpoint}
                seen += [json.loads(value)["id"] for value in batch.rows.column("value").to_pylist()]
        again = self.batches(self.reading(stored=stored, until=end, **config), max_records=3)
        assert sorted(json.loads(v)["id"] for b in again for v in b.rows.column("value").to_pylist()) == sorted(seen)
        assert {split: position for batch in again for split, position in batch.checkpoint.items()} == end

    def test_what_cannot_be_dealt_out(self):
        table = self.create("id text PRIMARY KEY, at timestamptz NOT NULL")
        for config in ({"cursor": "at"}, {"cursor": "id"}):
            with pytest.raises(FlowError, match=r"an integer as first cursor column, but '.*' is none"):
                self.reading(table=table, splits=2, **config)
        with pytest.raises(FlowError, match="but there is no cursor"):
            self.reading(query=f"SELECT * FROM {table}", splits=2)


class TestRefusals(OnSchema):
    def refused(self, kind, match, **config):
        with pytest.raises(kind, match=match) as raised:
            self.reading(**config)
        assert self.postgresql.dsn not in str(raised.value)

    def test_a_table_that_is_missing(self):
        self.create("id int PRIMARY KEY", "orders")
        self.refused(Fatal, r"no table '.*\.Orders'; did you mean '.*\.orders'", table=f"{self.schema}.Orders")

    def test_a_table_without_key(self):
        self.refused(FlowError, "has no primary key.*set `cursor`", table=self.create("id int"))

    def test_a_primary_key_that_does_not_grow(self):
        self.refused(FlowError, "primary key .* is uuid .*set `cursor`", table=self.create("id uuid PRIMARY KEY"))

    def test_a_cursor_without_tie_break(self):
        table = self.create("at timestamptz NOT NULL")
        self.refused(FlowError, "set `tieBreak`", table=table, cursor="at")
        self.refused(FlowError, "set `tieBreak`", query=f"SELECT * FROM {table}", cursor="at")

    def test_a_tie_break_that_is_not_unique(self):
        table = self.create("at timestamptz NOT NULL, n int")
        self.refused(FlowError, "do not identify a row", table=table, cursor="at", tie_break="n")

    def test_a_cursor_that_is_no_column(self):
        table = self.create("id int PRIMARY KEY")
        self.refused(FlowError, "cursor: there is no column 'at'; there are: id", table=table, cursor="at")

    def test_a_cursor_with_nulls(self):
        table = self.create("id int PRIMARY KEY, at timestamptz")
        self.reading(table=table, cursor="at")
        self.postgresql.execute(f"INSERT INTO {table} VALUES (1, NULL)")
        self.refused(FlowError, "have NULL in at .*coalesce", table=table, cursor="at")

    def test_a_position_of_another_cursor(self):
        table = self.create("id int PRIMARY KEY, at timestamptz NOT NULL")
        stored = {table: {"after": {"id": "1"}}}
        self.refused(FlowError, "was made with id, but .* now at, id", table=table, cursor="at", stored=stored)

    def test_a_query_that_is_wrong(self):
        with pytest.raises(Exception) as raised:
            self.reading(query="SELECT nothing FROM nowhere")
        assert type(self.opened[0].classify(raised.value)) is Fatal

    def test_a_query_that_writes(self):
        table = self.create("id int")
        query = f"SELECT nextval('{self.schema}.s') FROM {table}"
        self.postgresql.execute(f"CREATE SEQUENCE {self.schema}.s; INSERT INTO {table} VALUES (1)")
        source = self.reading(query=query)
        with pytest.raises(Exception, match="read-only transaction"):
            self.batches(source)
