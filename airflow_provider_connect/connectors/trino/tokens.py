"""Tokens: who we are in each request, with tokens of Keycloak renewed before they expire."""

from __future__ import annotations

import base64
import json
import time
from typing import Any
from urllib.parse import quote, urlencode

import urllib3

from airflow_provider_connect.connectors.trino.access import Keycloak, Tls, http_pool
from airflow_provider_connect.engine.errors import Fatal, Retryable

_MARGIN = 0.25
"""A token is renewed when this part of its life is left, but no earlier than `_MARGIN_SECONDS` before its end."""
_MARGIN_SECONDS = 30.0


class Credentials:
    """The header `Authorization` of every request. Used by one thread."""

    renewable = False
    """Whether `renew` may help where the server refuses it."""

    def authorization(self) -> str | None:
        """The header's value as of now; None if there is none."""
        return None

    def renew(self) -> None:
        """Whatever is kept is not to be used again."""

    def close(self) -> None:
        """Free connections."""


class Basic(Credentials):
    """User name and password."""

    def __init__(self, username: str, password: str) -> None:
        self._value = "Basic " + base64.b64encode(f"{username}:{password}".encode()).decode()

    def authorization(self) -> str:
        return self._value


class Bearer(Credentials):
    """A token that somebody has given us."""

    def __init__(self, token: str) -> None:
        if not token.strip().isascii() or any(char.isspace() for char in token.strip()):
            raise Fatal("the token has characters that no token has (line breaks?); copy it again")
        self._value = f"Bearer {token.strip()}"

    def authorization(self) -> str:
        return self._value


class KeycloakTokens(Credentials):
    """Tokens by OAuth2, by the password grant or by client credentials."""

    renewable = True

    def __init__(self, keycloak: Keycloak, tls: Tls | None, account: tuple[str, str] | None) -> None:
        self._form = {"client_id": keycloak.client_id or "", "grant_type": "client_credentials"}
        if keycloak.client_secret is not None:
            self._form["client_secret"] = keycloak.client_secret.get_secret_value()
        if account is not None:
            self._form |= {"grant_type": "password", "username": account[0], "password": account[1]}
        if keycloak.scope:
            self._form["scope"] = keycloak.scope
        self._realm = f"{(keycloak.server_url or '').rstrip('/')}/realms/{quote(keycloak.realm or '', safe='')}"
        own = keycloak.tls
        given = Tls(ca=own.ca, insecure_skip_verify=own.insecure_skip_verify) if own is not None else tls
        self._pool = http_pool(self._realm, given, f"Keycloak at {self._realm}")
        self._token: str | None = None
        self._renew_at = 0.0

    def authorization(self) -> str:
        if self._token is None or time.monotonic() >= self._renew_at:
            self._ask()
        return f"Bearer {self._token}"

    def renew(self) -> None:
        self._token = None

    def close(self) -> None:
        self._pool.clear()

    def _ask(self) -> None:
        asked = time.monotonic()
        try:
            answer = self._pool.request(
                "POST",
                f"{self._realm}/protocol/openid-connect/token",
                body=urlencode(self._form),
                headers={"Content-Type": "application/x-www-form-urlencoded", "Accept": "application/json"},
                redirect=False,
            )
        except urllib3.exceptions.HTTPError as error:
            raise unreachable(f"Keycloak at {self._realm}", error) from None
        found = _json(answer.data)
        if answer.status != 200:
            raise self._refused(answer.status, found)
        token, life = found.get("access_token"), found.get("expires_in")
        if not isinstance(token, str) or not isinstance(life, int | float):
            raise Fatal(f"keycloak: what answers at {self._realm} is no OAuth2 token endpoint; check `serverURL`")
        self._token = token
        self._renew_at = asked + life - min(life * _MARGIN, _MARGIN_SECONDS)

    def _refused(self, status: int, found: dict[str, Any]) -> Fatal | Retryable:
        said = found.get("error_description") or found.get("error") or "no reason given"
        message = f"Keycloak at {self._realm} gives no token (HTTP {status}: {said})"
        if status == 429 or status >= 500:
            return Retryable(message)
        remedy = "check `serverURL` and `realm`"
        if found.get("error") == "invalid_grant":
            remedy = "check `username` and `password`"
        elif found.get("error") in ("invalid_client", "unauthorized_client"):
            remedy = "check `clientID` and `clientSecret`, and that the client may use this grant"
        return Fatal(f"{message}; {remedy}")


def claimed_user(authorization: str | None) -> str | None:
    """The user name in a token that is a JWT. Nobody has verified it: for servers that do not ask who we are."""
    try:
        payload = (authorization or "").split(" ", 1)[1].split(".")[1]
        claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
        name = claims.get("preferred_username") or claims.get("sub")
    except (IndexError, ValueError, AttributeError):
        return None
    return name if isinstance(name, str) else None


def unreachable(what: str, error: urllib3.exceptions.HTTPError) -> Fatal | Retryable:
    """A connection that failed: certificates are for a person to mend, everything else may pass."""
    text = str(getattr(error, "reason", None) or error)
    if isinstance(error, urllib3.exceptions.SSLError) or "certificate" in text.lower():
        if "CERTIFICATE_VERIFY_FAILED" in text:
            return Fatal(f"the certificate of {what} is not to be trusted: {_short(text)}; set `ca` to its CA")
        return Fatal(f"no TLS with {what}: {_short(text)}; check the URL and the certificates")
    return Retryable(f"{what} cannot be reached: {_short(text)}")


def _short(text: str) -> str:
    """Without the object at the beginning of what urllib3 says."""
    return text.split(">: ", 1)[-1][:300]


def _json(data: bytes) -> dict[str, Any]:
    try:
        found = json.loads(data)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
