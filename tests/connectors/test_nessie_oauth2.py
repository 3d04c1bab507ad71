"""Nessie that lets in only who has a token of Keycloak: the three ways, and tokens of ten seconds."""

import time
from contextlib import closing

import pyarrow as pa
import pytest

from airflow_provider_connect.connectors.nessie import NessieSink, NessieSinkConfig
from airflow_provider_connect.engine.connector import SinkContext
from airflow_provider_connect.engine.errors import Fatal
from tests.conftest import start_or_skip
from tests.connectors.iceberg_tables import write
from tests.services.keycloak import SHORTLIVED, SHORTLIVED_SECONDS, SHORTLIVED_SECRET
from tests.services.nessie_server import NessieServer


@pytest.fixture(scope="module")
def guarded(keycloak):
    """A Nessie with authentication."""
    settings = {
        "nessie.server.authentication.enabled": "true",
        "quarkus.oidc.tenant-enabled": "true",
        "quarkus.oidc.auth-server-url": keycloak.issuer,
        "quarkus.oidc.client-id": "nessie",
    }
    with closing(start_or_skip(lambda: NessieServer(settings))) as server:
        yield server.url


def opened(url, **settings):
    config = {"base_url": url, "namespace": "tests", "table": "t", "auto_create_table": True, **settings}
    sink = NessieSink(NessieSinkConfig(**config))
    sink.open(SinkContext("flow"))
    sink.claim(["0"])
    return sink


def test_a_flow_outlives_its_tokens(guarded, keycloak):
    client = {"token_url": keycloak.token_url, "client_id": SHORTLIVED, "client_secret": SHORTLIVED_SECRET}
    sink = opened(guarded, oauth2=client)
    write(sink, [b"1"], 1)
    time.sleep(SHORTLIVED_SECONDS * 1.2)
    write(sink, [b"2"], 2)
    assert sink.positions(["0"]) == {"0": 2}
    rows = sink._opened().table.scan().to_arrow()
    assert rows.sort_by("data") == pa.table({"data": ["1", "2"]}, rows.schema)


def test_a_token_of_ones_own(guarded, keycloak):
    assert opened(guarded, bearer_token=keycloak.token())


@pytest.mark.parametrize("settings", [{}, {"bearer_token": "made.up.token"}], ids=["none", "wrong"])
def test_nobody_else_gets_in(guarded, settings):
    with pytest.raises(Fatal, match=r"check the (token|credentials)"):
        opened(guarded, **settings)


def test_a_client_that_keycloak_does_not_know(guarded, keycloak):
    client = {"token_url": keycloak.token_url, "client_id": SHORTLIVED, "client_secret": "wrong"}
    with pytest.raises(Fatal, match="check the credentials") as raised:
        opened(guarded, oauth2=client)
    assert "wrong" not in str(raised.value)
