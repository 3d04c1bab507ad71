"""Airflow connections as Iceberg catalogs."""

import json

import pytest

from airflow_provider_connect.hooks.iceberg import IcebergHook
from airflow_provider_connect.hooks.nessie import NessieHook


@pytest.fixture
def define(monkeypatch):
    """Define an Airflow connection; returns its id."""

    def define(conn_id="mine", **parts):
        monkeypatch.setenv(f"AIRFLOW_CONN_{conn_id.upper()}", json.dumps(parts))
        return conn_id

    return define


def test_a_catalog_by_the_parts_of_a_connection(define, nessie):
    conn_id = define(conn_type="connect_iceberg", host=f"{nessie.url}/iceberg/main")
    good, message = IcebergHook(conn_id).test_connection()
    assert good, message
    assert message.startswith("rest catalog with")
    nessie.create_namespace()
    with IcebergHook(conn_id).get_conn() as catalog:
        assert ("tests",) in catalog.list_namespaces()


def test_a_catalog_by_its_uri(define, tmp_path):
    extra = {"uri": f"sqlite:///{tmp_path}/catalog.db", "catalog": "sql", "warehouse": f"file://{tmp_path}"}
    good, message = IcebergHook(define(conn_type="connect_iceberg", extra=extra)).test_connection()
    assert good, message
    assert message == "sql catalog with 0 namespaces"


def test_the_password_of_a_database_reaches_it_and_nobody_else(define):
    conn_id = define(
        conn_type="connect_iceberg", host="postgresql+psycopg://db", port=5432, login="me", password="p@ss",
        schema="catalog", extra={"catalog": "sql"},
    )  # fmt: skip
    config = IcebergHook(conn_id).config()
    assert config.catalog_properties == {"type": "sql", "uri": "postgresql+psycopg://me:p%40ss@db:5432/catalog"}
    assert "p%40ss" not in repr(config)


def test_the_password_of_a_rest_catalog_is_its_token(define):
    config = IcebergHook(define(conn_type="connect_iceberg", host="https://catalog/api", password="t0ken")).config()
    assert config.catalog_properties == {"type": "rest", "uri": "https://catalog/api", "token": "t0ken"}


def test_nessie_answers(define, nessie):
    conn_id = define(conn_type="connect_nessie", host=nessie.url)
    good, message = NessieHook(conn_id).test_connection()
    assert good, message
    assert f"Nessie at {nessie.url}, branch main" in message
    with NessieHook(conn_id).get_conn() as catalog:
        assert catalog.list_namespaces() is not None


@pytest.mark.parametrize(("hook", "host"), [(IcebergHook, "http://127.0.0.1:1"), (NessieHook, "http://127.0.0.1:1")])
def test_what_is_not_there(define, hook, host):
    good, message = hook(define(conn_type=hook.conn_type, host=host)).test_connection()
    assert not good
    assert "127.0.0.1" in message
