"""Client: statements by Trino's HTTP protocol.

A client of our own rather than the DB-API's cursor, for three reasons: pages of results become Arrow columns without a
pass over their rows; every request is sent with credentials as fresh as they must be, also by plain HTTP; and only
requests that cannot do a thing twice are sent twice.
"""

from __future__ import annotations

import base64
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote, urlsplit

import orjson
import urllib3
import zstandard

from airflow_provider_connect.connectors.trino.access import http_pool
from airflow_provider_connect.connectors.trino.config import TrinoConfig
from airflow_provider_connect.connectors.trino.errors import statement_error
from airflow_provider_connect.connectors.trino.tokens import claimed_user, unreachable
from airflow_provider_connect.connectors.trino.types import Column, Type
from airflow_provider_connect.engine.errors import Fatal, Retryable

SOURCE = "airflow-connect"
ENCODINGS = "json+zstd,json"
"""Of the spooling protocol; a server without it answers with plain pages."""

_PAUSES = (0.1, 0.3, 1.0)
"""Before a request that failed on its way is sent again."""
_BUSY = frozenset((429, 502, 503, 504))


@dataclass(frozen=True, slots=True)
class Page:
    """Some rows of a result; each a list of JSON values."""

    rows: list[list[Any]]


class Statement:
    """A statement that runs. Its pages are read in order; what is not wanted any more must be cancelled."""

    def __init__(self, client: Client, answer: dict[str, Any]) -> None:
        self._client = client
        self.columns: tuple[Column, ...] | None = None
        self._next: str | None = None
        self._segments: list[Mapping[str, Any]] = []
        self._encoding = ""
        self._ready: list[list[Any]] = []
        self._take(answer)

    @property
    def done(self) -> bool:
        """Whether everything has been read."""
        return self._next is None and not self._segments and not self._ready

    def fetch(self, timeout: float) -> Page | None:
        """The next page, or None if there is none within about `timeout` seconds (at most one) or at the end."""
        if not self._ready and not self._segments and self._next is not None:
            self._take(self._client.poll(self._next, min(max(timeout, 0.001), 1.0)))
        if not self._ready and self._segments:
            # Parsed first and acknowledged then: an acknowledged segment is gone.
            segment = self._segments[0]
            self._ready = self._client.rows_of(segment, self._encoding)
            self._client.acknowledge(segment)
            self._segments.pop(0)
        if not self._ready:
            return None
        rows, self._ready = self._ready, []
        return Page(rows)

    def pages(self) -> Iterator[Page]:
        """All pages that are left."""
        while not self.done:
            page = self.fetch(1.0)
            if page is not None:
                yield page

    def cancel(self) -> None:
        """Have the server give it up, as far as it answers."""
        if self._next is not None:
            self._client.cancel(self._next)
            self._next = None

    def _take(self, answer: dict[str, Any]) -> None:
        if error := answer.get("error"):
            self._next = None
            raise statement_error(error)
        if self.columns is None and answer.get("columns"):
            self.columns = tuple(Column(c["name"], Type.read(c["typeSignature"])) for c in answer["columns"])
        data = answer.get("data")
        if isinstance(data, dict):
            self._encoding = str(data["encoding"])
            self._segments += data["segments"]
        elif data:
            self._ready = data
        self._next = answer.get("nextUri")


