"""Lookup: Airflow's connections, as the engine takes them."""

from __future__ import annotations

import json

from airflow.sdk import BaseHook
from airflow.sdk.exceptions import AirflowNotFoundException
from airflow.sdk.log import mask_secret

from airflow_provider_connect.engine.connections import Connection, MissingConnection, environment_variable
from airflow_provider_connect.get_provider_info import connection_types


def airflow_lookup(conn_id: str) -> Connection:
    """The Airflow connection `conn_id`, from wherever Airflow has it; its secrets are masked in logs from now on.

    MissingConnection if there is none.
    """
    try:
        found = BaseHook.get_connection(conn_id)
    except AirflowNotFoundException:
        raise MissingConnection(
            f"there is no Airflow connection '{conn_id}'; create it under Admin > Connections, or set "
            f"{environment_variable(conn_id)} where Airflow's workers run"
        ) from None
    parts = {
        "conn_type": found.conn_type,
        "host": found.host,
        "port": found.port,
        "login": found.login,
        "password": found.password,
        "schema": found.schema,
        "extra": found.extra_dejson,
    }
    connection = Connection.from_json(json.dumps(parts), conn_id)
    mask_secrets(connection)
    return connection


def mask_secrets(connection: Connection) -> None:
    """Have Airflow mask what the connection's form calls a password; Airflow itself goes by the names of fields."""
    if connection.password:
        mask_secret(connection.password)
    for known in connection_types():
        if known["connection-type"] == connection.conn_type:
            for name, field in known["conn-fields"].items():
                if field["schema"].get("format") == "password" and (value := connection.extra.get(name)):
                    mask_secret(value)
