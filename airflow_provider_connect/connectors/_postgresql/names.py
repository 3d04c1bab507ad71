"""Names: how tables and columns are written in a configuration, and how they get into SQL."""

from __future__ import annotations

import re
from dataclasses import dataclass

_PART = re.compile(r'\s*(?:"((?:[^"]|"")+)"|([^".\s]+(?:\s+[^".\s]+)*))\s*')


@dataclass(frozen=True, slots=True)
class TableName:
    """A table's name, in its exact spelling; without a schema the server's `search_path` decides."""

    schema: str | None
    table: str

    @classmethod
    def parse(cls, text: str) -> TableName:
        """`table`, `schema.table`, or the same with double quotes. Case is kept. ValueError if it is neither."""
        parts: list[str] = []
        at = 0
        while True:
            found = _PART.match(text, at)
            if found is None:
                break
            quoted, plain = found.groups()
            parts.append(quoted.replace('""', '"') if quoted is not None else plain)
            at = found.end()
            if at == len(text):
                if len(parts) <= 2:
                    return cls(parts[0] if len(parts) == 2 else None, parts[-1])
                break
            if text[at] != ".":
                break
            at += 1
        raise ValueError(f'\'{text}\' is no table name; write table, schema.table or "Odd.Schema"."Odd.Table"')

    @property
    def sql(self) -> str:
        """The name, quoted."""
        return f"{quoted(self.schema)}.{quoted(self.table)}" if self.schema else quoted(self.table)

    def __str__(self) -> str:
        return f"{self.schema}.{self.table}" if self.schema else self.table


def column_list(text: str | list[str]) -> tuple[str, ...]:
    """Column names from "a", "a, b" or a list of names."""
    names = text.split(",") if isinstance(text, str) else text
    return tuple(dict.fromkeys(stripped for name in names if (stripped := name.strip())))


def quoted(name: str) -> str:
    """An identifier in SQL."""
    if "\0" in name:
        raise ValueError("a name cannot contain a NUL character")
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    """A text in SQL; `standard_conforming_strings` is on in our sessions."""
    if "\0" in text:
        raise ValueError("PostgreSQL has no NUL character in texts")
    return "'" + text.replace("'", "''") + "'"


def listed(names: tuple[str, ...] | list[str], prefix: str = "") -> str:
    """Identifiers with commas, each after `prefix`."""
    return ", ".join(prefix + quoted(name) for name in names)
