"""Access: TLS and Keycloak as they are configured, and HTTP connections that keep to it."""

from __future__ import annotations

import logging
import ssl
import tempfile
import urllib.request
from functools import cache
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

import urllib3
from pydantic import Field, SecretStr, model_validator

from airflow_provider_connect.engine.config import Config, FromConnection
from airflow_provider_connect.engine.errors import Fatal
from airflow_provider_connect.engine.pem import pem

log = logging.getLogger(__name__)

TIMEOUT = urllib3.Timeout(connect=10.0, read=60.0)
"""Trino answers within a second or so, also while a statement runs."""


class Tls(Config):
    """Certificates of the server's CA, and of our own. PEM is given as content or as the path of a file."""

    ca: Annotated[str | None, FromConnection("extra.ca", "CA certificates")] = None
    """CA certificates (PEM) that the server's certificate must come from. Default: those of the system."""
    ca_file: str | None = None
    """Path of `ca`."""
    cert: Annotated[str | None, FromConnection("extra.cert", "Client certificate")] = None
    """Our own certificate (PEM), where the server wants one."""
    cert_file: str | None = None
    """Path of `cert`."""
    key: Annotated[SecretStr | None, FromConnection("extra.private_key", "Client key")] = None
    """The private key (PEM) of `cert`."""
    key_file: str | None = None
    """Path of `key`."""
    insecure_skip_verify: Annotated[
        bool | None, FromConnection("extra.insecure_skip_verify", "Accept any certificate")
    ] = None
    """Accept any certificate of the server. Only for tests: whoever is in between can read and write everything."""

    @model_validator(mode="after")
    def _once(self) -> Tls:
        for name in ("ca", "cert", "key"):
            if getattr(self, name) and getattr(self, f"{name}_file"):
                raise ValueError(f"'{name}' and '{name}File' are two ways to say the same; keep one")
        if bool(self.cert or self.cert_file) != bool(self.key or self.key_file):
            raise ValueError("a client certificate needs both 'cert' and 'key'")
        return self


class KeycloakTls(Config):
    """Certificates of Keycloak's CA, where they are not those of `tls`."""

    ca: str | None = None
    """CA certificates (PEM, or the path of a file) that Keycloak's certificate must come from."""
    insecure_skip_verify: bool = False
    """Accept any certificate of Keycloak. Only for tests: whoever is in between learns the secrets."""


class Keycloak(Config):
    """Tokens of Keycloak: a long-lived one as it is, or one by OAuth2, renewed before it expires.

    With `username` and `password` it is asked for by the password grant, else by client credentials."""

    token: SecretStr | None = None
    """A long-lived token, used as it is and never renewed. With it, nothing else is needed here."""
    server_url: Annotated[str | None, FromConnection("extra.keycloak_url", "Keycloak URL")] = Field(
        default=None, pattern=r"^https?://", examples=["https://keycloak.example.com"]
    )
    """Keycloak's base URL, without `/realms`."""
    realm: Annotated[str | None, FromConnection("extra.keycloak_realm", "Keycloak realm")] = Field(
        default=None, min_length=1
    )
    """The realm."""
    client_id: Annotated[str | None, FromConnection("extra.keycloak_client_id", "Keycloak client id")] = Field(
        default=None, min_length=1
    )
    """OAuth2 client id."""
    client_secret: Annotated[
        SecretStr | None, FromConnection("extra.keycloak_client_secret", "Keycloak client secret")
    ] = None
    """OAuth2 client secret. A public client has none, and needs `username` and `password`."""
    username: str | None = None
    """User name of the password grant. Default: `username` beside this block, if that is given."""
    password: SecretStr | None = None
    """Password of the password grant."""
    scope: str | None = None
    """Scope to ask for."""
    tls: KeycloakTls | None = None
    """Certificates of Keycloak's CA. Default: as for Trino."""

    @model_validator(mode="after")
    def _complete(self) -> Keycloak:
        if (self.username is None) != (self.password is None):
            raise ValueError("the password grant needs both 'username' and 'password'")
        if self.token is not None:
            return self
        found = {"serverURL": self.server_url, "realm": self.realm, "clientID": self.client_id}
        if missing := [f"'{name}'" for name, value in found.items() if value is None]:
            raise ValueError(f"needs 'token', or {' and '.join(missing)} to ask for one")
        return self


def http_pool(url: str, tls: Tls | None, what: str) -> urllib3.PoolManager:
    """Connections to the server at `url`; `what` names it in a warning. Fatal if certificates cannot be used."""
    context = ssl.create_default_context()
    if tls is not None:
        context = _context(tls, what)
    options: dict[str, Any] = {"timeout": TIMEOUT, "retries": False, "ssl_context": context, "maxsize": 2}
    parts = urlsplit(url)
    proxy = urllib.request.getproxies().get(parts.scheme)
    if proxy and not urllib.request.proxy_bypass(parts.hostname or ""):
        return urllib3.ProxyManager(proxy, **options)
    return urllib3.PoolManager(**options)


def _context(tls: Tls, what: str) -> ssl.SSLContext:
    ca = tls.ca or tls.ca_file
    try:
        context = ssl.create_default_context(cadata=pem(ca)) if ca else ssl.create_default_context()
    except (ssl.SSLError, ValueError) as error:
        raise Fatal(f"tls.ca: no certificate in PEM can be read from it ({error})") from None
    if tls.insecure_skip_verify:
        _warn(what)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    cert = tls.cert or tls.cert_file
    key = tls.key.get_secret_value() if tls.key is not None else tls.key_file
    if cert and key:
        with tempfile.TemporaryDirectory(prefix="airflow-connect-") as folder:  # OpenSSL only takes files
            both = Path(folder) / "client.pem"
            both.touch(0o600)
            both.write_text(f"{pem(key)}\n{pem(cert)}")
            try:
                context.load_cert_chain(both)
            except (ssl.SSLError, OSError) as error:
                raise Fatal(f"tls.cert and tls.key cannot be used together: {error}") from None
    return context


@cache
def _warn(what: str) -> None:
    """Once per process and server."""
    log.warning(
        "`insecureSkipVerify` is on: the certificate of %s is not verified, so whoever is in between can read and"
        " write everything",
        what,
    )
