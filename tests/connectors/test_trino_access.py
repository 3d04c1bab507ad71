"""Ways into Trino by HTTPS: passwords, tokens, the grants of Keycloak, certificates; and refusals."""

import json
import time

import pytest
from pydantic import ValidationError

from airflow_provider_connect.connectors.trino import TrinoSinkConfig, TrinoSource, TrinoSourceConfig
from airflow_provider_connect.connectors.trino.client import Client
from airflow_provider_connect.engine.errors import Fatal, Retryable
from tests.cases.flows import from_kafka, running
from tests.services.keycloak import (
    CLI,
    CONNECTOR,
    CONNECTOR_SECRET,
    PASSWORD,
    REALM,
    SHORTLIVED,
    SHORTLIVED_SECONDS,
    SHORTLIVED_SECRET,
    USER,
    Keycloak,
)
from tests.services.process import free_port
from tests.services.tls import Authority
from tests.services.trino import Trino

PLACE = {"catalog": "tpch", "schema": "tiny", "table": "nation"}
SERVICE_ACCOUNT = f"service-account-{CONNECTOR}"


@pytest.fixture
def secure(trino_server, authority):
    """Trino by HTTPS, whose certificate is to be verified."""
    return {**PLACE, "server_url": trino_server.https_url, "tls": {"ca": authority.cert}}


@pytest.fixture
def realm(keycloak_server):
    """Where Keycloak is, by HTTPS with a certificate of the same CA."""
    return {"server_url": keycloak_server.https_url, "realm": REALM}


@pytest.fixture
def connector(realm):
    return {**realm, "client_id": CONNECTOR, "client_secret": CONNECTOR_SECRET}


def source(**settings):
    return TrinoSource(TrinoSourceConfig(**settings))


# --- ways in


def test_by_password(secure):
    assert source(**secure, username=USER, password=PASSWORD).check().endswith(f"as {USER}")


def test_by_jwt(secure, keycloak_server):
    token = Keycloak(keycloak_server.url).token(user=USER)
    assert source(**secure, token=token).check().endswith(f"as {USER}")


def test_by_a_long_lived_token_of_keycloak(secure, keycloak_server):
    token = Keycloak(keycloak_server.url).token()
    assert source(**secure, keycloak={"token": token}).check().endswith(f"as {SERVICE_ACCOUNT}")


def test_by_client_credentials(secure, connector):
    assert source(**secure, keycloak=connector).check().endswith(f"as {SERVICE_ACCOUNT}")


def test_by_the_password_grant(secure, connector):
    granted = {**connector, "username": USER, "password": PASSWORD}
    assert source(**secure, keycloak=granted).check().endswith(f"as {USER}")


def test_by_the_password_grant_with_the_account_of_a_connection_and_a_public_client(secure, realm):
    found = source(**secure, keycloak={**realm, "client_id": CLI}, username=USER, password=PASSWORD)
    assert found.check().endswith(f"as {USER}")


def test_without_authentication_by_http(trino):
    assert source(**PLACE, server_url=trino.url).check().endswith("as airflow-connect")
    assert source(**PLACE, server_url=trino.url, user="bob").check().endswith("as bob")
    assert source(**PLACE, server_url=trino.url, username="bob").check().endswith("as bob")


def test_a_token_by_http_names_its_user(trino_server, keycloak_server, connector, authority):
    """As in the specification's samples. Whether the server looks at the token there is its own affair."""
    found = source(**PLACE, server_url=trino_server.url, keycloak=connector, tls={"ca": authority.cert})
    assert found.check().endswith(f"as {SERVICE_ACCOUNT}")


def test_keycloak_with_a_ca_of_its_own(trino_server, keycloak_server, connector, authority):
    found = source(**PLACE, server_url=trino_server.url, keycloak={**connector, "tls": {"ca": authority.cert}})
    assert found.check().endswith(f"as {SERVICE_ACCOUNT}")


