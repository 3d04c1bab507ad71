"""Session name: how the sessions of a flow's sink are told from all others on the server."""

from __future__ import annotations

import hashlib


def session_name(flow: str) -> str:
    """The application name of the flow's sink: readable, unique per flow, and short enough never to be cut."""
    readable = "".join(character if character.isascii() and character.isprintable() else "_" for character in flow)
    return f"airflow-connect {readable[:24]} {hashlib.sha256(flow.encode()).hexdigest()[:8]}"
