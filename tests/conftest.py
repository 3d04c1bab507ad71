"""Fixtures for real servers. They start on first use, once per session; see `tests/services`."""

import gc
import os
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import TypeVar

import pytest

from tests.crash.victim import Victim
from tests.services.clickhouse import ClickHouse
from tests.services.clickhouse_server import ClickHouseServer
from tests.services.kafka import Kafka
from tests.services.kafka_server import KafkaServer, Listener
from tests.services.keycloak import SHORTLIVED, Keycloak
from tests.services.keycloak_server import KeycloakServer
from tests.services.nessie import Nessie
from tests.services.nessie_server import NessieServer
from tests.services.postgresql import PostgreSQL
from tests.services.postgresql_server import PostgreSQLServer
from tests.services.process import Unavailable, free_port
from tests.services.proxy import TcpProxy
from tests.services.schema_registry import SchemaRegistry
from tests.services.schema_registry_server import SchemaRegistryServer
from tests.services.secure_kafka import SecureKafka
from tests.services.tls import Authority
from tests.services.trino import Trino
from tests.services.trino_server import TrinoServer

SERVICE_FIXTURES = {
    "clickhouse",
    "clickhouse_server",
    "kafka",
    "kafka_server",
    "kafka_proxy",
    "keycloak",
    "keycloak_server",
    "nessie",
    "nessie_server",
    "postgresql",
    "postgresql_server",
    "postgresql_proxy",
    "schema_registry",
    "schema_registry_server",
    "oauth_kafka",
    "secure_kafka",
    "trino",
    "trino_schemas",
    "trino_server",
}
PROXIED = "PROXIED"
Server = TypeVar("Server")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that use a service need no marker of their own."""
    for item in items:
        if SERVICE_FIXTURES & set(getattr(item, "fixturenames", ())):
            item.add_marker("integration")


def start_or_skip(start: Callable[[], Server]) -> Server:
    """Start a server; where that is impossible the test is skipped, but in CI it fails."""
    try:
        return start()
    except Unavailable as reason:
        if os.environ.get("CI", "").lower() in {"1", "true", "yes"}:
            pytest.fail(f"CI=true, but a service is missing: {reason}")
        pytest.skip(f"SERVICE MISSING: {reason}")


@pytest.fixture(scope="session")
def kafka_server() -> Iterator[KafkaServer]:
    """A broker on this machine that a test may stop, kill and start again; it has to run when the test ends."""
    listeners = (Listener("PLAINTEXT"), Listener(PROXIED, advertised_port=free_port()))
    with closing(start_or_skip(lambda: KafkaServer(listeners))) as server:
        yield server


@pytest.fixture(scope="session")
def kafka(request: pytest.FixtureRequest) -> Kafka:
    """Kafka, from `CONNECT_TEST_KAFKA` or started here."""
    bootstrap_servers = os.environ.get("CONNECT_TEST_KAFKA")
    return Kafka(bootstrap_servers or request.getfixturevalue("kafka_server").bootstrap_servers)


@pytest.fixture
def kafka_proxy(kafka_server: KafkaServer) -> Iterator[TcpProxy]:
    """A proxy in front of the broker `kafka_server`: all connections of clients that start at its address use it."""
    listener = next(listener for listener in kafka_server.listeners if listener.name == PROXIED)
    assert listener.advertised_port is not None
    with TcpProxy(("127.0.0.1", listener.port), port=listener.advertised_port) as proxy:
        yield proxy


@pytest.fixture(scope="session")
def postgresql_server() -> Iterator[PostgreSQLServer]:
    """A server on this machine that a test may stop, kill and start again; it has to run when the test ends."""
    with closing(start_or_skip(PostgreSQLServer)) as server:
        yield server


@pytest.fixture(scope="session")
def postgresql(request: pytest.FixtureRequest) -> PostgreSQL:
    """PostgreSQL, from `CONNECT_TEST_POSTGRESQL` or started here."""
    dsn = os.environ.get("CONNECT_TEST_POSTGRESQL")
    return PostgreSQL(dsn or request.getfixturevalue("postgresql_server").dsn)


@pytest.fixture
def postgresql_proxy(postgresql: PostgreSQL) -> Iterator[TcpProxy]:
    """A proxy in front of `postgresql`; `postgresql.through(proxy)` connects by it."""
    with TcpProxy(postgresql.address) as proxy:
        yield proxy


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """The CA that signs the certificates of servers which the tests start with TLS."""
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="session")
def secure_kafka(authority: Authority) -> Iterator[SecureKafka]:
    """A second broker, with a listener for each kind of TLS and SASL."""
    with closing(start_or_skip(lambda: SecureKafka(authority))) as server:
        yield server


@pytest.fixture(scope="session")
def keycloak_server(authority: Authority) -> Iterator[KeycloakServer]:
    """A Keycloak on this machine, by HTTP and by HTTPS; it has to run when the test ends."""
    certificate = authority.server(name="keycloak")
    files = (certificate.cert_file, certificate.key_file)
    with closing(start_or_skip(lambda: KeycloakServer(files))) as server:
        yield server


@pytest.fixture(scope="session")
def keycloak(request: pytest.FixtureRequest) -> Keycloak:
    """Keycloak, from `CONNECT_TEST_KEYCLOAK` (its base URL) or started here."""
    url = os.environ.get("CONNECT_TEST_KEYCLOAK")
    return Keycloak(url or request.getfixturevalue("keycloak_server").url)


@pytest.fixture(scope="session")
def oauth_kafka(authority: Authority, keycloak: Keycloak) -> Iterator[SecureKafka]:
    """As `secure_kafka`, with listeners for those who have a token of Keycloak."""
    with closing(start_or_skip(lambda: SecureKafka(authority, keycloak.jwks_url, [SHORTLIVED]))) as server:
        yield server


@pytest.fixture(scope="session")
def trino_server(authority: Authority, keycloak_server: KeycloakServer) -> Iterator[TrinoServer]:
    """A Trino on this machine, by HTTP without authentication, by HTTPS with passwords and tokens of Keycloak."""
    certificate = authority.server(name="trino").key_and_cert_file
    jwks_url = Keycloak(keycloak_server.url).jwks_url
    with closing(start_or_skip(lambda: TrinoServer(certificate, jwks_url))) as server:
        yield server


@pytest.fixture(scope="session")
def trino(request: pytest.FixtureRequest) -> Trino:
    """Trino, from `CONNECT_TEST_TRINO` (its URL by HTTP) or started here."""
    url = os.environ.get("CONNECT_TEST_TRINO")
    return Trino(url or request.getfixturevalue("trino_server").url)


@pytest.fixture(scope="session")
def nessie_server() -> Iterator[NessieServer]:
    """A Nessie on this machine, in memory, with a store for its tables; it has to run when the test ends."""
    with closing(start_or_skip(NessieServer)) as server:
        yield server


@pytest.fixture(scope="session")
def nessie(request: pytest.FixtureRequest) -> Nessie:
    """Nessie, from `CONNECT_TEST_NESSIE` or started here."""
    url = os.environ.get("CONNECT_TEST_NESSIE")
    return Nessie(url or request.getfixturevalue("nessie_server").url)


@pytest.fixture(scope="session")
def clickhouse_server() -> Iterator[ClickHouseServer]:
    """A server on this machine that a test may stop, kill and start again; it has to run when the test ends."""
    with closing(start_or_skip(ClickHouseServer)) as server:
        yield server


@pytest.fixture(scope="session")
def clickhouse(request: pytest.FixtureRequest) -> ClickHouse:
    """ClickHouse, from `CONNECT_TEST_CLICKHOUSE` (host:http_port:native_port) or started here."""
    address = os.environ.get("CONNECT_TEST_CLICKHOUSE")
    return ClickHouse.at(address or request.getfixturevalue("clickhouse_server").address)


@pytest.fixture(scope="session")
def schema_registry_server(authority: Authority) -> Iterator[SchemaRegistryServer]:
    """A schema registry on this machine, by HTTP and by HTTPS; it has to run, and keeps nothing when it is stopped."""
    with closing(start_or_skip(lambda: SchemaRegistryServer(authority.server(name="schema-registry")))) as server:
        yield server


@pytest.fixture(scope="session")
def schema_registry(request: pytest.FixtureRequest) -> SchemaRegistry:
    """A schema registry, from `CONNECT_TEST_SCHEMA_REGISTRY` (the URL of Confluent's API) or started here."""
    url = os.environ.get("CONNECT_TEST_SCHEMA_REGISTRY")
    return SchemaRegistry(url or request.getfixturevalue("schema_registry_server").url)


@pytest.fixture(scope="module")
def trino_schemas(trino: Trino) -> Iterator[dict[str, str]]:
    """A schema of the test module in each catalog of `trino` that can be written to, by the catalog."""
    schemas = {catalog: trino.create_schema(catalog) for catalog in ("iceberg", "memory")}
    yield schemas
    for catalog, schema in schemas.items():
        trino.drop_schema(catalog, schema)


@pytest.fixture(scope="module", autouse=True)
def _no_clients_in_garbage() -> Iterator[None]:
    """A traceback keeps the clients that it saw in a cycle, with their sockets and threads. Collected while the servers
    still run, and before the interpreter ends under librdkafka's threads."""
    yield
    gc.collect()


@pytest.fixture(autouse=True)
def _no_survivors() -> Iterator[None]:
    """No worker that a failed test has started goes on."""
    yield
    for victim in Victim.started:
        if victim.process.poll() is None:
            victim.kill()
    Victim.started.clear()