def test_the_ca_may_be_a_file(secure, authority):
    found = source(**{**secure, "tls": {"ca_file": str(authority.cert_file)}}, username=USER, password=PASSWORD)
    assert found.check().endswith(f"as {USER}")


# --- refusals


def refusal(**settings):
    with pytest.raises(Fatal) as raised:
        source(**settings).check()
    text = str(raised.value)
    assert "wrong-secret" not in text and PASSWORD not in text and CONNECTOR_SECRET not in text
    return text


def test_a_wrong_password(secure):
    text = refusal(**secure, username=USER, password="wrong-secret")
    assert "HTTP 401" in text and "check `username` and `password`" in text


def test_a_token_that_is_none(secure):
    assert "HTTP 401" in refusal(**secure, token="wrong-secret")
    assert "copy it again" in refusal(**secure, token="wrong-secret\nwrong-secret")


def test_no_credentials_where_they_are_wanted(secure):
    assert "HTTP 401" in refusal(**secure)


def test_grants_that_keycloak_refuses(secure, connector, realm):
    text = refusal(**secure, keycloak={**connector, "client_secret": "wrong-secret"})
    assert "HTTP 401" in text and "check `clientID` and `clientSecret`" in text
    text = refusal(**secure, keycloak={**connector, "username": USER, "password": "wrong-secret"})
    assert "invalid_grant" in text or "check `username` and `password`" in text
    assert "check `serverURL` and `realm`" in refusal(**secure, keycloak={**connector, "realm": "nowhere"})
    assert "clientSecret" in refusal(**secure, keycloak={**realm, "client_id": CLI, "client_secret": "wrong-secret"})


def test_a_certificate_of_another_ca(secure, tmp_path):
    secure["tls"] = {"ca": Authority(tmp_path).cert}
    assert "set `ca`" in refusal(**secure, username=USER, password=PASSWORD)


def test_a_certificate_of_no_known_ca(secure):
    del secure["tls"]
    assert "is not to be trusted" in refusal(**secure, username=USER, password=PASSWORD)


def test_a_certificate_for_another_host(secure, trino_server, authority):
    secure["server_url"] = f"https://127.0.0.2:{trino_server.https_port}"
    with pytest.raises((Fatal, Retryable)):
        source(**secure, username=USER, password=PASSWORD).check()


def test_keycloaks_certificate_is_verified(trino_server, connector):
    assert "Keycloak" in refusal(**PLACE, server_url=trino_server.url, keycloak=connector)


def test_any_certificate_if_asked_for_with_a_warning(secure, caplog):
    secure["tls"] = {"insecure_skip_verify": True}
    assert source(**secure, username=USER, password=PASSWORD).check()
    assert any("is not verified" in record.message for record in caplog.records)


def test_a_ca_that_is_no_certificate(secure):
    secure["tls"] = {"ca": "-----BEGIN NONSENSE-----"}
    assert "tls.ca" in refusal(**secure, username=USER, password=PASSWORD)


def test_keycloak_that_does_not_answer_is_tried_again(secure, connector):
    connector["server_url"] = f"http://127.0.0.1:{free_port()}"
    with pytest.raises(Retryable, match=r"Keycloak at .* cannot be reached"):
        source(**secure, keycloak=connector).check()


def test_what_is_no_trino(keycloak_server):
    with pytest.raises(Fatal, match="serverURL"):
        source(**PLACE, server_url=keycloak_server.url).check()


