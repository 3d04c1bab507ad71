"""Names and literals: how tables and columns are written in a configuration, and how values get into SQL."""

from __future__ import annotations

import re
from dataclasses import dataclass

_PART = re.compile(r"\s*(?:`((?:[^`]|``)+)`|\"((?:[^\"]|\"\")+)\"|([^`\".\s]+(?:\s+[^`\".\s]+)*))\s*")


@dataclass(frozen=True, slots=True)
class TableName:
    """A table's name, in its exact spelling; without a database it is in the one of the connection string."""

    database: str | None
    table: str

    @classmethod
    def parse(cls, text: str) -> TableName:
        """`table`, `database.table`, or the same in backquotes or double quotes. ValueError if it is neither."""
        parts: list[str] = []
        at = 0
        while (found := _PART.match(text, at)) is not None:
            back, double, plain = found.groups()
            parts.append(
                back.replace("``", "`") if back else double.replace('""', '"') if double else plain
            )  # fmt: skip
            at = found.end()
            if at == len(text):
                if len(parts) <= 2:
                    return cls(parts[0] if len(parts) == 2 else None, parts[-1])
                break
            if text[at] != ".":
                break
            at += 1
        raise ValueError(f"'{text}' is no table name; write table, database.table or `odd.database`.`odd.table`")

    @property
    def sql(self) -> str:
        """The name, quoted."""
        return f"{quoted(self.database)}.{quoted(self.table)}" if self.database else quoted(self.table)

    def __str__(self) -> str:
        return f"{self.database}.{self.table}" if self.database else self.table


def column_list(text: str | list[str]) -> tuple[str, ...]:
    """Column names from "a", "a, b" or a list of names."""
    names = text.split(",") if isinstance(text, str) else text
    return tuple(dict.fromkeys(stripped for name in names if (stripped := name.strip())))


def quoted(name: str) -> str:
    """An identifier in SQL."""
    if "\0" in name:
        raise ValueError("a name cannot contain a NUL character")
    return "`" + name.replace("\\", "\\\\").replace("`", "\\`") + "`"


def literal(text: str) -> str:
    """A text in SQL."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'").replace("\0", "\\0") + "'"


def listed(names: tuple[str, ...] | list[str]) -> str:
    """Identifiers with commas."""
    return ", ".join(map(quoted, names))
