"""Logs: the standard `logging` under `airflow_provider_connect.*`, formatted for the command line, secrets masked.

Engine and connectors log with `logging.getLogger(__name__)` and put values into `extra`:
`log.info("split claimed", extra={"split": "orders/0"})`. Inside Airflow the task's own handlers print that; on the
command line `configure` does.
"""

from __future__ import annotations

import json
import logging
import re
import sys
import threading
import time
from collections.abc import Callable, Mapping
from typing import IO, Any, Literal
from urllib.parse import quote, quote_plus

from pydantic import BaseModel, SecretBytes, SecretStr

LogFormat = Literal["text", "json"]

ROOT = "airflow_provider_connect"
MASK = "***"
SHORTEST_SECRET = 4
"""A shorter secret is not masked: it would black out the log, and keeps nothing from anybody."""


class _Secrets:
    """What must not be shown: the registered secrets, and what looks like one."""

    # The password of a URL; greedy, because a password may hold '@' itself.
    _URL = re.compile(r"(\b[A-Za-z][A-Za-z0-9+.\-]*://[^\s/:@'\"]*):[^\s/'\"]+@")
    # password=... of a libpq connection string, of a query or of librdkafka's properties
    _PAIR = re.compile(
        r"(?i)([\w.\-]*(?:password|passwd|passphrase|secret))=('(?:[^'\\]|\\.)*'|\"[^\"]*\"|[^\s&,;'\"]+)"
    )

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: set[str] = set()
        self._pattern: re.Pattern[str] | None = None

    def add(self, secret: str) -> None:
        spellings = {secret, quote(secret, safe=""), quote_plus(secret), json.dumps(secret)[1:-1], repr(secret)[1:-1]}
        with self._lock:
            if spellings <= self._known:
                return
            self._known |= spellings
            longest_first = sorted(self._known, key=len, reverse=True)
            self._pattern = re.compile("|".join(map(re.escape, longest_first)))

    def redact(self, text: str) -> str:
        pattern = self._pattern
        if pattern is not None:
            text = pattern.sub(MASK, text)
        text = self._URL.sub(rf"\1:{MASK}@", text)
        return self._PAIR.sub(rf"\1={MASK}", text)


_secrets = _Secrets()


def mask(secret: str | SecretStr | None) -> None:
    """Never show `secret` in a log of this process, however it is quoted in a URL or in JSON."""
    value = secret.get_secret_value() if isinstance(secret, SecretStr) else secret
    if value and len(value) >= SHORTEST_SECRET:
        _secrets.add(value)


def mask_secrets_of(value: Any) -> None:
    """`mask` every pydantic secret inside a configuration (a model, mapping or list, however deep)."""
    if isinstance(value, SecretStr):
        mask(value)
    elif isinstance(value, SecretBytes):
        mask(value.get_secret_value().decode("utf-8", "replace"))
    elif isinstance(value, BaseModel):
        for name in type(value).model_fields:
            mask_secrets_of(getattr(value, name))
    elif isinstance(value, Mapping):
        for item in value.values():
            mask_secrets_of(item)
    elif isinstance(value, (list, tuple, set, frozenset)):
        for item in value:
            mask_secrets_of(item)


def redact(text: str) -> str:
    """`text` without registered secrets, passwords in URLs (`user:password@`) and `password=` pairs."""
    return _secrets.redact(text)


class MaskSecrets(logging.Filter):
    """Masks secrets in a record's message, extra values and traceback. Add it to a handler that is not ours."""

    _render = logging.Formatter()

    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = redact(record.getMessage()), None
        for key, value in fields_of(record).items():
            setattr(record, key, _redact_value(value))
        if record.exc_info and not record.exc_text:
            record.exc_text = self._render.formatException(record.exc_info)
        if record.exc_text:
            record.exc_text = redact(record.exc_text)
        if record.stack_info:
            record.stack_info = redact(record.stack_info)
        return True


_STANDARD = set(vars(logging.makeLogRecord({}))) | {"message", "asctime"}


def fields_of(record: logging.LogRecord) -> dict[str, Any]:
    """What the caller gave as `extra`."""
    return {key: value for key, value in vars(record).items() if key not in _STANDARD}