def test_a_schema_that_is_not_there(trino):
    with pytest.raises(Fatal, match="no schema 'nowhere'"):
        source(**{**PLACE, "schema": "nowhere"}, server_url=trino.url).check()
    with pytest.raises(Fatal, match="CATALOG_NOT_FOUND"):
        source(**{**PLACE, "catalog": "nowhere"}, server_url=trino.url).check()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"password": "x"}, "`password` needs `username`"),
        ({"username": "x", "password": "x", "server_url": "http://trino"}, "only sent by HTTPS"),
        ({"username": "x", "password": "x", "token": "t"}, "two ways"),
        ({"token": "t", "keycloak": {"token": "t"}}, "two ways"),
        ({"keycloak": {}}, "needs 'token', or 'serverURL' and 'realm' and 'clientID'"),
        ({"keycloak": {"server_url": "https://k", "realm": "r", "client_id": "c"}}, "needs `clientSecret`"),
        ({"keycloak": {"token": "t", "username": "u"}}, "both 'username' and 'password'"),
        ({"server_url": "ftp://trino"}, "URL of a coordinator"),
        ({"server_url": "https://u:p@trino"}, "must not hold a user name"),
        ({"tls": {"cert": "x"}}, "needs both 'cert' and 'key'"),
        ({"tls": {"ca": "x", "ca_file": "y"}}, "keep one"),
    ],
)
def test_configurations_that_cannot_work(settings, message):
    with pytest.raises(ValidationError, match=message):
        TrinoSinkConfig(**{**PLACE, "server_url": "https://trino", **settings})


def test_the_server_of_a_connection():
    assert TrinoSinkConfig(**PLACE, server_url="trino", port=8443).url == "https://trino:8443"
    assert TrinoSinkConfig(**PLACE, server_url="http://trino:8080/", port=9).url == "http://trino:8080"


# --- tokens that end


@pytest.fixture
def shortlived(realm):
    return {**realm, "client_id": SHORTLIVED, "client_secret": SHORTLIVED_SECRET}


def test_a_token_is_renewed_before_it_ends_and_not_sooner(secure, shortlived):
    with Client(TrinoSourceConfig(**secure, keycloak=shortlived)) as client:
        credentials = client._credentials
        first = credentials.authorization()
        assert credentials.authorization() == first
        left = credentials._renew_at - time.monotonic()
        assert SHORTLIVED_SECONDS * 0.6 < left < SHORTLIVED_SECONDS
        credentials._renew_at = time.monotonic()
        assert credentials.authorization() != first


def test_a_token_that_the_server_refuses_early_is_replaced(secure, shortlived):
    with Client(TrinoSourceConfig(**secure, keycloak=shortlived)) as client:
        client._credentials.authorization()
        client._credentials._token = "revoked"
        assert client.run("SELECT 1") == [[1]]


@pytest.mark.slow
def test_a_flow_outlives_many_tokens(kafka, trino_server, secure, shortlived, tmp_path, monkeypatch):
    """Tokens of ten seconds, and rows all the time: four lives of a token, without an error or a retry."""
    monkeypatch.setenv("AIRFLOW_CONNECT_STATE", str(tmp_path / "checkpoints.db"))
    trino = Trino(trino_server.url)
    schema, topic = trino.create_schema("memory"), kafka.create_topic()
    sink = {
        "serverURL": secure["server_url"],
        "catalog": "memory",
        "schema": schema,
        "table": "t",
        "tls": secure["tls"],
        "autoCreateTable": True,
        "batchFlushIntervalSeconds": 1,
        "batchSize": 0,
        "keycloak": {
            "serverURL": shortlived["server_url"],
            "realm": REALM,
            "clientID": SHORTLIVED,
            "clientSecret": SHORTLIVED_SECRET,
        },
    }
    seconds = 4 * SHORTLIVED_SECONDS
    sent = 0
    with running("tokens", from_kafka(kafka, topic), ("trino", sink), retry={"attempts": 1}) as flow:
        ends = time.monotonic() + seconds
        while time.monotonic() < ends:
            kafka.produce(topic, [json.dumps({"id": sent}).encode()])
            sent += 1
            time.sleep(0.5)
            assert flow.error is None
        rows = f"SELECT data FROM memory.{schema}.t"
        patience = time.monotonic() + 20
        while len(trino.execute(rows)) < sent and time.monotonic() < patience:
            time.sleep(0.2)
    assert sorted(json.loads(text)["id"] for (text,) in trino.execute(rows)) == list(range(sent))
    trino.drop_schema("memory", schema)
