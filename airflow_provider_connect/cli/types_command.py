"""`airflow-connect types`: which connectors there are, and what they promise."""

from __future__ import annotations

import argparse
import json
from typing import Any

from airflow_provider_connect.cli import OK
from airflow_provider_connect.engine.errors import FlowError
from airflow_provider_connect.engine.offer import Offer, offers

_NARROWEST = 12


def run(arguments: argparse.Namespace) -> int:
    """Print one line per connector, or a JSON list."""
    found = offers()
    if arguments.json:
        print(json.dumps([_as_dict(name, offer) for name, offer in found.items()], indent=2))
        return OK
    width = max(_NARROWEST, *map(len, found))
    for name, offer in found.items():
        if isinstance(offer, FlowError):
            print(f"{name:<{width}}  {offer}")
        else:
            guarantees = " or ".join(offer.guarantees)
            print(f"{name:<{width}}  {' and '.join(offer.roles):<15}  {guarantees}".rstrip())
    return OK


def _as_dict(name: str, offer: Offer | FlowError) -> dict[str, Any]:
    if isinstance(offer, FlowError):
        return {"type": name, "available": False, "remedy": str(offer)}
    return {
        "type": name,
        "available": True,
        "roles": list(offer.roles),
        "replayable": offer.replayable,
        "guarantee": offer.guarantees[0] if offer.guarantees else None,
        "guarantees": list(offer.guarantees),
    }
