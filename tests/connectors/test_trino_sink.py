"""The sinks on the real server: tables that are there and that are made, types, refusals, upserts, tokens."""

import datetime
import decimal
import json
import uuid

import pyarrow as pa
import pytest
from pydantic import ValidationError

from airflow_provider_connect.connectors.trino import (
    TrinoIdempotentSink,
    TrinoSink,
    TrinoSinkConfig,
    TrinoSource,
    TrinoSourceConfig,
)
from airflow_provider_connect.connectors.trino.client import Client
from airflow_provider_connect.engine.batch import Batch, Checkpoint, documents
from airflow_provider_connect.engine.connector import SinkContext, guarantee
from airflow_provider_connect.engine.errors import EndOfInput, Fatal, InvalidRecord, Retryable
from airflow_provider_connect.testing.source import RecordedContext

UTC = datetime.UTC


@pytest.fixture
def table(trino, trino_schemas):
    """Settings of a table in a catalog, which is made if its columns are given."""

    def settings(catalog="iceberg", columns="", **more):
        name = trino.unique_name()
        place = {"server_url": trino.url, "catalog": catalog, "schema": trino_schemas[catalog], "table": name}
        if columns:
            trino.execute(f"CREATE TABLE {where(place)} ({columns})")
        return {**place, **more}

    return settings


def where(settings):
    return f'{settings["catalog"]}.{settings["schema"]}."{settings["table"]}"'


def opened(settings):
    config = TrinoSinkConfig(**settings)
    sink = TrinoSink.choose(config)(config)
    sink.open(SinkContext("flow"))
    return sink


def batch(rows):
    return Batch(rows, Checkpoint())


def json_batch(*values):
    texts = [json.dumps(value).encode() if value is not None else None for value in values]
    return batch(documents(pa.array(texts, pa.binary()), "json"))


def columns_batch(**columns):
    return batch(pa.RecordBatch.from_pydict(columns))


def written(settings, *batches, token=None):
    with opened(settings) as sink:
        if token is not None:
            sink.begin(token)
        for each in batches:
            sink.write(each)
        sink.flush()


def read(settings, **more):
    """All rows of the table as the source reads them."""
    place = {name: settings[name] for name in ("server_url", "catalog", "schema", "table")}
    source = TrinoSource(TrinoSourceConfig(**place, **more))
    source.open(RecordedContext("flow", source.formats()[0], drain=True))
    found = []
    while True:
        try:
            got = source.read(1000, 1)
        except EndOfInput:
            source.close()
            return pa.Table.from_batches(found)
        if got is not None:
            found.append(got.rows)


# --- tables


@pytest.mark.parametrize("wanted", [True, "json"])
def test_a_table_of_documents_is_created(trino, table, wanted):
    settings = table("memory", auto_create_table=wanted)
    written(settings, json_batch({"id": 1}, {"id": "zwei"}, None))
    assert trino.execute(f"SELECT data FROM {where(settings)} ORDER BY 1") == [
        ['{"id": "zwei"}'],
        ['{"id": 1}'],
        [None],
    ]
    assert trino.execute(f"SHOW COLUMNS FROM {where(settings)}")[0][:2] == ["data", "varchar"]


def test_a_table_of_columns_is_created_from_the_first_rows(trino, table):
    settings = table(auto_create_table="typed")
    at = datetime.datetime(2026, 11, 20, 1, 2, 3, 456789, UTC)
    written(settings, columns_batch(id=[2**62 + 1], userName=["x"], at=pa.array([at], pa.timestamp("us", "UTC"))))
    written(settings, columns_batch(USERNAME=["y"], id=[2]))
    described = {row[0]: row[1] for row in trino.execute(f"SHOW COLUMNS FROM {where(settings)}")}
    assert described == {"id": "bigint", "username": "varchar", "at": "timestamp(6) with time zone"}
    assert read(settings).sort_by("id").to_pylist() == [
        {"id": 2, "username": "y", "at": None},
        {"id": 2**62 + 1, "username": "x", "at": at},
    ]


