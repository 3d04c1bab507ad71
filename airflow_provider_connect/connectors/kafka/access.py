"""Access: TLS and SASL, as they are configured, as librdkafka wants them, and what its refusals mean."""

from __future__ import annotations

import logging
import re
import socket
from functools import cache
from typing import Annotated, Any, Literal

from confluent_kafka import KafkaError
from pydantic import Field, SecretStr, field_validator, model_validator

from airflow_provider_connect.engine.config import Config, FromConnection
from airflow_provider_connect.engine.errors import Fatal
from airflow_provider_connect.engine.pem import pem

log = logging.getLogger(__name__)

Property = str | int | float | bool


class Tls(Config):
    """Encryption, and the client's own certificate. PEM is given as content or as the path of a file."""

    enabled: Annotated[bool | None, FromConnection("extra.tls", "TLS")] = None
    """Whether to speak TLS. Default: yes, once anything is said about TLS."""
    ca: Annotated[str | None, FromConnection("extra.ca", "CA certificates")] = None
    """CA certificates (PEM) that the brokers' certificates must come from. Default: those of the system."""
    cert: Annotated[str | None, FromConnection("extra.cert", "Client certificate")] = None
    """The client's certificate (PEM), where the brokers want one."""
    key: Annotated[SecretStr | None, FromConnection("extra.private_key", "Client key")] = None
    """The private key (PEM) of `cert`."""
    ca_file: str | None = None
    """Path of `ca`."""
    cert_file: str | None = None
    """Path of `cert`."""
    key_file: str | None = None
    """Path of `key`."""
    key_password: Annotated[SecretStr | None, FromConnection("extra.key_password", "Password of the client key")] = None
    """Password of an encrypted private key."""
    insecure_skip_verify: Annotated[
        bool | None, FromConnection("extra.insecure_skip_verify", "Accept any certificate")
    ] = None
    """Accept any certificate of the brokers. Only for tests: whoever is in between can read and write everything."""

    @model_validator(mode="after")
    def _once(self) -> Tls:
        for name in ("ca", "cert", "key"):
            if getattr(self, name) and getattr(self, f"{name}_file"):
                raise ValueError(f"'{name}' and '{name}File' are two ways to say the same; keep one")
        if bool(self.cert or self.cert_file) != bool(self.key or self.key_file):
            raise ValueError("a client certificate needs both 'cert' and 'key'")
        return self


class Sasl(Config):
    """Who we are: by user name and password, or by a token that an OAuth2 server gives us."""

    mechanism: Annotated[
        Literal["plain", "scram-sha-256", "scram-sha-512", "oauthbearer"],
        FromConnection("extra.sasl_mechanism", "SASL mechanism"),
    ] = "plain"
    """How we prove who we are. `plain` sends the password and `oauthbearer` the token as it is, so combine them with
    TLS."""
    username: Annotated[str | None, FromConnection("login", "User name")] = Field(default=None, min_length=1)
    """User name; with `oauthbearer` the id of the client, if `clientID` is not given."""
    password: Annotated[SecretStr | None, FromConnection("password", "Password")] = None
    """Password; with `oauthbearer` the secret of the client, if `clientSecret` is not given."""
    token_endpoint_url: Annotated[str | None, FromConnection("extra.oauth_endpoint", "OAuth2 token endpoint")] = Field(
        default=None, pattern=r"^https?://", examples=["https://keycloak/realms/mine/protocol/openid-connect/token"]
    )
    """`oauthbearer`: where tokens are asked for with client credentials, and renewed before they expire."""
    client_id: Annotated[str | None, FromConnection("extra.client_id", "OAuth2 client id")] = Field(
        default=None, min_length=1
    )
    """`oauthbearer`: id of the client."""
    client_secret: Annotated[SecretStr | None, FromConnection("extra.client_secret", "OAuth2 client secret")] = None
    """`oauthbearer`: secret of the client."""
    scope: Annotated[str | None, FromConnection("extra.scope", "OAuth2 scope")] = None
    """`oauthbearer`: scope to ask for."""
    extensions: dict[str, str] = Field(default_factory=dict)
    """`oauthbearer`: extensions (KIP-342) that the brokers want beside the token, such as `logicalCluster`."""
    endpoint_ca: Annotated[str | None, FromConnection("extra.oauth_ca", "CA certificates of the token endpoint")] = None
    """`oauthbearer`: CA certificates (PEM, or the path of a file) of the token endpoint. Default: those of the
    system."""

    @field_validator("mechanism", mode="before")
    @classmethod
    def _lower(cls, value: Any) -> Any:
        return value.lower() if isinstance(value, str) else value

    @model_validator(mode="after")
    def _complete(self) -> Sasl:
        by_token = self.mechanism == "oauthbearer"
        found = {
            "username": self.username,
            "password": self.password,
            "tokenEndpointURL": self.token_endpoint_url,
            "clientID": self.client_id or self.username,
            "clientSecret": self.client_secret or self.password,
        }
        needed = ("tokenEndpointURL", "clientID", "clientSecret") if by_token else ("username", "password")
        if missing := [f"'{name}'" for name in needed if found[name] is None]:
            raise ValueError(f"mechanism '{self.mechanism}' needs {' and '.join(missing)}")
        if not by_token and self.token_endpoint_url:
            raise ValueError("'tokenEndpointURL' is for mechanism 'oauthbearer'")
        return self


