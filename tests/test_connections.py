"""Connections: parsed as Airflow parses them, and clear about what is missing, never about what is secret."""

import json

import pytest

from airflow_provider_connect.engine.connections import Connection, MissingConnection, environment_lookup
from airflow_provider_connect.engine.errors import FlowError

URIS = [
    "postgres://user:secret@host:5432/db",
    "postgresql://user:secret@host:5432/db?sslmode=require&connect_timeout=10",
    "kafka://b1:9092",
    "kafka://b1%3A9092%2Cb2%3A9092/?security.protocol=SASL_SSL",
    "my-type://host",
    "http://https://user:p%40ss@Host.example:8443/path",
    "postgres://us%2Fer:p%40%3A%2Fss@host/a%2Fb",
    "postgres://@:5432/db",
    "postgres://:secret@/db",
    "postgres://user:@host",
    "postgres://user@%2Fvar%2Frun%2FPostgreSQL/db",
    "postgres://",
    "aws://?__extra__=%7B%22a%22%3A+%7B%22b%22%3A+1%7D%7D",
    "x://host?a=1&b=&c=true&d=%7B%7D",
    "x://[::1]:80/",
]


def parts(connection) -> dict:
    names = ("conn_type", "host", "port", "login", "password", "schema")
    return {name: getattr(connection, name) or None for name in names}


@pytest.mark.parametrize("uri", URIS)
def test_uris_are_parsed_as_airflow_parses_them(uri: str):
    from airflow.sdk import Connection as AirflowConnection

    theirs = AirflowConnection.from_uri(uri, conn_id="c")
    ours = Connection.from_text(uri, "c")
    assert parts(ours) == parts(theirs)
    assert ours.extra == theirs.extra_dejson
    assert Connection.from_text(ours.uri(), "c") == ours


def test_uris_that_airflow_cannot_parse():
    """Airflow loses the host where the type has an underscore, or is the host's own protocol."""
    assert Connection.from_uri("my_type://host", "c") == Connection("c", "my_type", "host")
    assert Connection.from_uri("https://https://host/", "c") == Connection("c", "https", "https://host")


@pytest.mark.parametrize(
    "body",
    [
        {"conn_type": "postgresql", "host": "h", "login": "l", "password": "p@:/", "schema": "s", "port": 5432},
        {"conn_type": "my-type", "port": "5432", "extra": {"a": 1, "b": {"c": [True, None]}}},
        {"conn_type": "x", "host": "http://h", "extra": '{"a": "b"}', "description": "d"},
        {"conn_type": "http", "host": "http://h", "port": None},
        {"conn_type": "x", "extra": "", "password": ""},
        {"login": "only"},
        {},
    ],
)
def test_json_is_parsed_and_written_as_airflow_does(body: dict):
    from airflow.sdk import Connection as AirflowConnection

    theirs = AirflowConnection.from_json(json.dumps(body), conn_id="c")
    ours = Connection.from_text(f"  {json.dumps(body)}\n", "c")
    assert parts(ours) == parts(theirs)
    assert ours.extra == theirs.extra_dejson
    if body.get("password") != "":
        assert ours.uri() == theirs.get_uri()


def test_json_may_hold_a_uri():
    assert Connection.from_text('{"uri": "x://h"}', "c").host == "h"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("hush", "is neither JSON nor a URI"),
        ("{hush", "is not valid JSON"),
        ('{"hosst": "hush"}', "has an unknown part 'hosst'; did you mean 'host'"),
        ('{"host": 5}', "'host' must be text"),
        ('{"port": "hush"}', "the port must be a number"),
        ('{"port": []}', None),
        ('{"port": {"hush": 1}}', "the port must be a number"),
        ('{"extra": "hush"}', "the extra is not valid JSON"),
        ('{"extra": ["hush"]}', "the extra must be a JSON object"),
        ("x://u:hu/sh@h", "is no valid URI; the port must be a number"),
        ("x://h:port", "the port must be a number"),
        ("x://u:hush@h?a=http://b", "must be percent-encoded"),
        ("x://a://b://hush", "must be percent-encoded"),
        ("x://h?__extra__=hush", "the extra is not valid JSON"),
    ],
)
def test_what_is_no_connection(text: str, message: str | None):
    if message is None:  # an empty port is none, as in Airflow
        assert Connection.from_text(text, "c").port is None
        return
    with pytest.raises(FlowError, match="connection 'c'") as caught:
        Connection.from_text(text, "c")
    assert message in str(caught.value)
    assert "hush" not in str(caught.value)
    assert caught.value.__cause__ is None


