"""Certificates for tests, and a proxy that speaks TLS in front of a server which does not."""

import asyncio
import contextlib
import datetime
import ipaddress
import ssl
import threading
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

HOST = "127.0.0.1"
CHUNK = 65536


class Certificate:
    """A certificate with its key, as PEM text, and as files where somebody wants those."""

    def __init__(self, certificate: x509.Certificate, key: rsa.RSAPrivateKey, folder: Path, name: str) -> None:
        self._key = key
        self._folder, self._name = folder, f"{name}-{certificate.serial_number:x}"
        self.cert = certificate.public_bytes(serialization.Encoding.PEM).decode()
        """The certificate as PEM."""
        self.key = self._pem(serialization.NoEncryption())
        """The private key as PEM (PKCS #8), not encrypted."""

    @property
    def cert_file(self) -> Path:
        """The certificate as a file."""
        return self._file("crt", self.cert)

    @property
    def key_file(self) -> Path:
        """The key as a file."""
        return self._file("key", self.key)

    @property
    def key_and_cert_file(self) -> Path:
        """Key and certificate in one file, as Java's PEM key store and some servers want it."""
        return self._file("pem", self.key + self.cert)

    def encrypted_key(self, password: str) -> str:
        """The private key as PEM (PKCS #8), encrypted."""
        return self._pem(serialization.BestAvailableEncryption(password.encode()))

    def _pem(self, encryption: serialization.KeySerializationEncryption) -> str:
        form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8)
        return self._key.private_bytes(*form, encryption).decode()

    def _file(self, ending: str, text: str) -> Path:
        path = self._folder / f"{self._name}.{ending}"
        if not path.exists():
            path.write_text(text)
            path.chmod(0o600)
        return path


class Authority(Certificate):
    """A CA of its own that signs certificates valid for a day; its files are in `folder`."""

    def __init__(self, folder: Path, name: str = "Connect Test CA") -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._ca_key = _new_key()
        self._ca_name = _named(name)
        builder = _builder(self._ca_name, self._ca_name, self._ca_key)
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        builder = builder.add_extension(_usage(signing=True), critical=True)
        super().__init__(builder.sign(self._ca_key, hashes.SHA256()), self._ca_key, folder, "ca")

    def server(self, *hosts: str, name: str = "server") -> Certificate:
        """A certificate for a server at these hosts (names or IP addresses); localhost and 127.0.0.1 without any."""
        names: list[x509.GeneralName] = []
        for host in hosts or ("localhost", HOST):
            try:
                names.append(x509.IPAddress(ipaddress.ip_address(host)))
            except ValueError:
                names.append(x509.DNSName(host))
        return self._signed(name, ExtendedKeyUsageOID.SERVER_AUTH, x509.SubjectAlternativeName(names))

    def client(self, name: str = "client") -> Certificate:
        """A certificate for a client, whose common name is `name`."""
        return self._signed(name, ExtendedKeyUsageOID.CLIENT_AUTH)

    def _signed(
        self, name: str, purpose: x509.ObjectIdentifier, hosts: x509.SubjectAlternativeName | None = None
    ) -> Certificate:
        key = _new_key()
        builder = _builder(_named(name), self._ca_name, key)
        builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        builder = builder.add_extension(_usage(signing=False), critical=True)
        builder = builder.add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
        authority = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._ca_key.public_key())
        builder = builder.add_extension(authority, critical=False)
        if hosts is not None:
            builder = builder.add_extension(hosts, critical=False)
        return Certificate(builder.sign(self._ca_key, hashes.SHA256()), key, self._folder, name)


def _new_key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


def _named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _builder(subject: x509.Name, issuer: x509.Name, key: rsa.RSAPrivateKey) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    builder = x509.CertificateBuilder(subject_name=subject, issuer_name=issuer, public_key=key.public_key())
    builder = builder.serial_number(x509.random_serial_number())
    builder = builder.not_valid_before(now - datetime.timedelta(hours=1))
    builder = builder.not_valid_after(now + datetime.timedelta(days=1))
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    return builder.add_extension(identifier, critical=False)


def _usage(*, signing: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=not signing,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signing,
        crl_sign=signing,
        encipher_only=False,
        decipher_only=False,
    )


class TlsProxy:
    """Listens with TLS and forwards in plain text to a server; use it as a context manager."""

    def __init__(self, upstream: tuple[str, int], certificate: Certificate, port: int = 0) -> None:
        self._upstream = upstream
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(certificate.cert_file, certificate.key_file)
        self._loop = asyncio.new_event_loop()
        self._loop.set_exception_handler(lambda *_: None)  # handshakes that fail, as tests make them fail
        self._thread = threading.Thread(target=self._loop.run_forever, name="tls-proxy", daemon=True)
        self._thread.start()
        started = asyncio.start_server(self._serve, HOST, port, ssl=context)
        self._server = asyncio.run_coroutine_threadsafe(started, self._loop).result(10)
        self.port: int = self._server.sockets[0].getsockname()[1]

    def __enter__(self) -> "TlsProxy":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def address(self) -> str:
        """`host:port` for clients, by IP address."""
        return f"{HOST}:{self.port}"

    def close(self) -> None:
        """Stop listening and end all connections."""
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    async def _end(self) -> None:
        self._server.close()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            answers, requests = await asyncio.open_connection(*self._upstream)
        except OSError:
            writer.transport.abort()
            return
        pipes = [asyncio.create_task(_pipe(reader, requests)), asyncio.create_task(_pipe(answers, writer))]
        try:
            await asyncio.wait(pipes, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for pipe in pipes:
                pipe.cancel()
            for side in (writer, requests):
                side.close()


async def _pipe(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await source.read(CHUNK):
            target.write(data)
            await target.drain()
