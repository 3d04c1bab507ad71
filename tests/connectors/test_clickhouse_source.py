"""The ClickHouse source on a real server: values, cursors, late and equal rows, queries, and what cannot be read."""

import datetime as dt
import decimal
import json
import time

import pyarrow as pa
import pytest

from airflow_provider_connect.connectors.clickhouse import ClickHouseSource, ClickHouseSourceConfig
from airflow_provider_connect.engine.batch import Checkpoint
from airflow_provider_connect.engine.errors import EndOfInput, Fatal, FlowError, Retryable
from airflow_provider_connect.testing.source import RecordedContext
from tests.connectors.test_clickhouse_sink import COLUMNS
from tests.services.clickhouse import PROTOCOLS
from tests.services.proxy import TcpProxy


@pytest.fixture
def table(clickhouse):
    name = clickhouse.unique_name("source")
    yield name
    clickhouse.execute(f"DROP TABLE IF EXISTS {name}")


def source_of(clickhouse, protocol="http", **settings):
    defaults = {"poll_interval": 0.05, "late_rows_seconds": 0}
    config = ClickHouseSourceConfig(connection_string=clickhouse.url(protocol), **{**defaults, **settings})
    return ClickHouseSource(config)


def read(source, stored=None, until=None, format="columns", max_records=1000, seconds=20):
    """All batches until the end."""
    context = RecordedContext("flow", format, stored=stored, until=until, drain=until is None)
    batches, deadline = [], time.monotonic() + seconds
    try:
        source.open(context)
        while time.monotonic() < deadline:
            batch = source.read(max_records, 0.2)
            if batch is not None:
                batches.append(batch)
    except EndOfInput:
        return batches
    except Exception as error:
        raise source.classify(error) from error
    finally:
        source.close()
    pytest.fail("no end")


def rows(batches):
    return [row for batch in batches for row in batch.rows.to_pylist()]


def documents(batches):
    return [json.loads(row["value"]) for row in rows(batches)]


def at_the_end(batches):
    checkpoint = Checkpoint()
    for batch in batches:
        checkpoint = checkpoint.advance(batch.checkpoint)
    return json.loads(json.dumps(checkpoint))


UTC = dt.UTC
READ = {
    "i128": str(-(2**127)), "u256": str(2**256 - 1), "fixed": "abc", "id": "61f0c404-5cb3-11e7-907b-a6006ad3dba0",
    "map": [("a", 1), ("b", 2)], "document": '{"a":{"b":1}}',
}  # fmt: skip
"""How values come that have no Arrow type of their own."""


def fill_all(clickhouse, table):
    declared = ", ".join(f"`{name}` {type_}" for name, (type_, _, _) in COLUMNS.items())
    clickhouse.execute(f"CREATE TABLE {table} ({declared}) ENGINE = MergeTree ORDER BY tuple()")
    row = {}
    for name, (_, value, _) in COLUMNS.items():
        text = value.decode() if isinstance(value, bytes) else value
        plain = isinstance(text, str | int | float | list | dict | None)
        row[name] = text if plain else text.isoformat() if isinstance(text, dt.datetime) else str(text)
    clickhouse.execute(f"INSERT INTO {table} FORMAT JSONEachRow", json.dumps(row), date_time_input_format="best_effort")
    return row


CURSOR_TYPES = [
    "Int8", "UInt64", "Int128", "Date", "Date32", "DateTime", "DateTime64(6)", "String", "Decimal(30, 5)", "UUID",
    "LowCardinality(String)", "IPv6",
]  # fmt: skip


