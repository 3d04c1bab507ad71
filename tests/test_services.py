"""The services keep their promises: they answer, they end with their owner, and the proxy loses what it should."""

import base64
import json
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import psycopg
import pytest

from tests.conftest import start_or_skip
from tests.services.downloads import cached
from tests.services.kafka import Kafka
from tests.services.kafka_server import KafkaServer
from tests.services.keycloak import (
    CLI,
    CONNECTOR,
    CONNECTOR_SECRET,
    SHORTLIVED,
    SHORTLIVED_SECONDS,
    SHORTLIVED_SECRET,
    USER,
    Keycloak,
)
from tests.services.keycloak_server import KeycloakServer
from tests.services.postgresql import PostgreSQL
from tests.services.postgresql_server import PostgreSQLServer
from tests.services.process import Unavailable
from tests.services.proxy import TcpProxy
from tests.services.tls import Authority
from tests.services.trino import Trino

ROOT = Path(__file__).parents[1]
GONE_SECONDS = 10.0

START_POSTGRESQL = """
from tests.services.postgresql_server import PostgreSQLServer
server = PostgreSQLServer()
import psycopg
session = psycopg.connect(server.dsn)  # its backend is in a session of its own
print(server.directory, flush=True)
"""
START_KAFKA = """
from tests.services.kafka_server import KafkaServer
server = KafkaServer()
print(server.directory, flush=True)
"""
START_TREE_AND_FORK = """
import os, time
from tests.services.process import ServerProcess
process = ServerProcess("tree")
process.start(["sh", "-c", "setsid sleep 1000 & (sleep 1000 &) ; sleep 1000"])
process.wait_until(lambda: True, 1)
time.sleep(0.5)
fork = os.fork()
if fork == 0:  # holds the pipe to the supervisor as well
    time.sleep(60)
    os._exit(0)
print(process.directory, fork, flush=True)
"""


