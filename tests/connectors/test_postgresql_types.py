"""Every type of PostgreSQL: from table to table in each format, and to Parquet, where what Arrow lacks is text."""

import datetime
import decimal
import math

import pyarrow as pa
import pyarrow.parquet
import pytest

from airflow_provider_connect.codecs.postgresql_copy import PostgresqlCopy
from airflow_provider_connect.connectors.file import FileSink, FileSinkConfig
from airflow_provider_connect.engine.batch import Batch, Checkpoint
from airflow_provider_connect.engine.connector import SinkContext
from airflow_provider_connect.engine.errors import InvalidRecord
from tests.connectors.postgresql_tables import OnSchema

UTC = datetime.UTC
TEN = datetime.datetime(2026, 11, 20, 10, 0, 0, 123456, UTC)
D = decimal.Decimal
DIGITS = "1234567890123456789012345678.0123456789"
NOON = "2026-11-20 12:00:00.123456"
TIMES = "1 year -2 mons +3 days 04:05:06.000007"

PLAIN = {
    "boolean": (pa.bool_(), {"true": True, "false": False}),
    "smallint": (pa.int16(), {"-32768": -32768}),
    "integer": (pa.int32(), {"2147483647": 2**31 - 1}),
    "bigint": (pa.int64(), {"-9223372036854775808": -(2**63), "9007199254740993": 2**53 + 1}),
    "real": (pa.float32(), {"'0.5'": 0.5, "'-Infinity'": float("-inf")}),
    "double precision": (pa.float64(), {"0.1": 0.1, "'Infinity'": float("inf"), "5e-324": 5e-324}),
    "numeric(38,10)": (pa.decimal128(38, 10), {DIGITS: D(DIGITS)}),
    "numeric(60,5)": (pa.decimal256(60, 5), {"1e50": D("1e50")}),
    "numeric": (pa.string(), {"1.500": "1.500", "'NaN'": "NaN", "'-Infinity'": "-Infinity", "1e40": "1" + "0" * 40}),
    "money": (pa.string(), {"'12.34'": "$12.34"}),
    "text": (pa.string(), {"''": "", r"E'tab\t nl\n cr\r \\ \\N \x01 日本'": "tab\t nl\n cr\r \\ \\N \x01 日本"}),
    "varchar(5)": (pa.string(), {"'ab  '": "ab  "}),
    "char(5)": (pa.string(), {"'ab'": "ab   "}),
    '"char"': (pa.string(), {"'x'": "x"}),
    "name": (pa.string(), {"'a b'": "a b"}),
    "bytea": (pa.binary(), {r"'\x00ff5c0a'": b"\x00\xff\\\n", "''": b""}),
    "date": (pa.date32(), {"'2024-02-29'": datetime.date(2024, 2, 29), "'0001-01-01'": datetime.date(1, 1, 1)}),
    "time": (pa.time64("us"), {"'23:59:59.999999'": datetime.time(23, 59, 59, 999999)}),
    "timetz": (pa.string(), {"'12:00:00.000001+05:30'": "12:00:00.000001+05:30"}),
    "timestamp": (pa.timestamp("us"), {f"'{NOON}'": datetime.datetime(2026, 11, 20, 12, 0, 0, 123456)}),
    "timestamptz": (pa.timestamp("us", "UTC"), {f"'{NOON}+02'": TEN}),
    "interval": (pa.string(), {f"'{TIMES}'": "10 mons 3 days 04:05:06.000007"}),
    "uuid": (pa.string(), {"'c0ffee00-0000-4000-8000-000000000001'": "c0ffee00-0000-4000-8000-000000000001"}),
    "json": (pa.string(), {"E'{\n\t\"a\" : 1.50}'": '{\n\t"a" : 1.50}'}),
    "jsonb": (pa.string(), {"'{\"n\": 12345678901234567890.10}'": '{"n": 12345678901234567890.10}', "'null'": "null"}),
    "xml": (pa.string(), {}),  # servers are built without it
    "oid": (pa.int64(), {"4294967295": 2**32 - 1}),
    "inet": (pa.string(), {"'10.0.0.1'": "10.0.0.1", "'::1/64'": "::1/64"}),
    "cidr": (pa.string(), {"'10.0.0.0/8'": "10.0.0.0/8"}),
    "macaddr": (pa.string(), {"'08:00:2b:01:02:03'": "08:00:2b:01:02:03"}),
    "bit(5)": (pa.string(), {"B'10101'": "10101"}),
    "varbit": (pa.string(), {"B''": "", "B'1'": "1"}),
    "tsvector": (pa.string(), {"'a fat cat'": "'a' 'cat' 'fat'"}),
    "tsquery": (pa.string(), {"'a & b'": "'a' & 'b'"}),
    "int8range": (pa.string(), {"'[1,5)'": "[1,5)", "'empty'": "empty"}),
    "datemultirange": (pa.string(), {"'{[2026-01-01,2026-02-01)}'": "{[2026-01-01,2026-02-01)}"}),
    "point": (pa.string(), {"'(0.1,-2)'": "(0.1,-2)"}),
    "pg_lsn": (pa.string(), {"'16/B374D848'": "16/B374D848"}),
    "regclass": (pa.string(), {"'pg_class'": "pg_class"}),
    "int[]": (pa.list_(pa.int32()), {"ARRAY[1,NULL]": [1, None], "'{}'": []}),
    "text[]": (
        pa.list_(pa.string()),
        {"""ARRAY['a,b', 'q"q', NULL, '', E'\\\\', 'NULL']""": ["a,b", 'q"q', None, "", "\\", "NULL"]},
    ),
    "numeric(5,2)[]": (pa.list_(pa.decimal128(5, 2)), {"ARRAY[1.5]": [D("1.50")]}),
    "timestamptz[]": (
        pa.list_(pa.timestamp("us", "UTC")),
        {"ARRAY['2026-01-01'::timestamptz]": [datetime.datetime(2026, 1, 1, tzinfo=UTC)]},
    ),
    "{schema}.mood": (pa.string(), {"'sad'": "sad"}),
    "{schema}.mood[]": (pa.string(), {}),
    "{schema}.few": (pa.string(), {"5": "5"}),
    "{schema}.pair": (pa.string(), {"""ROW(1, 'a,"b')""": '(1,"a,""b")'}),
}  # fmt: skip
"""Type: what it is in Arrow, and values of both."""

