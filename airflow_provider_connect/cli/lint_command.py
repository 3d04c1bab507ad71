"""`airflow-connect lint`: everything that is wrong with flows, one line each, as `file:line: path: message`."""

from __future__ import annotations

import argparse

from airflow_provider_connect.cli import OK, WRONG
from airflow_provider_connect.engine.errors import FlowError
from airflow_provider_connect.engine.flow import DataFlow


def run(arguments: argparse.Namespace) -> int:
    """Print the problems of all files; 2 if there are any."""
    code = OK
    for path in arguments.flows:
        try:
            DataFlow.load_all(path)
        except FlowError as error:
            print(error)
            code = WRONG
    return code
