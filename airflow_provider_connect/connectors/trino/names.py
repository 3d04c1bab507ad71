"""Names: how tables and columns are written in a configuration, and how names and texts get into SQL."""

from __future__ import annotations


def column_list(text: str | list[str]) -> tuple[str, ...]:
    """Column names from "a", "a, b" or a list of names; Trino keeps the names of columns in lower case."""
    names = text.split(",") if isinstance(text, str) else text
    return tuple(dict.fromkeys(stripped.lower() for name in names if (stripped := name.strip())))


def quoted(name: str) -> str:
    """An identifier in SQL."""
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    """A text in SQL. Only the quote ends it; every other character stands for itself."""
    return "'" + text.replace("'", "''") + "'"


def listed(names: tuple[str, ...] | list[str], prefix: str = "") -> str:
    """Identifiers with commas, each after `prefix`."""
    return ", ".join(prefix + quoted(name) for name in names)
