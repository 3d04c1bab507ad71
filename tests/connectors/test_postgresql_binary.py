"""Tuples of binary COPY from table to table: exactly what text would bring, and only where that is certain."""

import base64
import json

import pyarrow as pa
import pytest

from airflow_provider_connect.connectors._postgresql.copy_stream import Rows
from airflow_provider_connect.connectors.postgresql import (
    PostgreSQLSource,
    PostgreSQLSourceConfig,
)
from airflow_provider_connect.connectors.postgresql.copy_binary import split_tuples
from airflow_provider_connect.engine.batch import Batch, Checkpoint, envelope_schema
from airflow_provider_connect.engine.dead_letters import DeadLetters
from airflow_provider_connect.engine.errors import Fatal, InvalidRecord, Retryable
from airflow_provider_connect.engine.formats import negotiate
from airflow_provider_connect.testing.source import RecordedContext
from tests.connectors.postgresql_tables import OnSchema

TEXT, BINARY = "postgresql-copy", "postgresql-copy-binary"

TYPES = {
    "flag": ("boolean", ["true", "false"]),
    "small": ("smallint", ["-32768", "32767"]),
    "whole": ("integer", ["-2147483648", "0"]),
    "big": ("bigint", ["9223372036854775807", "-9007199254740993"]),
    "single": ("real", ["'NaN'", "0.1"]),
    "double": ("double precision", ["'-Infinity'", "-0.0", "4.9e-324"]),
    "exact": ("numeric(38,10)", ["1234567890123456789012345678.0123456789", "'NaN'"]),
    "loose": ("numeric", ["'Infinity'", "1.50", "0.000", "1e-100"]),
    "txt": ("text", ["''", r"E'tab\t nl\n cr\r \\ \\N \x01 日本'"]),
    "short": ("varchar(5)", ["'ab  '"]),
    "padded": ("char(5)", ["'ab'"]),
    "one": ('"char"', ["'x'"]),
    "named": ("name", ["'a b'"]),
    "bin": ("bytea", [r"'\x00ff5c0a'", "''"]),
    "day": ("date", ["'infinity'", "'0044-03-15 BC'", "'2024-02-29'"]),
    "clock": ("time", ["'23:59:59.999999'", "'24:00'"]),
    "zclock": ("timetz", ["'12:00:00.000001+05:30'"]),
    "local": ("timestamp", ["'2026-11-20 12:00:00.000001'", "'-infinity'"]),
    "zoned": ("timestamptz", ["'2026-11-20 12:00:00.123456+02'", "'infinity'"]),
    "lasting": ("interval", ["'1 year -2 days 00:00:00.000001'"]),
    "doc": ("jsonb", [r"""'{"a": [1, "x\\y"], "n": 12345678901234567890.10}'""", "'null'"]),
    "raw": ("json", ["E'{\n\t\"a\" : 1}'"]),
    "uid": ("uuid", ["'c0ffee00-0000-4000-8000-000000000001'"]),
    "ints": ("int[]", ["ARRAY[[1,NULL],[3,4]]", "'{}'", "'[5:6]={1,2}'"]),
    "texts": ("text[]", ["""ARRAY['a,b', 'q"q', NULL, '']"""]),
    "times": ("timestamptz[]", ["ARRAY['2026-01-01 00:00:00.000001+00'::timestamptz]"]),
    "span": ("int8range", ["'[1,5)'", "'empty'"]),
    "spans": ("tstzmultirange", ["'{[2026-01-01,2026-02-01),[2026-03-01,)}'"]),
    "net": ("inet", ["'10.0.0.1'", "'::1/64'"]),
    "block": ("cidr", ["'10.0.0.0/8'"]),
    "bits": ("varbit", ["B'10101'", "B''"]),
    "place": ("point", ["'(0.1,-2)'"]),
}


