"""Write `connection_types.json` anew: the connection types of all hooks, with forms made from the connectors.

python -m airflow_provider_connect.hooks
"""

from __future__ import annotations

import importlib
import json
import pkgutil
from collections.abc import Iterator
from typing import Any

from airflow_provider_connect import hooks
from airflow_provider_connect.engine import registry
from airflow_provider_connect.forms import connection_form
from airflow_provider_connect.get_provider_info import CONNECTION_TYPES
from airflow_provider_connect.hooks.connector import ConnectorHook


def hook_classes() -> Iterator[type[ConnectorHook[Any]]]:
    """The hook of every connector that has one."""
    for name in sorted(module.name for module in pkgutil.iter_modules(hooks.__path__)):
        if name not in registry.names("connectors"):
            continue
        module = importlib.import_module(f"{hooks.__name__}.{name}")
        own = [found for found in vars(module).values() if getattr(found, "__module__", "") == module.__name__]
        yield from (found for found in own if isinstance(found, type) and issubclass(found, ConnectorHook))


def connection_type(hook: type[ConnectorHook[Any]]) -> dict[str, Any]:
    """The connection type of a hook, as provider info has it."""
    module = registry.module("connectors", hook.connector)
    roles = [getattr(module, role, None) for role in ("source", "sink")]
    form = connection_form(connector.config_type for connector in roles if connector is not None)
    form["ui-field-behaviour"]["relabeling"] |= hook.relabeling
    return {
        "connection-type": hook.conn_type,
        "hook-name": hook.hook_name,
        "hook-class-name": f"{hook.__module__}.{hook.__qualname__}",
        **form,
    }


def rendered() -> str:
    """The content of `connection_types.json`."""
    return json.dumps([connection_type(hook) for hook in hook_classes()], indent=2) + "\n"


if __name__ == "__main__":
    CONNECTION_TYPES.write_text(rendered(), encoding="utf-8")
