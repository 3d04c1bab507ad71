"""Configuration of the ClickHouse connector: connection strings, and what is refused before anything is connected."""

import pytest
from pydantic import ValidationError

from airflow_provider_connect.connectors.clickhouse import ClickHouseSinkConfig, ClickHouseSourceConfig
from airflow_provider_connect.connectors.clickhouse.access import Access
from airflow_provider_connect.connectors.clickhouse.names import TableName

DEFAULTS = {
    "protocol": "native", "host": "h", "port": 9000, "secure": False, "verify": True, "database": "default",
    "username": "default", "password": "", "dial_timeout": 10.0, "read_timeout": 300.0, "compression": "lz4",
}  # fmt: skip


@pytest.mark.parametrize(
    ("text", "changes"),
    [
        ("clickhouse://h", {}),
        ("clickhouse://h:9000?username=u&password=p%40%2F&database=d", {"username": "u", "password": "p@/",
                                                                         "database": "d"}),
        ("clickhouse://u:p%3A@h:9999/d?dial_timeout=1m30s&read_timeout=500ms", {
            "username": "u", "password": "p:", "port": 9999, "database": "d", "dial_timeout": 90.0,
            "read_timeout": 0.5}),
        ("clickhouse://default@h:9000/default?dial_timeout=10s", {}),
        ("clickhouse://h?secure=true", {"secure": True, "port": 9440}),
        ("clickhouse://h?secure=true&skip_verify=true", {"secure": True, "port": 9440, "verify": False}),
        ("clickhouse://h/d?max_open_conns=5&conn_max_lifetime=1h&debug=true", {"database": "d"}),
        ("http://h:8123/d?username=u&password=p", {"protocol": "http", "port": 8123, "database": "d", "username": "u",
                                                   "password": "p"}),
        ("http://h", {"protocol": "http", "port": 8123}),
        ("https://h/?compress=zstd", {"protocol": "http", "port": 8443, "secure": True, "compression": "zstd"}),
        ("http://h?secure=1&compress=false", {"protocol": "http", "port": 8443, "secure": True,
                                              "compression": "none"}),
        ("clickhouse://https://u:p@h:443/d", {"protocol": "http", "port": 443, "secure": True, "database": "d",
                                              "username": "u", "password": "p"}),
        ("//u@h/d", {"username": "u", "database": "d"}),
    ],
)  # fmt: skip
def test_connection_strings(text, changes):
    access = Access.parse(text)
    assert {name: getattr(access, name) for name in DEFAULTS} == DEFAULTS | changes


def test_a_limit_of_time_is_a_setting():
    assert Access.parse("clickhouse://h?max_execution_time=60").settings == {"max_execution_time": "60"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty; write clickhouse://"),
        ("h:9000/secret", "must begin with http://"),
        ("postgres://u:secret@h/d", "must begin with http://"),
        ("clickhouse://h:secret/d", "the port in the connection string is no number"),
        ("clickhouse://h:99999/d", "no number between 0 and 65535"),
        ("clickhouse://u:secret@a,b/d", "names several hosts"),
        ("clickhouse://h?dial_timout=10s", "unknown option 'dial_timout'; there are: username, password"),
        ("clickhouse://h?max_memory_usage=5", r"unknown option 'max_memory_usage'.*go into `settings`"),
        ("clickhouse://h?dial_timeout=soon", "dial_timeout in the connection string must be a duration such as 10s"),
        ("clickhouse://h?dial_timeout=-1", "must be a duration"),
        ("clickhouse://h?secure=perhaps", "secure in the connection string must be true or false"),
        ("https://h?secure=false", "begins with https://, but says secure=false"),
        ("http://h?compress=gzip", "compress in the connection string must be lz4, zstd"),
        ("http://[h", "is no valid URI"),
    ],
)
def test_connection_strings_that_cannot_be(text, message):
    with pytest.raises(ValidationError, match=message) as raised:
        ClickHouseSourceConfig(connection_string=text, table="t")
    assert "secret" not in str(raised.value)


def test_passwords_are_not_shown():
    config = ClickHouseSinkConfig(connection_string="http://u:geheim@h/d", table="t")
    assert "geheim" not in f"{config!r} {config} {config.access!r} {config.model_dump_json()}"


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("t", (None, "t")), ("d.t", ("d", "t")), ("`a.b`.`c``d`", ("a.b", "c`d")), ('"a"."b"', ("a", "b")),
        ("Odd Name", (None, "Odd Name")),
    ],
)  # fmt: skip
def test_table_names(text, name):
    parsed = TableName.parse(text)
    assert (parsed.database, parsed.table) == name


@pytest.mark.parametrize("text", ["", "a.b.c", "a..b", "`a", ".a", "a.", 'a"b'])
def test_table_names_that_cannot_be(text):
    with pytest.raises(ValidationError, match=r"is no table name; write table, database\.table"):
        ClickHouseSinkConfig(connection_string="http://h", table=text)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "nothing to read: set `table` or `query`"),
        ({"query": " ; "}, "the query is empty"),
        ({"table": "t", "tie_break": "a"}, "tieBreak without cursor"),
        ({"table": "t", "poll_interval": 0}, "greater than 0"),
        ({"table": "t", "late_rows_seconds": -1}, "greater than or equal to 0"),
    ],
)
def test_sources_that_cannot_be(settings, message):
    with pytest.raises(ValidationError, match=message):
        ClickHouseSourceConfig(connection_string="http://h", **settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"conflict_key": "a"}, "conflictKey has no effect without `upsertMode: true`"),
        ({"version_column": "a"}, "versionColumn has no effect without `upsertMode: true`"),
        ({"upsert_mode": True, "auto_create_table": True}, "upsertMode needs a table with typed columns"),
        ({"upsert_mode": True, "auto_create_table": "typed"}, "needs `conflictKey`"),
        ({"upsert_mode": True, "deleted_column": "d"}, "deletedColumn needs `versionColumn`"),
        ({"auto_create_table": "xml"}, "auto_create_table|autoCreateTable"),
        ({"batch_size": 0, "batch_flush_interval_seconds": 0}, "nothing would ever be flushed"),
    ],
)
def test_sinks_that_cannot_be(settings, message):
    with pytest.raises(ValidationError, match=message):
        ClickHouseSinkConfig(connection_string="http://h", table="t", **settings)


def test_defaults_of_the_specification():
    source = ClickHouseSourceConfig.model_validate({"connectionString": "clickhouse://h", "table": "t"})
    assert (source.poll_interval, source.raw_mode, source.query) == (5, False, None)
    sink = ClickHouseSinkConfig.model_validate({"connectionString": "clickhouse://h", "table": "t"})
    assert (sink.batch_size, sink.batch_flush_interval_seconds, sink.auto_create_table) == (100, 10, False)
    assert sink.model_validate({**sink.model_dump(), "auto_create_table": True}).shape == "json"