def security_properties(tls: Tls | None, sasl: Sasl | None, brokers: tuple[str, ...] = ()) -> dict[str, Property]:
    """What librdkafka is told about TLS and SASL; nothing at all if both are absent."""
    encrypted = tls is not None and tls.enabled is not False
    if not encrypted and sasl is None:
        return {}
    found: dict[str, Property] = {
        "security.protocol": f"{'SASL_' if sasl else ''}{'SSL' if encrypted else 'PLAINTEXT'}"
    }
    if tls is not None and encrypted:
        found |= _tls(tls, brokers)
    if sasl is not None:
        found |= _tokens(sasl) if sasl.mechanism == "oauthbearer" else _account(sasl)
    return found


def _tls(tls: Tls, brokers: tuple[str, ...]) -> dict[str, Property]:
    verified = not tls.insecure_skip_verify
    if not verified:
        _warn(brokers)
    found: dict[str, Property] = {
        "enable.ssl.certificate.verification": verified,
        "ssl.endpoint.identification.algorithm": "https" if verified else "none",
    }
    if ca := tls.ca or tls.ca_file:
        found["ssl.ca.pem"] = pem(ca)
    key = tls.key.get_secret_value() if tls.key is not None else tls.key_file
    if (cert := tls.cert or tls.cert_file) and key:
        found["ssl.certificate.pem"] = pem(cert)
        found["ssl.key.pem"] = pem(key)
    if tls.key_password is not None:
        found["ssl.key.password"] = tls.key_password.get_secret_value()
    return found


@cache
def _warn(brokers: tuple[str, ...]) -> None:
    """Once per process and cluster."""
    log.warning(
        "`tls.insecureSkipVerify` is on: the certificates of Kafka at %s are not verified, so whoever is in between "
        "can read and write everything",
        ", ".join(brokers),
    )


def _account(sasl: Sasl) -> dict[str, Property]:
    return {
        "sasl.mechanism": sasl.mechanism.upper(),
        "sasl.username": sasl.username or "",
        "sasl.password": _text(sasl.password),
    }


def _tokens(sasl: Sasl) -> dict[str, Property]:
    """librdkafka asks for tokens itself, on a thread of its own, when four fifths of a token's life are over."""
    found: dict[str, Property] = {
        "sasl.mechanism": "OAUTHBEARER",
        "sasl.oauthbearer.method": "oidc",
        "sasl.oauthbearer.token.endpoint.url": sasl.token_endpoint_url or "",
        "sasl.oauthbearer.client.id": sasl.client_id or sasl.username or "",
        "sasl.oauthbearer.client.secret": _text(sasl.client_secret or sasl.password),
    }
    if sasl.scope:
        found["sasl.oauthbearer.scope"] = sasl.scope
    if sasl.extensions:
        found["sasl.oauthbearer.extensions"] = ",".join(f"{name}={value}" for name, value in sasl.extensions.items())
    if sasl.endpoint_ca:
        found["https.ca.pem"] = pem(sasl.endpoint_ca)
    return found


