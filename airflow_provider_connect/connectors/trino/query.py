"""Query: the SQL of an incremental read, and the positions in it.

The position after a row is `{"after": {column: text, …}}`: the values of its cursor and tie-break columns as the server
writes them. Rows are read in the order of that tuple, from behind one position up to another, inclusive.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from airflow_provider_connect.connectors.trino.client import Client
from airflow_provider_connect.connectors.trino.config import TrinoSourceConfig
from airflow_provider_connect.connectors.trino.names import listed, literal, quoted
from airflow_provider_connect.connectors.trino.types import Column
from airflow_provider_connect.engine.errors import FlowError

Tuple = tuple[str, ...]
"""Cursor and tie-break values of one row, as texts."""

_ROW = "connect_row"
"""What the rows are called in our SQL."""
_ORDERED = ("tinyint", "smallint", "integer", "bigint", "decimal", "varchar", "char", "date", "timestamp", "uuid")
_ORDERED_WITH_ZONE = "timestamp with time zone"


@dataclass(frozen=True, slots=True)
class Reading:
    """What is read: the rows `selection` yields, incrementally by `order` if that is not empty."""

    selection: str
    """What stands behind FROM."""
    columns: tuple[Column, ...]
    order: tuple[Column, ...]
    key: tuple[str, ...]
    """The columns that identify a row; empty if that is not known."""

    # --- positions

    def position(self, values: Tuple) -> dict[str, Any]:
        """The position after the row with these values."""
        return {"after": {column.name: value for column, value in zip(self.order, values, strict=True)}}

    def values(self, position: Any) -> Tuple:
        """The values in a position. FlowError if it was made with other columns."""
        after = position.get("after") if isinstance(position, dict) else None
        names = [column.name for column in self.order]
        if not isinstance(after, dict) or set(after) != set(names):
            made = ", ".join(after) if isinstance(after, dict) else "no cursor"
            raise FlowError(
                f"the stored position was made with {made}, but cursor and tieBreak are now {', '.join(names)}; change"
                " them back, or give the flow a new name to begin anew"
            )
        return tuple(after[name] for name in names)

    def values_of(self, row: Sequence[Any]) -> Tuple:
        """The values of a row of a result. FlowError for NULL, which has no place in an order."""
        places = {column.name: at for at, column in enumerate(self.columns)}
        values = [row[places[column.name]] for column in self.order]
        if None in values:
            raise FlowError(f"a row has NULL in its cursor {', '.join(column.name for column in self.order)}")
        return tuple(str(value) for value in values)

    # --- statements

    def select(self, after: Tuple | None, to: Tuple | None, limit: int) -> str:
        """The rows behind `after` up to `to`, in order, no more than `limit`; all of them where there is no order."""
        sql = f"SELECT * FROM {self.selection}"
        if not self.order:
            return sql
        return f"{sql}{self._where(after, to)} ORDER BY {self._listed()} LIMIT {limit}"

    def newest(self, after: Tuple | None) -> str:
        """The values of the last row there is behind `after`."""
        order = ", ".join(f"{_ROW}.{quoted(column.name)} DESC" for column in self.order)
        return f"SELECT {self._listed()} FROM {self.selection}{self._where(after, None)} ORDER BY {order} LIMIT 1"

    def count(self, after: Tuple | None) -> str:
        """How many rows there are behind `after`."""
        return f"SELECT count(*) FROM {self.selection}{self._where(after, None)}"

    def missing_values(self) -> str:
        """How many rows have NULL in a column of the order."""
        nulls = " OR ".join(f"{_ROW}.{quoted(column.name)} IS NULL" for column in self.order)
        return f"SELECT 1 FROM {self.selection} WHERE {nulls} LIMIT 1"

    def _listed(self) -> str:
        return listed([column.name for column in self.order], f"{_ROW}.")

    def _where(self, after: Tuple | None, to: Tuple | None) -> str:
        conditions = []
        if after is not None:
            conditions += self._beyond(after, ">", last=False)
        if to is not None:
            conditions += self._beyond(to, "<", last=True)
        return f" WHERE {' AND '.join(conditions)}" if conditions else ""

    def _beyond(self, values: Tuple, sign: str, *, last: bool) -> list[str]:
        """Written out column by column, and the first one alone too: Trino leaves out files by that, not by rows."""
        found = ""
        for column, value in reversed(list(zip(self.order, values, strict=True))):
            name, other = f"{_ROW}.{quoted(column.name)}", f"CAST({literal(value)} AS {column.type.sql})"
            if not found:
                found = f"{name} {sign}{'=' if last else ''} {other}"
            else:
                found = f"({name} {sign} {other} OR ({name} = {other} AND {found}))"
        first = f"{_ROW}.{quoted(self.order[0].name)} {sign}= CAST({literal(values[0])} AS {self.order[0].type.sql})"
        return [first, found] if len(values) > 1 else [found]


def look_up(client: Client, config: TrinoSourceConfig) -> Reading:
    """What the configuration means on this server. FlowError if it cannot be read incrementally as it is."""
    if config.query is not None:
        selection = f"({config.query}\n) AS {_ROW}"  # the line break ends a comment at the end of the query
    else:
        assert config.table is not None
        selection = f"{quoted(config.catalog)}.{quoted(config.schema_name)}.{quoted(config.table)} AS {_ROW}"
    columns = client.describe(f"SELECT * FROM {selection} LIMIT 0")
    names = [column.name for column in columns]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise FlowError(f"query: two columns are named '{twice}'; rename one (AS)")
    order = []
    for name in dict.fromkeys((*config.cursor_columns, *config.tie_break_columns)):
        if name not in names:
            raise FlowError(f"cursor, tieBreak: there is no column '{name}'; there are: {', '.join(names)}")
        column = columns[names.index(name)]
        if column.type.name not in (*_ORDERED, _ORDERED_WITH_ZONE):
            raise FlowError(
                f"cursor, tieBreak: '{name}' is {column.type.sql}, whose values have no exact text or no order; choose"
                " a column of numbers (not floating), text, date or timestamp"
            )
        order.append(column)
    key = config.tie_break_columns or tuple(name for name in ("id",) if name in names)
    return Reading(selection, columns, tuple(order), key)