def eventually(condition: Callable[[], bool], timeout: float = GONE_SECONDS) -> bool:
    """Wait for the condition; False if it does not come true in time."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


# The servers


def test_kafka_keeps_records_in_partitions(kafka: Kafka) -> None:
    topic = kafka.create_topic(3, retention_ms="3600000")
    assert kafka.partitions(topic) == {0, 1, 2}
    kafka.produce(topic, [(b"k", b"a"), (b"k", None)], partition=1)
    kafka.produce(topic, [b"b"], partition=2)
    found = [(record.partition, record.offset, record.key, record.value) for record in kafka.consume_all(topic)]
    assert found == [(1, 0, b"k", b"a"), (1, 1, b"k", None), (2, 0, None, b"b")]


def test_consume_all_of_an_empty_topic_ends(kafka: Kafka) -> None:
    assert kafka.consume_all(kafka.create_topic(2)) == []


def test_postgresql_is_ready_for_logical_replication(postgresql: PostgreSQL) -> None:
    assert postgresql.execute("SHOW wal_level") == [("logical",)]
    schema = postgresql.create_schema()
    postgresql.execute(f"CREATE TABLE {schema}.t (x int)")
    postgresql.execute(f"INSERT INTO {schema}.t VALUES (%s)", 7)
    assert postgresql.execute(f"SELECT x FROM {schema}.t") == [(7,)]


def test_keycloak_hands_out_tokens_by_its_three_clients(keycloak: Keycloak) -> None:
    lives = []
    for client, secret, user in [
        (CONNECTOR, CONNECTOR_SECRET, None),
        (CLI, None, USER),
        (SHORTLIVED, SHORTLIVED_SECRET, USER),
    ]:
        body = keycloak.token(client, secret, user).split(".")[1]
        claims = json.loads(base64.urlsafe_b64decode(body + "=="))
        assert claims["preferred_username"] == (user or f"service-account-{client}")
        assert claims["iss"] == keycloak.issuer
        lives.append(claims["exp"] - claims["iat"])
    assert lives == [600, 600, SHORTLIVED_SECONDS]


def test_keycloak_speaks_tls(keycloak_server: KeycloakServer, authority: Authority, tmp_path: Path) -> None:
    url = Keycloak(keycloak_server.https_url).jwks_url
    with urllib.request.urlopen(url, context=ssl.create_default_context(cadata=authority.cert)) as answer:
        assert json.load(answer)["keys"]
    with pytest.raises(urllib.error.URLError, match="CERTIFICATE_VERIFY_FAILED"):
        urllib.request.urlopen(url, context=ssl.create_default_context(cadata=Authority(tmp_path).cert))


def test_trino_keeps_tables_in_its_catalogs(trino: Trino) -> None:
    for catalog in ("iceberg", "memory"):
        schema = trino.create_schema(catalog)
        trino.execute(f"CREATE TABLE {catalog}.{schema}.t (x bigint)")
        trino.execute(f"INSERT INTO {catalog}.{schema}.t VALUES 7")
        assert trino.execute(f"SELECT x FROM {catalog}.{schema}.t") == [[7]]
        trino.execute(f"DROP TABLE {catalog}.{schema}.t")
        trino.execute(f"DROP SCHEMA {catalog}.{schema}")


@pytest.mark.crash
def test_killed_postgresql_restarts_on_its_port_with_its_data(postgresql_server: PostgreSQLServer) -> None:
    postgresql = PostgreSQL(postgresql_server.dsn)
    table = postgresql.unique_name()
    postgresql.execute(f"CREATE TABLE {table} AS SELECT 1 AS x")
    postgresql_server.kill()
    with pytest.raises(psycopg.OperationalError):
        postgresql.connect()
    postgresql_server.start()
    assert postgresql.execute(f"SELECT x FROM {table}") == [(1,)]


@pytest.mark.crash
@pytest.mark.slow
def test_killed_kafka_restarts_on_its_port_with_its_data(kafka_server: KafkaServer) -> None:
    kafka = Kafka(kafka_server.bootstrap_servers)
    topic = kafka.create_topic()
    kafka.produce(topic, [b"a"])
    kafka_server.kill()
    kafka_server.start()
    assert [record.value for record in kafka.consume_all(topic)] == [b"a"]


@pytest.mark.crash
@pytest.mark.parametrize(
    "program",
    [
        pytest.param(START_TREE_AND_FORK, id="process tree, pipe inherited by a fork"),
        pytest.param(START_POSTGRESQL, id="postgresql", marks=pytest.mark.integration),
        pytest.param(START_KAFKA, id="kafka", marks=[pytest.mark.integration, pytest.mark.slow]),
    ],
)
def test_nothing_is_left_of_a_server_whose_owner_is_killed(program: str) -> None:
    owner = subprocess.Popen(
        [sys.executable, "-c", f"{program}\nimport time; time.sleep(1000)"], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert owner.stdout is not None
    path, *forks = owner.stdout.readline().split()
    directory = Path(path)
    assert (directory / "server.log").exists()
    family = [p for p in psutil.Process(owner.pid).children(recursive=True) if str(p.pid) not in forks]
    assert len(family) >= 2  # the supervisor and the server
    owner.kill()
    owner.wait()
    _, alive = psutil.wait_procs(family, timeout=GONE_SECONDS)
    for fork in forks:
        psutil.Process(int(fork)).kill()
    assert alive == []
    assert eventually(lambda: not directory.exists())


def test_a_missing_service_skips_the_test_but_fails_it_in_ci(monkeypatch: pytest.MonkeyPatch) -> None:
    def start() -> KafkaServer:
        raise Unavailable("no java")

    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="no java"):
        start_or_skip(start)
    monkeypatch.delenv("CI")
    with pytest.raises(pytest.skip.Exception, match="no java"):
        start_or_skip(start)


def test_a_download_is_complete_or_absent(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CONNECT_TEST_CACHE", str(tmp_path))
    killed_while_filling = """
import os, signal
from tests.services.downloads import cached
def fill(folder):
    (folder / "half").touch()
    os.kill(os.getpid(), signal.SIGKILL)