def test_documents_go_into_a_column_of_json(trino, table):
    settings = table("memory", "data json")
    written(settings, json_batch({"a": [1, 2]}))
    assert trino.execute(f"SELECT json_extract_scalar(data, '$.a[1]') FROM {where(settings)}") == [["2"]]


def test_a_missing_table_is_fatal(table):
    with pytest.raises(Fatal, match="autoCreateTable"):
        opened(table())


def test_unknown_fields(trino, table):
    settings = table(columns="id bigint")
    with opened(settings) as sink, pytest.raises(InvalidRecord) as raised:
        sink.write(columns_batch(id=[1, 2, 3], more=[None, "x", None]))
    assert list(raised.value.rows) == [1]
    written(settings, columns_batch(id=[1], more=pa.nulls(1)))
    written({**settings, "ignore_unknown_columns": True}, columns_batch(id=[2], more=["x"]))
    assert trino.execute(f"SELECT id FROM {where(settings)} ORDER BY 1") == [[1], [2]]


def test_values_that_do_not_fit_are_invalid_records(table):
    settings = table("memory", "id integer, day date, short varchar(3)")
    for column, value in (("id", "x"), ("id", 2**40), ("day", "2026-13-01"), ("short", "four")):
        with opened(settings) as sink:
            sink.write(columns_batch(**{column: [value]}))
            with pytest.raises(InvalidRecord):
                sink.flush()


def test_a_row_longer_than_a_statement_is_an_invalid_record(table):
    settings = table("memory", auto_create_table=True)
    with opened(settings) as sink, pytest.raises(InvalidRecord, match="maxStatementLength") as raised:
        sink.write(json_batch({"id": 1}, {"text": "x" * 1_000_000}))
    assert list(raised.value.rows) == [1]


def test_a_server_that_takes_less_than_is_configured_says_so(table):
    settings = table("memory", auto_create_table=True, max_statement_length=3_000_000)
    with opened(settings) as sink:
        sink.write(json_batch(*[{"text": "x" * 10_000}] * 200))
        with pytest.raises(Fatal, match=r"query\.max-length"):
            sink.flush()


def test_many_rows_are_few_statements_and_all_there(trino, table):
    settings = table("memory", auto_create_table=True)
    texts = ["é🙂\u2028'" * 20 + str(number) for number in range(20_000)]
    statements = []
    with opened(settings) as sink:
        run = sink._client.run
        sink._client.run = lambda sql: (statements.append(len(sql)), run(sql))[1]
        for start in range(0, 20_000, 1000):
            sink.write(json_batch(*[{"text": text} for text in texts[start : start + 1000]]))
        sink.flush()
    assert 6 < len(statements) < 30 and min(statements[:-1]) > 600_000
    found = [json.loads(row[0])["text"] for row in trino.execute(f"SELECT data FROM {where(settings)}")]
    assert sorted(found) == sorted(texts)


def test_texts_that_look_like_separators(trino, table):
    settings = table("memory", "id bigint, text varchar")
    odd = ["\x1f", "\x1e\x1f", "", None, "\x00", "'", "''", "\\", "NULL", "\x1d", "line\nbreak", "ends'"]
    written(settings, columns_batch(id=list(range(len(odd))), text=odd))
    assert [row[0] for row in trino.execute(f"SELECT text FROM {where(settings)} ORDER BY id")] == odd


def test_names_are_quoted(trino, table):
    settings = table("memory")
    settings["table"] = f'odd "{settings["table"]}"; drop'
    sql = f'memory.{settings["schema"]}."{settings["table"].replace(chr(34), chr(34) * 2)}"'
    trino.execute(f'CREATE TABLE {sql} ("se""lect" bigint, "a b" varchar)')
    written(settings, columns_batch(**{'se"lect': [1], "A b": ["x"]}))
    assert trino.execute(f"SELECT * FROM {sql}") == [[1, "x"]]
    trino.execute(f"DROP TABLE {sql}")


def test_a_statement_that_takes_too_long_is_given_up(table):
    settings = table("memory", auto_create_table=True, query_timeout_seconds=1)
    with opened(settings) as sink, pytest.raises(Retryable, match="EXCEEDED_TIME_LIMIT"):
        sink._client.run("SELECT count(*) FROM tpch.sf100.lineitem")


