"""Errors of both clients, sorted by ClickHouse's code: what passes, what a record did, what a person must mend."""

from __future__ import annotations

import re
import ssl
import sys

from clickhouse_connect.driver import exceptions as http_errors
from urllib3 import exceptions as urllib3_errors

from airflow_provider_connect.engine.errors import ConnectError, Fatal, InvalidRecord, Retryable

_RETRYABLE = frozenset(
    (
        *(3, 95, 96, 198, 203, 209, 210, 279, 297),  # the network, connections, names
        *(159, 160, 202, 236, 364, 394, 473),  # time-outs, too many queries, cancelled, a deadlock avoided
        *(204, 241, 243, 274, 439),  # memory, disk, threads
        252,  # TOO_MANY_PARTS: merges have to catch up
        *(225, 242, 254, 285, 286, 289, 319, 335, 341, 369, 999),  # replicas, quorums, Keeper
        *(415, 425, 499, 745),  # servers that have lost touch or are overloaded, S3
    )
)
_INVALID_RECORD = frozenset(
    (
        *(6, 26, 27, 32, 33, 38, 41, 72, 117, 130, 376, 441, 467, 675, 676, 691),  # texts that are no such value
        *(69, 70, 128, 131, 321, 349, 407),  # values that do not fit
        *(395, 469),  # throwIf, CONSTRAINT
    )
)
_VIEW = re.compile(r"while pushing to view", re.IGNORECASE)
_ROW = re.compile(r"\(at row (\d+)\)")
_STACK = re.compile(r"\s*Stack trace:.*", re.DOTALL)
_NOISE = re.compile(
    r"Received ClickHouse exception, code: \d+, server response: |Code: \d+\. |DB::Exception: |DB::"
    r"|\s*\(version [^()]*(\([^)]*\))?[^()]*\)|\s*\(for url [^)]*\)|\s*\(at row \d+\)\s*|: While executing \w+"
)
_EXCERPT = re.compile(r" before: '.*?':?(?= |$)", re.DOTALL)


def sort_error(error: Exception) -> ConnectError:
    """What kind of error this is; one that neither client nor server nor network raised is Fatal."""
    if isinstance(error, ConnectError):
        return error
    found = code_of(error)
    text = _message(error)
    if found is not None:
        return _by_code(found, text)
    if (cause := _certificate_error(error)) is not None:
        return Fatal(f"the server's certificate is not accepted: {cause}")
    if _is_native(error, "UnexpectedPacketFromServerError", "UnknownPacketFromServerError"):
        return Fatal(f"what answers does not speak the native protocol (port 9000 or 9440 does): {text}")
    network = (http_errors.OperationalError, urllib3_errors.HTTPError, OSError, EOFError)
    if isinstance(error, network) or _is_native(error, "Error"):
        return Retryable(text)
    return Fatal(text)


def code_of(error: BaseException) -> int | None:
    """ClickHouse's code of an error that the server raised."""
    known = isinstance(error, http_errors.Error) or _is_native(error, "ServerException")
    code = getattr(error, "code", None) if known else None
    return int(code) if code is not None else None


def _is_native(error: BaseException, *names: str) -> bool:
    """Whether an error is one of the native driver's classes; who speaks HTTP never loads that driver."""
    driver = sys.modules.get("clickhouse_driver.errors")
    return driver is not None and isinstance(error, tuple(getattr(driver, name) for name in names))


def row_of(error: BaseException) -> int | None:
    """The row that the server could not parse, counted from 0, where it says so."""
    found = _ROW.search(str(error))
    return int(found[1]) - 1 if found else None


def _by_code(code: int, text: str) -> ConnectError:
    if code in _RETRYABLE:
        return Retryable(text)
    if code in _INVALID_RECORD:
        if _VIEW.search(text):
            # The rows are in the table by now; bisecting would write them again.
            return Fatal(f"a materialized view refuses rows that its table took; mend or drop the view: {text}")
        return InvalidRecord(text)
    return Fatal(text)


def _message(error: Exception) -> str:
    """The server's words in one line, without stack, version and the data they quote."""
    raw = getattr(error, "message", error) if _is_native(error, "ServerException") else error
    text = _NOISE.sub("", _EXCERPT.sub("", _STACK.sub("", str(raw))))
    code = code_of(error)
    line = " ".join(text.split()).strip() or type(error).__name__
    return f"{line} (code {code})" if code is not None else line


def _certificate_error(error: BaseException | None) -> BaseException | None:
    while error is not None:
        if isinstance(error, ssl.SSLCertVerificationError):
            return error
        if "CERTIFICATE_VERIFY_FAILED" in str(error) and error.__cause__ is None and error.__context__ is None:
            return error
        error = error.__cause__ or error.__context__
    return None
