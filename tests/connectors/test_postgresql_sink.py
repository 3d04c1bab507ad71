"""The PostgreSQL sink: what becomes of rows, what is refused, and who may commit."""

import datetime
import decimal
from concurrent.futures import ThreadPoolExecutor
from typing import ClassVar

import pyarrow as pa
import pytest

from airflow_provider_connect.connectors.postgresql import PostgreSQLSource, PostgreSQLSourceConfig
from airflow_provider_connect.engine.batch import Batch, Checkpoint
from airflow_provider_connect.engine.connector import SinkContext
from airflow_provider_connect.engine.errors import EndOfInput, Fatal, Fenced, InvalidRecord, Retryable
from airflow_provider_connect.testing.source import RecordedContext
from tests.connectors.postgresql_tables import OnSchema, column_batch, json_batch


class TestDocumentTable(OnSchema):
    def test_it_is_created_with_a_gin_index(self):
        sink = self.sink(auto_create_table=True)
        assert sink.accepts() == ("json",)
        self.deliver(sink, json_batch({"a": 9007199254740993}, None))
        assert self.rows("id, data") == [(1, {"a": 9007199254740993}), (2, None)]
        ((definition,),) = self.postgresql.execute(
            "SELECT indexdef FROM pg_indexes WHERE schemaname = %s AND tablename = 't' AND indexdef LIKE '%%gin%%'",
            self.schema,
        )
        assert "gin (data)" in definition

    def test_a_json_column_keeps_the_very_text(self):
        self.create("data json")
        self.deliver(self.sink(), json_batch(b'{"b" : 1.50,  "a":1}'))
        assert self.rows("data::text") == [('{"b" : 1.50,  "a":1}',)]

    def test_the_document_column_can_be_named(self):
        self.create("id bigserial, name text, body jsonb")
        sink = self.sink(document_column="body")
        self.deliver(sink, json_batch({"name": "x"}))
        assert self.rows("name, body") == [(None, {"name": "x"})]

    @pytest.mark.parametrize(
        ("bad", "reason"),
        [
            (b"{", "invalid input syntax for type json"),
            (b"", "invalid input syntax for type json"),
            (b'{"a": "\\u0000"}', "unsupported Unicode escape"),
            (b'{"a": "\xff"}', "invalid byte sequence"),
            (b'{"a": "\x00"}', "invalid byte sequence"),
            (b'"\\ud800"', "invalid input syntax for type json"),
        ],
    )
    def test_a_bad_document_is_named(self, bad, reason):
        self.create("data jsonb")
        sink = self.sink()
        error = self.refused(sink, json_batch({"good": 1}, bad, {"good": 2}))
        assert list(error.rows) == [1]
        assert reason in error.rows[1]
        sink.abort()
        self.deliver(sink, json_batch({"good": 1}, {"good": 2}))
        assert len(self.rows()) == 2

    def test_rows_are_not_named_when_several_batches_were_written(self):
        self.create("data jsonb")
        assert self.refused(self.sink(), json_batch({}), json_batch(b"{")).rows is None


