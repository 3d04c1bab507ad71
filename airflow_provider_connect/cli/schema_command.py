"""`airflow-connect schema`: the JSON Schema of a flow document."""

from __future__ import annotations

import argparse
import json

from airflow_provider_connect.cli import OK
from airflow_provider_connect.engine.schema import flow_schema


def run(arguments: argparse.Namespace) -> int:
    """Print the schema; it knows the connectors that are installed here."""
    print(json.dumps(flow_schema(), indent=2))
    return OK