class FromHereToThere(OnSchema):
    """Tables `here` and `there`, or others of these tests."""

    def in_schema(self, table):
        return {"table": f"{self.schema}.{table}"} if table is not None else {}

    def source_of(self, table="here", **config):
        return self.source(**self.in_schema(table), **config)

    def reading_of(self, format=BINARY, table="here", **config):
        return self.reading(format, **self.in_schema(table), **config)

    def sink_of(self, source, table="there", **config):
        return self.sink(source=source, **self.in_schema(table), **config)

    def copied(self, max_records=1000, **config):
        """The flow's way: what both sides agree on, read and written."""
        source = self.source_of(**config)
        sink = self.sink_of(source)
        chosen = negotiate(source.formats(), False, sink.accepts()).read_format
        source.open(RecordedContext(self.schema, chosen, drain=True))
        self.deliver(sink, *self.batches(source, max_records))
        return chosen

    def all(self, table):
        return [text for _, text in self.rows("id, t::text", f"{self.schema}.{table}")]

    def chosen(self, source=None, **config):
        source = source or self.source_of()
        return negotiate(source.formats(), False, self.sink_of(source, **config).accepts()).read_format


class TestPassThrough(FromHereToThere):
    @pytest.mark.parametrize("max_records", [1, 1000])
    def test_every_type(self, max_records):
        columns = "id bigint PRIMARY KEY, " + ", ".join(f"{name} {kind}" for name, (kind, _) in TYPES.items())
        self.create(columns, "here")
        self.create(columns, "there")
        for number in range(3):
            values = [(values[number] if number < len(values) else "NULL") for _, values in TYPES.values()]
            self.postgresql.execute(f"INSERT INTO {self.schema}.here VALUES ({number}, {', '.join(values)})")
        assert self.copied(max_records) == BINARY
        assert self.all("there") == self.all("here")
        assert len(self.all("there")) == 3

    def test_a_query_and_an_empty_table(self):
        self.create("id int PRIMARY KEY, txt text", "here")
        self.create("txt text, other int DEFAULT 5, id int", "there")
        assert self.copied() == BINARY
        self.postgresql.execute(f"INSERT INTO {self.schema}.here VALUES (1, 'x')")
        query = f"SELECT id, upper(txt) AS txt FROM {self.schema}.here"
        assert self.copied(table=None, query=query) == BINARY
        assert self.all("there") == ["(X,5,1)"]

    @pytest.mark.parametrize("format", [TEXT, BINARY, "json"])
    def test_a_poll_without_rows(self, format):
        self.create("id int PRIMARY KEY", "here")
        source = self.reading_of(format, table=None, query=f"SELECT * FROM {self.schema}.here")
        assert [(len(batch), batch.checkpoint) for batch in self.batches(source)] == [(0, {"query": {"polls": 1}})]

    def test_wide_rows_across_many_reads(self):
        self.create("id int PRIMARY KEY, txt text", "here")
        self.create("id int PRIMARY KEY, txt text", "there")
        self.postgresql.execute(
            f"INSERT INTO {self.schema}.here SELECT n, repeat('x', n % 700) FROM generate_series(1, 20000) n"
        )
        assert self.copied(max_records=777) == BINARY
        assert self.all("there") == self.all("here")

    @pytest.mark.parametrize(
        ("here", "there"),
        [
            ("id int PRIMARY KEY", "id bigint"),
            ("id int PRIMARY KEY, a text", "id int, a varchar"),
            ("id int PRIMARY KEY, a regclass", "id int, a regclass"),
            ("id int PRIMARY KEY, a money", "id int, a money"),
            ("id int PRIMARY KEY, a xml", "id int, a xml"),
            ("id int PRIMARY KEY, a {0}.mood", "id int, a {0}.mood"),
            ("id int PRIMARY KEY, a {0}.mood[]", "id int, a {0}.mood[]"),
            ("id int PRIMARY KEY, a {0}.few", "id int, a {0}.few"),
        ],
    )
    def test_text_where_types_differ_or_are_local(self, here, there):
        self.postgresql.execute(f"CREATE TYPE {self.schema}.mood AS ENUM ('a'); CREATE DOMAIN {self.schema}.few AS int")
        self.create(here.format(self.schema), "here")
        self.create(there.format(self.schema), "there")
        self.postgresql.execute(f"INSERT INTO {self.schema}.here (id) VALUES (1)")
        assert self.copied() == TEXT
        assert self.all("there") == self.all("here")

    def test_text_for_upserts_and_columns_left_out(self):
        self.create("id int PRIMARY KEY, a int", "here")
        self.create("id int PRIMARY KEY", "there")
        assert self.chosen(ignore_unknown_columns=True) == TEXT
        self.create("id int PRIMARY KEY, a int", "same")
        assert self.chosen(table="same", upsert_mode=True) == TEXT
        assert self.chosen(table="same") == BINARY
        self.create("id int PRIMARY KEY, a int GENERATED ALWAYS AS (id * 2) STORED", "computed")
        assert self.chosen(table="computed", ignore_unknown_columns=True) == TEXT

    def test_other_sinks_and_transforms_never_get_tuples(self):
        self.create("id int PRIMARY KEY", "here")
        formats = self.source_of().formats()
        assert negotiate(formats, True, (BINARY, TEXT, "columns", "json")).read_format == TEXT
        assert negotiate(formats, False, ("json", "bytes")).read_format == "json"
        assert negotiate(formats, False, ("columns",)).read_format == TEXT
        assert BINARY not in self.source_of(raw_mode=True).formats()

    def test_a_source_that_cannot_be_reached_is_not_the_sinks_error(self):
        self.create("id int", "there")
        gone = PostgreSQLSource(PostgreSQLSourceConfig(connection_string="postgres://127.0.0.1:1/none", table="t"))
        assert self.sink_of(gone).accepts()[0] == TEXT
        assert self.sink_of(self.source_of("missing")).accepts()[0] == TEXT