@pytest.mark.parametrize("protocol", PROTOCOLS)
class TestValues:
    def test_every_type_as_columns(self, clickhouse, table, protocol):
        fill_all(clickhouse, table)
        batches = read(source_of(clickhouse, protocol, table=table, cursor="i64"))
        (found,) = rows(batches)
        for name, (_, value, _) in COLUMNS.items():
            wanted = READ.get(name, value)
            if isinstance(wanted, dt.datetime):
                found[name] = found[name].astimezone(UTC)
            assert found[name] == wanted, name
        schema = next(batch.rows.schema for batch in batches if len(batch))
        assert schema.field("u64").type == pa.uint64()
        assert schema.field("micro").type == pa.timestamp("us", tz="UTC")
        assert schema.field("second").type == pa.timestamp("s", tz="UTC")
        assert schema.field("huge").type == pa.decimal256(60, 10)
        assert schema.field("document").metadata == {b"json": b"value"}
        assert schema.field("i128").metadata == {b"json": b"number"}

    def test_every_type_as_json(self, clickhouse, table, protocol):
        made = fill_all(clickhouse, table)
        batches = read(source_of(clickhouse, protocol, table=table, cursor="i64"), format="json")
        (text,) = [row["value"] for row in rows(batches)]
        found = json.loads(text, parse_float=decimal.Decimal)
        for name, value in made.items():
            if name in {"second", "micro"}:
                assert dt.datetime.fromisoformat(found[name]) == dt.datetime.fromisoformat(value)
            elif name in {"money", "huge", "f32", "f64"}:
                assert decimal.Decimal(found[name]) == decimal.Decimal(str(value)), name
            else:
                assert found[name] == value, name
        assert b"18446744073709551615" in text and b'"18446744073709551615"' not in text

    def test_times_to_the_last_digit(self, clickhouse, table, protocol):
        """Also as a cursor: positions keep them."""
        clickhouse.execute(
            f"CREATE TABLE {table} (at DateTime64(9), early DateTime64(3), zone DateTime('Asia/Tokyo'))"
            " ENGINE = MergeTree ORDER BY at"
        )
        clickhouse.execute(
            f"INSERT INTO {table} SELECT fromUnixTimestamp64Nano(1700000000123456000 + number),"
            " toDateTime64('1950-01-01 00:00:00.001', 3, 'UTC'), 1700000000 FROM numbers(10)"
        )
        batches = read(source_of(clickhouse, protocol, table=table, cursor="at"), max_records=4)
        ticks = [t for batch in batches for t in batch.rows.column("at").view(pa.int64()).to_pylist()]
        assert ticks == [1700000000123456000 + n for n in range(10)]
        first = batches[0].rows.drop_columns(["at"]).to_pylist()[0]
        assert first["early"] == dt.datetime(1950, 1, 1, 0, 0, 0, 1000, tzinfo=UTC)
        assert first["zone"].timestamp() == 1700000000
        assert batches[0].checkpoint[table]["after"]["at"] == "2023-11-14 22:13:20.123456003"
        rest = read(source_of(clickhouse, protocol, table=table, cursor="at"), stored=batches[0].checkpoint)
        assert sum(map(len, rest)) == 6

    def test_bytes_that_are_no_text(self, clickhouse, table, protocol):
        clickhouse.execute(f"CREATE TABLE {table} (id Int8, s String) ENGINE = MergeTree ORDER BY id")
        clickhouse.execute(f"INSERT INTO {table} VALUES (1, unhex('ff00'))")
        with pytest.raises(Fatal, match=r"UTF-8|utf-8"):
            read(source_of(clickhouse, protocol, table=table))
        found = read(source_of(clickhouse, protocol, query=f"SELECT id, hex(s) AS s FROM {table}", cursor="id"))
        assert rows(found) == [{"id": 1, "s": "FF00"}]

    @pytest.mark.parametrize("type_", CURSOR_TYPES)
    def test_cursors_of_many_types(self, clickhouse, table, protocol, type_):
        clickhouse.execute(f"CREATE TABLE {table} (c {type_}, n Int32) ENGINE = MergeTree ORDER BY c")
        values = {
            "UUID": "toUUID(concat('61f0c404-5cb3-11e7-907b-a6006ad3db', toString(10 + number)))",
            "IPv6": "toIPv6(concat('2001:db8::', toString(10 + number)))",
            "DateTime64(6)": "fromUnixTimestamp64Micro(toInt64(1700000000123456 + number), 'UTC')",
        }
        value = values.get(type_, f"CAST(toString(10 + number) AS {type_})" if "D" not in type_ else "number + 20000")
        clickhouse.execute(f"INSERT INTO {table} SELECT {value}, number FROM numbers(10)")
        source = source_of(clickhouse, protocol, table=table, cursor="c", tie_break="n")
        batches = read(source, max_records=3)
        assert [row["n"] for row in rows(batches)] == list(range(10))
        for cut in range(3):
            stored = at_the_end(batches[: cut + 1])
            rest = read(source_of(clickhouse, protocol, table=table, cursor="c", tie_break="n"), stored=stored)
            seen = sum(map(len, batches[: cut + 1]))
            assert [row["n"] for row in rows(rest)] == list(range(seen, 10))


