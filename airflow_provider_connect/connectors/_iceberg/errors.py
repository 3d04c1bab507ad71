"""What pyiceberg and the stores below it raise, sorted by what to do about it."""

from __future__ import annotations

import re

import requests
from pyiceberg import exceptions as raised

from airflow_provider_connect.engine.errors import ConnectError, Fatal, Retryable

try:
    from sqlalchemy.exc import DBAPIError
except ImportError:  # only SQL catalogs need it

    class DBAPIError(Exception):  # type: ignore[no-redef]
        """Never raised."""


_PASSING = (
    raised.CommitFailedException,
    raised.CommitStateUnknownException,
    raised.ServiceUnavailableError,
    raised.ServerError,
    raised.TooManyRequestsError,
    raised.AuthorizationExpiredError,
    raised.WaitingForLockException,
    requests.ConnectionError,
    requests.Timeout,
)
_STORE_REFUSES = re.compile(
    r"ACCESS_DENIED|AccessDenied|Forbidden|INVALID_ACCESS_KEY|SIGNATURE_DOES_NOT_MATCH|HTTP 403"
)
_NO_WAREHOUSE = re.compile(r"Warehouse '.*' is not known")  # told by Nessie as an error of its own
_SCHEMES = re.compile(r"(\w+://)[^/\s:@]+:[^/\s@]+@")


class UncertainCommit(Retryable):
    """A commit was sent, and nobody said what became of it."""


def sort_error(error: Exception) -> ConnectError:
    """The ConnectError for whatever was raised. What nobody knows is Fatal."""
    if isinstance(error, ConnectError):
        return error
    text = _SCHEMES.sub(r"\1***@", f"{type(error).__name__}: {error}")
    if _NO_WAREHOUSE.search(text):
        return Fatal(f"{text}; check `warehouse`")
    if isinstance(error, _PASSING) or (isinstance(error, DBAPIError) and _passes(error)):
        return Retryable(text)
    if isinstance(error, raised.UnauthorizedError | raised.OAuthError):
        return Fatal(f"{text}; the catalog does not know us: check the token, user name and password")
    if isinstance(error, raised.ForbiddenError):
        return Fatal(f"{text}; the catalog knows us but does not allow this: ask for the right to it")
    if isinstance(error, requests.HTTPError) and error.response is not None:
        code = error.response.status_code
        if code in (401, 403):
            return Fatal(f"{text}; check the credentials")
        return Retryable(text) if code >= 500 or code == 429 else Fatal(text)
    if isinstance(error, raised.NoSuchTableError):
        return Fatal(f"{text}; create the table, or set `autoCreateTable: true` at the sink")
    if isinstance(error, raised.NoSuchNamespaceError):
        return Fatal(f"{text}; create the namespace, or set `autoCreateTable: true` at the sink")
    if isinstance(error, OSError):
        if isinstance(error, PermissionError) or _STORE_REFUSES.search(str(error)):
            return Fatal(f"{text}; the store of the table's files refuses us: check its credentials")
        return Fatal(text) if isinstance(error, FileNotFoundError) else Retryable(text)
    return Fatal(text)


def _passes(error: DBAPIError) -> bool:
    """Whether a database's error is one of its being busy or away."""
    return type(error).__name__ in ("OperationalError", "InterfaceError", "TimeoutError")