# --- types

ALL_TYPES = """
    id bigint, b boolean, i integer, l bigint, r real, d double, dec decimal(38, 9), small decimal(10, 7), text varchar,
    bin varbinary, day date, t time(6), ts timestamp(6), tz timestamp(6) with time zone, u uuid,
    a array(bigint), deep array(row(x bigint, t timestamp(6), bin varbinary)), m map(varchar, double),
    keys map(bigint, varchar), r1 row(a integer, "B b" varchar, tz timestamp(6) with time zone)
"""
DECIMAL = decimal.Decimal("12345678901234567890123456789.123456789")
MOMENT = datetime.datetime(2026, 3, 29, 1, 2, 3, 456789)
VALUES = {
    "id": 1,
    "b": True,
    "i": -(2**31),
    "l": 2**63 - 1,
    "r": 1.5,
    "d": 0.1,
    "dec": DECIMAL,
    "small": decimal.Decimal("0.0000001"),
    "text": "Zażółć 'gęślą' \x1f 🙂",
    "bin": b"\x00\xff'",
    "day": datetime.date(1969, 12, 31),
    "t": datetime.time(23, 59, 59, 999999),
    "ts": MOMENT,
    "tz": MOMENT.replace(tzinfo=UTC),
    "u": str(uuid.UUID(int=7)),
    "a": [1, None, 2**60],
    "deep": [{"x": 1, "t": MOMENT, "bin": b"\xff"}, None],
    "m": [("k'", 0.5), ("n", None)],
    "keys": [(2**40, "v")],
    "r1": {"a": 1, "B b": "x", "tz": MOMENT.replace(tzinfo=UTC)},
}


def test_all_types_survive_the_way_out_and_in_again(trino, table):
    there, back = table(columns=ALL_TYPES), table(columns=ALL_TYPES)
    first = read(there)
    rows = [VALUES, dict.fromkeys(VALUES) | {"id": 2}]
    rows[1]["deep"] = []
    whole = pa.RecordBatch.from_pylist(rows, first.schema)
    written(there, batch(whole))
    got = read(there, cursor="id", tie_break="id")
    assert got.schema.equals(whole.schema)
    for name in VALUES:
        assert got.column(name).to_pylist() == whole.column(name).to_pylist(), name
    written(back, batch(got.combine_chunks().to_batches()[0]))
    assert read(back, cursor="id", tie_break="id").to_pylist() == whole.to_pylist()
    ours = (
        f"SELECT to_hex(bin), dec, tz, u, deep[1].bin, r1[1], cardinality(a), is_nan(d) FROM {where(back)} WHERE id = 1"
    )
    found = trino.execute(ours)[0]
    assert found[:2] == ["00FF27", DECIMAL]
    assert str(found[3]) == VALUES["u"] and found[4:] == [b"\xff", 1, 3, False]


def test_numbers_that_are_none(trino, table):
    settings = table("memory", "d double, r real")
    odd = [float("nan"), float("inf"), float("-inf"), -0.0, 5e-324, None]
    written(settings, columns_batch(d=odd, r=pa.array([*odd[:4], 1e-45, None], pa.float32())))
    got = read(settings).to_pydict()
    assert str(got["d"]) == str(odd) and str(got["r"][:4]) == str(odd[:4])


def test_json_is_kept_as_it_is(table):
    settings = table("memory", "id bigint, j json")
    marked = pa.field("j", pa.string(), metadata={b"json": b"value"})
    texts = ['{"b":1,"a":[1.0,null,"x"]}', "null", None]
    schema = pa.schema([pa.field("id", pa.int64()), marked])
    written(settings, batch(pa.RecordBatch.from_arrays([pa.array([1, 2, 3]), pa.array(texts)], schema=schema)))
    got = read(settings, cursor="id", tie_break="id")
    assert got.schema.field("j").metadata == {b"json": b"value"}
    assert [None if text is None else json.loads(text) for text in got.column("j").to_pylist()] == [
        {"a": [1.0, None, "x"], "b": 1},
        None,
        None,
    ]


