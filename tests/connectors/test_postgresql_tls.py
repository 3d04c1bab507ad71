"""TLS of connection strings: what each `sslmode` accepts, and what is Fatal."""

import pytest

from airflow_provider_connect.connectors.postgresql import PostgreSQLSource, PostgreSQLSourceConfig
from airflow_provider_connect.engine.batch import Checkpoint
from airflow_provider_connect.engine.errors import Fatal
from tests.connectors.postgresql_tables import OnSchema, column_batch
from tests.services.postgresql_tls import PostgreSQLTls
from tests.services.tls import Authority

PASSWORD = "p@ss/word"
QUOTED = "p%40ss%2Fword"


@pytest.fixture(scope="module")
def secure(postgresql, authority):
    """The server, by TLS only."""
    with PostgreSQLTls(postgresql.address, authority.server("127.0.0.1", name="postgresql")) as server:
        yield server


@pytest.fixture(scope="module")
def mutual(postgresql, authority):
    """The same, for clients with a certificate."""
    with PostgreSQLTls(postgresql.address, authority.server("127.0.0.1", name="mutual"), authority) as server:
        yield server


@pytest.fixture(autouse=True)
def _without_own_certificates(monkeypatch):
    for name in ("PGSSLMODE", "PGSSLROOTCERT", "PGSSLCERT", "PGSSLKEY", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)


def uri(server, parameters, host="127.0.0.1"):
    return f"postgres://postgres:{QUOTED}@{host}:{server.port}/postgres{parameters}"


def source(server, parameters, host="127.0.0.1"):
    return PostgreSQLSource(PostgreSQLSourceConfig(connection_string=uri(server, parameters, host), table="t"))


class TestVerified(OnSchema):
    def test_rows_go_in_and_out(self, secure, authority):
        self.create("id int PRIMARY KEY")
        verified = uri(secure, f"?sslmode=verify-full&sslrootcert={authority.cert_file}")
        before = secure.encrypted
        sink = self.sink(connection_string=verified)
        self.deliver(sink, column_batch(id=[1, 2]))
        reading = self.reading("json", connection_string=verified, table=self.table)
        assert self.documents(reading) == [{"id": 1}, {"id": 2}]
        assert sink.positions(["0"]) == Checkpoint({"0": 1})
        assert secure.encrypted - before >= 3


def test_a_certificate_of_a_stranger_is_fatal(secure, tmp_path):
    stranger = Authority(tmp_path / "stranger", name="Stranger")
    with pytest.raises(Fatal, match="certificate verify failed") as raised:
        source(secure, f"?sslmode=verify-full&sslrootcert={stranger.cert_file}").check()
    assert PASSWORD not in str(raised.value) and QUOTED not in str(raised.value)


def test_a_certificate_for_another_host_is_fatal(secure, authority):
    with pytest.raises(Fatal, match="does not match host name"):
        source(secure, f"?sslmode=verify-full&sslrootcert={authority.cert_file}", host="localhost").check()
    assert source(secure, f"?sslmode=verify-ca&sslrootcert={authority.cert_file}", host="localhost").check()


def test_verify_full_without_a_ca_is_fatal(secure, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(Fatal, match=r"root certificate file .* does not exist"):
        source(secure, f"?sslmode=verify-full&sslrootcert={tmp_path}/none.crt").check()


@pytest.mark.parametrize("parameters", ["", "?sslmode=prefer", "?sslmode=require", "?sslmode=allow"])
def test_what_is_encrypted_but_not_verified(secure, parameters):
    assert "as postgres" in source(secure, parameters).check()


def test_plain_text_is_refused_by_such_a_server(secure):
    with pytest.raises(Fatal, match=r"no pg_hba\.conf entry"):
        source(secure, "?sslmode=disable").check()


def test_a_server_without_tls_is_fatal_where_it_is_required(postgresql):
    host, port = postgresql.address
    uri = f"postgres://postgres@{host}:{port}/postgres?sslmode=require"
    with pytest.raises(Fatal, match="server does not support SSL"):
        PostgreSQLSource(PostgreSQLSourceConfig(connection_string=uri, table="t")).check()


def test_a_clients_certificate(mutual, authority, tmp_path):
    ada, bob = authority.client("ada"), Authority(tmp_path / "stranger").client("bob")
    verified = f"?sslmode=verify-full&sslrootcert={authority.cert_file}"
    assert source(mutual, f"{verified}&sslcert={ada.cert_file}&sslkey={ada.key_file}").check()
    for other in ("", f"&sslcert={bob.cert_file}&sslkey={bob.key_file}"):
        with pytest.raises(Fatal, match=r"certificate required|unknown ca") as raised:
            source(mutual, verified + other).check()
        assert QUOTED not in str(raised.value) and PASSWORD not in str(raised.value)
