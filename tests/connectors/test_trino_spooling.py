"""Reads by the spooling protocol: a Trino that hands large results out through an object store."""

from contextlib import ExitStack, closing

import pyarrow as pa
import pytest

from airflow_provider_connect.connectors.trino import TrinoSource, TrinoSourceConfig
from airflow_provider_connect.connectors.trino.client import Client
from airflow_provider_connect.engine.errors import EndOfInput, Retryable
from airflow_provider_connect.testing.source import RecordedContext
from tests.conftest import start_or_skip
from tests.services.nessie_server import ACCESS_KEY, BUCKET, SECRET_KEY, S3Server
from tests.services.trino_server import TrinoServer

pytestmark = [pytest.mark.slow, pytest.mark.integration]


@pytest.fixture(scope="module")
def spooling():
    """A Trino of these tests, with an object store of its own."""
    with ExitStack() as stack:
        store = stack.enter_context(closing(start_or_skip(S3Server)))
        settings = {
            "fs.s3.enabled": "true",
            "fs.location": f"s3://{BUCKET}/spooled/",
            "fs.segment.encryption": "false",
            "s3.endpoint": store.endpoint,
            "s3.region": "us-east-1",
            "s3.path-style-access": "true",
            "s3.aws-access-key": ACCESS_KEY,
            "s3.aws-secret-key": SECRET_KEY,
        }
        yield stack.enter_context(closing(start_or_skip(lambda: TrinoServer(spooling=settings))))


def settings(server, **more):
    return {"server_url": server.url, "catalog": "tpch", "schema": "tiny", **more}


def read(source):
    found = []
    while True:
        try:
            got = source.read(10_000, 1)
        except EndOfInput:
            return pa.Table.from_batches(found)
        if got is not None:
            found.append(got.rows)


def opened(server):
    """60,175 lines of orders, in order: more than the server sends inline."""
    config = TrinoSourceConfig(
        **settings(server, table="lineitem", cursor="orderkey", tie_break="linenumber", poll_interval=0.05)
    )
    source = TrinoSource(config)
    source.open(RecordedContext("flow", "columns", drain=True))
    return source


def test_spooled_rows_are_the_same_as_direct_ones(spooling, monkeypatch):
    kinds, headers = [], []
    rows_of = Client.rows_of

    def noticed(self, segment, encoding):
        kinds.append((segment["type"], encoding))
        request = self._pool.request

        def told(method, uri, **options):
            headers.append((uri.startswith(spooling.url), set(options["headers"])))
            return request(method, uri, **options)

        self._pool.request = told
        try:
            return rows_of(self, segment, encoding)
        finally:
            self._pool.request = request

    monkeypatch.setattr(Client, "rows_of", noticed)
    with opened(spooling) as source:
        spooled = read(source)
    assert {("inline", "json+zstd"), ("spooled", "json+zstd")} == set(kinds)
    stored = [names for own, names in headers if not own]
    assert stored and not any({"Authorization", "X-Trino-User"} & names for names in stored), (
        "credentials for the store"
    )
    with opened(spooling) as source:
        del source._client._headers["X-Trino-Query-Data-Encoding"]
        kinds.clear()
        direct = read(source)
    assert kinds == []
    assert spooled.num_rows == 60_175
    assert spooled.equals(direct)


def test_a_segment_that_is_gone_is_retryable(spooling):
    with Client(TrinoSourceConfig(**settings(spooling, table="lineitem"))) as client:
        gone = {"type": "spooled", "uri": f"http://127.0.0.1:1/{BUCKET}/nothing?X-Amz-Signature=secret", "metadata": {}}
        with pytest.raises(Retryable) as raised:
            client.rows_of(gone, "json")
        assert "secret" not in str(raised.value)
