"""The ClickHouse sink on a real server: types, what it refuses, tokens over partitions and views, kinds of tables."""

import datetime as dt
import decimal
import json
import logging
import uuid
from contextlib import contextmanager

import pyarrow as pa
import pytest

from airflow_provider_connect.connectors.clickhouse import ClickHouseSink, ClickHouseSinkConfig
from airflow_provider_connect.engine.batch import Batch, Checkpoint, documents
from airflow_provider_connect.engine.connector import SinkContext
from airflow_provider_connect.engine.errors import Fatal, InvalidRecord, Retryable
from tests.services.clickhouse import PROTOCOLS
from tests.services.clickhouse_server import USERS

WINDOW = "SETTINGS non_replicated_deduplication_window = 100"


@pytest.fixture
def table(clickhouse):
    name = clickhouse.unique_name("sink")
    yield name
    clickhouse.execute(f"DROP TABLE IF EXISTS {name}")


@contextmanager
def opened(clickhouse, table, protocol="http", options="", **settings):
    config = ClickHouseSinkConfig(connection_string=clickhouse.url(protocol, options), table=table, **settings)
    sink = ClickHouseSink(config)
    try:
        sink.open(SinkContext("flow"))
        yield sink
    except Exception as error:
        raise sink.classify(error) from error
    finally:
        sink.close()


def batch_of(rows):
    return Batch(rows if isinstance(rows, pa.RecordBatch) else pa.RecordBatch.from_pylist(rows), Checkpoint())


def json_batch(*values):
    texts = [value if isinstance(value, bytes | None) else json.dumps(value).encode() for value in values]
    return Batch(documents(pa.array(texts, pa.binary()), "json"), Checkpoint())


def deliver(sink, *batches, token="t"):
    sink.begin(token)
    for batch in batches:
        sink.write(batch)
    sink.flush()


COLUMNS = {
    "i8": ("Int8", -128, pa.int64()),
    "u8": ("UInt8", 255, pa.int64()),
    "i64": ("Int64", -(2**63), pa.int64()),
    "u64": ("UInt64", 2**64 - 1, pa.uint64()),
    "i128": ("Int128", -(2**127), pa.string()),
    "u256": ("UInt256", 2**256 - 1, pa.string()),
    "f32": ("Float32", 1.5, pa.float64()),
    "f64": ("Float64", 1e300, pa.float64()),
    "flag": ("Bool", True, pa.bool_()),
    "text": ("String", "Zażółć \N{GRINNING FACE} \0 '\\", pa.string()),
    "low": ("LowCardinality(String)", "one of few", pa.string()),
    "lown": ("LowCardinality(Nullable(String))", None, pa.string()),
    "fixed": ("FixedString(3)", b"abc", pa.binary()),
    "null": ("Nullable(Int32)", None, pa.int32()),
    "money": ("Decimal(18, 4)", decimal.Decimal("-12345678901234.5678"), pa.decimal128(18, 4)),
    "huge": ("Decimal(60, 10)", decimal.Decimal("1234567890123456789012345678901234567890.0123456789"),
             pa.decimal256(60, 10)),
    "day": ("Date", dt.date(2149, 6, 6), pa.date32()),
    "day32": ("Date32", dt.date(1900, 1, 1), pa.date32()),
    "second": ("DateTime('Europe/Berlin')", dt.datetime(2025, 7, 1, 12, 0, tzinfo=dt.UTC), pa.timestamp("us", "UTC")),
    "micro": ("DateTime64(6, 'UTC')", dt.datetime(2025, 7, 1, 12, 0, 0, 123456, tzinfo=dt.UTC),
              pa.timestamp("us", "UTC")),
    "id": ("UUID", uuid.UUID("61f0c404-5cb3-11e7-907b-a6006ad3dba0"), pa.string()),
    "v4": ("IPv4", "1.2.3.4", pa.string()),
    "v6": ("IPv6", "2001:db8::1", pa.string()),
    "kind": ("Enum8('red' = 1, 'blue' = -2)", "blue", pa.string()),
    "list": ("Array(Nullable(Int32))", [1, None, 3], pa.list_(pa.int32())),
    "lists": ("Array(Array(String))", [["a"], [], ["b", "c"]], pa.list_(pa.list_(pa.string()))),
    "map": ("Map(String, UInt8)", {"a": 1, "b": 2}, pa.map_(pa.string(), pa.int64())),
    "pair": ("Tuple(x Int16, y String)", {"x": 1, "y": "z"}, pa.struct([("x", pa.int16()), ("y", pa.string())])),
    "document": ("JSON", {"a": {"b": 1}}, pa.string()),
}  # fmt: skip
"""Column to its type, a value at its edge as clients return it, and the Arrow type in which it comes."""


