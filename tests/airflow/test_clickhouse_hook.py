"""The ClickHouse hook: an Airflow connection of both protocols, and the connection form's test button."""

import json

import pytest

from airflow_provider_connect.engine.errors import ConnectError
from airflow_provider_connect.hooks.clickhouse import ClickHouseHook
from tests.services.clickhouse import PROTOCOLS


@pytest.fixture
def define(monkeypatch):
    def define(**parts):
        monkeypatch.setenv("AIRFLOW_CONN_MINE", json.dumps({"conn_type": "connect_clickhouse", **parts}))
        return ClickHouseHook("mine")

    return define


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_connection_string(protocol, clickhouse, define):
    hook = define(extra={"uri": clickhouse.url(protocol)})
    good, message = hook.test_connection()
    assert good, message
    assert message.startswith("ClickHouse ") and f"over {protocol}, database default, as default" in message
    client = hook.get_conn()
    assert client.query("SELECT 1, 'a'") == [(1, "a")]
    client.close()


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_the_parts_of_the_form(protocol, clickhouse, define):
    scheme = "http://" if protocol == "http" else ""
    hook = define(
        host=scheme + clickhouse.host,
        port=clickhouse.port(protocol),
        login="default",
        password="",
        schema="system",
        extra={"dial_timeout": "5s"},
    )
    good, message = hook.test_connection()
    assert good, message
    assert f"over {protocol}, database system" in message


def test_a_server_that_is_not_there_keeps_the_password(define):
    hook = define(host="127.0.0.1", port=1, login="me", password="geheimnis")
    good, message = hook.test_connection()
    assert not good
    assert "geheimnis" not in message
    with pytest.raises(ConnectError):
        hook.get_conn()
