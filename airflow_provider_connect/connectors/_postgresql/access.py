"""Access: a connection string, as people write it, turned into what libpq takes and what the session sets."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, urlsplit, urlunsplit

import psycopg
from psycopg import conninfo, pq

_KEYWORDS = frozenset(option.keyword.decode() for option in pq.Conninfo.get_defaults())
_OF_OTHER_DRIVERS = frozenset(
    (
        "binary_parameters",
        "default_query_exec_mode",
        "description_cache_capacity",
        "statement_cache_capacity",
        "statement_cache_mode",
        "prefer_simple_protocol",
        "disable_prepared_binary_result",
        "min_read_buffer_size",
    )
)
_KEEP_ALIVE = {
    "connect_timeout": "10",
    "keepalives": "1",
    "keepalives_idle": "30",
    "keepalives_interval": "10",
    "keepalives_count": "3",
    "tcp_user_timeout": "60000",
}


@dataclass(frozen=True, slots=True)
class Access:
    """Parameters for libpq, and settings for the session. `repr` shows neither."""

    parameters: dict[str, str] = field(repr=False)
    settings: dict[str, str] = field(repr=False)

    @classmethod
    def parse(cls, text: str) -> Access:
        """A URI, or `key=value` pairs. ValueError, without the text, if it is neither.

        As with Go's drivers, a URI parameter that libpq does not know is a setting of the session.
        """
        text = text.strip()
        if not text:
            raise ValueError("the connection string is empty; write postgres://user:password@host:5432/database")
        settings: dict[str, str] = {}
        known: dict[str, str] = {}
        if "://" in text or text.startswith("//"):
            text, parameters = _split(text)
            for name, value in parameters.items():
                if name in _KEYWORDS:
                    known[name] = value
                elif not name.startswith("pool_") and name not in _OF_OTHER_DRIVERS:
                    settings[name] = value
        try:
            parsed = {name: str(value) for name, value in conninfo.conninfo_to_dict(text).items()}
        except psycopg.Error:
            raise ValueError(
                "the connection string cannot be read; write postgres://user:password@host:5432/database?sslmode=… "
                "and percent-encode special characters of user and password (@ is %40, / is %2F, : is %3A)"
            ) from None
        return cls({**_KEEP_ALIVE, **parsed, **known}, settings)


def _split(uri: str) -> tuple[str, dict[str, str]]:
    """The URI without its parameters, and those. Airflow keeps an extra that is not plain text in `__extra__`."""
    try:
        parts = urlsplit(uri)
    except ValueError:
        raise ValueError("the connection string is no valid URI") from None
    if parts.scheme not in ("", "postgres", "postgresql", "postgresql+psycopg", "postgresql+psycopg2"):
        raise ValueError(f"the connection string begins with '{parts.scheme}://', but must with 'postgres://'")
    parameters = dict(parse_qsl(parts.query, keep_blank_values=True))
    extra = parameters.pop("__extra__", None)
    if extra:
        try:
            decoded = json.loads(extra)
        except ValueError:
            raise ValueError("the connection's extra is no valid JSON") from None
        for name, value in decoded.items():
            if isinstance(value, str | int):
                parameters.setdefault(name, str(value))
    return urlunsplit(("postgresql", parts.netloc, parts.path, "", "")), parameters
