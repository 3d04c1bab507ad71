"""ClickHouse over TLS by both protocols: verified unless switched off, by public authorities or by one's own."""

import pytest

from airflow_provider_connect.connectors.clickhouse import ClickHouseSink, ClickHouseSinkConfig
from airflow_provider_connect.engine.errors import Fatal
from tests.services.clickhouse import PROTOCOLS
from tests.services.tls import Authority, TlsProxy


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(autouse=True)
def _public_authorities(monkeypatch):
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def url(clickhouse, authority):
    """A connection string through a proxy that speaks TLS, for a host and more options."""
    proxies = {}
    certificate = authority.server("localhost", "127.0.0.1")
    for protocol in PROTOCOLS:
        proxies[protocol] = TlsProxy((clickhouse.host, clickhouse.port(protocol)), certificate)

    def url(protocol, options="", host="localhost"):
        scheme = "https" if protocol == "http" else "clickhouse"
        secure = "" if protocol == "http" else "secure=true&"
        return f"{scheme}://{host}:{proxies[protocol].port}/default?{secure}dial_timeout=5s{options}"

    yield url
    for proxy in proxies.values():
        proxy.close()


def checked(url, **settings):
    sink = ClickHouseSink(ClickHouseSinkConfig(connection_string=url, table="t", **settings))
    try:
        return sink.check()
    except Exception as error:
        raise sink.classify(error) from error


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_certificate_of_ones_own_authority(protocol, url, authority):
    assert f"over {protocol}" in checked(url(protocol), ca_cert=authority.cert)
    assert f"over {protocol}" in checked(url(protocol, host="127.0.0.1"), ca_cert=str(authority.cert_file))


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_certificate_that_nobody_vouches_for(protocol, url):
    with pytest.raises(Fatal, match="certificate is not accepted"):
        checked(url(protocol))


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_certificate_of_another_host(protocol, clickhouse, authority, url):
    other = authority.server("elsewhere.example", name=f"elsewhere-{protocol}")
    with TlsProxy((clickhouse.host, clickhouse.port(protocol)), other) as proxy:
        scheme = "https" if protocol == "http" else "clickhouse"
        with pytest.raises(Fatal, match="certificate is not accepted"):
            checked(f"{scheme}://localhost:{proxy.port}/default?secure=true", ca_cert=authority.cert)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_verification_can_be_switched_off(protocol, url, caplog):
    assert f"over {protocol}" in checked(url(protocol, "&skip_verify=true"))
    assert "skip_verify" in caplog.text


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_port_without_tls(protocol, clickhouse):
    scheme = "https" if protocol == "http" else "clickhouse"
    with pytest.raises(Exception) as raised:
        checked(f"{scheme}://localhost:{clickhouse.port(protocol)}/default?secure=true&dial_timeout=5s")
    assert len(str(raised.value)) > 10
