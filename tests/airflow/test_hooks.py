"""Airflow connections as clients of real systems."""

import json

import pytest
from airflow.sdk._shared.secrets_masker import redact

from airflow_provider_connect.engine.connections import MissingConnection
from airflow_provider_connect.engine.errors import ConnectError, FlowError
from airflow_provider_connect.hooks.file import FileHook
from airflow_provider_connect.hooks.kafka import KafkaHook
from airflow_provider_connect.hooks.lookup import airflow_lookup
from airflow_provider_connect.hooks.postgresql import PostgreSQLHook


@pytest.fixture
def define(monkeypatch):
    """Define an Airflow connection; returns its id."""

    def define(conn_id="mine", **parts):
        monkeypatch.setenv(f"AIRFLOW_CONN_{conn_id.upper()}", json.dumps(parts))
        return conn_id

    return define


@pytest.fixture
def kafka_connection(kafka, define):
    return define(conn_type="connect_kafka", host=kafka.bootstrap_servers)


@pytest.fixture
def postgresql_connection(postgresql, define):
    return define(conn_type="connect_postgresql", extra={"uri": postgresql.dsn})


def test_the_engine_gets_airflows_connection(define):
    conn_id = define(
        conn_type="generic", host="h", port=5, login="l", password="geheimnis", schema="s", extra={"a": {"b": 1}}
    )
    found = airflow_lookup(conn_id)
    assert (found.host, found.port, found.login, found.schema) == ("h", 5, "l", "s")
    assert (found.password, found.extra) == ("geheimnis", {"a": {"b": 1}})
    assert "geheimnis" not in redact("the password is geheimnis")


def test_a_missing_connection_says_where_to_make_it():
    with pytest.raises(MissingConnection, match=r"no Airflow connection 'my-kafka'; .* set AIRFLOW_CONN_MY_KAFKA"):
        airflow_lookup("my-kafka")


def test_kafka_answers(kafka_connection, kafka):
    good, message = KafkaHook(kafka_connection).test_connection()
    assert good, message
    assert kafka.bootstrap_servers in message


def test_kafka_clients(kafka_connection, kafka):
    hook = KafkaHook(kafka_connection)
    topic = kafka.create_topic()
    producer = hook.producer(linger_ms=1)
    producer.produce(topic, b"hello")
    assert producer.flush(30) == 0
    consumer = hook.consumer(kafka.unique_name("group"), auto_offset_reset="earliest")
    consumer.subscribe([topic])
    try:
        (message,) = consumer.consume(1, 30)
        assert message.value() == b"hello"
    finally:
        consumer.close()
    admin = hook.get_conn()
    assert topic in admin.list_topics(timeout=30).topics


def test_kafka_that_is_not_there(define):
    good, message = KafkaHook(define(conn_type="connect_kafka", host="127.0.0.1:1")).test_connection()
    assert not good
    assert "127.0.0.1:1" in message


def test_a_kafka_connection_without_brokers(define):
    with pytest.raises(FlowError, match="connection 'mine': brokers: required, but missing"):
        KafkaHook(define(conn_type="connect_kafka")).get_conn()


def test_postgresql_answers(postgresql_connection):
    good, message = PostgreSQLHook(postgresql_connection).test_connection()
    assert good, message
    assert message.startswith("PostgreSQL ")


def test_a_postgresql_session(postgresql_connection):
    with PostgreSQLHook(postgresql_connection).get_conn() as session:
        assert session.execute("SELECT 1").fetchone() == (1,)


def test_postgresql_from_the_parts_of_the_form(postgresql, define):
    from psycopg.conninfo import conninfo_to_dict

    parts = conninfo_to_dict(postgresql.dsn)
    conn_id = define(
        conn_type="connect_postgresql",
        host=parts["host"],
        port=int(parts["port"]),
        login=parts["user"],
        password=parts.get("password"),
        schema=parts["dbname"],
        extra={"work_mem": "5MB"},
    )
    with PostgreSQLHook(conn_id).get_conn() as session:
        assert session.execute("SELECT current_setting('work_mem')").fetchone() == ("5MB",)


def test_postgresql_that_is_not_there_keeps_the_password(define):
    conn_id = define(conn_type="connect_postgresql", host="127.0.0.1", port=1, login="me", password="geheimnis")
    good, message = PostgreSQLHook(conn_id).test_connection()
    assert not good
    assert "geheimnis" not in message
    with pytest.raises(ConnectError):
        PostgreSQLHook(conn_id).get_conn()


def test_files(define, tmp_path):
    (tmp_path / "a.json").write_text("{}")
    hook = FileHook(define(conn_type="connect_file", host=str(tmp_path)))
    assert hook.test_connection() == (True, f"folder '{tmp_path}'")
    assert hook.get_conn().ls(hook.path, detail=False) == [f"{tmp_path}/a.json"]


def test_files_that_are_not_there(define, tmp_path):
    hook = FileHook(define(conn_type="connect_file", host=f"{tmp_path}/nothing"))
    assert hook.test_connection() == (False, f"there is no file or folder '{tmp_path}/nothing'")


def test_files_of_an_unknown_store(define):
    good, message = FileHook(define(conn_type="connect_file", host="nowhere://x")).test_connection()
    assert not good
    assert "no way to reach 'nowhere://'" in message


@pytest.mark.parametrize("hook", [FileHook, KafkaHook, PostgreSQLHook])
def test_airflow_makes_the_hook_from_its_connection_type(hook):
    assert hook().conn_id == f"{hook.conn_type}_default"
    assert hook(**{hook.conn_name_attr: "other"}).conn_id == "other"