class TestPositions(FromHereToThere):
    @pytest.mark.parametrize(
        "kind",
        [
            "bigint",
            "smallint",
            "numeric(20,3)",
            "timestamptz",
            "timestamp",
            "date",
            "uuid",
            "char(5)",
            "boolean",
            "text",
        ],
    )
    def test_they_are_the_same_in_every_format(self, kind):
        """So that a flow goes on where it was when the format of its reading changes."""
        values = {
            "uuid": "'c0ffee00-0000-4000-8000-00000000000' || n",
            "boolean": "n::text",
            "text": r"E'a\tb\\' || n",
        }.get(kind, "('2026-01-01'::timestamptz + n * interval '1 day 1 microsecond')::text")
        if kind in ("bigint", "smallint", "numeric(20,3)", "char(5)"):
            values = "n::text"
        count = 1 if kind == "boolean" else 4
        self.create(f'id int, "At" {kind} NOT NULL, n text, PRIMARY KEY (id)', "here")
        self.postgresql.execute(
            f"INSERT INTO {self.schema}.here SELECT n, ({values})::{kind}, 'n' FROM generate_series(1, {count}) n"
        )
        found = {
            format: [batch.checkpoint for batch in self.batches(self.reading_of(format, cursor="At"), max_records=1)]
            for format in (TEXT, BINARY, "json")
        }
        positions = [checkpoint for checkpoint in found[TEXT] if checkpoint]
        assert len(positions) == count
        assert found[BINARY] == found[TEXT] == found["json"]

    def test_a_flow_goes_on_from_text_to_binary_and_back(self):
        self.create("at timestamptz PRIMARY KEY", "here")
        self.postgresql.execute(
            f"INSERT INTO {self.schema}.here SELECT '2026-01-01'::timestamptz + n * interval '1 microsecond'"
            " FROM generate_series(1, 4) n"
        )
        stored, seen = {}, []
        for format in (TEXT, BINARY, "json", BINARY):
            batch = None
            source = self.reading_of(format, stored=stored)
            while batch is None:
                batch = source.read(1, 0.2)
            assert len(batch) == 1
            stored = batch.checkpoint
            seen.append(stored[f"{self.schema}.here"]["after"]["at"])
        assert seen == [f"2026-01-01 00:00:00.00000{n}+00" for n in range(1, 5)]

    @pytest.mark.parametrize("kind", ["boolean", "char(5)", "inet", "bigint", "timestamptz", "text"])
    def test_the_keys_of_documents_are_what_the_server_writes(self, kind):
        value = {
            "boolean": "true", "char(5)": "'ab'", "inet": "'10.0.0.1'", "bigint": "7",
            "timestamptz": "'2026-01-01 00:00:00.100+00'", "text": r"E'a\tb\\'",
        }[kind]  # fmt: skip
        self.create(f"id {kind} PRIMARY KEY, n int NOT NULL UNIQUE", "here")
        self.postgresql.execute(f"INSERT INTO {self.schema}.here VALUES ({value}, 1)")
        rows = self.batches(self.reading_of("json", cursor="n"))[0].rows
        written = {"boolean": "t", "char(5)": "ab   ", "timestamptz": "2026-01-01 00:00:00.1+00", "text": "a\tb\\"}
        assert rows.column("key").to_pylist() == [written.get(kind, value.strip("'")).encode()]

    def test_a_key_may_be_null(self):
        self.create("id int NOT NULL UNIQUE, k text", "here")
        self.postgresql.execute(f"INSERT INTO {self.schema}.here VALUES (1, 'a'), (2, NULL), (3, ''), (4, 'd')")
        query = f"SELECT * FROM {self.schema}.here"
        rows = self.batches(self.reading_of("json", table=None, query=query, cursor="id", tie_break="id"))[0].rows
        assert rows.column("key").to_pylist() == [b"1", b"2", b"3", b"4"]
        assert [json.loads(v)["k"] for v in rows.column("value").to_pylist()] == ["a", None, "", "d"]


