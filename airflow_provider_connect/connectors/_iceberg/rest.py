"""REST catalogs, as pyiceberg speaks to them, with what it leaves out: time limits, and a field that servers want."""

from __future__ import annotations

import json
import time
from typing import Any

import requests
from pyiceberg.catalog import Catalog, load_catalog
from pyiceberg.catalog.rest import RestCatalog
from pyiceberg.catalog.rest.auth import AuthManager, OAuth2TokenProvider
from requests import PreparedRequest, Response, Session
from requests.adapters import HTTPAdapter

CONNECT_SECONDS, ANSWER_SECONDS = 10.0, 60.0
CHECK_SECONDS = 5.0


class BoundedAdapter(HTTPAdapter):
    """Waits for a while, not for ever; and completes schema changes."""

    def __init__(self, timeout: tuple[float, float], **options: Any) -> None:
        super().__init__(**options)
        self._timeout = timeout

    def send(self, request: PreparedRequest, *args: Any, **options: Any) -> Response:
        """As a request without a time limit of its own would be sent, but with ours."""
        if options.get("timeout") is None:
            options["timeout"] = self._timeout
        if request.body and b'"add-schema"' in _bytes(request.body):
            completed = _with_last_column_id(_bytes(request.body))
            request.prepare_body(completed, None)
        return super().send(request, *args, **options)


class BoundedRestCatalog(RestCatalog):
    """pyiceberg's, whose requests end."""

    def __init__(self, name: str, timeout: tuple[float, float], **properties: str) -> None:
        self._timeout = timeout
        super().__init__(name, **properties)

    def _create_session(self) -> Session:
        session = super()._create_session()
        for scheme in ("http://", "https://"):
            session.mount(scheme, BoundedAdapter(self._timeout))
        return session


class BoundedTokens(OAuth2TokenProvider):
    """pyiceberg's, whose requests end."""

    def _refresh_token(self) -> None:
        fields = {"grant_type": "client_credentials", **({"scope": self.scope} if self.scope else {})}
        header = {"Authorization": self._client_secret_header}
        limits = (CONNECT_SECONDS, ANSWER_SECONDS)
        answer = requests.post(self.token_url, data=fields, headers=header, timeout=limits)
        answer.raise_for_status()
        token = answer.json()
        self._token = token["access_token"]
        # Renewed when four fifths of its time are over, however short that is.
        self._expires_at = time.monotonic() + 0.8 * float(token.get("expires_in", 300))  # type: ignore[assignment]


class ClientCredentials(AuthManager):
    """OAuth2 client credentials; the token is fetched anew before it expires."""

    def __init__(self, client_id: str, client_secret: str, token_url: str, scope: str | None = None) -> None:
        self._tokens = BoundedTokens(client_id, client_secret, token_url, scope)

    def auth_header(self) -> str:
        """For each request."""
        return f"Bearer {self._tokens.get_token()}"


CLIENT_CREDENTIALS = f"{__name__}.{ClientCredentials.__name__}"


def open_catalog(name: str, properties: dict[str, Any], *, quickly: bool = False) -> Catalog:
    """The catalog that pyiceberg's properties describe; `quickly` gives up after a few seconds."""
    if properties.get("type", "rest" if "catalog-impl" not in properties else "") == "rest" and "uri" in properties:
        timeout = (CHECK_SECONDS, CHECK_SECONDS) if quickly else (CONNECT_SECONDS, ANSWER_SECONDS)
        return BoundedRestCatalog(name, timeout, **{k: v for k, v in properties.items() if k != "type"})
    return load_catalog(name, **properties)


def _bytes(body: Any) -> bytes:
    return body if isinstance(body, bytes) else str(body).encode()


def _with_last_column_id(body: bytes) -> bytes:
    """The commit with `last-column-id` in each new schema, which pyiceberg does not send and Nessie insists on."""
    commit = json.loads(body)
    for update in commit.get("updates", []):
        if update.get("action") == "add-schema" and "last-column-id" not in update:
            update["last-column-id"] = max(_field_ids(update["schema"]), default=0)
    return json.dumps(commit).encode()


def _field_ids(schema: Any) -> list[int]:
    if isinstance(schema, dict):
        own = [value for key, value in schema.items() if key in ("id", "element-id", "key-id", "value-id")]
        return own + [found for value in schema.values() for found in _field_ids(value)]
    return [found for item in schema for found in _field_ids(item)] if isinstance(schema, list) else []
