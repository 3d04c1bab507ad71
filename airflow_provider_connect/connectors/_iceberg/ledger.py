"""Ledger: epochs and positions of a flow's splits, in properties of the table itself.

    airflow-connect/<flow>/<split>  =  {"epoch": 3, "position": …}

A property is set in the commit of the rows, and no expiry of snapshots touches it. What makes it a compare-and-set:
every commit of ours, also a claim, makes a snapshot and demands that the one before it is still the current one. So
whoever commits has seen all that others committed, or is refused.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import quote

from airflow_provider_connect.engine.batch import Checkpoint
from airflow_provider_connect.engine.errors import Fenced

PREFIX = "airflow-connect"


class PropertyLedger:
    """The properties of one flow, and what this owner knows of them."""

    def __init__(self, table: str, flow: str) -> None:
        self._table, self._flow = table, flow
        self._epochs: dict[str, int] = {}
        self._known: dict[str, Any] = {}

    def same(self, other: PropertyLedger) -> bool:
        """Whether both are those of one flow in one table."""
        return (self._table, self._flow) == (other._table, other._flow)

    def claiming(self, properties: Mapping[str, str], splits: Iterable[str]) -> dict[str, str]:
        """The properties that make us the owner of `splits`; `claimed` must follow the commit."""
        changed = {}
        for split in splits:
            entry = self._entry(properties, split)
            changed[self._key(split)] = _text({**entry, "epoch": entry.get("epoch", 0) + 1})
        return changed

    def claimed(self, properties: Mapping[str, str], splits: Iterable[str]) -> Checkpoint:
        """The claim is committed, and `properties` are those of its commit; the positions in them."""
        wanted = list(splits)
        for split in wanted:
            self._epochs[split] = self._entry(properties, split)["epoch"]
        return self._learn(properties, wanted)

    def owned(self, properties: Mapping[str, str], splits: Iterable[str]) -> Checkpoint:
        """The positions in `properties`. Fenced if one of `splits` has another owner by now."""
        wanted = list(splits)
        self._fence([split for split in wanted if not self._is_ours(properties, split)])
        return self._learn(properties, wanted)

    def advancing(self, properties: Mapping[str, str], checkpoint: Mapping[str, Any]) -> dict[str, str]:
        """The properties that move our splits on; `advanced` must follow the commit.

        Fenced if one is not ours, or stands elsewhere than where we left it.
        """
        self._fence(
            [
                split
                for split in checkpoint
                if not self._is_ours(properties, split)
                or self._entry(properties, split).get("position") != self._known.get(split)
            ]
        )
        return {
            self._key(split): _text({"epoch": self._epochs[split], "position": position})
            for split, position in checkpoint.items()
        }

    def advanced(self, checkpoint: Mapping[str, Any]) -> None:
        """`checkpoint` is committed."""
        self._known.update(checkpoint)

    def holds(self, properties: Mapping[str, str], checkpoint: Mapping[str, Any]) -> bool:
        """Whether `properties` have us as the owner at exactly these positions."""
        return all(
            self._is_ours(properties, split) and self._entry(properties, split).get("position") == position
            for split, position in checkpoint.items()
        )

    def _learn(self, properties: Mapping[str, str], splits: list[str]) -> Checkpoint:
        for split in splits:
            self._known[split] = self._entry(properties, split).get("position")
        return Checkpoint({split: self._known[split] for split in splits if self._known[split] is not None})

    def _is_ours(self, properties: Mapping[str, str], split: str) -> bool:
        return split in self._epochs and self._entry(properties, split).get("epoch") == self._epochs[split]

    def _entry(self, properties: Mapping[str, str], split: str) -> dict[str, Any]:
        entry: dict[str, Any] = json.loads(properties.get(self._key(split), "{}"))
        return entry

    def _key(self, split: str) -> str:
        return f"{PREFIX}/{quote(self._flow, safe='')}/{quote(split, safe='')}"

    def _fence(self, splits: list[str]) -> None:
        if splits:
            named = ", ".join(f"'{split}'" for split in splits)
            raise Fenced(f"another worker of flow '{self._flow}' owns {named}", splits=tuple(splits))


def _text(entry: Mapping[str, Any]) -> str:
    return json.dumps(entry, ensure_ascii=True, separators=(",", ":"))