BEYOND_ARROW = {
    "date": ["'infinity'", "'0044-03-15 BC'", "'10000-01-01'"],
    "time": ["'24:00'"],
    "timestamp": ["'-infinity'", "'0044-03-15 BC'"],
    "timestamptz": ["'infinity'"],
    "numeric(38,10)": ["'NaN'"],
    "int[]": ["ARRAY[[1,NULL],[3,4]]", "'[5:6]={1,2}'"],
    "timestamptz[]": ["ARRAY['infinity'::timestamptz]"],
}
"""Values that only PostgreSQL has."""


class OfTypes(OnSchema):
    @pytest.fixture(autouse=True)
    def _types(self, _schema):
        self.postgresql.execute(
            f"CREATE TYPE {self.schema}.mood AS ENUM ('sad', 'b''c'); CREATE DOMAIN {self.schema}.few AS int DEFAULT 3;"
            f" CREATE TYPE {self.schema}.pair AS (a int, b text)"
        )

    def named(self, kind):
        return kind.format(schema=self.schema)

    def filled(self, kinds):
        """A table with a column for each type and a row for each of its values."""
        columns = [f"c{number} {self.named(kind)}" for number, kind in enumerate(kinds)]
        self.here = self.create(", ".join(["id int PRIMARY KEY", *columns]), "here")
        most = max(map(len, kinds.values()))
        for row in range(most + 1):
            values = [list(of_kind)[row] if row < len(of_kind) else "NULL" for of_kind in kinds.values()]
            self.postgresql.execute(f"INSERT INTO {self.here} VALUES ({row}, {', '.join(values)})")
        return ", ".join(["id int PRIMARY KEY", *columns])