def arrow_value(name, value):
    if name == "map":
        return list(value.items())
    if name == "document":
        return json.dumps(value)
    return str(value) if isinstance(value, uuid.UUID) or name in {"i128", "u256"} else value


def json_value(name, value):
    if isinstance(value, dt.datetime):
        return value.isoformat()
    if isinstance(value, decimal.Decimal | uuid.UUID | dt.date):
        return str(value)
    return value.decode() if isinstance(value, bytes) else value


def create_all(clickhouse, table):
    declared = ", ".join(f"`{name}` {type_}" for name, (type_, _, _) in COLUMNS.items())
    clickhouse.execute(f"CREATE TABLE {table} ({declared}) ENGINE = MergeTree ORDER BY tuple() {WINDOW}")


def stored_all(clickhouse, table):
    ((row),) = clickhouse.execute(f"SELECT {', '.join(f'`{name}`' for name in COLUMNS)} FROM {table}")
    return dict(zip(COLUMNS, row, strict=True))


def assert_values(found):
    for name, (_, wanted, _) in COLUMNS.items():
        value = found[name]
        if name in {"v4", "v6"}:
            value = str(value)
        if isinstance(wanted, dt.datetime):
            value = value.replace(tzinfo=dt.UTC) if value.tzinfo is None else value
        assert value == wanted, name


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("compress", ["lz4", "zstd", "none"])
def test_every_type_from_columns(clickhouse, table, protocol, compress):
    create_all(clickhouse, table)
    arrays = [pa.array([arrow_value(name, value)], type_) for name, (_, value, type_) in COLUMNS.items()]
    with opened(clickhouse, table, protocol, f"compress={compress}") as sink:
        deliver(sink, batch_of(pa.RecordBatch.from_arrays(arrays, names=list(COLUMNS))))
    assert_values(stored_all(clickhouse, table))


def test_every_type_from_json(clickhouse, table):
    create_all(clickhouse, table)
    with opened(clickhouse, table) as sink:
        assert "json" in sink.accepts()
        deliver(sink, json_batch({name: json_value(name, value) for name, (_, value, _) in COLUMNS.items()}))
    assert_values(stored_all(clickhouse, table))


BAD = [
    ("Int8", 128), ("UInt8", -1), ("UInt64", -1), ("Int64", 2**63), ("UUID", "no uuid"), ("IPv4", "1.2.3"),
    ("Enum8('a' = 1)", "b"), ("DateTime", "yesterday"), ("Decimal(9, 2)", 2**62), ("Int32", "x"), ("Int8", "300"),
    ("Int16", 1.5), ("FixedString(2)", "abc"), ("Bool", "perhaps"), ("DateTime", "2200-01-01T00:00:00Z"),
    ("Date", "2200-01-01"), ("Float32", 1e300), ("Array(Int8)", [1, 300]), ("Float64", "much"),
]  # fmt: skip


