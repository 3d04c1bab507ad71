"""Access: a connection string, as people write it, taken apart: protocol, address, account, TLS and time-outs."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Literal, cast, get_args
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

Protocol = Literal["http", "native"]
Compression = Literal["lz4", "zstd", "none"]

_PORTS: dict[tuple[Protocol, bool], int] = {
    ("http", False): 8123,
    ("http", True): 8443,
    ("native", False): 9000,
    ("native", True): 9440,
}
_SCHEMES: dict[str, tuple[Protocol, bool]] = {
    "http": ("http", False),
    "https": ("http", True),
    "clickhouse+http": ("http", False),
    "clickhouse+https": ("http", True),
    "clickhouse": ("native", False),
    "clickhouses": ("native", True),
    "tcp": ("native", False),
    "native": ("native", False),
}
_IGNORED = frozenset(
    (
        "max_open_conns", "max_idle_conns", "conn_max_lifetime", "connection_open_strategy", "block_buffer_size",
        "compress_level", "client_info_product", "debug",
    )
)  # fmt: skip
"""What Go's driver takes to manage its pool and buffers, which has no counterpart here."""
_OPTIONS = (
    "username", "password", "database", "secure", "skip_verify", "dial_timeout", "read_timeout", "compress",
    "max_execution_time",
)  # fmt: skip
_SYNONYMS = {"user": "username", "connect_timeout": "dial_timeout", "send_receive_timeout": "read_timeout"}
_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ns|us|µs|ms|s|m|h)")
_EXAMPLE = "clickhouse://user:password@host:9000/database or http://user:password@host:8123/database"


@dataclass(frozen=True, slots=True)
class Access:
    """How to reach a server and as whom. `repr` does not show the password."""

    protocol: Protocol
    host: str
    port: int
    secure: bool
    verify: bool
    database: str
    username: str
    password: str = field(repr=False)
    dial_timeout: float
    read_timeout: float
    compression: Compression
    settings: dict[str, str]

    @property
    def address(self) -> str:
        """Protocol, host and port, for messages."""
        return f"{self.protocol}{'s' if self.secure else ''}://{self.host}:{self.port}"

    @classmethod
    def parse(cls, text: str) -> Access:
        """A connection string. ValueError, which never quotes it, says what is wrong and which options there are."""
        parts, options = _split(text)
        protocol, secure = _SCHEMES[parts.scheme]
        secure = _truth("secure", options["secure"]) if "secure" in options else secure
        if parts.scheme.endswith("https") and not secure:
            raise ValueError("the connection string begins with https://, but says secure=false")
        try:
            port = parts.port
        except ValueError:
            raise ValueError("the port in the connection string is no number between 0 and 65535") from None
        limit = options.get("max_execution_time")
        settings = {"max_execution_time": f"{_seconds('max_execution_time', limit):.0f}"} if limit else {}
        return cls(
            protocol=protocol,
            host=parts.hostname or "localhost",
            port=port or _PORTS[protocol, secure],
            secure=secure,
            verify=not _truth("skip_verify", options.get("skip_verify", "false")),
            database=unquote(parts.path.strip("/")) or options.get("database", "") or "default",
            username=unquote(parts.username or "") or options.get("username", "") or "default",
            password=unquote(parts.password) if parts.password is not None else options.get("password", ""),
            dial_timeout=_seconds("dial_timeout", options.get("dial_timeout", "10s")),
            read_timeout=_seconds("read_timeout", options.get("read_timeout", "5m")),
            compression=_compression(options.get("compress", "lz4")),
            settings=settings,
        )


def _split(text: str) -> tuple[SplitResult, dict[str, str]]:
    text = text.strip()
    if not text:
        raise ValueError(f"the connection string is empty; write {_EXAMPLE}")
    # An Airflow connection whose host names the protocol.
    inner = text.removeprefix("clickhouse://")
    text = inner if inner.partition("://")[0] in _SCHEMES and "://" in inner else text
    text = f"clickhouse:{text}" if text.startswith("//") else text
    try:
        parts = urlsplit(text)
        given = dict(parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query)))
    except ValueError:
        raise ValueError(f"the connection string is no valid URI; write {_EXAMPLE}") from None
    if parts.scheme not in _SCHEMES or not parts.netloc:
        raise ValueError(
            f"the connection string must begin with http://, https:// (port 8123, 8443) or clickhouse:// (the native"
            f" protocol, port 9000, or 9440 with secure=true); write {_EXAMPLE}"
        )
    if "," in parts.netloc.rpartition("@")[2]:
        raise ValueError("the connection string names several hosts; name one (or a load balancer in front of them)")
    options: dict[str, str] = {}
    for name, value in given.items():
        known = _SYNONYMS.get(name, name)
        if known in _OPTIONS:
            options[known] = value
        elif name not in _IGNORED:
            raise ValueError(
                f"the connection string has an unknown option '{name}'; there are: {', '.join(_OPTIONS)}"
                " (settings of the server go into `settings`)"
            )
    return parts, options


def _truth(name: str, value: str) -> bool:
    if value.lower() in {"true", "1", "yes"}:
        return True
    if value.lower() in {"false", "0", "no"}:
        return False
    raise ValueError(f"{name} in the connection string must be true or false")


def _seconds(name: str, value: str) -> float:
    """`10s`, `500ms`, `1m30s`, or a number of seconds."""
    parts = _DURATION.findall(value)
    if parts and "".join(number + unit for number, unit in parts) == value:
        seconds = sum(float(number) * _UNITS[unit] for number, unit in parts)
    else:
        try:
            seconds = float(value)
        except ValueError:
            seconds = 0.0
    if not 0 < seconds < 1e9:
        raise ValueError(f"{name} in the connection string must be a duration such as 10s, 500ms or 1m30s")
    return seconds


def _compression(value: str) -> Compression:
    choice = {"true": "lz4", "1": "lz4", "false": "none", "0": "none"}.get(value.lower(), value.lower())
    for known in get_args(Compression):
        if choice == known:
            return cast(Compression, choice)
    raise ValueError("compress in the connection string must be lz4, zstd, none, true or false")