@pytest.mark.parametrize("protocol", PROTOCOLS)
class TestIncrements:
    def test_the_default_cursor(self, clickhouse, table, protocol):
        for columns, cursor in (
            ("id UInt32, created_at DateTime", ["id", "#row"]),
            ("id String, created_at DateTime", ["created_at", "#row"]),
            ("id String, created_at String", None),
        ):
            clickhouse.execute(f"CREATE OR REPLACE TABLE {table} ({columns}) ENGINE = MergeTree ORDER BY tuple()")
            clickhouse.execute(f"INSERT INTO {table} VALUES ('1', '2025-01-01 00:00:00')")
            source = source_of(clickhouse, protocol, table=table)
            assert source.replayable is (cursor is not None)
            batches = read(source)
            assert len(rows(batches)) == 1
            position = at_the_end(batches)[table]
            assert position == {"polls": 1} if cursor is None else list(position["after"]) == cursor

    def test_rows_that_are_equal_in_everything(self, clickhouse, table, protocol):
        clickhouse.execute(f"CREATE TABLE {table} (created_at DateTime, v Int8) ENGINE = MergeTree ORDER BY tuple()")
        clickhouse.execute(f"INSERT INTO {table} SELECT 1700000000, number < 20 FROM numbers(30)")
        seen, stored = [], {}
        while len(seen) < 30:
            source = source_of(clickhouse, protocol, table=table)
            source.open(RecordedContext("flow", "columns", stored=stored, drain=True))
            batch = None
            while batch is None:
                batch = source.read(3, 1)
            source.close()
            seen += [row["v"] for row in batch.rows.to_pylist()]
            stored = json.loads(json.dumps(batch.checkpoint))
        assert sorted(seen) == [0] * 10 + [1] * 20
        assert read(source_of(clickhouse, protocol, table=table), stored=stored) == []
        clickhouse.execute(
            f"INSERT INTO {table} SELECT created_at, v FROM {table}"
            " ORDER BY cityHash64(tuple(created_at, v)) DESC LIMIT 1"
        )
        late = read(source_of(clickhouse, protocol, table=table), stored=stored)
        assert len(rows(late)) == 1, "one more of the last kind"

    def test_late_rows_are_waited_for(self, clickhouse, table, protocol):
        clickhouse.execute(f"CREATE TABLE {table} (id Int64) ENGINE = MergeTree ORDER BY id")
        clickhouse.execute(f"INSERT INTO {table} VALUES (1), (3)")
        source = source_of(clickhouse, protocol, table=table, late_rows_seconds=1)
        source.open(RecordedContext("flow", "columns"))
        assert source.read(10, 0.3) is None
        clickhouse.execute(f"INSERT INTO {table} VALUES (2), (4)")
        found = []
        for _ in range(6):
            batch = source.read(10, 0.3)
            found += batch.rows.column("id").to_pylist() if batch is not None else []
        source.close()
        assert found == [1, 2, 3], "4 is beyond the bound of the first poll, and would wait in the second"

    def test_an_old_table_is_read_at_once(self, clickhouse, table, protocol):
        clickhouse.execute(f"CREATE TABLE {table} (id Int64) ENGINE = MergeTree ORDER BY id")
        clickhouse.execute(f"INSERT INTO {table} VALUES (1)")
        time.sleep(1.2)  # until its last insert is older than what may be late
        source = source_of(clickhouse, protocol, table=table, late_rows_seconds=0.01)
        source.open(RecordedContext("flow", "columns", drain=True))
        began = time.monotonic()
        assert len(source.read(10, 5)) == 1
        assert time.monotonic() - began < 1
        source.close()

    def test_a_query_without_cursor_comes_whole_at_every_poll(self, clickhouse, table, protocol):
        source = source_of(clickhouse, protocol, query="SELECT number AS n FROM numbers(5) -- all", table="numbers")
        assert source.replayable is False
        source.open(RecordedContext("flow", "columns"))
        seen, deadline = [], time.monotonic() + 20
        while len(seen) < 15 and time.monotonic() < deadline:
            batch = source.read(2, 0.2)
            seen += batch.rows.column("n").to_pylist() if batch is not None else []
        source.close()
        assert seen[:15] == [0, 1, 2, 3, 4] * 3

    def test_the_sample_of_the_specification(self, clickhouse, table, protocol):
        clickhouse.execute(f"CREATE TABLE {table} (id Int64, v String) ENGINE = MergeTree ORDER BY id")
        clickhouse.execute(f"INSERT INTO {table} VALUES (100, 'no'), (101, 'yes')")
        query = f"SELECT * FROM {table} WHERE id > 100"
        source = source_of(clickhouse, protocol, table=table, query=query, raw_mode=True, poll_interval=60)
        assert source.formats() == ("json",)
        found = documents(read(source, format="json"))
        assert found == [{"value": {"id": 101, "v": "yes"}, "_metadata": {"table": table, "id": 101}}]

    def test_no_id_in_raw_mode(self, clickhouse, table, protocol):
        source = source_of(clickhouse, protocol, query="SELECT 'a' AS v", raw_mode=True)
        found = documents(read(source, format="json"))
        assert found == [{"value": {"v": "a"}, "_metadata": {"table": "query", "id": None}}]

    def test_a_large_table_in_bounded_batches(self, clickhouse, table, protocol):
        count = 200_000 if protocol == "http" else 50_000
        clickhouse.execute(f"CREATE TABLE {table} (id Int64, v String) ENGINE = MergeTree ORDER BY id")
        clickhouse.execute(f"INSERT INTO {table} SELECT number, repeat('x', 100) FROM numbers({count})")
        batches = read(source_of(clickhouse, protocol, table=table), max_records=5000)
        assert max(map(len, batches)) <= 5000
        assert pa.concat_arrays([batch.rows.column("id") for batch in batches]).to_pylist() == list(range(count))