class TestFromTableToTable(OfTypes):
    @pytest.mark.parametrize("config", [{}, {"upsert_mode": True}, {"auto_create_table": "typed"}])
    def test_every_type_and_value(self, config):
        kinds = {kind: [*values, *BEYOND_ARROW.get(kind, [])] for kind, (_, values) in PLAIN.items()}
        columns = self.filled(kinds)
        if "auto_create_table" not in config:
            self.create(columns)
        self.deliver(self.sink(**config), *self.batches(self.reading("postgresql-copy", table=self.here)))
        assert self.rows("id, t::text") == self.rows("id, t::text", self.here)
        if "auto_create_table" in config:
            there, self.table = self.columns(), self.here
            assert there == self.columns()

    def test_as_documents(self):
        """Through JSON go all but the types whose JSON says something else than their text."""
        kinds = {kind: [*values, *BEYOND_ARROW.get(kind, [])] for kind, (_, values) in PLAIN.items()}
        for kind in ("json", '"char"', "numeric(60,5)"):
            kinds.pop(kind)
        kinds["jsonb"].remove("'null'")  # in a document that is no value
        kinds["int[]"].remove("'[5:6]={1,2}'")  # JSON arrays have no bounds
        self.create(self.filled(kinds))
        self.deliver(self.sink(), *self.batches(self.reading("json", table=self.here)))
        assert self.rows("id, t::text") == self.rows("id, t::text", self.here)

    def test_odd_columns(self):
        """Names like keywords, with quotes and beyond ASCII; columns that fill themselves, in every way."""
        columns = (
            '"select" int PRIMARY KEY, "qu""ote" text, "größe %s" int, "a\tb" int, "\\N" int,'
            ' always int GENERATED ALWAYS AS IDENTITY, twice int GENERATED ALWAYS AS ("select" * 2) STORED'
        )
        self.create(columns, "odd")
        self.postgresql.execute(f"INSERT INTO {self.schema}.odd OVERRIDING SYSTEM VALUE VALUES (1, 'x', 2, 3, 4, 70)")
        query = f'SELECT "select", "qu""ote", "größe %s", "a\tb", "\\N", always FROM {self.schema}.odd'
        for format in ("postgresql-copy", "json", "postgresql-copy-binary"):
            self.create(columns + ", filled text DEFAULT 'filled'")
            self.deliver(self.sink(), *self.batches(self.reading(format, query=query)))
            assert self.rows() == [(1, "x", 2, 3, 4, 70, 2, "filled")]
            self.postgresql.execute(f"DROP TABLE {self.table}")


class TestToParquet(OfTypes):
    def written(self, tmp_path, batches):
        with FileSink(FileSinkConfig(path=str(tmp_path / "out"), format="parquet")) as sink:
            sink.open(SinkContext("types"))
            sink.begin("token")
            for batch in batches:
                sink.write(Batch(PostgresqlCopy().decode(batch.rows), Checkpoint()))
            sink.flush()
        (file,) = (tmp_path / "out").glob("*.parquet")
        return pyarrow.parquet.read_table(file)

    def test_every_type(self, tmp_path):
        kinds = {kind: list(values) for kind, (_, values) in PLAIN.items() if kind != "{schema}.mood[]"}
        self.filled(kinds)
        table = self.written(tmp_path, self.batches(self.reading("postgresql-copy", table=self.here)))
        for number, kind in enumerate(kinds):
            arrow, values = PLAIN[kind]
            column = table.column(f"c{number}")
            assert column.type.equals(arrow) or pa.types.is_list(arrow), (kind, column.type)
            found = column.to_pylist()
            assert found[: len(values)] == list(values.values()), kind
            assert found[len(values) :] == [None] * (len(found) - len(values)), kind

    @pytest.mark.parametrize("kind", BEYOND_ARROW)
    def test_values_that_arrow_does_not_have(self, kind, tmp_path):
        self.filled({"int": ["1"], kind: BEYOND_ARROW[kind]})
        (batch,) = self.batches(self.reading("postgresql-copy", table=self.here))
        with pytest.raises(InvalidRecord) as raised:
            PostgresqlCopy().decode(batch.rows)
        assert list(raised.value.rows) == list(range(len(BEYOND_ARROW[kind])))
        assert all(
            "column 'c1' holds '" in why and "`c1::text` in `query`" in why for why in raised.value.rows.values()
        )
        query = f"SELECT id, c1::text FROM {self.here}"
        table = self.written(tmp_path, self.batches(self.reading("postgresql-copy", query=query)))
        expected = [text for _, text in self.rows("id, c1::text", self.here)]
        assert table.column("c1").to_pylist() == expected
        assert len(set(expected)) == len(BEYOND_ARROW[kind]) + 1

    def test_not_a_number(self, tmp_path):
        self.filled({"real": ["'NaN'"], "double precision": ["'NaN'"]})
        table = self.written(tmp_path, self.batches(self.reading("postgresql-copy", table=self.here)))
        for name in ("c0", "c1"):
            value, null = table.column(name).to_pylist()
            assert math.isnan(value) and null is None