cached("thing", fill)
"""
    died = subprocess.run([sys.executable, "-c", killed_while_filling], cwd=ROOT, check=False)
    assert died.returncode == -signal.SIGKILL
    assert not (tmp_path / "thing").exists()

    folder = cached("thing", lambda target: (target / "whole").touch())
    assert [path.name for path in folder.iterdir()] == ["whole"]
    assert cached("thing", lambda _: pytest.fail("is in the cache")) == folder
    assert not list(tmp_path.glob("*.partial-*"))


# The proxy


class LineServer:
    """Answers every line with `ok:` and that line, and remembers all lines."""

    def __init__(self) -> None:
        self.lines: list[bytes] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address: tuple[str, int] = self._listener.getsockname()
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, client.makefile("rb") as lines:
            try:
                for line in lines:
                    self.lines.append(line.strip())
                    client.sendall(b"ok:" + line)
            except OSError:
                return


@pytest.fixture
def line_server() -> Iterator[LineServer]:
    server = LineServer()
    yield server
    server.close()


@pytest.fixture
def proxy(line_server: LineServer) -> Iterator[TcpProxy]:
    with TcpProxy(line_server.address) as proxy:
        yield proxy


@pytest.fixture
def client(proxy: TcpProxy) -> Iterator[socket.socket]:
    with connect(proxy) as client:
        yield client


def connect(proxy: TcpProxy) -> socket.socket:
    return socket.create_connection((proxy.host, proxy.port), timeout=10)


def ask(client: socket.socket, line: bytes) -> bytes:
    client.sendall(line + b"\n")
    return client.recv(1000).strip()


def test_proxy_forwards(client: socket.socket) -> None:
    assert ask(client, b"hello") == b"ok:hello"


def test_proxy_cuts_present_connections_only(proxy: TcpProxy, client: socket.socket) -> None:
    ask(client, b"hello")
    proxy.cut()
    with pytest.raises(ConnectionError):
        ask(client, b"again")
    with connect(proxy) as another:
        assert ask(another, b"new") == b"ok:new"
    assert eventually(lambda: proxy.connection_count == 0)


def test_proxy_refuses_until_resumed(proxy: TcpProxy) -> None:
    proxy.refuse()
    with pytest.raises(ConnectionError), connect(proxy) as client:
        ask(client, b"hello")
    proxy.resume()
    with connect(proxy) as client:
        assert ask(client, b"hello") == b"ok:hello"


def test_paused_proxy_holds_traffic_without_an_error(
    proxy: TcpProxy, client: socket.socket, line_server: LineServer
) -> None:
    ask(client, b"hello")
    proxy.pause()
    client.settimeout(0.3)
    with pytest.raises(TimeoutError):
        ask(client, b"held")
    assert line_server.lines == [b"hello"]
    client.settimeout(10)
    proxy.resume()
    assert client.recv(1000).strip() == b"ok:held"


def test_proxy_delays(proxy: TcpProxy, client: socket.socket) -> None:
    proxy.delay(0.2)
    began = time.monotonic()
    assert ask(client, b"hello") == b"ok:hello"
    assert time.monotonic() - began >= 0.4  # there and back


def test_answer_is_lost_after_the_server_got_the_request(
    proxy: TcpProxy, client: socket.socket, line_server: LineServer
) -> None:
    proxy.cut_after_request(b"COMMIT")
    assert ask(client, b"INSERT") == b"ok:INSERT"
    with pytest.raises(ConnectionError):
        ask(client, b"COMMIT")
    assert proxy.wait_for_cut()
    assert line_server.lines == [b"INSERT", b"COMMIT"]
    with connect(proxy) as another:
        assert ask(another, b"COMMIT") == b"ok:COMMIT"  # once only


def test_marker_is_found_in_two_pieces(proxy: TcpProxy, client: socket.socket, line_server: LineServer) -> None:
    proxy.cut_after_request(b"COMMIT")
    client.sendall(b"COM")
    time.sleep(0.2)
    with pytest.raises(ConnectionError):
        ask(client, b"MIT")
    assert line_server.lines == [b"COMMIT"]


def test_request_is_lost_before_the_server_gets_it(
    proxy: TcpProxy, client: socket.socket, line_server: LineServer
) -> None:
    proxy.cut_before_request(b"COMMIT")
    assert ask(client, b"INSERT") == b"ok:INSERT"
    with pytest.raises(ConnectionError):
        ask(client, b"COMMIT")
    assert proxy.wait_for_cut()
    assert line_server.lines == [b"INSERT"]


@pytest.mark.parametrize("answer_lost", [True, False])
def test_commit_whose_outcome_the_client_cannot_know(
    postgresql: PostgreSQL, postgresql_proxy: TcpProxy, answer_lost: bool
) -> None:
    table = postgresql.unique_name()
    postgresql.execute(f"CREATE TABLE {table} (x int)")
    connection = postgresql.through(postgresql_proxy).connect()
    connection.execute(f"INSERT INTO {table} VALUES (1)")
    if answer_lost:
        postgresql_proxy.cut_after_request(b"COMMIT")
    else:
        postgresql_proxy.cut_before_request(b"COMMIT")
    with pytest.raises(psycopg.OperationalError):
        connection.commit()
    assert postgresql.execute(f"SELECT x FROM {table}") == ([(1,)] if answer_lost else [])


def test_kafka_clients_stay_behind_the_proxy(kafka_server: KafkaServer, kafka_proxy: TcpProxy) -> None:
    topic = Kafka(kafka_server.bootstrap_servers).create_topic()
    behind = Kafka(kafka_proxy.address)
    behind.produce(topic, [b"a"])
    assert [record.value for record in behind.consume_all(topic)] == [b"a"]
    producer = behind.producer()
    producer.list_topics(topic, timeout=30)
    kafka_proxy.cut()
    producer.produce(topic, b"b")
    assert producer.flush(30) == 0
    assert [record.value for record in behind.consume_all(topic)] == [b"a", b"b"]
