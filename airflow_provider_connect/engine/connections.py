"""Connections: Airflow's connection, read without Airflow.

Inside Airflow the hooks look connections up; elsewhere `environment_lookup` reads `AIRFLOW_CONN_<ID>`, which holds a
URI or JSON. Both are parsed as Airflow's task SDK parses them; only that empty parts are None here, that types with an
underscore keep their host, and that the `connect_` of our own types is no part of a URI, since no driver would take it.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import SplitResult, parse_qsl, quote, unquote, urlencode, urlsplit

from airflow_provider_connect.engine.errors import FlowError
from airflow_provider_connect.engine.registry import suggestion

_EXTRA = "__extra__"
_PREFIX = "AIRFLOW_CONN_"
_PARTS = {
    "host": "host",
    "port": "port",
    "login": "login",
    "username": "login",
    "password": "password",
    "schema": "schema",
    "database": "schema",
}
_WHOLE = ("uri", "connectionString", "connection_string")


class MissingConnection(FlowError):
    """There is no connection of this id."""


@dataclass(frozen=True, slots=True)
class Connection:
    """An Airflow connection. `repr` hides what is secret."""

    conn_id: str
    conn_type: str = ""
    host: str | None = None
    port: int | None = None
    login: str | None = None
    password: str | None = field(default=None, repr=False)
    schema: str | None = None
    extra: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @classmethod
    def from_text(cls, text: str, conn_id: str) -> Connection:
        """From the value of `AIRFLOW_CONN_<ID>`: JSON if it begins with a brace, else a URI."""
        text = text.strip()
        return cls.from_json(text, conn_id) if text.startswith("{") else cls.from_uri(text, conn_id)

    @classmethod
    def from_uri(cls, uri: str, conn_id: str) -> Connection:
        """From `type://login:password@host:port/schema?extra=…`, every part percent-encoded.

        The extra is the query, or the JSON in its `__extra__`. The host may have a protocol of its own
        (`http://https://host`).
        """
        conn_type, separator, rest = uri.partition("://")
        protocol, inner, _ = rest.partition("://")
        two = bool(inner) and not {"@", ":", "/", "?"} & set(protocol)
        if not separator:
            raise FlowError(f"connection '{conn_id}' is neither JSON nor a URI: type://login:password@host:port/schema")
        if uri.count("://") > (2 if two else 1):
            raise FlowError(f"connection '{conn_id}': '://' within a part of a URI must be percent-encoded")
        try:
            parts = urlsplit(rest if two else f"//{rest}")
            host, port = _host_of(parts), parts.port
        except ValueError:  # its text may quote the password
            raise FlowError(
                f"connection '{conn_id}' is no valid URI; the port must be a number, "
                "and '@', ':', '/' and '?' within a part must be percent-encoded"
            ) from None
        query = dict(parse_qsl(parts.query, keep_blank_values=True))
        return cls(
            conn_id=conn_id,
            conn_type=_normalized(conn_type),
            host=f"{protocol}://{host}" if two and host else host or None,
            port=port,
            login=unquote(parts.username) if parts.username else None,
            password=unquote(parts.password) if parts.password else None,
            schema=unquote(parts.path[1:]) or None,
            extra=_extra_of(query[_EXTRA], conn_id) if _EXTRA in query else query,
        )

    @classmethod
    def from_json(cls, text: str, conn_id: str) -> Connection:
        """From `{"conn_type": …, "host": …, "port": …, "login": …, "password": …, "schema": …, "extra": {…}}`."""
        try:
            parts = json.loads(text)
        except ValueError:
            raise FlowError(f"connection '{conn_id}' is not valid JSON") from None
        if not isinstance(parts, dict):
            raise FlowError(f"connection '{conn_id}' must be a JSON object")
        if isinstance(parts.get("uri"), str):
            return cls.from_uri(parts["uri"], conn_id)
        known = ("conn_id", "conn_type", "description", *dict.fromkeys(_PARTS.values()), "extra")
        for key in parts:
            if key not in known:
                raise FlowError(f"connection '{conn_id}' has an unknown part '{key}'{suggestion(key, known)}")
        port = parts.get("port") or None
        try:
            port = int(port) if port is not None else None
        except (TypeError, ValueError):
            raise FlowError(f"connection '{conn_id}': the port must be a number") from None
        texts = {}
        for key in ("conn_type", "host", "login", "password", "schema"):
            value = parts.get(key)
            if value is not None and not isinstance(value, str):
                raise FlowError(f"connection '{conn_id}': '{key}' must be text")
            texts[key] = value or None
        return cls(
            conn_id=conn_id,
            conn_type=_normalized(texts.pop("conn_type") or ""),
            port=port,
            extra=_extra_of(parts.get("extra"), conn_id),
            **texts,
        )

    def uri(self) -> str:
        """The connection as Airflow writes it: `type://login:password@host:port/schema?extra=…`.

        An extra that is more than texts becomes one parameter, `__extra__`.
        """
        query = urlencode(dict(self.extra))
        if dict(parse_qsl(query, keep_blank_values=True)) != self.extra:
            query = urlencode({_EXTRA: json.dumps(dict(self.extra))})
        return self._uri(query)

    def driver_uri(self) -> str:
        """The connection as drivers take it: each text, number and truth value of the extra is a parameter."""
        plain = {key: value for key, value in self.extra.items() if isinstance(value, str | int | float)}
        texts = {key: str(value).lower() if isinstance(value, bool) else value for key, value in plain.items()}
        return self._uri(urlencode(texts))

    def _uri(self, query: str) -> str:
        conn_type = self.conn_type.removeprefix("connect_").lower().replace("_", "-")
        protocol, separator, host = (self.host or "").rpartition("://")
        if separator and protocol == self.conn_type:
            protocol, separator, host = "", "", self.host or ""
        login = quote(self.login, safe="") if self.login is not None else ""
        password = f":{quote(self.password, safe='')}" if self.password is not None else ""
        authority = f"{login}{password}@" if login or password else ""
        where = quote(host, safe="")
        if self.port:
            where += f":{self.port}" if where or authority else f"@:{self.port}"
        if self.schema:
            where += f"/{quote(self.schema, safe='')}"
        start = f"{conn_type}://" if conn_type else "//"
        mark = "" if not query else "?" if self.schema else "/?"
        return f"{start}{protocol}{separator}{authority}{where}{mark}{query}"

    def part(self, name: str) -> Any:
        """What `FromConnection(name)` asks for; None if the connection does not have it."""
        if name.startswith("extra."):
            return self.extra.get(name.removeprefix("extra."))
        if name in _WHOLE:
            return self._whole(name)
        return getattr(self, _PARTS[name])

    def get(self, key: str) -> Any:
        """The value behind a SecretRef's `key`.

        `host`, `port`, `login` or `username`, `password`, `schema` or `database`; `uri` or `connectionString`; or a
        key of the extra, which is also asked where the connection leaves that part empty. FlowError if there is none.
        """
        value = self._whole(key) if key in _WHOLE else getattr(self, _PARTS[key]) if key in _PARTS else None
        if value is None:
            value = self.extra.get(key)
        if value is None:
            keys = self.keys()
            hint = suggestion(key, keys) if keys else "; it is empty"
            listed = f" (it has: {', '.join(keys)})" if "did you mean" in hint else ""
            raise FlowError(f"connection '{self.conn_id}' has no '{key}'{hint.replace('known', 'it has')}{listed}")
        return value

    def keys(self) -> list[str]:
        """The keys that `get` knows, without their values."""
        own = [key for key in ("host", "port", "login", "password", "schema") if getattr(self, key) is not None]
        whole = ["uri"] if own and "uri" not in self.extra else []
        return [*own, *whole, *(key for key in self.extra if key not in own)]

    def _whole(self, key: str) -> Any:
        """A connection string that somebody wrote into the extra is meant as it is; else it is put together."""
        for name in (key, *_WHOLE):
            if name in self.extra:
                return self.extra[name]
        return self.driver_uri() if self.host or self.login or self.schema else None


ConnectionLookup = Callable[[str], Connection]
"""Finds a connection by id; FlowError (best: MissingConnection) if there is none."""


def environment_variable(conn_id: str) -> str:
    """`AIRFLOW_CONN_` and the id in upper case, what is no letter, digit or underscore as underscore."""
    return _PREFIX + re.sub(r"[^A-Z0-9_]", "_", conn_id.upper())


def environment_lookup(conn_id: str) -> Connection:
    """The connection in `AIRFLOW_CONN_<ID>`: the id in upper case as it is, or with `.` and `-` as underscores.

    MissingConnection says which line to write if there is none.
    """
    name = environment_variable(conn_id)
    for variable in (_PREFIX + conn_id.upper(), name):
        if text := os.environ.get(variable):
            return Connection.from_text(text, conn_id)
    raise MissingConnection(
        f"there is no connection '{conn_id}'; define it as a URI or as JSON: export {name}="
        """'{"conn_type": "…", "host": "…", "login": "…", "password": "…", "extra": {}}'"""
    )


def _normalized(conn_type: str) -> str:
    return "postgres" if conn_type == "postgresql" else conn_type.replace("-", "_")


def _host_of(parts: SplitResult) -> str:
    """The host, unquoted; as it is written where it is a quoted path (a socket), whose case matters."""
    host = unquote(parts.hostname or "")
    if "/" in host:
        host = unquote(parts.netloc.rpartition("@")[2].partition(":")[0])
    return host


def _extra_of(extra: Any, conn_id: str) -> dict[str, Any]:
    if isinstance(extra, str) and extra:
        try:
            extra = json.loads(extra)
        except ValueError:
            raise FlowError(f"connection '{conn_id}': the extra is not valid JSON") from None
    if not extra:
        return {}
    if not isinstance(extra, dict):
        raise FlowError(f"connection '{conn_id}': the extra must be a JSON object")
    return extra
