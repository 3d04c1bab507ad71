"""The source on the real server: positions, pages, types of cursors, what is refused, servers that go away."""

import time

import pyarrow as pa
import pytest
from pydantic import ValidationError

from airflow_provider_connect.connectors.trino import TrinoSource, TrinoSourceConfig
from airflow_provider_connect.connectors.trino.types import Type
from airflow_provider_connect.connectors.trino.values import array
from airflow_provider_connect.engine.batch import Checkpoint
from airflow_provider_connect.engine.errors import EndOfInput, Fatal, FlowError, Retryable
from airflow_provider_connect.testing.source import RecordedContext

TPCH = {"catalog": "tpch", "schema": "tiny"}


@pytest.fixture
def table(trino, trino_schemas):
    """Settings of a new table in the catalog `memory`."""

    def settings(query, **more):
        name = trino.unique_name()
        trino.execute(f"CREATE TABLE memory.{trino_schemas['memory']}.{name} AS {query}")
        place = {"server_url": trino.url, "catalog": "memory", "schema": trino_schemas["memory"], "table": name}
        return {**place, "poll_interval": 0.05, **more}

    return settings


def opened(settings, **context):
    source = TrinoSource(TrinoSourceConfig(**settings))
    source.open(RecordedContext("flow", source.formats()[0], **context))
    return source


def batches(settings, max_records=1000, **context):
    with opened(settings, **{"drain": True, **context}) as source:
        found = []
        while True:
            try:
                got = source.read(max_records, 0.5)
            except EndOfInput:
                return found
            if got is not None:
                found.append(got)


def test_a_large_table_in_order_and_in_pages(trino):
    """60,175 rows in the order of two columns, by statements of 20,000 rows."""
    settings = {
        "server_url": trino.url,
        **TPCH,
        "table": "lineitem",
        "cursor": "orderkey",
        "tie_break": "linenumber",
        "page_rows": 20_000,
        "poll_interval": 0.05,
    }
    rows = pa.Table.from_batches([batch.rows for batch in batches(settings)])
    keys = list(zip(rows.column("orderkey").to_pylist(), rows.column("linenumber").to_pylist(), strict=True))
    assert keys == sorted(set(keys))
    assert len(keys) == trino.execute("SELECT count(*) FROM tpch.tiny.lineitem")[0][0]


def test_a_query_is_read_by_its_cursor(trino):
    query = "SELECT orderkey AS k, CAST(totalprice AS decimal(12, 2)) AS price FROM orders WHERE orderkey < 100; -- end"
    settings = {"server_url": trino.url, **TPCH, "query": query.replace("; -- end", " -- end\n;"), "cursor": "k"}
    first = batches({**settings, "tie_break": "k"})
    rows = pa.Table.from_batches([batch.rows for batch in first])
    assert rows.column("k").to_pylist() == sorted(rows.column("k").to_pylist())
    assert rows.schema.field("price").type == pa.decimal128(12, 2)
    assert first[-1].checkpoint == {"query": {"after": {"k": str(rows.column("k")[-1])}}}


@pytest.mark.parametrize(
    "cursor",
    [
        "x",
        "CAST(x AS decimal(30, 3)) / 8",
        "'it''s ' || lpad(CAST(x AS varchar), 9, '0')",
        "DATE '2026-01-01' + x * INTERVAL '1' DAY",
        "TIMESTAMP '2026-01-01 00:00:00.000001' + x * INTERVAL '0.001' SECOND",
        "TIMESTAMP '2026-01-01 00:00:00.000000001 Europe/Berlin' + x * INTERVAL '1' HOUR",
        "CAST('00000000-0000-0000-0000-' || lpad(to_base(x, 16), 12, '0') AS uuid)",
    ],
)
def test_every_kind_of_cursor_resumes_where_it_was(table, cursor):
    """Each value twice, so that every position is amid equal ones or behind them."""
    settings = table(
        f"SELECT n, {cursor} AS c FROM UNNEST(sequence(1, 20)) AS t(n) CROSS JOIN UNNEST(ARRAY[n / 2]) AS u(x)",
        cursor="c",
        tie_break="n",
    )
    whole = [n for batch in batches(settings, 3) for n in batch.rows.column("n").to_pylist()]
    assert whole == list(range(1, 21))
    for batch in batches(settings, 3)[1::3]:
        last = batch.rows.column("n")[-1].as_py()
        rest = batches(settings, stored=batch.checkpoint)
        assert [n for more in rest for n in more.rows.column("n").to_pylist()] == list(range(last + 1, 21))


def test_rows_that_are_gone_by_then_end_a_logged_range_all_the_same(trino, table):
    settings = table("SELECT * FROM UNNEST(sequence(1, 5)) AS t(id)", cursor="id", tie_break="id")
    name = settings["table"]
    until = Checkpoint({name: {"after": {"id": "9"}}})
    found = batches(settings, until=until, drain=False)
    assert [n for batch in found for n in batch.rows.column("id").to_pylist()] == [1, 2, 3, 4, 5]
    assert found[-1].checkpoint == until


def test_metadata_of_a_batch_names_its_table(table):
    settings = table("SELECT 1 AS id")
    (first, _) = batches(settings)
    wanted = {b"catalog": b"memory", b"schema": settings["schema"].encode(), b"table": settings["table"].encode()}
    assert first.rows.schema.metadata == wanted