@pytest.mark.parametrize("protocol", PROTOCOLS)
class TestRefusals:
    @pytest.mark.parametrize(("type_", "value"), BAD)
    def test_a_value_that_does_not_fit(self, clickhouse, table, protocol, type_, value):
        """Alone, and beside a NULL: NULL is what ClickHouse would make of some of them then."""
        clickhouse.execute(f"CREATE TABLE {table} (v {type_}) ENGINE = MergeTree ORDER BY tuple() {WINDOW}")
        kind = pa.uint64() if isinstance(value, int) and value > 0 else None
        for values in ([value], [value, None]):
            rows = pa.RecordBatch.from_arrays([pa.array(values, kind)], names=["v"])
            with pytest.raises(InvalidRecord), opened(clickhouse, table, protocol) as sink:
                deliver(sink, batch_of(rows))
        assert clickhouse.execute(f"SELECT count() FROM {table}") == [(0,)]

    def test_times_that_do_not_fit(self, clickhouse, table, protocol):
        clickhouse.execute(f"CREATE TABLE {table} (v DateTime, d Date) ENGINE = MergeTree ORDER BY v {WINDOW}")
        late = dt.datetime(2200, 1, 1, tzinfo=dt.UTC)
        for row in ({"v": late}, {"d": late.date()}, {"d": late}, {"v": dt.date(1960, 1, 1)}):
            with pytest.raises(InvalidRecord, match="does not fit"), opened(clickhouse, table, protocol) as sink:
                deliver(sink, batch_of([row]))
        with opened(clickhouse, table, protocol) as sink:
            deliver(
                sink, batch_of([{"v": dt.datetime(2106, 2, 7, 6, 28, 15, tzinfo=dt.UTC), "d": dt.date(2149, 6, 6)}])
            )
        assert clickhouse.execute(f"SELECT toUnixTimestamp(v), d FROM {table}") == [(2**32 - 1, dt.date(2149, 6, 6))]

    def test_a_field_without_a_column(self, clickhouse, table, protocol):
        clickhouse.execute(
            f"CREATE TABLE {table} (a Int8, m Int8 MATERIALIZED 1) ENGINE = MergeTree ORDER BY a {WINDOW}"
        )
        wanted = "has no column b, m to insert into; there are: a"
        with opened(clickhouse, table, protocol) as sink, pytest.raises(InvalidRecord, match=wanted):
            deliver(sink, batch_of([{"a": 1, "b": 2, "m": 3}]))
        with opened(clickhouse, table, protocol, ignore_unknown_columns=True) as sink:
            deliver(sink, batch_of([{"a": 1, "b": 2}]))
            with pytest.raises(InvalidRecord, match="none of the fields"):
                deliver(sink, batch_of([{"b": 2}]), token="u")
        assert clickhouse.execute(f"SELECT a FROM {table}") == [(1,)]

    def test_no_table(self, clickhouse, table, protocol):
        wanted = f"there is no table '{table}': create it, or set `autoCreateTable: true`"
        with pytest.raises(Fatal, match=wanted), opened(clickhouse, table, protocol):
            pass

    def test_no_database(self, clickhouse, protocol):
        with pytest.raises(Fatal, match="nowhere"), opened(clickhouse, "nowhere.t", protocol, auto_create_table=True):
            pass

    def test_a_wrong_password(self, clickhouse, table, protocol):
        url = clickhouse.url(protocol, account=("reader", "guessed"))
        sink = ClickHouseSink(ClickHouseSinkConfig(connection_string=url, table=table))
        with pytest.raises(Fatal, match="Authentication failed") as raised:
            sink.open(SinkContext("flow"))
        assert "guessed" not in str(raised.value)

    def test_an_account_without_rights(self, clickhouse, table, protocol):
        clickhouse.execute(f"CREATE TABLE {table} (a Int8) ENGINE = MergeTree ORDER BY a {WINDOW}")
        url = clickhouse.url(protocol, account=("nobody", USERS["nobody"]))
        sink = ClickHouseSink(ClickHouseSinkConfig(connection_string=url, table=table))
        with pytest.raises(Exception, match="Not enough privileges") as raised:
            sink.open(SinkContext("flow"))
        assert type(sink.classify(raised.value)) is Fatal

    def test_an_unknown_setting(self, clickhouse, table, protocol):
        clickhouse.execute(f"CREATE TABLE {table} (a Int8) ENGINE = MergeTree ORDER BY a {WINDOW}")
        unknown = {"no_such_setting": 1}
        with (
            pytest.raises(Fatal, match="no_such_setting"),
            opened(clickhouse, table, protocol, settings=unknown) as sink,
        ):
            deliver(sink, batch_of([{"a": 1}]))

    def test_an_error_that_passes(self, clickhouse, table, protocol):
        clickhouse.execute(f"CREATE TABLE {table} (a Int64) ENGINE = MergeTree ORDER BY a {WINDOW}")
        little = {"max_memory_usage": 10_000}
        # A server that has heard enough hangs up on a client that still sends.
        wanted = r"emory limit|reset by peer|Broken pipe"
        with pytest.raises(Retryable, match=wanted), opened(clickhouse, table, protocol, settings=little) as sink:
            deliver(sink, batch_of(pa.RecordBatch.from_arrays([pa.array(range(3_000_000))], names=["a"])))

    def test_a_tombstone(self, clickhouse, table, protocol):
        made = opened(clickhouse, table, protocol, auto_create_table=True)
        with made as sink, pytest.raises(InvalidRecord, match="tombstone") as raised:
            deliver(sink, json_batch({"a": 1}, None))
        assert list(raised.value.rows) == [1]


