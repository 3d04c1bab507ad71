"""TLS in front of a PostgreSQL server that is built without it: the start of the protocol, and then bytes both ways."""

import contextlib
import socket
import ssl
import threading

from tests.services.tls import HOST, Certificate

CHUNK = 65536
_SSL_REQUEST = (8).to_bytes(4, "big") + (80877103).to_bytes(4, "big")
_GSS_REQUEST = (8).to_bytes(4, "big") + (80877104).to_bytes(4, "big")
_REFUSAL = b"SFATAL\0C28000\0Mno pg_hba.conf entry for host, no encryption\0\0"


class PostgreSQLTls:
    """Answers to a PostgreSQL client's SSLRequest and forwards in plain text; use it as a context manager.

    Clients that speak plain text are refused as a server does that wants `hostssl`; with `clients`, so are those
    without a certificate of this authority.
    """

    def __init__(self, upstream: tuple[str, int], certificate: Certificate, clients: Certificate | None = None) -> None:
        self._upstream = upstream
        self._context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self._context.load_cert_chain(certificate.cert_file, certificate.key_file)
        if clients is not None:
            self._context.verify_mode = ssl.CERT_REQUIRED
            self._context.load_verify_locations(clients.cert_file)
        self._listener = socket.create_server((HOST, 0))
        self.port = self._listener.getsockname()[1]
        self.encrypted = 0
        """How many sessions have begun, all of them encrypted."""

    def __enter__(self) -> "PostgreSQLTls":
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with contextlib.suppress(OSError), client:
            first = client.recv(8)
            while first == _GSS_REQUEST:
                client.sendall(b"N")
                first = client.recv(8)
            if first != _SSL_REQUEST:
                client.sendall(b"E" + (len(_REFUSAL) + 4).to_bytes(4, "big") + _REFUSAL)
                return
            client.sendall(b"S")
            with (
                self._context.wrap_socket(client, server_side=True) as secure,
                socket.create_connection(self._upstream) as server,
            ):
                self.encrypted += 1
                back = threading.Thread(target=_pump, args=(server, secure), daemon=True)
                back.start()
                _pump(secure, server)
                back.join(5)


def _pump(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(CHUNK):
            target.sendall(data)
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_RDWR)
