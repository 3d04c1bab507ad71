"""A Kafka broker with a listener for each way to get in: TLS, client certificates, SASL over both."""

from collections.abc import Mapping, Sequence

from confluent_kafka.admin import ScramCredentialInfo, ScramMechanism, UserScramCredentialUpsertion

from tests.services.kafka import REQUEST_SECONDS, Kafka
from tests.services.kafka_server import KafkaServer, Listener
from tests.services.process import HOST
from tests.services.tls import Authority, Certificate

USER, PASSWORD = "alice", 'alice, "her" secret=\\1'
"""May do everything, by any mechanism."""
STRANGER, STRANGERS_PASSWORD = "mallory", "mallory-secret"
"""Gets in by any mechanism, but has no rights."""
MECHANISMS = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512")

_ACCOUNTS = {USER: PASSWORD, STRANGER: STRANGERS_PASSWORD}
_SCRAM = "org.apache.kafka.common.security.scram.ScramLoginModule required;"
_PLAIN = "org.apache.kafka.common.security.plain.PlainLoginModule required"


class SecureKafka:
    """The broker, its certificates, and where its listeners are. Whoever comes in plain text may do everything.

    With `tokens_of` (the URL of the keys that an OAuth2 server signs its tokens with) there are two more listeners, and
    the clients named in `clients` may do everything.
    """

    def __init__(self, authority: Authority, tokens_of: str | None = None, clients: Sequence[str] = ()) -> None:
        self.authority = authority
        self.client: Certificate = self.authority.client(USER)
        server = self.authority.server()
        elsewhere = self.authority.server("elsewhere.test", name="elsewhere")
        encrypted = _encrypted(server, self.authority)
        listeners = (
            Listener("PLAINTEXT"),
            Listener("TLS", "SSL", settings=encrypted),
            Listener("MTLS", "SSL", settings={**encrypted, "ssl.client.auth": "required"}),
            Listener("SASL", "SASL_PLAINTEXT", settings=_accounts()),
            Listener("SASLTLS", "SASL_SSL", settings={**encrypted, **_accounts()}),
            Listener("ELSEWHERE", "SSL", settings=_encrypted(elsewhere, self.authority)),
        )
        flags = []
        if tokens_of is not None:
            listeners += (
                Listener("OAUTH", "SASL_PLAINTEXT", settings=_tokens(tokens_of)),
                Listener("OAUTHTLS", "SASL_SSL", settings={**encrypted, **_tokens(tokens_of)}),
            )
            flags = [f"-Dorg.apache.kafka.sasl.oauthbearer.allowed.urls={tokens_of}"]
        settings = {
            "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
            "super.users": ";".join(f"User:{name}" for name in ("ANONYMOUS", USER, f"CN={USER}", *clients)),
        }
        self.server = KafkaServer(listeners, settings, flags)
        try:
            self.plain = Kafka(self.server.bootstrap_servers)
            """The same broker for what a test does beside what it tests."""
            self._add_users()
        except BaseException:
            self.server.close()
            raise

    def address(self, listener: str, host: str = HOST) -> str:
        """`host:port` of a listener: PLAINTEXT, TLS, MTLS (wants a client certificate), SASL, SASLTLS, OAUTH,
        OAUTHTLS, or ELSEWHERE, whose certificate is that of another host."""
        return f"{host}:{next(x.port for x in self.server.listeners if x.name == listener)}"

    def close(self) -> None:
        """End the broker and remove its data."""
        self.server.close()

    def _add_users(self) -> None:
        admin = self.plain.admin()
        for mechanism in (ScramMechanism.SCRAM_SHA_256, ScramMechanism.SCRAM_SHA_512):
            how = ScramCredentialInfo(mechanism, 4096)
            wanted = [UserScramCredentialUpsertion(user, how, word.encode()) for user, word in _ACCOUNTS.items()]
            for done in admin.alter_user_scram_credentials(wanted).values():
                done.result(REQUEST_SECONDS)


def _encrypted(server: Certificate, authority: Authority) -> Mapping[str, str]:
    return {
        "ssl.keystore.type": "PEM",
        "ssl.keystore.location": str(server.key_and_cert_file),
        "ssl.truststore.type": "PEM",
        "ssl.truststore.location": str(authority.cert_file),
    }


def _accounts() -> Mapping[str, str]:
    users = "".join(f" user_{name}={_jaas(password)}" for name, password in _ACCOUNTS.items())
    return {
        "sasl.enabled.mechanisms": ",".join(MECHANISMS),
        "plain.sasl.jaas.config": f"{_PLAIN}{users};",
        "scram-sha-256.sasl.jaas.config": _SCRAM,
        "scram-sha-512.sasl.jaas.config": _SCRAM,
    }


def _tokens(keys: str) -> Mapping[str, str]:
    """A session ends with its token, unless the client shows another one in time. A client's name is its principal."""
    package = "org.apache.kafka.common.security.oauthbearer"
    return {
        "sasl.enabled.mechanisms": "OAUTHBEARER",
        "oauthbearer.sasl.jaas.config": f"{package}.OAuthBearerLoginModule required;",
        "oauthbearer.sasl.server.callback.handler.class": f"{package}.OAuthBearerValidatorCallbackHandler",
        "oauthbearer.connections.max.reauth.ms": "3600000",
        "sasl.oauthbearer.jwks.endpoint.url": keys,
        "sasl.oauthbearer.sub.claim.name": "azp",
        "sasl.oauthbearer.expected.audience": "trino,account",
        "sasl.oauthbearer.allow.unverified.issuer": "true",  # Keycloak has one for HTTP and one for HTTPS
    }


def _jaas(text: str) -> str:
    """A quoted value of a JAAS configuration, within a properties file."""
    quoted = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{quoted}"'.replace("\\", "\\\\")