def test_texts_of_json_fit_typed_columns(trino, table):
    """As a document of JSON has them: ISO 8601 with T and Z, numbers as they come, whole objects as text."""
    settings = table(
        "memory", "tz timestamp(6) with time zone, ts timestamp(3), day date, u uuid, n decimal(5, 2), o varchar"
    )
    written(
        settings,
        columns_batch(
            tz=["2026-11-20T01:02:03.456789Z", "2026-11-20 01:02:03.5 UTC"],
            ts=["2026-11-20T03:02:03+02:00", "2026-11-20 01:02:03"],
            day=["2026-11-20"] * 2,
            u=[str(uuid.UUID(int=1))] * 2,
            n=[1.25, 2.5],
            o=[{"x": [1]}, {"x": None}],
        ),
    )
    found = trino.execute(f"SELECT CAST(tz AS varchar), CAST(ts AS varchar), n, o FROM {where(settings)} ORDER BY n")
    assert found == [
        ["2026-11-20 01:02:03.456789 UTC", "2026-11-20 01:02:03.000", decimal.Decimal("1.25"), '{"x":[1]}'],
        ["2026-11-20 01:02:03.500000 UTC", "2026-11-20 01:02:03.000", decimal.Decimal("2.50"), '{"x":null}'],
    ]


# --- upserts


def test_upsert_by_columns_takes_the_last(trino, table):
    settings = table(
        columns="id bigint, part varchar, n bigint, kept varchar", upsert_mode=True, conflict_key="id, PART"
    )
    written(settings, columns_batch(id=[1, 1, 2], part=["a", "a", "a"], n=[1, 2, 3], kept=["x", "y", "z"]))
    written(settings, columns_batch(id=[1, 1, 3], part=["a", "b", None], n=[10, 11, 12]))
    written(settings, columns_batch(id=[3, 3], part=pa.nulls(2, pa.string()), n=[13, 14]))
    found = trino.execute(f"SELECT * FROM {where(settings)} ORDER BY n")
    assert found == [
        [2, "a", 3, "z"],
        [1, "a", 10, "y"],
        [1, "b", 11, None],
        [3, None, 12, None],
        [3, None, 13, None],
        [3, None, 14, None],
    ]


def test_upsert_by_a_field_of_the_documents(trino, table):
    settings = table(auto_create_table=True, upsert_mode=True, conflict_key='the "key"')
    written(settings, json_batch({'the "key"': 1, "n": 1}, {'the "key"': 2, "n": 2}, {'the "key"': 1, "n": 3}))
    written(settings, json_batch({'the "key"': 2, "n": 4}))
    found = [json.loads(row[0]) for row in trino.execute(f"SELECT data FROM {where(settings)}")]
    assert sorted((one['the "key"'], one["n"]) for one in found) == [(1, 3), (2, 4)]


def test_upsert_where_the_catalog_cannot(table):
    settings = table("memory", "id bigint, n bigint", upsert_mode=True, conflict_key="id")
    with opened(settings) as sink:
        sink.write(columns_batch(id=[1], n=[1]))
        with pytest.raises(Fatal, match="NOT_SUPPORTED"):
            sink.flush()


def test_upsert_by_a_column_that_is_not_there(table):
    settings = table(columns="id bigint, n bigint", upsert_mode=True, conflict_key="nowhere")
    with pytest.raises(Fatal, match="no column 'nowhere'"):
        opened(settings)
    with opened({**settings, "conflict_key": "id"}) as sink:
        sink.write(columns_batch(n=[1]))
        with pytest.raises(Fatal, match="have no field 'id'"):
            sink.flush()


# --- tokens


def test_the_guarantee_is_chosen_without_a_network():
    settings = {"server_url": "https://nowhere", "catalog": "c", "schema": "s", "table": "t"}
    assert guarantee(TrinoSink.choose(TrinoSinkConfig(**settings))) == "at least once"
    assert guarantee(TrinoSink.choose(TrinoSinkConfig(**settings, idempotent=True))) == "effectively once"