class TestRefusals(FromHereToThere):
    def batch_of(self, count):
        self.create("id int PRIMARY KEY, txt text", "here")
        self.postgresql.execute(f"INSERT INTO {self.schema}.here SELECT n, 'x' || n FROM generate_series(1, {count}) n")
        source = self.reading_of()
        return source, self.batches(source)[0]

    def test_a_refused_row_is_named_and_slices_are_written(self):
        _, batch = self.batch_of(10)
        self.create("id int CHECK (id <> 7), txt varchar", "there")
        self.create("id int CHECK (id <> 7), txt text", "same")
        sink = self.sink_of(self.source_of(), "same")
        assert sink.accepts()[0] == BINARY

        def refused(start, stop):
            with pytest.raises(InvalidRecord, match="violates check constraint") as raised:
                sink.write(Batch(batch.rows.slice(start, stop - start), Checkpoint()))
                sink.flush()
            return raised.value.rows

        assert list(refused(0, 10)) == [6]
        assert list(refused(4, 9)) == [2]
        for start, stop in ((0, 6), (7, 10)):
            sink.write(Batch(batch.rows.slice(start, stop - start), Checkpoint()))
            sink.flush()
        sink.commit(Checkpoint({"0": 1}))
        stored = self.postgresql.execute(f"SELECT id, txt FROM {self.schema}.same ORDER BY 1")
        assert stored == [(n, f"x{n}") for n in range(1, 11) if n != 7]

    def test_a_length_that_does_not_fit(self):
        _, batch = self.batch_of(1)
        self.create("id int, txt text CHECK (length(txt) < 2)", "there")
        sink = self.sink_of(self.source_of())
        with pytest.raises(InvalidRecord) as raised:
            sink.write(batch)
            sink.flush()
        assert list(raised.value.rows) == [0]

    def test_a_dead_letter_goes_into_a_document_table(self):
        """Its bytes are UTF-8 with NULs, which jsonb does not take as text."""
        _, batch = self.batch_of(2)
        errors = self.sink_of(None, "errors", auto_create_table=True)
        letters = DeadLetters(self.schema, "PostgreSQLSink", errors)
        letters.add(batch.rows, {1: "refused"}, "invalid_record")
        assert letters.flush(Checkpoint({"0": 1})) == 1
        ((letter,),) = self.postgresql.execute(f"SELECT data FROM {self.schema}.errors")
        tuple_ = b"\0\2" + b"\0\0\0\4\0\0\0\2" + b"\0\0\0\2x2"
        assert letter["original_message"]["original_data"] == {"base64": base64.b64encode(tuple_).decode()}
        assert letter["error"]["message"] == "refused"

    def test_a_target_that_has_changed_since(self):
        """int8 and float8 are both eight bytes: the server would take the one for the other."""
        _, batch = self.batch_of(1)
        for number, columns in enumerate(("id int, txt varchar", "id int", "id float4, txt text")):
            self.create(columns, f"there{number}")
            with pytest.raises(Fatal, match=r"rows do not fit '.*' as they are: '.*'.*start the flow again"):
                self.sink_of(None, f"there{number}").write(batch)

    def test_a_source_that_changes_is_opened_anew(self):
        self.create("id int PRIMARY KEY, a bigint", "here")
        self.postgresql.execute(f"INSERT INTO {self.schema}.here VALUES (1, 1)")
        for format in (BINARY, TEXT):
            source = self.reading_of(format, drain=False)
            while source.read(10, 0.2) is None:
                pass
            kind = "float8" if format == BINARY else "int8"
            self.postgresql.execute(
                f"ALTER TABLE {self.schema}.here ALTER a TYPE {kind}; INSERT INTO {self.schema}.here"
                f" SELECT max(id) + 1, 0 FROM {self.schema}.here"
            )
            with pytest.raises(Retryable, match=r"the columns of .* have changed"):
                for _ in range(50):
                    source.read(10, 0.2)
            source.open(RecordedContext(self.schema, format, drain=True))
            batch = self.batches(source)[0]
            types = [column["type"] for column in json.loads(batch.rows.schema.metadata[b"columns"])]
            assert types == ["integer", "double precision" if format == BINARY else "bigint"]

    def test_the_columns_stay_as_they_are_while_they_are_read(self):
        self.create("id int PRIMARY KEY, txt text", "here")
        self.postgresql.execute(
            f"INSERT INTO {self.schema}.here SELECT n, repeat('x', 1000) FROM generate_series(1, 20000) n"
        )
        source = self.reading_of()
        while source.read(10, 0.2) is None:
            pass
        with self.postgresql.connect(autocommit=True) as other:
            other.execute("SET lock_timeout = '100ms'")
            with pytest.raises(Exception, match="lock timeout"):
                other.execute(f"ALTER TABLE {self.schema}.here ADD b int")

    def test_rows_that_are_not_described(self):
        self.create("id int", "there")
        with pytest.raises(Fatal, match="need the list of columns"):
            rows = pa.RecordBatch.from_arrays(
                [pa.array([b"\0\0"]) if f.name == "value" else pa.nulls(1, f.type) for f in envelope_schema(BINARY)],
                schema=envelope_schema(BINARY),
            )
            self.sink_of(None).write(Batch(rows, Checkpoint()))

    def test_tuples_of_another_number_of_fields(self):
        tuple_ = b"\0\2" + b"\0\0\0\1a" + b"\0\0\0\1b"
        rows = Rows(memoryview(tuple_ * 2), [len(tuple_), 2 * len(tuple_)], tuple_)
        assert [field.to_pylist() for field in split_tuples(rows, 2, [1, 0])] == [[b"b", b"b"], [b"a", b"a"]]
        with pytest.raises(ValueError, match="has not 1 fields"):
            split_tuples(rows, 1, [0])
        null = b"\0\2\xff\xff\xff\xff\0\0\0\1b"
        rows = Rows(memoryview(tuple_ + null), [len(tuple_), len(tuple_ + null)], null)
        assert [field.to_pylist() for field in split_tuples(rows, 2, [0, 1])] == [[b"a", None], [b"b", b"b"]]