def _text(secret: SecretStr | None) -> str:
    return secret.get_secret_value() if secret is not None else ""


_REFUSED = (
    (r"bad password|maybe wrong password", "check `tls.keyPassword`"),
    (r"key values mismatch", "`tls.key` is not the key of `tls.cert`"),
    (r"ssl\.key\.pem", "check `tls.key`: it must be PEM, or the path of a PEM file"),
    (r"ssl\.certificate\.pem", "check `tls.cert`: it must be PEM, or the path of a PEM file"),
    (r"https\.ca\.", "check `sasl.endpointCa`: it must be PEM, or the path of a PEM file"),
    (r"ssl\.ca\.", "check `tls.ca`: it must be PEM, or the path of a PEM file"),
    (r"sasl\.", "check `sasl`"),
)
"""What librdkafka says of a configuration, and the field that it comes from."""

_FATAL_SIGNS = (
    (
        r"certificate verify failed",
        "check `tls.ca`, and that the brokers' certificates are for the host names in `brokers`",
    ),
    (
        r"alert (bad certificate|no certificate|(un)?supported certificate|certificate|unknown ca|handshake failure|"
        r"access denied|tlsv13 alert certificate required)|SSL alert number (4[0-689]|116)\b",
        "the brokers want a client certificate that they know: check `tls.cert` and `tls.key`",
    ),
    (r"OAUTHBEARER token", "check `sasl` (tokenEndpointURL, clientID, clientSecret, scope, endpointCa)"),
    (r"supported mechanisms:\s*(\(|$)", "this port takes no SASL: check `sasl`, and the port in `brokers`"),
    (r"supported mechanisms:", "check `sasl.mechanism`"),
)
_PASSING_SIGNS = (
    (
        r"OAUTHBEARER token: .*(onnect to|resolve host|imed out|reset|Empty reply|Send failure|Recv failure)",
        "check `sasl.tokenEndpointURL`, and whether it is up",
    ),
    # A broker that goes down looks the same.
    (
        r"connecting to a PLAINTEXT|Disconnected.*in state SSL_HANDSHAKE",
        "this port may speak no TLS: check `tls`, and the port in `brokers`",
    ),
)


def refused_configuration(error: KafkaError) -> Fatal:
    """librdkafka does not even begin with what is configured."""
    text = error.str()
    return Fatal(f"librdkafka refuses the configuration: {text}; {_matching(_REFUSED, text) or 'check `properties`'}")


def wrong_access(error: KafkaError) -> str | None:
    """The remedy, if brokers (or who gives us tokens) refused us, or we their certificate."""
    return _matching(_FATAL_SIGNS, error.str()) if error.code() in _CONNECTING else None


def maybe_wrong_access(error: KafkaError) -> str | None:
    """What to look at, if a connection ended as it does where one side alone speaks TLS, or if the token endpoint is
    down."""
    return _matching(_PASSING_SIGNS, error.str()) if error.code() in _CONNECTING else None


_CONNECTING = frozenset({KafkaError._SSL, KafkaError._TRANSPORT, KafkaError._AUTHENTICATION})


def listens(broker: str, seconds: float = 1.0) -> bool:
    """Whether anything accepts connections at `host:port`. A port that wants TLS or SASL gives no other sign: it
    closes the connection of a client that speaks neither, as does a broker that ends."""
    host, _, port = broker.rpartition("://")[2].rpartition(":")
    try:
        with socket.create_connection((host.strip("[]") or port, int(port) if host else 9092), seconds):
            return True
    except (OSError, ValueError, OverflowError):
        return False


def _matching(signs: tuple[tuple[str, str], ...], text: str) -> str | None:
    return next((remedy for sign, remedy in signs if re.search(sign, text)), None)
