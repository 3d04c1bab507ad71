"""PEM: certificates and keys that a configuration gives as content or as the path of a file."""

from __future__ import annotations

from pathlib import Path

from airflow_provider_connect.engine.errors import FlowError

_BEGIN = "-----BEGIN"


def pem(value: str) -> str:
    """The PEM text that `value` stands for.

    What begins with `-----BEGIN` is content; the path of an existing file is read; everything else is content too,
    and left to the TLS library to judge. FlowError if the file is there but cannot be read. The value itself never
    appears in an error.
    """
    if value.lstrip().startswith(_BEGIN):
        return value
    try:
        path = Path(value)
        if not path.is_file():
            return value
    except (OSError, ValueError):  # longer than a path can be, or with a NUL in it
        return value
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise FlowError(f"the PEM file '{path}' cannot be read: {error.strerror}") from error
    except UnicodeDecodeError:
        raise FlowError(f"'{path}' is not PEM but binary (DER?); convert it with `openssl x509 -inform der`") from None