FULL = Connection("pg", "connect_postgresql", "h", 5432, "me", "hush", "shop", {"table": "orders", "n": 1, "tls": True})


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("host", "h"),
        ("port", 5432),
        ("login", "me"),
        ("username", "me"),
        ("password", "hush"),
        ("schema", "shop"),
        ("database", "shop"),
        ("uri", "postgresql://me:hush@h:5432/shop?table=orders&n=1&tls=true"),
        ("connectionString", "postgresql://me:hush@h:5432/shop?table=orders&n=1&tls=true"),
        ("table", "orders"),
        ("n", 1),
    ],
)
def test_keys(key: str, value: object):
    assert FULL.get(key) == value


def test_a_kubernetes_secret_as_extra():
    secret = Connection(
        "s", extra={"connectionString": "postgres://x", "username": "u", "password": "p", "ca.crt": "pem"}
    )
    assert secret.get("connectionString") == "postgres://x"
    assert secret.get("uri") == "postgres://x"
    assert (secret.get("username"), secret.get("password"), secret.get("ca.crt")) == ("u", "p", "pem")
    assert secret.part("login") is None
    assert secret.part("extra.ca.crt") == "pem"


@pytest.mark.parametrize(
    ("connection", "key", "message"),
    [
        (FULL, "tabel", "connection 'pg' has no 'tabel'; did you mean 'table'? "
                        "(it has: host, port, login, password, schema, uri, table, n, tls)"),
        (Connection("c", host="h", extra={"topic": "hush"}), "brokers",
         "connection 'c' has no 'brokers'; it has: host, uri, topic"),
        (Connection("c", extra={"a": "hush"}), "uri", "connection 'c' has no 'uri'; it has: a"),
        (Connection("c"), "host", "connection 'c' has no 'host'; it is empty"),
    ],
)  # fmt: skip
def test_a_missing_key_names_those_that_exist(connection: Connection, key: str, message: str):
    with pytest.raises(FlowError) as caught:
        connection.get(key)
    assert str(caught.value) == message


def test_repr_hides_secrets():
    connection = Connection("c", login="me", password="hush", extra={"token": "hush"})
    assert "me" in repr(connection)
    assert "hush" not in repr(connection)


@pytest.mark.parametrize(
    ("variable", "conn_id"),
    [
        ("AIRFLOW_CONN_PG", "pg"),
        ("AIRFLOW_CONN_TEAM_PG_MAIN", "team.pg-main"),
        ("AIRFLOW_CONN_TEAM.PG", "team.pg"),
    ],
)
def test_environment(variable: str, conn_id: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(variable, "x://host")
    assert environment_lookup(conn_id) == Connection(conn_id, "x", "host")


def test_the_exact_variable_comes_first(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("AIRFLOW_CONN_A_B", "x://mapped")
    monkeypatch.setenv("AIRFLOW_CONN_A.B", "x://exact")
    assert environment_lookup("a.b").host == "exact"


@pytest.mark.parametrize("value", [None, ""])
def test_a_missing_connection_names_the_line_to_write(value: str | None, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("AIRFLOW_CONN_SHOP_PG", raising=False)
    if value is not None:
        monkeypatch.setenv("AIRFLOW_CONN_SHOP_PG", value)
    with pytest.raises(MissingConnection, match=r"no connection 'shop\.pg'") as caught:
        environment_lookup("shop.pg")
    line = str(caught.value).partition("export ")[2]
    name, _, text = line.partition("=")
    assert name == "AIRFLOW_CONN_SHOP_PG"
    assert Connection.from_text(text.strip("'"), "c").host == "…"