class TestTypedTable(OnSchema):
    def test_documents_go_to_columns_by_name(self):
        self.create(
            "id bigint PRIMARY KEY, price numeric, at timestamptz, tags text[], meta jsonb, state text DEFAULT 'new'"
        )
        sink = self.sink()
        assert sink.accepts() == ("postgresql-copy", "columns", "json"), "no source, so no binary"
        text = b'{"id": 9007199254740993, "price": 12345678901234567890.123456789, "at": "2026-01-01T00:00:00.000001Z",'
        text += b' "tags": ["a", null], "meta": {"x": [1]}}'
        self.deliver(sink, json_batch(text, {"id": 1, "state": None}, {"id": 2}))
        assert self.rows("id, price::text, extract(microseconds FROM at)::int, tags, meta, state") == [
            (1, None, None, None, None, None),
            (2, None, None, None, None, "new"),
            (9007199254740993, "12345678901234567890.123456789", 1, ["a", None], {"x": [1]}, "new"),
        ]

    def test_unknown_fields_are_refused_or_left_out(self):
        self.create("id int")
        error = self.refused(self.sink(), json_batch({"id": 1}, {"id": 2, "oops": 1}))
        assert list(error.rows) == [1]
        assert "field 'oops' has no column" in error.rows[1]
        self.deliver(self.sink(ignore_unknown_columns=True), json_batch({"id": 2, "oops": 1}))
        assert self.rows() == [(2,)]

    @pytest.mark.parametrize(
        ("bad", "reason"),
        [
            ([1], "no JSON object"),
            (None, "null document"),
            ({"id": "x"}, "invalid input syntax for type integer"),
            ({"id": 3_000_000_000}, "out of range"),
            ({"id": None}, "violates not-null constraint"),
            ({"id": -1}, "violates check constraint"),
            ({"id": 7}, "duplicate key value"),
            ({"id": 1, "day": "2026-02-30"}, "out of range"),
        ],
    )
    def test_bad_documents_are_invalid_records(self, bad, reason):
        self.create("id int NOT NULL UNIQUE CHECK (id > 0), day date")
        self.postgresql.execute(f"INSERT INTO {self.table} VALUES (7)")
        sink = self.sink()
        error = self.refused(sink, json_batch({"id": 5}, bad))
        assert reason in f"{error} {error.rows}"
        sink.abort()
        self.deliver(sink, json_batch({"id": 5}))
        assert self.rows("id") == [(5,), (7,)]

    kinds: ClassVar = {
        "big": ("bigint", pa.int64(), [2**53 + 1, None]),
        "real": ("float8", pa.float64(), [float("inf"), 0.1]),
        "flag": ("boolean", pa.bool_(), [True, None]),
        "txt": ("text", pa.string(), ["", "tab\t nl\n cr\r \\ \\N"]),
        "viewed": ("text", pa.string_view(), ["a", None]),
        "coded": ("text", pa.dictionary(pa.int8(), pa.string()), ["x\ty", None]),
        "money": ("numeric(38,10)", pa.decimal128(38, 10), [decimal.Decimal("1234567890.0123456789"), None]),
        "day": ("date", pa.date32(), [datetime.date(2024, 2, 29), None]),
        "clock": ("time", pa.time64("us"), [datetime.time(23, 59, 59, 999999), None]),
        "local": ("timestamp", pa.timestamp("us"), [datetime.datetime(2026, 1, 1, 0, 0, 0, 1), None]),
        "zoned": (
            "timestamptz",
            pa.timestamp("us", tz="Europe/Berlin"),
            [datetime.datetime(2026, 7, 1, 12, tzinfo=datetime.UTC), None],
        ),
        "lasting": ("interval", pa.duration("us"), [datetime.timedelta(days=1, microseconds=1), None]),
        "bin": ("bytea", pa.binary(), [b"\x00\xff\\", b""]),
        "ints": ("int[]", pa.list_(pa.int32()), [[1, None], []]),
        "texts": ("text[]", pa.list_(pa.string()), [['a"b', "c\\d", "", None, "{,}", "NULL"], None]),
        "doc": ("jsonb", pa.struct([("x", pa.list_(pa.int64()))]), [{"x": [1, 2]}, None]),
        "jlist": ("jsonb", pa.list_(pa.string()), [["a\t\\"], None]),
    }

    def test_columns_of_every_type(self):
        self.create("n int, " + ", ".join(f"{name} {kind}" for name, (kind, _, _) in self.kinds.items()))
        arrays = {name: pa.array(values, type_) for name, (_, type_, values) in self.kinds.items()}
        self.deliver(self.sink(), column_batch(n=[1, 2], **arrays))
        stored = self.rows(", ".join(["n", *self.kinds]))
        for at, name in enumerate(self.kinds, 1):
            assert [row[at] for row in stored] == self.kinds[name][2], name

    def test_columns_of_a_slice(self):
        self.create("id int, txt text, bin bytea")
        whole = pa.RecordBatch.from_pydict({"id": [1, 2, 3], "txt": ["a", "b\t", "c"], "bin": [b"x", b"yy", b"zzz"]})
        self.deliver(self.sink(), Batch(whole.slice(1, 2), Checkpoint()))
        assert self.rows() == [(2, "b\t", b"yy"), (3, "c", b"zzz")]

    def test_an_unknown_column_stops_the_flow(self):
        self.create("id int, twice int GENERATED ALWAYS AS (id * 2) STORED")
        with pytest.raises(Fatal, match=r"has no column 'oops'; add it.*ignoreUnknownColumns"):
            self.sink().write(column_batch(id=[1], oops=[1]))
        with pytest.raises(Fatal, match="'twice' is generated"):
            self.sink().write(column_batch(id=[1], twice=[1]))
        self.deliver(self.sink(ignore_unknown_columns=True), column_batch(id=[1], oops=[1]))
        assert self.rows() == [(1, 2)]

    def test_a_bad_row_of_columns_is_named(self):
        self.create("id int CHECK (id < 10)")
        assert list(self.refused(self.sink(), column_batch(id=["1", "2", "x"])).rows) == [2]
        assert list(self.refused(self.sink(), column_batch(id=[1, 10])).rows) == [1]

    def test_a_deferred_constraint_is_an_invalid_record_at_commit(self):
        self.create("id int UNIQUE DEFERRABLE INITIALLY DEFERRED")
        sink = self.sink()
        sink.write(column_batch(id=[1, 1]))
        sink.flush()
        with pytest.raises(InvalidRecord, match="duplicate key"):
            sink.commit(Checkpoint({"0": 1}))
        assert sink.positions(["0"]) == {}
        self.deliver(sink, column_batch(id=[1]))

    def test_batches_of_other_columns_in_one_flush(self):
        self.create("id int, a int, b int")
        sink = self.sink()
        self.deliver(
            sink, column_batch(id=[1], a=[1]), column_batch(id=[2], b=[2]), json_batch({"id": 3}), json_batch({})
        )
        assert self.rows() == [(1, 1, None), (2, None, 2), (3, None, None), (None, None, None)]

    def test_copy_text_passes_from_table_to_table(self):
        everything = (
            "id int PRIMARY KEY, txt text, n numeric, f float8, at timestamptz, b bytea, j jsonb, l text[], r int4range"
        )
        self.create(everything)
        self.postgresql.execute(f"CREATE TABLE {self.schema}.from_here ({everything})")
        values = [
            r"(1, E'\t\n\r\\ \\N ''', 'NaN', 'Infinity', 'infinity', '\x00ff',"
            r" jsonb_build_object('a', E'\n\\'), ARRAY['a,b', NULL, ''], '[1,5)')",
            "(2, '', NULL, '-0', '0044-03-15 BC', '', 'null', '{}', 'empty')",
        ]
        self.postgresql.execute(f"INSERT INTO {self.schema}.from_here VALUES {', '.join(values)}")
        config = PostgreSQLSourceConfig(connection_string=self.postgresql.dsn, table=f"{self.schema}.from_here")
        sink, source = self.sink(), PostgreSQLSource(config)
        source.open(RecordedContext("copy", "postgresql-copy", drain=True))
        with source, pytest.raises(EndOfInput):
            while True:
                batch = source.read(1, 0.2)
                if batch is not None:
                    sink.write(batch)
        sink.flush()
        sink.commit(Checkpoint({"0": 1}))
        text = "SELECT array_agg(t::text ORDER BY id) FROM "
        assert self.postgresql.execute(text + f"{self.schema}.from_here t") == self.postgresql.execute(
            text + f"{self.table} t"
        )
        assert self.rows("count(*)") == [(2,)]