def test_documents_under_a_token(trino, table):
    settings = table(auto_create_table=True, idempotent=True)
    for _ in range(2):
        written(settings, json_batch({"id": 1}), json_batch({"id": 2}), token="a")
    written(settings, json_batch({"id": 1}), token="b")
    found = trino.execute(f"SELECT data, connect_row FROM {where(settings)} ORDER BY 1, 2")
    assert found == [['{"id": 1}', 1], ['{"id": 1}', 1], ['{"id": 2}', 2]]


def test_a_flush_of_many_statements_that_broke_off_is_completed(trino, table):
    """Whatever the first try wrote, with statements cut in another way."""
    settings = table(auto_create_table=True, idempotent=True)
    rows = [{"id": number, "text": "x" * 500} for number in range(300)]
    with opened({**settings, "max_statement_length": 50_000}) as sink:
        sink.begin("a")
        sink.write(json_batch(*rows))
        run, left = sink._client.run, [2]

        def break_off(sql):
            if left[0] == 0:
                raise Retryable("broken off")
            left[0] -= 1
            return run(sql)

        sink._client.run = break_off
        with pytest.raises(Retryable):
            sink.flush()
    count = f"SELECT count(*), count(DISTINCT data) FROM {where(settings)}"
    partly = trino.execute(count)[0]
    assert 100 < partly[0] == partly[1] < 300
    written({**settings, "max_statement_length": 80_000}, json_batch(*rows), token="a")
    assert trino.execute(count) == [[300, 300]]


def test_a_refused_row_takes_back_the_statements_before_it(trino, table):
    settings = table(columns="id bigint, day date, connect_token varchar, connect_row bigint", idempotent=True)
    settings["max_statement_length"] = 10_000
    days = ["2026-11-20"] * 999 + ["2026-99-99"]
    with opened(settings) as sink:
        sink.begin("a")
        sink.write(columns_batch(id=list(range(1000)), day=days))
        with pytest.raises(InvalidRecord):
            sink.flush()
    assert trino.execute(f"SELECT count(*) FROM {where(settings)}") == [[0]]


def test_two_tries_at_once_write_once(trino, table):
    """A statement of a worker that is given up for dead, and its repetition: one lands, the other is tried again."""
    settings = table(auto_create_table=True, idempotent=True)
    rows = json_batch(*[{"id": number} for number in range(500)])
    statements = []
    sinks = [opened(settings) for _ in range(3)]
    for sink in sinks:
        sink.begin("a")
        sink.write(rows)
        (columns,) = sink._written
        statements.append(sink._client.start(sink._statement(sink._table, columns, 0)))
    results = []
    for statement in statements:
        try:
            results.append([row for page in statement.pages() for row in page.rows])
        except Retryable as error:
            results.append(str(error))
    for sink in sinks:
        sink.close()
    written(settings, rows, token="a")
    assert trino.execute(f"SELECT count(*) FROM {where(settings)}") == [[500]]
    assert [[500]] in results


def test_what_cannot_be_idempotent(trino, table):
    with pytest.raises(Fatal, match="lacks connect_token varchar and connect_row bigint"):
        opened(table(columns="id bigint", idempotent=True))
    marked = "id bigint, connect_token varchar, connect_row bigint"
    with pytest.raises(Fatal, match="is no Iceberg table"):
        opened(table("memory", marked, idempotent=True))
    with pytest.raises(ValidationError, match="no use"):
        TrinoSinkConfig(**table(), idempotent=True, upsert_mode=True, conflict_key="id")


def test_the_class_that_serves_tokens_is_exported():
    assert issubclass(TrinoIdempotentSink, TrinoSink)


def test_the_client_answers_with_rows(trino, table):
    with Client(TrinoSinkConfig(**table())) as client:
        assert client.run("SELECT x FROM UNNEST(sequence(1, 3)) AS t(x)") == [[1], [2], [3]]
        with pytest.raises(Fatal, match="SYNTAX_ERROR"):
            client.run("SELEC 1")
