"""What a test sees of Keycloak: a realm with a user and three clients, and tokens of them."""

import json
import urllib.parse
import urllib.request
from dataclasses import dataclass

REALM = "test"
USER, PASSWORD = "alice", "alice-secret"

CONNECTOR, CONNECTOR_SECRET = "connector", "connector-secret"
"""A client with a service account, for the grants by client credentials and by password; audience `trino`."""
CLI = "cli"
"""A client without a secret, for the grant by password."""
SHORTLIVED, SHORTLIVED_SECRET = "shortlived", "shortlived-secret"
"""As CONNECTOR, with tokens of 10 seconds."""
SHORTLIVED_SECONDS = 10


@dataclass(frozen=True)
class Keycloak:
    """A Keycloak that tests may use, by its base URL."""

    url: str

    @property
    def issuer(self) -> str:
        """The realm's URL, which is the issuer in the tokens that it hands out there."""
        return f"{self.url}/realms/{REALM}"

    @property
    def token_url(self) -> str:
        """Where tokens are had."""
        return f"{self.issuer}/protocol/openid-connect/token"

    @property
    def jwks_url(self) -> str:
        """The keys that its tokens are signed with."""
        return f"{self.issuer}/protocol/openid-connect/certs"

    def token(self, client: str = CONNECTOR, secret: str | None = CONNECTOR_SECRET, user: str | None = None) -> str:
        """An access token: of the client's service account, or of the user `USER`."""
        fields = {"client_id": client, "grant_type": "client_credentials"}
        if secret is not None:
            fields["client_secret"] = secret
        if user is not None:
            fields |= {"grant_type": "password", "username": user, "password": PASSWORD}
        with urllib.request.urlopen(self.token_url, urllib.parse.urlencode(fields).encode(), timeout=30) as answer:
            token: str = json.load(answer)["access_token"]
        return token