class TestJsonIntoColumns:
    @pytest.mark.parametrize(("type_", "value"), BAD)
    def test_a_value_that_does_not_fit(self, clickhouse, table, type_, value):
        clickhouse.execute(f"CREATE TABLE {table} (v {type_}) ENGINE = MergeTree ORDER BY tuple() {WINDOW}")
        for documents_ in ([{"v": value}], [{"v": value}, {"v": None}, {}]):
            if type_ == "Int8" and value == "300":
                continue  # a number as text is taken, as its low bits were before
            with pytest.raises(InvalidRecord), opened(clickhouse, table) as sink:
                deliver(sink, json_batch(*documents_))
        assert clickhouse.execute(f"SELECT count() FROM {table}") == [(0,)]

    @pytest.mark.parametrize(
        ("documents_", "rows"),
        [
            ([{"v": 1}, b"[2]", {"v": 3}, b""], {1, 3}),
            ([{"v": 1}, b'{"v": 2} {"v": 3}'], None),
            ([{"v": 1}, b'{"v": 2'], {1}),
            ([{"v": 1}, b'{"v": 2}}'], None),
            ([{"v": 1}, {"v": "x"}, {"v": 3}], {1}),
            ([{"v": 1}, {"w": 1}], {1}),
            ([{"v": 1}, b'{"v": 2, "v": 3}'], {1}),
        ],
    )
    def test_a_document_that_is_no_row(self, clickhouse, table, documents_, rows):
        clickhouse.execute(f"CREATE TABLE {table} (v Int8) ENGINE = MergeTree ORDER BY tuple() {WINDOW}")
        with pytest.raises(InvalidRecord) as raised, opened(clickhouse, table) as sink:
            deliver(sink, json_batch(*documents_))
        assert raised.value.rows is None or set(raised.value.rows) == rows
        assert clickhouse.execute(f"SELECT count() FROM {table}") == [(0,)]

    def test_missing_and_null_fields_take_the_default(self, clickhouse, table):
        clickhouse.execute(
            f"CREATE TABLE {table} (n Int8, a Int8 DEFAULT 7, b Nullable(Int8), c String, d DateTime DEFAULT now())"
            f" ENGINE = MergeTree ORDER BY n {WINDOW}"
        )
        with opened(clickhouse, table) as sink:
            deliver(
                sink, json_batch({"n": 1}, b' {"n": 2, "a": null, "b": null, "c": null, "d": null}\n', {"n": 3, "a": 0})
            )
        rows = clickhouse.execute(f"SELECT n, a, b, c, d > now() - 60 FROM {table} ORDER BY n")
        assert rows == [(1, 7, None, "", 1), (2, 7, None, "", 1), (3, 0, None, "", 1)]

    def test_unknown_fields_can_be_left_out(self, clickhouse, table):
        clickhouse.execute(f"CREATE TABLE {table} (v Int8) ENGINE = MergeTree ORDER BY v {WINDOW}")
        with opened(clickhouse, table, ignore_unknown_columns=True) as sink:
            deliver(sink, json_batch({"v": 1, "w": {"x": [1]}}))
        assert clickhouse.execute(f"SELECT v FROM {table}") == [(1,)]


