"""Position: where the source stands, as it is stored, and which changes the snapshot already holds.

    {"lsn": "0/1A2B3C8", "index": 0}                       changes: the next record
    {"lsn": …, "index": …, "snapshot": "done", "tables": {"public.t": [[["17"], "0/1A…", 1700000000000], …]}}
    {"lsn": …, "index": 0, "snapshot": "running", "tables": {…}}

`lsn` and `index`: every transaction with a commit LSN below `lsn` is delivered, and of the one committed there the
first `index` messages. `tables` lists for each table the stretches of its primary key, in the order of `ordering`:
rows up to this key (null: to the end) were read in a snapshot that holds every transaction committed before that LSN,
at that time (ms). Several stretches mean that reading was interrupted and went on in a newer snapshot.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from airflow_provider_connect.engine.errors import Fatal

Key = tuple[str, ...]
"""The texts of a primary key's values."""


def lsn_text(lsn: int) -> str:
    """As PostgreSQL writes it."""
    return f"{lsn >> 32:X}/{lsn & 0xFFFFFFFF:X}"


def lsn_number(text: str) -> int:
    """The number of an LSN's text. ValueError if it is none."""
    high, _, low = text.partition("/")
    return (int(high, 16) << 32) | int(low, 16)


@dataclass(frozen=True, slots=True)
class Stretch:
    """Rows of a table from the previous stretch's end up to `upto` (None: all the rest), and when they were read."""

    upto: Key | None
    lsn: int
    ts_ms: int


@dataclass(frozen=True, slots=True)
class Position:
    """See the module."""

    lsn: int
    index: int = 0
    running: bool = False
    """Whether the snapshot is not complete."""
    tables: Mapping[str, tuple[Stretch, ...]] = field(default_factory=dict)

    @classmethod
    def of(cls, stored: Any) -> Position:
        """From its JSON. Fatal if it is not ours."""
        try:
            tables = {
                name: tuple(
                    Stretch(tuple(upto) if upto is not None else None, lsn_number(lsn), int(ts_ms))
                    for upto, lsn, ts_ms in stretches
                )
                for name, stretches in stored.get("tables", {}).items()
            }
            return cls(lsn_number(stored["lsn"]), int(stored["index"]), stored.get("snapshot") == "running", tables)
        except (AttributeError, KeyError, TypeError, ValueError):
            raise Fatal(f"the stored position {stored!r} is not one of a postgresql-cdc source") from None

    def as_json(self) -> dict[str, Any]:
        """Its JSON."""
        told: dict[str, Any] = {"lsn": lsn_text(self.lsn), "index": self.index}
        if self.running or self.tables:
            told["snapshot"] = "running" if self.running else "done"
            told["tables"] = {
                name: [
                    [list(stretch.upto) if stretch.upto is not None else None, lsn_text(stretch.lsn), stretch.ts_ms]
                    for stretch in stretches
                ]
                for name, stretches in self.tables.items()
            }
        return told

    def finished(self, table: str) -> bool:
        """Whether the table's snapshot is complete."""
        stretches = self.tables.get(table, ())
        return bool(stretches) and stretches[-1].upto is None

    def with_stretch(self, table: str, stretch: Stretch) -> Position:
        """This table has been read further: to `stretch.upto`."""
        before = self.tables.get(table, ())
        if before and (before[-1].lsn, before[-1].ts_ms) == (stretch.lsn, stretch.ts_ms):
            before = before[:-1]
        return Position(self.lsn, self.index, self.running, {**self.tables, table: (*before, stretch)})

    def after_snapshot(self) -> Position:
        """The snapshot is complete: changes that all of it holds already need not be read."""
        oldest = min((stretch.lsn for stretches in self.tables.values() for stretch in stretches), default=self.lsn)
        return self._kept(max(oldest, self.lsn), 0)

    def moved(self, lsn: int, index: int = 0) -> Position:
        """Changes have been read up to there."""
        return self._kept(lsn, index) if self.tables else Position(lsn, index)

    def _kept(self, lsn: int, index: int) -> Position:
        """With the tables that may still have changes which the snapshot already holds."""
        kept = {name: each for name, each in self.tables.items() if any(stretch.lsn > lsn for stretch in each)}
        return Position(lsn, index, False, kept)