@pytest.mark.parametrize("protocol", PROTOCOLS)
class TestRefusals:
    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"cursor": "nothing"}, "cursor: .* has no column 'nothing'; there are: id, f, n, l"),
            ({"cursor": "id", "tie_break": "x"}, "tieBreak: .* has no column 'x'"),
            ({"cursor": "f"}, "'f' is Float64, whose values have no exact text"),
            ({"cursor": "l"}, "'l' is Array"),
            ({"cursor": "n"}, "have NULL in n and would never be read"),
        ],
    )
    def test_a_cursor_that_cannot_be(self, clickhouse, table, protocol, settings, message):
        clickhouse.execute(
            f"CREATE TABLE {table} (id Int64, f Float64, n Nullable(Int8), l Array(Int8))"
            " ENGINE = MergeTree ORDER BY id"
        )
        clickhouse.execute(f"INSERT INTO {table} VALUES (1, 1, NULL, [])")
        with pytest.raises(FlowError, match=message):
            read(source_of(clickhouse, protocol, table=table, **settings))

    def test_no_table(self, clickhouse, protocol):
        with pytest.raises(FlowError, match="there is no table 'nowhere'"):
            read(source_of(clickhouse, protocol, table="nowhere"))

    def test_a_wrong_query(self, clickhouse, protocol):
        with pytest.raises(Fatal, match="yntax error"):
            read(source_of(clickhouse, protocol, query="SELECT FROM WHERE"))
        with pytest.raises(FlowError, match="more than one column is named a"):
            read(source_of(clickhouse, protocol, query="SELECT 1 AS a, a FROM (SELECT 2 AS a, 3 AS b)"))

    def test_a_position_of_another_cursor(self, clickhouse, table, protocol):
        clickhouse.execute(f"CREATE TABLE {table} (id Int64, a Int64) ENGINE = MergeTree ORDER BY id")
        clickhouse.execute(f"INSERT INTO {table} VALUES (1, 1)")
        stored = at_the_end(read(source_of(clickhouse, protocol, table=table)))
        with pytest.raises(FlowError, match="was made with id, #row, but cursor and tieBreak are now a, #row"):
            read(source_of(clickhouse, protocol, table=table, cursor="a"), stored=stored)

    def test_a_position_that_somebody_wrote(self, clickhouse, table, protocol):
        clickhouse.execute(f"CREATE TABLE {table} (id Int64) ENGINE = MergeTree ORDER BY id")
        clickhouse.execute(f"INSERT INTO {table} VALUES (1)")
        odd = {table: {"after": {"id": "1') OR 1=1 --", "#row": 1}, "rows": 1}}
        with pytest.raises(Fatal):
            read(source_of(clickhouse, protocol, table=table), stored=odd)
        with pytest.raises(FlowError, match="neither number nor text"):
            read(source_of(clickhouse, protocol, table=table), stored={table: {"after": {"id": 1.5, "#row": 1}}})

    def test_a_connection_that_breaks_amid_the_answer(self, clickhouse, table, protocol):
        """What came is kept, the rest is read after a new open, and nothing is missing in silence."""
        clickhouse.execute(f"CREATE TABLE {table} (id Int64, v String) ENGINE = MergeTree ORDER BY id")
        clickhouse.execute(f"INSERT INTO {table} SELECT number, randomPrintableASCII(500) FROM numbers(100000)")
        with TcpProxy(("127.0.0.1", clickhouse.port(protocol))) as proxy:
            source = source_of(clickhouse.through(proxy, protocol), protocol, table=table)
            source.open(RecordedContext("flow", "columns", drain=True))
            seen, stored = [], {}
            with pytest.raises(Exception) as raised:
                while True:
                    batch = source.read(500, 5)
                    if batch is not None:
                        seen += batch.rows.column("id").to_pylist()
                        stored = batch.checkpoint
                        proxy.cut()
            assert not isinstance(raised.value, EndOfInput), "the end, although rows are missing"
            assert type(source.classify(raised.value)) is Retryable
            source.close()
        rest = read(source_of(clickhouse, protocol, table=table), stored=stored, max_records=5000)
        seen += [i for batch in rest for i in batch.rows.column("id").to_pylist()]
        assert seen == list(range(100_000))

    def test_an_error_amid_the_answer(self, clickhouse, protocol):
        query = "SELECT number AS id, throwIf(number = 300000, 'amid') AS v FROM numbers(400000)"
        source = source_of(clickhouse, protocol, query=query)
        with pytest.raises((Fatal, Retryable), match=r"amid|broke off"):
            read(source, max_records=10_000)