@pytest.mark.parametrize("protocol", PROTOCOLS)
class TestTokens:
    def test_a_flush_is_one_block_however_large(self, clickhouse, table, protocol):
        clickhouse.execute(f"CREATE TABLE {table} (a Int64) ENGINE = MergeTree ORDER BY a {WINDOW}")
        rows = pa.RecordBatch.from_arrays([pa.array(range(1_500_000))], names=["a"])
        with opened(clickhouse, table, protocol) as sink:
            for cut in (1_500_000, 400_000):
                deliver(sink, *(batch_of(rows.slice(at, cut)) for at in range(0, 1_500_000, cut)))
        parts = clickhouse.execute(f"SELECT count() FROM system.parts WHERE table = '{table}' AND active")
        assert parts == [(1,)]
        assert clickhouse.execute(f"SELECT count(), uniqExact(a) FROM {table}") == [(1_500_000, 1_500_000)]

    def test_partitions_each_remember_the_token(self, clickhouse, table, protocol):
        clickhouse.execute(
            f"CREATE TABLE {table} (a Int64, p Int8) ENGINE = MergeTree PARTITION BY p ORDER BY a {WINDOW}"
        )
        rows = batch_of([{"a": n, "p": n % 5} for n in range(20)])
        with opened(clickhouse, table, protocol) as sink:
            deliver(sink, rows, token="a")
            clickhouse.execute(f"ALTER TABLE {table} DROP PARTITION 3")  # as if the insert had got no further
            deliver(sink, rows, token="a")
            deliver(sink, rows, token="b")
        counted = clickhouse.execute(f"SELECT p, count() FROM {table} GROUP BY p ORDER BY p")
        assert {p: n for p, n in counted if p != 3} == dict.fromkeys((0, 1, 2, 4), 8)

    def test_a_materialized_view_counts_each_row_once(self, clickhouse, table, protocol):
        clickhouse.execute(f"CREATE TABLE {table} (a Int64) ENGINE = MergeTree ORDER BY a {WINDOW}")
        clickhouse.execute(
            f"CREATE MATERIALIZED VIEW {table}_v ENGINE = MergeTree ORDER BY b {WINDOW}"
            f" AS SELECT a % 2 AS b FROM {table}"
        )
        try:
            with opened(clickhouse, table, protocol) as sink:
                for token in ("a", "a", "b"):
                    deliver(sink, batch_of([{"a": 1}, {"a": 3}, {"a": 5}]), token=token)
            assert clickhouse.execute(f"SELECT count() FROM {table}") == [(6,)]
            assert clickhouse.execute(f"SELECT count() FROM {table}_v") == [(6,)]
        finally:
            clickhouse.execute(f"DROP TABLE {table}_v")

    def test_a_view_that_refuses_is_no_matter_of_the_record(self, clickhouse, table, protocol):
        clickhouse.execute(f"CREATE TABLE {table} (a Int64) ENGINE = MergeTree ORDER BY a {WINDOW}")
        clickhouse.execute(
            f"CREATE MATERIALIZED VIEW {table}_v ENGINE = MergeTree ORDER BY b AS"
            f" SELECT throwIf(a = 2, 'refused') AS b FROM {table}"
        )
        try:
            with pytest.raises(Fatal, match="materialized view"), opened(clickhouse, table, protocol) as sink:
                deliver(sink, batch_of([{"a": 1}, {"a": 2}]))
        finally:
            clickhouse.execute(f"DROP TABLE {table}_v")

    def test_a_constraint_refuses_the_whole_flush(self, clickhouse, table, protocol):
        clickhouse.execute(
            f"CREATE TABLE {table} (a Int64, CONSTRAINT small CHECK a < 10) ENGINE = MergeTree ORDER BY a {WINDOW}"
        )
        with pytest.raises(InvalidRecord, match="small"), opened(clickhouse, table, protocol) as sink:
            deliver(sink, batch_of([{"a": 1}]), batch_of([{"a": 11}]))
        assert clickhouse.execute(f"SELECT count() FROM {table}") == [(0,)]

    @pytest.mark.parametrize(
        ("engine", "warning"),
        [
            (
                "MergeTree ORDER BY a",
                "ALTER TABLE `{table}` MODIFY SETTING non_replicated_deduplication_window = 10000",
            ),
            ("Memory", "its engine Memory does not remember inserts"),
            (f"MergeTree ORDER BY a {WINDOW}", None),
        ],
    )
    def test_a_table_that_forgets_is_warned_of(self, clickhouse, table, protocol, engine, warning, caplog):
        clickhouse.execute(f"CREATE TABLE {table} (a Int64) ENGINE = {engine}")
        with caplog.at_level(logging.WARNING), opened(clickhouse, table, protocol):
            pass
        told = [record.getMessage() for record in caplog.records if record.name.startswith("airflow_provider_connect")]
        if warning is None:
            assert told == []
            return
        (text,) = told
        assert "at least once" in text and warning.format(table=table) in text
        if "ALTER" in warning:
            clickhouse.execute(text[text.index("ALTER") :])
            caplog.clear()
            with opened(clickhouse, table, protocol) as sink:
                for _ in range(2):
                    deliver(sink, batch_of([{"a": 1}]))
            assert caplog.records == []
            assert clickhouse.execute(f"SELECT count() FROM {table}") == [(1,)]

    def test_without_a_token_equal_rows_are_added(self, clickhouse, table, protocol):
        """Dead letters come without a token."""
        clickhouse.execute(f"CREATE TABLE {table} (a Int64) ENGINE = MergeTree ORDER BY a {WINDOW}")
        with opened(clickhouse, table, protocol) as sink:
            for _ in range(2):
                sink.write(batch_of([{"a": 1}]))
                sink.flush()
        assert clickhouse.execute(f"SELECT count() FROM {table}") == [(2,)]


