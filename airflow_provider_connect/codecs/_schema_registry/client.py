"""SchemaRegistry: schemas by id and by subject, from a registry that speaks Confluent's API."""

from __future__ import annotations

import base64
import json
import logging
import ssl
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass, field
from http.client import HTTPException
from typing import Any

from airflow_provider_connect.engine.errors import Fatal, Retryable

log = logging.getLogger(__name__)

_CONTENT = "application/vnd.schemaregistry.v1+json"
_NO_SUBJECT, _NO_VERSION, _NO_SCHEMA = 40401, 40402, 40403
_LAG_SECONDS = (0.2, 0.8)
"""Pauses before an id counts as unknown: one that was just registered reaches the other nodes a moment later."""
_UNKNOWN_SECONDS = 30.0
"""How long an id that was unknown is not asked for again."""
_TIMEOUT_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Schema:
    """A schema as the registry has it. `references`: the schemas it uses, each after those that it uses itself."""

    kind: str
    """AVRO, PROTOBUF or JSON."""
    text: str
    references: tuple[tuple[str, str], ...] = ()
    """(name by which it is referred to, text)"""


class UnknownSchema(Exception):
    """The registry has no schema with this id."""


class _Refused(Exception):
    """An answer that is an error: HTTP status, Confluent's error code (0 without), message."""

    def __init__(self, status: int, code: int, message: str) -> None:
        super().__init__(message)
        self.status, self.code = status, code


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Following would hand the account to another server."""

    def redirect_request(self, *_: Any) -> None:
        return None


@dataclass
class SchemaRegistry:
    """A client. Retryable while the registry is down, Fatal where a person must act.

    Keeps what it was told about ids for ever, for a registry never changes the schema of an id.
    """

    urls: Sequence[str]
    """Addresses of its nodes: the next is asked when one does not answer."""
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    tls: ssl.SSLContext | None = field(default=None, repr=False)
    timeout: float = _TIMEOUT_SECONDS

    def __post_init__(self) -> None:
        self._schemas: dict[int, Schema] = {}
        self._unknown: dict[int, float] = {}
        self._ids: dict[tuple[str, Schema], int] = {}
        handlers: list[Any] = [_NoRedirect()]
        if self.tls is not None:
            handlers.append(urllib.request.HTTPSHandler(context=self.tls))
        self._opener = urllib.request.build_opener(*handlers)
        self._headers = {"Accept": f"{_CONTENT}, application/json", "Content-Type": _CONTENT}
        if self.username is not None:
            account = base64.b64encode(f"{self.username}:{self.password or ''}".encode()).decode()
            self._headers["Authorization"] = f"Basic {account}"

    def __str__(self) -> str:
        return f"the schema registry at {', '.join(self.urls)}"

    def check(self) -> str:
        """Ask for the number of subjects; one line on what answered."""
        subjects = self._ask("GET", "/subjects")
        return f"{self} answers with {len(subjects)} subject{'s' if len(subjects) != 1 else ''}"

    def schema(self, schema_id: int) -> Schema:
        """The schema with this id; UnknownSchema if there is none."""
        found = self._schemas.get(schema_id)
        if found is not None:
            return found
        if time.monotonic() < self._unknown.get(schema_id, 0.0):
            raise UnknownSchema(f"{self} has no schema with the id {schema_id}")
        answer = self._by_id(schema_id)
        found = self._complete(answer)
        self._schemas[schema_id] = found
        return found

    def latest(self, subject: str) -> tuple[int, Schema] | None:
        """Id and schema of the subject's newest version; None if there is no such subject."""
        try:
            answer = self._call("GET", f"/subjects/{_quoted(subject)}/versions/latest")
        except _Refused as error:
            if error.code in (_NO_SUBJECT, _NO_VERSION):
                return None
            raise self._sorted(error, f"subject '{subject}'") from error
        return int(answer["id"]), self._complete(answer)

    def register(self, subject: str, schema: Schema) -> int:
        """The id of this schema in the subject, where it is registered if it is not there yet.

        Fatal if the subject's rule of compatibility does not allow it.
        """
        if (known := self._ids.get((subject, schema))) is not None:
            return known
        body = {"schema": schema.text, "schemaType": schema.kind}
        try:
            answer = self._call("POST", f"/subjects/{_quoted(subject)}/versions", body)
        except _Refused as error:
            if error.status == 409:
                raise Fatal(
                    f"{self} refuses a new schema of subject '{subject}', incompatible with the earlier ones: {error}. "
                    f"Keep to compatible changes (new fields with a default), or change the subject's "
                    f"compatibility. The schema: {_short(schema.text)}"
                ) from error
            raise self._sorted(error, f"registering a schema of subject '{subject}'") from error
        found = self._ids[subject, schema] = int(answer["id"])
        return found

    def id_of(self, subject: str, schema: Schema) -> int:
        """The id of a schema that is registered in the subject already; Fatal if it is not."""
        if (known := self._ids.get((subject, schema))) is not None:
            return known
        body = {"schema": schema.text, "schemaType": schema.kind}
        try:
            answer = self._call("POST", f"/subjects/{_quoted(subject)}", body)
        except _Refused as error:
            if error.code in (_NO_SUBJECT, _NO_SCHEMA):
                raise Fatal(
                    f"{self} lacks this schema in subject '{subject}'; register it, or set `autoRegister: true`: "
                    f"{_short(schema.text)}"
                ) from error
            raise self._sorted(error, f"subject '{subject}'") from error
        found = self._ids[subject, schema] = int(answer["id"])
        return found

    # --- how

    def _by_id(self, schema_id: int) -> Any:
        # Values that are not framed at all would name a new id each: it is waited once in a while only.
        waits = _LAG_SECONDS if time.monotonic() > max(self._unknown.values(), default=0.0) else ()
        for pause in (*waits, None):
            try:
                return self._call("GET", f"/schemas/ids/{schema_id}")
            except _Refused as error:
                if error.code != _NO_SCHEMA:
                    raise self._sorted(error, f"schema {schema_id}") from error
            if pause is not None:
                time.sleep(pause)
        self._unknown[schema_id] = time.monotonic() + _UNKNOWN_SECONDS
        raise UnknownSchema(f"{self} has no schema with the id {schema_id}")

    def _complete(self, answer: Any) -> Schema:
        found: dict[str, str] = {}
        self._follow(answer.get("references") or (), found)
        return Schema(str(answer.get("schemaType") or "AVRO"), str(answer["schema"]), tuple(found.items()))

    def _follow(self, references: Any, found: dict[str, str]) -> None:
        for reference in references:
            name = str(reference["name"])
            if name not in found:
                path = f"/subjects/{_quoted(str(reference['subject']))}/versions/{reference['version']}"
                answer = self._ask("GET", path)
                self._follow(answer.get("references") or (), found)
                found[name] = str(answer["schema"])

    def _ask(self, method: str, path: str, body: Any = None) -> Any:
        try:
            return self._call(method, path, body)
        except _Refused as error:
            raise self._sorted(error, path) from error

    def _call(self, method: str, path: str, body: Any = None) -> Any:
        """One request, of the first node that answers. _Refused for an answer that is an error."""
        data = None if body is None else json.dumps(body).encode()
        silent: Exception | None = None
        for url in self.urls:
            request = urllib.request.Request(url.rstrip("/") + path, data, self._headers, method=method)
            try:
                with self._opener.open(request, timeout=self.timeout) as answer:
                    return json.loads(answer.read())
            except urllib.error.HTTPError as error:
                with error:
                    refused = _Refused(error.code, *_explained(error))
                if error.code < 500 and error.code != 429:
                    raise refused from None
                silent = Retryable(f"{self} answers {error.code}: {refused}")
            except ValueError as error:
                raise Fatal(
                    f"{url} gives no JSON, so it may be no schema registry: check `schemaRegistry.url`"
                ) from error
            except (OSError, HTTPException) as error:
                silent = self._unreachable(url, error)
        raise silent or Fatal("`schemaRegistry.url` is empty")

    def _unreachable(self, url: str, error: Exception) -> Exception:
        reason = getattr(error, "reason", None) or error
        if isinstance(reason, ssl.SSLCertVerificationError):
            raise Fatal(
                f"the certificate of the schema registry at {url} is not trusted: {reason.verify_message}; check "
                "`schemaRegistry.tls.ca`, and that the certificate is for the host name in `schemaRegistry.url`"
            ) from error
        if isinstance(reason, ssl.SSLError) and "alert" in str(reason).lower():
            raise Fatal(f"{url} refuses our certificate: {reason}; check `schemaRegistry.tls`") from error
        return Retryable(f"the schema registry at {url} does not answer: {reason}; check `schemaRegistry.url`")

    def _sorted(self, error: _Refused, doing: str) -> Exception:
        told = f"{self}: {doing}: {error.status} {error}"
        if error.status in (401, 403):
            return Fatal(f"{told}; check `schemaRegistry.basicAuth`")
        if error.status == 404:
            return Fatal(f"{told}; check `schemaRegistry.url`, which needs the API's path where there is one")
        return Fatal(told)


def tls_context(ca: str | None = None, client: tuple[str, str, str | None] | None = None, verify: bool = True) -> Any:
    """A context that trusts the CA (PEM text), or the system's; `client`: paths of certificate and key, and password.

    Fatal if they cannot be used.
    """
    try:
        context = ssl.create_default_context(cadata=ca)
        if not verify:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        if client is not None:
            context.load_cert_chain(*client)
    except (ssl.SSLError, ValueError, OSError) as error:
        raise Fatal(f"`schemaRegistry.tls` cannot be used: {error}") from error
    return context


def _explained(error: urllib.error.HTTPError) -> tuple[int, str]:
    try:
        told = json.loads(error.read())
        return int(told.get("error_code") or 0), str(told.get("message") or error.reason)
    except (ValueError, AttributeError, TypeError, OSError, HTTPException):
        return 0, str(error.reason)


def _quoted(subject: str) -> str:
    return urllib.parse.quote(subject, safe="")


def _short(text: str) -> str:
    return text if len(text) <= 1_000 else f"{text[:1_000]}…"