class TextFormatter(logging.Formatter):
    """`time=… level=… logger=… msg=… key=value …`, one line per record; a traceback follows on lines of its own."""

    def format(self, record: logging.LogRecord) -> str:
        pairs = {"time": _time(record), "level": record.levelname.lower(), "logger": record.name}
        pairs["msg"] = record.getMessage()
        line = " ".join(f"{key}={_quoted(value)}" for key, value in {**pairs, **fields_of(record)}.items())
        return redact("\n".join([line, *_trace(self, record)]))


class JsonFormatter(logging.Formatter):
    """One JSON object per line: time, level, logger, msg, the extra values, and `error` with the traceback."""

    def format(self, record: logging.LogRecord) -> str:
        fields: dict[str, Any] = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "msg": record.getMessage(),
        }
        fields = _redact_value({**fields, **fields_of(record)})
        trace = _trace(self, record)
        if trace:
            fields["error"] = redact("\n".join(trace))
        return json.dumps(fields, default=lambda value: redact(str(value)), ensure_ascii=False)


FORMATTERS: dict[LogFormat, Callable[[], logging.Formatter]] = {"text": TextFormatter, "json": JsonFormatter}


def configure(log_format: LogFormat = "text", level: int | str = "INFO", stream: IO[str] | None = None) -> None:
    """Print this package's logs to `stream` (default: standard error) from now on; replaces what was set before.

    For programs of our own only. Other libraries' loggers, and the root logger, are left as they are.
    """
    handler = logging.StreamHandler(stream if stream is not None else sys.stderr)
    handler.setFormatter(FORMATTERS[log_format]())
    logger = logging.getLogger(ROOT)
    for old in logger.handlers[:]:
        logger.removeHandler(old)
    logger.addHandler(handler)
    logger.setLevel(level)
    logger.propagate = False


class CommitLog:
    """The line about commits: at most one every `every_seconds`, summing up what came since; all of them at DEBUG.

    One per lane, called by its writer thread. `close` prints what has not been printed yet.
    """

    def __init__(
        self,
        logger: logging.Logger,
        *,
        every_seconds: float = 1.0,
        clock: Callable[[], float] = time.monotonic,
        **fields: Any,
    ) -> None:
        self._logger = logger
        self._every = every_seconds
        self._clock = clock
        self._fields = fields
        self._since = clock()
        self._next = float("-inf")
        self._clear()

    def _clear(self) -> None:
        self._records = self._bytes = self._commits = 0

    def committed(self, records: int, size: int) -> None:
        """A commit of `records` source records and `size` bytes."""
        self._records += records
        self._bytes += size
        self._commits += 1
        if self._clock() >= self._next or self._logger.isEnabledFor(logging.DEBUG):
            self._print()

    def close(self) -> None:
        """The lane ends."""
        if self._commits:
            self._print()

    def _print(self) -> None:
        now = self._clock()
        seconds = now - self._since
        totals = {"records": self._records, "bytes": self._bytes, "commits": self._commits}
        if seconds > 0:
            totals["records_per_s"] = round(self._records / seconds)
        self._logger.info("committed", extra={**self._fields, **totals})
        self._clear()
        self._since = now
        self._next = now + self._every


def _time(record: logging.LogRecord) -> str:
    seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
    return f"{seconds}.{int(record.msecs):03d}Z"


_PLAIN = re.compile(r"[^\s\"=\\\x00-\x1f\x7f]+")


def _quoted(value: Any) -> str:
    text = str(value)
    # Quoted as JSON, so that a line break in a value cannot forge a line of the log.
    return text if _PLAIN.fullmatch(text) else json.dumps(text, ensure_ascii=False)


def _redact_value(value: Any) -> Any:
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, Mapping):
        return {redact(str(key)): _redact_value(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_redact_value(item) for item in value]
    if value is None or isinstance(value, (bool, int, float)):
        return value
    return redact(str(value))


def _trace(formatter: logging.Formatter, record: logging.LogRecord) -> list[str]:
    lines = []
    if record.exc_info and not record.exc_text:
        lines.append(formatter.formatException(record.exc_info))
    elif record.exc_text:
        lines.append(record.exc_text)
    if record.stack_info:
        lines.append(formatter.formatStack(record.stack_info))
    return lines
