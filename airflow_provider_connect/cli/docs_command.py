"""`airflow-connect docs`: the reference pages of connectors, from their Config models."""

from __future__ import annotations

import argparse
import sys

from airflow_provider_connect.cli import FAILED, OK
from airflow_provider_connect.docsgen import pages, write


def run(arguments: argparse.Namespace) -> int:
    """Write the pages, or with --check name those that are stale."""
    if not arguments.check:
        for path in write(arguments.folder):
            print(path)
        return OK
    code = OK
    for name, text in pages().items():
        path = arguments.folder / f"{name}.md"
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            print(f"{path} is stale; run: airflow-connect docs {arguments.folder}", file=sys.stderr)
            code = FAILED
    return code