class TestTransactions(OnSchema):
    def test_a_refused_flush_leaves_the_earlier_ones(self):
        self.create("id int")
        sink = self.sink()
        for number in range(3):
            sink.write(column_batch(id=[number]))
            sink.flush()
            self.refused(sink, column_batch(id=["x"]))
        sink.commit(Checkpoint({"0": 3}))
        assert self.rows() == [(0,), (1,), (2,)]

    def test_a_claim_leaves_an_open_transaction_alone(self):
        self.create("id int")
        sink = self.sink()
        sink.write(column_batch(id=[1]))
        assert sink.claim(["1"]) == {}
        sink.flush()
        assert sink.positions(["0", "1"]) == {}
        assert self.rows() == []
        sink.commit(Checkpoint({"0": 1, "1": 1}))
        assert self.rows() == [(1,)]

    @pytest.mark.parametrize("moment", ["copy", "flushed"])
    def test_a_killed_connection_is_retryable_and_positions_tell(self, moment):
        self.create("id int")
        sink = self.sink()
        self.deliver(sink, column_batch(id=[1]))
        sink.write(column_batch(id=[2]))
        if moment == "flushed":
            sink.flush()
        self.postgresql.execute("SELECT pg_terminate_backend(%s)", sink._connection.info.backend_pid)
        with pytest.raises(Retryable):
            sink.write(column_batch(id=[3] * 100_000))
            sink.flush()
            sink.commit(Checkpoint({"0": 2}))
        sink.abort()
        assert sink.positions(["0"]) == {"0": 1}
        sink.close()
        sink.open(SinkContext(self.schema))
        assert sink.positions(["0"]) == {"0": 1}
        self.deliver(sink, column_batch(id=[2]), position=2)
        assert self.rows() == [(1,), (2,)]

    def test_positions_wait_for_a_commit_that_is_under_way(self):
        """The answer to a commit was lost, but the server is still at it: the old position is not the truth yet."""
        self.create("id int")
        sink = self.sink()
        self.deliver(sink, column_batch(id=[1]))
        with self.postgresql.connect() as zombie:
            zombie.execute(f"UPDATE {self.schema}.airflow_connect_checkpoint SET position = '2'")
            with ThreadPoolExecutor(1) as pool:
                asked = pool.submit(sink.positions, ["0"])
                with pytest.raises(TimeoutError):
                    asked.result(0.5)
                zombie.commit()
                assert asked.result(20) == {"0": 2}

    def test_a_fenced_commit_names_the_split_and_leaves_no_rows(self):
        self.create("id int")
        zombie = self.sink()
        zombie.write(column_batch(id=[1]))
        zombie.flush()
        heir = self.sink()
        with pytest.raises(Fenced, match=f"another worker of flow '{self.schema}' owns \"0\"") as raised:
            zombie.commit(Checkpoint({"0": 1}))
        assert raised.value.splits == ("0",)
        self.deliver(heir, column_batch(id=[2]))
        assert self.rows() == [(2,)]

    def test_the_ledger_needs_no_right_to_create_when_it_is_there(self):
        self.create("id int")
        self.sink()
        role = self.postgresql.unique_name("r")
        self.postgresql.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'secret'")
        try:
            self.postgresql.execute(f"GRANT USAGE ON SCHEMA {self.schema} TO {role}")
            self.postgresql.execute(f"GRANT SELECT, INSERT, UPDATE ON ALL TABLES IN SCHEMA {self.schema} TO {role}")
            host, port = self.postgresql.address
            database = self.postgresql.execute("SELECT current_database()")[0][0]
            self.deliver(
                self.sink(connection_string=f"host={host} port={port} user={role} password=secret dbname={database}"),
                column_batch(id=[1]),
            )
        finally:
            self.postgresql.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")


class TestRefusals(OnSchema):
    def fatal(self, match, **config):
        with pytest.raises(Fatal, match=match):
            self.sink(**config)

    def test_a_missing_table(self):
        self.fatal("there is no table '.*'.*; create it, or set `autoCreateTable: true`")

    def test_a_document_column_that_does_not_fit(self):
        self.create("id int")
        self.fatal("documentColumn: 'id' .* is not json", document_column="id")
        self.fatal("documentColumn: 'body' .* is missing", document_column="body")

    def test_a_format_that_does_not_fit(self):
        self.create("data jsonb")
        with pytest.raises(Fatal, match=r"takes JSON documents, not 'columns'"):
            self.sink().write(column_batch(data=["{}"]))

    def test_a_wrong_password_is_fatal_and_not_shown(self):
        host, port = self.postgresql.address
        with pytest.raises(Fatal, match=r"does not exist|authentication failed") as raised:
            self.sink(connection_string=f"postgres://nobody:hunter2@{host}:{port}/none?sslmode=disable")
        assert "hunter2" not in f"{raised.value!r} {raised.value.__cause__!r}"
