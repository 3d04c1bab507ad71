"""Configuration of the PostgreSQL connector: what is understood, and what is refused with a remedy."""

import pytest
from pydantic import ValidationError

from airflow_provider_connect.connectors._postgresql.names import TableName
from airflow_provider_connect.connectors.postgresql import PostgreSQLSinkConfig, PostgreSQLSourceConfig
from airflow_provider_connect.engine.connections import Connection

GO = "postgres://user:s3cret@db:5433/app?sslmode=disable&pool_max_conns=10&search_path=sales"


def test_the_specifications_keys_are_accepted():
    source = PostgreSQLSourceConfig.model_validate(
        {"connectionString": GO, "table": "t", "query": "SELECT 1;", "pollInterval": 60, "rawMode": True}
    )
    assert (source.query, source.poll_interval, source.raw_mode) == ("SELECT 1", 60, True)
    sink = PostgreSQLSinkConfig.model_validate(
        {"connectionString": GO, "table": "t", "batchSize": 100, "upsertMode": True, "conflictKey": "a, b"}
    )
    assert sink.conflict_columns == ("a", "b")
    assert PostgreSQLSinkConfig(connection_string=GO, table="t").batch_size == 1


def test_parameters_of_a_go_connection_string():
    access = PostgreSQLSourceConfig(connection_string=GO, table="t").access
    wanted = {"user": "user", "password": "s3cret", "host": "db", "port": "5433", "dbname": "app", "sslmode": "disable"}
    assert wanted.items() <= access.parameters.items()
    assert access.settings == {"search_path": "sales"}
    assert not any(name.startswith("pool_") for name in access.parameters)


def test_key_value_pairs_and_percent_encoding():
    pairs = PostgreSQLSourceConfig(connection_string="host=/tmp user='a b' dbname=x", table="t").access
    assert (pairs.parameters["host"], pairs.parameters["user"]) == ("/tmp", "a b")
    encoded = PostgreSQLSourceConfig(connection_string="postgres://u:p%40%2Fw@h/d", table="t").access
    assert encoded.parameters["password"] == "p@/w"


@pytest.mark.parametrize("extra", [{"sslmode": "require"}, {"sslmode": "require", "nested": {"a": 1}}])
def test_the_uri_of_an_airflow_connection(extra):
    connection = Connection(
        "c", "postgres", host="db", port=5433, login="u@x", password="p/w", schema="app", extra=extra
    )
    access = PostgreSQLSourceConfig(connection_string=connection.uri(), table="t").access
    wanted = {"host": "db", "port": "5433", "user": "u@x", "password": "p/w", "dbname": "app", "sslmode": "require"}
    assert wanted.items() <= access.parameters.items()


def test_secrets_are_not_shown():
    config = PostgreSQLSourceConfig(connection_string=GO, table="t")
    assert "s3cret" not in f"{config!r} {config} {config.access!r} {config.model_dump_json()}"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"table": "t"}, "connectionString"),
        ({"connectionString": "", "table": "t"}, "connection string is empty"),
        ({"connectionString": "mysql://h/d", "table": "t"}, "begins with 'mysql://', but must with 'postgres://'"),
        ({"connectionString": "nonsense s3cret", "table": "t"}, "cannot be read; write postgres://"),
        ({"connectionString": GO}, "nothing to read: set `table` or `query`"),
        ({"connectionString": GO, "query": " ; "}, "the query is empty"),
        ({"connectionString": GO, "table": "a.b.c"}, "no table name; write table, schema.table"),
        ({"connectionString": GO, "table": ""}, "no table name"),
        ({"connectionString": GO, "table": "t", "tieBreak": "id"}, "tieBreak without cursor"),
        ({"connectionString": GO, "table": "t", "pollInterval": 0}, "greater than 0"),
        ({"connectionString": GO, "table": "t", "lateCommits": "never"}, "'wait' or 'ignore'"),
        ({"connectionString": GO, "table": "t", "splits": 0}, "greater than or equal to 1"),
        ({"connectionString": GO, "table": "t", "tabel": "t"}, "Extra inputs"),
    ],
)
def test_a_wrong_source_is_refused(values, message):
    with pytest.raises(ValidationError) as raised:
        PostgreSQLSourceConfig.model_validate(values)
    assert message in str(raised.value)
    assert "s3cret" not in str(raised.value)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"connectionString": GO}, "table"),
        ({"connectionString": GO, "table": "t", "conflictKey": "id"}, "no effect without `upsertMode: true`"),
        ({"connectionString": GO, "table": "t", "softDeleteColumn": "d"}, "no effect without `upsertMode: true`"),
        ({"connectionString": GO, "table": "t", "autoCreateTable": "columns"}, "'json' or 'typed'"),
        (
            {"connectionString": GO, "table": "t", "autoCreateTable": "typed", "documentColumn": "d"},
            "documentColumn takes whole documents, but `autoCreateTable: typed` spreads",
        ),
        (
            {"connectionString": GO, "table": "t", "autoCreateTable": "typed", "ignoreUnknownColumns": True},
            "but `autoCreateTable: typed` adds columns",
        ),
        ({"connectionString": GO, "table": "t", "upsertStrategy": "newer"}, "'always' or 'ifNewer'"),
        (
            {"connectionString": GO, "table": "t", "upsertMode": True, "upsertStrategy": "ifNewer"},
            "ifNewer needs `upsertVersionColumn`",
        ),
        (
            {"connectionString": GO, "table": "t", "upsertMode": True, "upsertVersionColumn": "v"},
            "no effect without `upsertStrategy: ifNewer`",
        ),
        ({"connectionString": GO, "table": 't"'}, "no table name"),
    ],
)
def test_a_wrong_sink_is_refused(values, message):
    with pytest.raises(ValidationError) as raised:
        PostgreSQLSinkConfig.model_validate(values)
    assert message in str(raised.value)


@pytest.mark.parametrize(
    ("text", "sql"),
    [
        ("orders", '"orders"'),
        ("Sales.Orders", '"Sales"."Orders"'),
        ('"My.Schema"."T""x"', '"My.Schema"."T""x"'),
        ("public.my table", '"public"."my table"'),
        ("t; DROP TABLE x", '"t; DROP TABLE x"'),
    ],
)
def test_table_names_are_quoted(text, sql):
    assert TableName.parse(text).sql == sql
