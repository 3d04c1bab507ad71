"""Connections: Airflow's connection, read without Airflow.

Inside Airflow the hooks look connections up; elsewhere `environment_lookup` reads `AIRFLOW_CONN_<ID>` (URI or JSON).
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit

from airflow_provider_connect.engine.errors import FlowError


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


ConnectionLookup = Callable[[str], Connection]
"""Finds a connection by id; FlowError if there is none."""
