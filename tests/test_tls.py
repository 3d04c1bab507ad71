"""The certificates of `tests/services/tls.py` are what clients and servers accept, and only those."""

import contextlib
import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from tests.services.tls import Authority, TlsProxy


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def echo() -> Iterator[tuple[str, int]]:
    """A server that sends back what it gets."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listener.accept()
                threading.Thread(target=answer, args=(connection,), daemon=True).start()

    def answer(connection: socket.socket) -> None:
        with contextlib.suppress(OSError), connection:
            while data := connection.recv(65536):
                connection.sendall(data)

    threading.Thread(target=serve, daemon=True).start()
    yield listener.getsockname()
    with contextlib.suppress(OSError):
        listener.shutdown(socket.SHUT_RDWR)
    listener.close()


def trusting(authority: Authority) -> ssl.SSLContext:
    return ssl.create_default_context(cadata=authority.cert)


def exchange(context: ssl.SSLContext, port: int, host: str, data: bytes) -> bytes:
    with (
        socket.create_connection(("127.0.0.1", port), 10) as plain,
        context.wrap_socket(plain, server_hostname=host) as connection,
    ):
        connection.sendall(data)
        found = b""
        while len(found) < len(data):
            piece = connection.recv(65536)
            if not piece:
                break
            found += piece
        return found


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
def test_the_proxy_speaks_tls_in_front_of_a_plain_server(
    authority: Authority, echo: tuple[str, int], host: str
) -> None:
    data = b"0123456789" * 50_000
    with TlsProxy(echo, authority.server()) as proxy:
        assert exchange(trusting(authority), proxy.port, host, data) == data


def test_another_authority_and_another_host_are_refused(
    authority: Authority, echo: tuple[str, int], tmp_path: Path
) -> None:
    with TlsProxy(echo, authority.server("elsewhere.test", name="elsewhere")) as proxy:
        with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
            exchange(trusting(authority), proxy.port, "localhost", b"x")
        with pytest.raises(ssl.SSLCertVerificationError, match="certificate verify failed"):
            exchange(trusting(Authority(tmp_path)), proxy.port, "elsewhere.test", b"x")


def test_a_key_is_encrypted_with_its_password(authority: Authority) -> None:
    client = authority.client("encrypted")
    text = client.encrypted_key("secret").encode()
    assert b"BEGIN ENCRYPTED PRIVATE KEY" in text
    assert load_pem_private_key(text, b"secret").key_size == 2048
    with pytest.raises(ValueError, match="password"):
        load_pem_private_key(text, b"wrong")