def test_without_a_cursor_it_is_not_replayable(table):
    settings = table("SELECT * FROM UNNEST(sequence(1, 3)) AS t(id)")
    assert TrinoSource(TrinoSourceConfig(**settings)).replayable is False
    first, last = batches(settings)
    assert first.checkpoint == {settings["table"]: {"polls": 0, "rows": 3}}
    assert last.checkpoint == {settings["table"]: {"polls": 1}} and len(last) == 0
    (again, _) = batches(settings, stored=last.checkpoint)
    assert len(again) == 3
    with pytest.raises(FlowError, match="set `cursor`"):
        opened(settings, until=last.checkpoint)


# --- refusals


def test_null_in_a_cursor_is_refused(table):
    settings = table("SELECT * FROM (VALUES (1, 1), (2, NULL)) AS t(id, c)", cursor="c", tie_break="id")
    with pytest.raises(FlowError, match=r"NULL in c, id .* coalesce"):
        opened(settings)


@pytest.mark.parametrize("kind", ["double", "real", "boolean", "json", "array(integer)", "varbinary"])
def test_cursors_without_an_exact_order_are_refused(table, kind):
    settings = table(f"SELECT 1 AS id, CAST(NULL AS {kind}) AS c", cursor="c", tie_break="id")
    with pytest.raises(FlowError, match="'c' is"):
        opened(settings)


def test_a_cursor_that_is_not_there(table):
    with pytest.raises(FlowError, match="no column 'nowhere'; there are: id"):
        opened(table("SELECT 1 AS id", cursor="nowhere", tie_break="id"))


def test_a_position_of_other_columns(table):
    settings = table("SELECT 1 AS id, 2 AS other", cursor="id", tie_break="id")
    stored = Checkpoint({settings["table"]: {"after": {"other": "1"}}})
    with pytest.raises(FlowError, match="made with other"):
        opened(settings, stored=stored)


def test_columns_of_the_same_name(trino):
    with pytest.raises(FlowError, match="two columns are named 'x'"):
        opened({"server_url": trino.url, **TPCH, "query": "SELECT 1 AS x, 2 AS x"})


def test_a_table_that_is_not_there(trino):
    with pytest.raises(Fatal, match=r"TABLE_NOT_FOUND.*check `catalog`"):
        opened({"server_url": trino.url, **TPCH, "table": "nowhere"})


def test_a_query_that_is_none(trino):
    with pytest.raises(Fatal, match="SYNTAX_ERROR"):
        opened({"server_url": trino.url, **TPCH, "query": "SELEC 1"})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "nothing to read"),
        ({"query": " ; "}, "the query is empty"),
        ({"table": "t", "tie_break": "id"}, "tieBreak without cursor"),
        ({"table": "t", "cursor": "at"}, "set `tieBreak`"),
    ],
)
def test_configurations_that_cannot_work(settings, message):
    with pytest.raises(ValidationError, match=message):
        TrinoSourceConfig(server_url="http://trino", catalog="c", schema="s", **settings)


# --- a server that goes away


def test_a_statement_that_the_server_has_forgotten_is_retryable(trino, table):
    settings = {"server_url": trino.url, **TPCH, "table": "lineitem"}
    source = opened(settings)
    while source.read(1000, 0.5) is None:
        pass
    statement = source._statement
    statement._client.cancel(statement._next)
    with pytest.raises(Retryable):
        while True:
            source.read(100_000, 0.5)
    source.close()


def test_closing_ends_the_statement(trino):
    settings = {"server_url": trino.url, "catalog": "tpch", "schema": "sf1", "table": "lineitem"}
    source = opened(settings)
    while source.read(10, 0.5) is None:
        pass
    query = source._statement._next.split("/executing/")[1].split("/")[0]
    source.close()
    state = f"SELECT state FROM system.runtime.queries WHERE query_id = '{query}'"
    deadline = time.monotonic() + 10
    while trino.execute(state) != [["FAILED"]]:
        assert time.monotonic() < deadline, trino.execute(state)
        time.sleep(0.1)


# --- values


def test_moments_of_every_zone():
    kind = Type("timestamp with time zone", (6,))
    texts = [
        "2026-07-01 12:00:00.123456 UTC",
        "2026-07-01 12:00:00.123456 Europe/Berlin",
        "2026-07-01 12:00:00.123456 +05:30",
        "2026-07-01 12:00:00.123456 -03:00",
        None,
    ]
    found = [None if value is None else value.isoformat() for value in array(texts, kind).to_pylist()]
    assert found == [
        "2026-07-01T12:00:00.123456+00:00",
        "2026-07-01T10:00:00.123456+00:00",
        "2026-07-01T06:30:00.123456+00:00",
        "2026-07-01T15:00:00.123456+00:00",
        None,
    ]


def test_what_no_arrow_type_holds_is_text(trino):
    query = (
        "SELECT TIMESTAMP '2026-01-01 00:00:00.123456789012' AS pico, TIME '10:00:00+02:00' AS tz,"
        " INTERVAL '3' DAY AS i, IPADDRESS '10.0.0.1' AS ip, NULL AS nothing, CHAR 'ab' AS c, ROW(1, 'x') AS r"
    )
    (first, _) = batches({"server_url": trino.url, **TPCH, "query": query})
    (row,) = first.rows.to_pylist()
    assert row == {
        "pico": "2026-01-01 00:00:00.123456789012",
        "tz": "10:00:00+02:00",
        "i": "3 00:00:00.000",
        "ip": "10.0.0.1",
        "nothing": None,
        "c": "ab",
        "r": {"field0": 1, "field1": "x"},
    }


def test_a_timestamp_that_does_not_fit_is_told(trino):
    query = "SELECT TIMESTAMP '9999-12-31 00:00:00.000000001' AS ts"
    with pytest.raises(Fatal, match="does not fit"):
        batches({"server_url": trino.url, **TPCH, "query": query})
