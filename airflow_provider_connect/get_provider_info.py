"""What Airflow's providers manager asks for: an exception in here would stop every `airflow` command.

So it imports nothing but the standard library, and the connection forms come from `connection_types.json`, a file that
`python -m airflow_provider_connect.hooks` generates from the connectors (a test says when it is stale).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

CONNECTION_TYPES = Path(__file__).with_name("connection_types.json")


def get_provider_info() -> dict[str, Any]:
    """The provider's description, in the shape of Airflow's `provider_info.schema.json`."""
    return {
        "package-name": "airflow-provider-connect",
        "name": "Connect",
        "description": "Kafka Connect inside Airflow: flows of records between systems, exactly once.",
        "integrations": [
            {
                "integration-name": "Connect",
                "external-doc-url": "https://airflow.apache.org/docs/",
                "tags": ["service"],
            }
        ],
        "operators": [
            {"integration-name": "Connect", "python-modules": ["airflow_provider_connect.operators.dataflow"]}
        ],
        "hooks": [{"integration-name": "Connect", "python-modules": hook_modules(connection_types())}],
        "connection-types": connection_types(),
    }


def connection_types() -> list[dict[str, Any]]:
    """The connection types and their forms; none if the generated file cannot be read."""
    try:
        types: list[dict[str, Any]] = json.loads(CONNECTION_TYPES.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []
    return types


def hook_modules(types: list[dict[str, Any]]) -> list[str]:
    """The modules in which the hooks of these connection types are."""
    return sorted({str(known["hook-class-name"]).rpartition(".")[0] for known in types})