class Client:
    """Access to one Trino, as configured. Used by one thread."""

    def __init__(self, config: TrinoConfig, source: str = SOURCE, session: Mapping[str, str] | None = None) -> None:
        self._url = config.url
        self._what = f"Trino at {self._url}"
        self._credentials = config.credentials()
        self._pool = http_pool(self._url, config.tls, self._what)
        properties = {**config.session_properties, **(session or {})}
        self._headers = {
            "User-Agent": SOURCE,
            "X-Trino-Source": source,
            "X-Trino-Catalog": quote(config.catalog),
            "X-Trino-Schema": quote(config.schema_name),
            "X-Trino-Time-Zone": "UTC",
            "X-Trino-Client-Capabilities": "PARAMETRIC_DATETIME,SESSION_AUTHORIZATION",
            "X-Trino-Query-Data-Encoding": ENCODINGS,
        }
        if properties:
            pairs = [f"{name}={quote(str(value), safe='')}" for name, value in properties.items()]
            self._headers["X-Trino-Session"] = ",".join(pairs)
        self._user = config.run_as

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Free connections. What runs goes on at the server."""
        self._pool.clear()
        self._credentials.close()

    # --- statements

    def start(self, sql: str) -> Statement:
        """Send a statement."""
        # Sent once: whether a statement whose answer is lost was taken, only the server knows.
        answer = self._request("POST", f"{self._url}/v1/statement", sql.encode(), {}, again=False)
        return Statement(self, _parsed(answer, self._what))

    def run(self, sql: str) -> list[list[Any]]:
        """Run a statement to its end; returns all its rows."""
        statement = self.start(sql)
        try:
            return [row for page in statement.pages() for row in page.rows]
        except BaseException:
            statement.cancel()
            raise

    def describe(self, sql: str) -> tuple[Column, ...]:
        """The columns of a query, without its rows."""
        statement = self.start(sql)
        while not statement.done and statement.columns is None:
            statement.fetch(1.0)
        statement.cancel()
        return statement.columns or ()

    # --- requests

    def poll(self, uri: str, wait: float) -> dict[str, Any]:
        """What has become of a statement."""
        answer = self._request("GET", f"{uri}?maxWait={int(wait * 1000)}ms", None, {}, again=True)
        return _parsed(answer, self._what)

    def cancel(self, uri: str) -> None:
        """Give a statement up; whether that arrives does not matter."""
        try:
            self._request("DELETE", uri, None, {}, again=False)
        except (Fatal, Retryable):
            return

    def rows_of(self, segment: Mapping[str, Any], encoding: str) -> list[list[Any]]:
        """The rows of a segment of the spooling protocol."""
        data = base64.b64decode(segment["data"]) if segment["type"] == "inline" else self._segment(segment)
        if encoding == "json+zstd" and "uncompressedSize" in segment["metadata"]:
            data = zstandard.ZstdDecompressor().decompress(data)
        rows: list[list[Any]] = orjson.loads(data)
        return rows

    def _segment(self, segment: Mapping[str, Any]) -> bytes:
        """From where the server says: itself, or an object store whose address is signed, which gets no credentials."""
        uri = str(segment["uri"])
        headers = {name: values[0] for name, values in (segment.get("headers") or {}).items()}
        if self._is_own(uri):
            return self._request("GET", uri, None, headers, again=True).data
        for pause in (*_PAUSES, None):
            try:
                answer = self._pool.request("GET", uri, headers=headers, redirect=False)
                if answer.status == 200:
                    return answer.data
                problem = f"HTTP {answer.status}"
            except urllib3.exceptions.HTTPError as error:
                problem = str(error).split("?", 1)[0][:300]
            if pause is not None:
                time.sleep(pause)
        raise Retryable(f"a segment of the result cannot be had from {urlsplit(uri).netloc}: {problem}")

    def acknowledge(self, segment: Mapping[str, Any]) -> None:
        """The server may delete a segment. It would in time, so a failure does not matter."""
        uri = segment.get("ackUri")
        if uri is None or not self._is_own(str(uri)):
            return
        try:
            self._request("GET", str(uri), None, {}, again=False)
        except (Fatal, Retryable):
            return

    def _request(
        self, method: str, uri: str, body: bytes | None, headers: Mapping[str, str], *, again: bool
    ) -> urllib3.BaseHTTPResponse:
        """A request with credentials. `again`: it may be sent again, however it failed."""
        self._check_origin(uri)
        renewed = False
        for pause in (*(_PAUSES if again else ()), None):
            try:
                answer = self._send(method, uri, body, headers)
                if answer.status == 401 and self._credentials.renewable and not renewed:
                    renewed = True
                    self._credentials.renew()
                    answer = self._send(method, uri, body, headers)
            except urllib3.exceptions.HTTPError as error:
                problem: Fatal | Retryable = unreachable(self._what, error)
            else:
                if answer.status in (200, 204):
                    return answer
                problem = self._refused(answer, asked=method != "POST")
            if isinstance(problem, Fatal) or pause is None:
                raise problem
            time.sleep(pause)
        raise AssertionError("the last attempt returns or raises")

    def _send(self, method: str, uri: str, body: bytes | None, headers: Mapping[str, str]) -> urllib3.BaseHTTPResponse:
        sent = {**self._headers, **headers}
        authorization = self._credentials.authorization()
        if authorization is not None:
            sent["Authorization"] = authorization
        if user := self._user or self._told_user(authorization):
            sent["X-Trino-User"] = user
        if body is not None:
            sent["Content-Type"] = "text/plain; charset=utf-8"
        return self._pool.request(method, uri, body=body, headers=sent, redirect=False)

    def _told_user(self, authorization: str | None) -> str | None:
        """By HTTPS the server knows who we are from our credentials, by HTTP it may not look at them."""
        if authorization is not None and self._url.startswith("https:"):
            return None
        return claimed_user(authorization) or SOURCE

    def _is_own(self, uri: str) -> bool:
        return _origin(self._url) == _origin(uri)

    def _check_origin(self, uri: str) -> None:
        """Credentials go nowhere else than to the configured server."""
        if not self._is_own(uri):
            parts = urlsplit(uri)
            raise Fatal(
                f"{self._what} refers to {parts.scheme}://{parts.netloc}, to which no credentials are sent: set"
                " `serverURL` to that, or `http-server.process-forwarded=true` at a Trino behind a proxy"
            )

    def _refused(self, answer: urllib3.BaseHTTPResponse, *, asked: bool) -> Fatal | Retryable:
        text = " ".join(answer.data[:300].decode(errors="replace").split()) if answer.data else answer.reason or ""
        message = f"{self._what} answers HTTP {answer.status}: {text}"
        if answer.status in _BUSY or answer.status >= 500:
            after = answer.headers.get("Retry-After", "")
            return Retryable(message, retry_after=float(after) if after.isdigit() else None)
        if answer.status in (404, 410) and asked:
            return Retryable(f"{message}; the statement is not known there any more")
        if answer.status == 401:
            return Fatal(f"{message}; check `username` and `password`, `token` or `keycloak`")
        if answer.status == 403:
            return Fatal(f"{message}; this account may not do that")
        if 300 <= answer.status < 400:
            return Fatal(f"{self._what} redirects to {answer.headers.get('Location')}; set `serverURL` to that")
        return Fatal(f"{message}; check `serverURL`" if answer.status == 404 else message)


def _origin(url: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port or {"http": 80, "https": 443}.get(parts.scheme)


def _parsed(answer: urllib3.BaseHTTPResponse, what: str) -> dict[str, Any]:
    if not answer.data.strip():
        raise Retryable(f"{what} gives an empty answer")  # seen of servers under load
    try:
        found = orjson.loads(answer.data)
    except orjson.JSONDecodeError:
        found = None
    if not isinstance(found, dict):
        raise Fatal(f"{what} does not answer as Trino does; check `serverURL`")
    return found