class TestTables:
    def test_documents_are_kept_byte_by_byte(self, clickhouse, table):
        odd = [b'{"a":1.0, "b" : 1e400}', b"{\n}", b"no JSON at all \xff\x00", b""]
        with opened(clickhouse, table, auto_create_table="json") as sink:
            assert sink.accepts() == ("json",)
            deliver(sink, json_batch(*odd))
        rows = clickhouse.execute(f"SELECT hex(data), created_at > now() - 60 FROM {table}")
        assert sorted(rows) == sorted((value.hex().upper(), 1) for value in odd)
        ((created,),) = clickhouse.execute(f"SHOW CREATE TABLE {table}")
        assert "non_replicated_deduplication_window = 10000" in created

    @pytest.mark.parametrize("type_", ["String", "JSON"])
    def test_a_named_document_column(self, clickhouse, table, type_):
        clickhouse.execute(
            f"CREATE TABLE {table} (x Int8 DEFAULT 3, doc {type_}) ENGINE = MergeTree ORDER BY x {WINDOW}"
        )
        with opened(clickhouse, table, document_column="doc") as sink:
            deliver(sink, json_batch({"a": {"b": 1}}))
        assert clickhouse.execute(f"SELECT x, toString(doc) FROM {table}") in (
            [(3, '{"a": {"b": 1}}')],
            [(3, '{"a":{"b":1}}')],
        )
        wanted = r"documentColumn: 'x' of .* is neither"
        with pytest.raises(Fatal, match=wanted), opened(clickhouse, table, document_column="x"):
            pass

    def test_odd_names(self, clickhouse):
        table = 'odd `name`."x" \\ \'y'
        written_ = 'default.`odd ``name``."x" \\ \'y`'
        sql = '`odd \\`name\\`."x" \\\\ \'y`'
        clickhouse.execute(f"DROP TABLE IF EXISTS {sql}")
        try:
            with opened(clickhouse, written_, auto_create_table="typed") as sink:
                deliver(sink, batch_of([{"a `b` \\ 'c": 1, "d.e": "x"}]))
            assert clickhouse.execute("SELECT name FROM system.tables WHERE name LIKE 'odd %'") == [(table,)]
            assert clickhouse.execute(f"SELECT * FROM {sql}") == [(1, "x")]
        finally:
            clickhouse.execute(f"DROP TABLE IF EXISTS {sql}")

    @pytest.mark.parametrize("protocol", PROTOCOLS)
    def test_a_typed_table_is_made_of_the_first_rows(self, clickhouse, table, protocol):
        values = {name: column for name, column in COLUMNS.items() if name not in {"null", "lown", "fixed"}}
        arrays = [pa.array([arrow_value(name, value)], type_) for name, (_, value, type_) in values.items()]
        with opened(clickhouse, table, protocol, auto_create_table="typed") as sink:
            assert sink.accepts() == ("columns", "postgresql-copy")
            deliver(sink, batch_of(pa.RecordBatch.from_arrays(arrays, names=list(values))))
            deliver(sink, batch_of([{"i64": 5}]), token="u")
        found = clickhouse.execute(f"SELECT i64, u64, money, huge, day32, micro, list, map, pair.y FROM {table}")
        wanted = [values[name][1] for name in ("i64", "u64", "money", "huge", "day32", "micro", "list", "map")]
        (row,) = [row for row in found if row[0] != 5]
        stamped = [v.replace(tzinfo=dt.UTC) if isinstance(v, dt.datetime) and v.tzinfo is None else v for v in row]
        assert stamped == [*wanted, "z"]

    def test_a_typed_table_may_have_a_column_data_alone(self, clickhouse, table):
        for number in range(2):
            with opened(clickhouse, table, auto_create_table="typed") as sink:
                deliver(sink, batch_of([{"data": f"x{number}"}]), token=str(number))
        assert sorted(clickhouse.execute(f"SELECT data FROM {table}")) == [("x0",), ("x1",)]

    def test_upserts_keep_the_last_of_a_key(self, clickhouse, table):
        settings = {
            "auto_create_table": "typed", "upsert_mode": True, "conflict_key": "id", "version_column": "version",
            "deleted_column": "gone",
        }  # fmt: skip
        with opened(clickhouse, table, **settings) as sink:
            deliver(sink, batch_of([{"id": 1, "version": 2, "text": "new"}, {"id": 2, "version": 1, "text": "x"}]))
            deliver(sink, batch_of([{"id": 1, "version": 1, "text": "old"}]), token="b")
            deliver(sink, batch_of([{"id": 2, "version": 2, "gone": 1}]), token="c")
        assert clickhouse.execute(f"SELECT id, text FROM {table} FINAL") == [(1, "new")]

    def test_upserts_need_an_engine_that_replaces(self, clickhouse, table):
        clickhouse.execute(f"CREATE TABLE {table} (a Int8) ENGINE = MergeTree ORDER BY a {WINDOW}")
        with pytest.raises(Fatal, match="ReplacingMergeTree"), opened(clickhouse, table, upsert_mode=True):
            pass

    def test_a_key_that_no_row_has(self, clickhouse, table):
        settings = {"auto_create_table": "typed", "upsert_mode": True, "conflict_key": "id"}
        with pytest.raises(Fatal, match="lack id; there are: a"), opened(clickhouse, table, **settings) as sink:
            deliver(sink, batch_of([{"a": 1}]))
