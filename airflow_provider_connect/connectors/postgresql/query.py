"""Query: the SQL of an incremental read, and the positions in it.

The position after a row is `{"after": {column: text, …}}`: the values of its cursor and tie-break columns as the
server writes them. Rows are read in the order of that tuple, from behind one position up to another, inclusive.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from airflow_provider_connect.connectors._postgresql.client import Connection, run
from airflow_provider_connect.connectors._postgresql.names import listed, literal, quoted
from airflow_provider_connect.connectors.postgresql.binary_types import oid
from airflow_provider_connect.connectors.postgresql.blocks import Blocks
from airflow_provider_connect.connectors.postgresql.config import PostgreSQLSourceConfig
from airflow_provider_connect.connectors.postgresql.table import (
    Column,
    Table,
    describe_result,
    find_table,
    missing_table,
    no_rows,
    result_types,
)
from airflow_provider_connect.engine.errors import FlowError, Retryable

Encoding = Literal["postgresql-copy", "postgresql-copy-binary", "json"]

_ROW = "connect_row"
"""What the rows are called in our SQL. No column should have this name, for a column would win."""
_PREFIX = f"{_ROW}."

Tuple = tuple[str, ...]
"""Cursor and tie-break values of one row, as texts."""

_GROWING = ("smallint", "integer", "bigint", "numeric", "date", "timestamp", "oid", "xid8", "pg_lsn")


@dataclass(frozen=True, slots=True)
class Reading:
    """What is read: the rows `selection` yields, incrementally by `order` if that is not empty."""

    selection: str
    """What stands behind FROM."""
    label: str
    """The table's name, for people."""
    columns: tuple[Column, ...]
    types: tuple[tuple[str, int], ...]
    """The columns' names, and the OIDs of the types they are sent in."""
    order: tuple[str, ...]
    key: tuple[str, ...]
    """The columns that identify a row; empty if that is not known."""
    nullable: tuple[str, ...]
    """Those of `order` that may be NULL."""

    # --- positions

    def position(self, values: Tuple) -> dict[str, Any]:
        """The position after the row with these values."""
        return {"after": dict(zip(self.order, values, strict=True))}

    def values(self, position: Any) -> Tuple:
        """The values in a position. FlowError if it was made with other columns."""
        after = position.get("after") if isinstance(position, dict) else None
        if not isinstance(after, dict) or set(after) != set(self.order):
            made = ", ".join(after) if isinstance(after, dict) else "no cursor"
            raise FlowError(
                f"the stored position of '{self.label}' was made with {made}, but cursor and tieBreak are now"
                f" {', '.join(self.order)}; change them back, or give the flow a new name to begin anew"
            )
        return tuple(after[name] for name in self.order)

    # --- statements

    def copy(
        self, encoding: Encoding, raw: bool, after: Tuple | None, to: Tuple | None, block: tuple[int, int] | None = None
    ) -> str:
        """COPY the rows behind `after` up to `to`, in order; as text if the encoding is that, else binary. `block`:
        only where the first cursor column is from the one integer to before the other.

        In "json" the fields are those of `leading`, as texts, and the document.
        """
        fields = f"{_ROW}.*" if encoding != "json" else ", ".join([*self._leading(), self._document(raw)])
        order = f" ORDER BY {listed(self.order, _PREFIX)}" if self.order else ""
        options = "" if encoding == "postgresql-copy" else " (FORMAT binary)"
        where = self._where(after, to, block=block)
        return f"COPY (SELECT {fields} FROM {self.selection}{where}{order}) TO STDOUT{options}"

    def newest(self, after: Tuple | None) -> str:
        """The values of the last row there is behind `after`, as texts."""
        values = ", ".join(f"{_PREFIX}{quoted(name)}::text" for name in self.order)
        order = ", ".join(f"{_PREFIX}{quoted(name)} DESC" for name in self.order)
        return f"SELECT {values} FROM {self.selection}{self._where(after, None, True)} ORDER BY {order} LIMIT 1"

    def least(self, at_least: int | None) -> str:
        """The smallest value of the first cursor column, or the smallest from there on."""
        lead = f"{_PREFIX}{quoted(self.order[0])}"
        where = f" WHERE {lead} >= {at_least}" if at_least is not None else ""
        return f"SELECT min({lead}) FROM {self.selection}{where}"

    def count(self, after: Tuple | None, at_most: int, blocks: Blocks | None = None) -> str:
        """How many rows there are behind `after`, counted no further than `at_most`."""
        conditions = self._where(after, None)
        if blocks is not None:
            ours = blocks.holding(f"{_PREFIX}{quoted(self.order[0])}")
            conditions = f"{conditions} AND {ours}" if conditions else f" WHERE {ours}"
        rows = f"SELECT FROM {self.selection}{conditions} LIMIT {at_most}"
        return f"SELECT count(*) FROM ({rows}) AS counted"

    def missing_values(self) -> str:
        """A row if a column of the order is NULL anywhere."""
        nulls = " OR ".join(f"{_PREFIX}{quoted(name)} IS NULL" for name in self.nullable)
        return f"SELECT 1 FROM {self.selection} WHERE {nulls} LIMIT 1"

    def leading(self) -> tuple[str, ...]:
        """The columns that come before the document of each row in the encoding "json"."""
        key = self.key if len(self.key) == 1 else ()
        return tuple(dict.fromkeys((*self.order, *key)))

    def _leading(self) -> list[str]:
        types = dict(self.types)
        return [_as_text(f"{_PREFIX}{quoted(name)}", types[name]) for name in self.leading()]

    def _document(self, raw: bool) -> str:
        if not raw:
            return f"row_to_json({_ROW})"
        table = f"to_json({literal(self.label)}::text)::text"
        return (
            f'concat(\'{{"value":\', row_to_json({_ROW})::text, \',"_metadata":{{"table":\', '
            f"{table}, ',\"id\":', coalesce({self._id()}::text, 'null'), '}}}}')"
        )

    def _id(self) -> str:
        names = self.key or tuple(name for name in ("id",) if any(column.name == name for column in self.columns))
        if not names:
            return "NULL"
        if len(names) == 1:
            return f"to_json({_PREFIX}{quoted(names[0])})"
        return f"json_build_object({', '.join(f'{literal(name)}::text, {_PREFIX}{quoted(name)}' for name in names)})"

    def _where(
        self, after: Tuple | None, to: Tuple | None, not_null: bool = False, block: tuple[int, int] | None = None
    ) -> str:
        row = f"({listed(self.order, _PREFIX)})"
        conditions = [f"{row} > {_row(after)}"] if after is not None else []
        if to is not None:
            conditions.append(f"{row} <= {_row(to)}")
        if block is not None:
            lead = f"{_PREFIX}{quoted(self.order[0])}"
            conditions.append(f"{lead} >= {block[0]} AND {lead} < {block[1]}")
        if not_null and after is None:
            conditions += [f"{_PREFIX}{quoted(name)} IS NOT NULL" for name in self.nullable]
        return f" WHERE {' AND '.join(conditions)}" if conditions else ""


_CAST_IS_OUTPUT = frozenset(
    oid(name)
    for name in ("int2", "int4", "int8", "numeric", "text", "varchar", "uuid", "date", "timestamp", "timestamptz")
)


_WHOLE = frozenset(oid(name) for name in ("int2", "int4", "int8"))


def _as_text(value: str, type_: int) -> str:
    """The text that the server writes for a value; casts have another one for some types (boolean, char(n), inet)."""
    return f"{value}::text" if type_ in _CAST_IS_OUTPUT else f"CASE WHEN {value} IS NOT NULL THEN concat({value}) END"


def _row(values: Tuple) -> str:
    return f"({', '.join(literal(value) for value in values)})"


def look_up(connection: Connection, config: PostgreSQLSourceConfig) -> Reading:
    """What the configuration means on this server. FlowError if it cannot be read incrementally as it is."""
    table = find_table(connection, config.table_name) if config.table_name is not None else None
    if config.query is not None:
        # The line break ends a comment at the end of the query.
        selection = f"({config.query}\n) AS {_ROW}"
        columns = describe_result(connection, selection)
        names = [column.name for column in columns]
        key = table.primary_key if table is not None and set(table.primary_key) <= set(names) else ()
        key = config.tie_break_columns or key
        label = str(config.table_name) if config.table_name is not None else "query"
        order = _order(config, columns, key, "tieBreak") if config.cursor_columns else ()
    else:
        assert config.table_name is not None
        if table is None:
            raise missing_table(connection, config.table_name, "check `table`, the database and the search_path")
        selection, columns, label = f"{table.name.sql} AS {_ROW}", table.columns, str(config.table_name)
        key = config.tie_break_columns or table.primary_key
        order = _order_of_table(config, table, key) if config.cursor_columns else _primary_key_order(table, label)
    nullable = tuple(column.name for column in columns if column.nullable and column.name in order)
    described = run(connection, no_rows(selection)).pgresult
    assert described is not None
    types = result_types(described)
    if [name for name, _ in types] != [column.name for column in columns]:
        raise Retryable(f"the columns of '{label}' change while they are looked up")
    reading = Reading(selection, label, columns, types, order, key, nullable)
    if config.splits > 1 and (not order or dict(types)[order[0]] not in _WHOLE):
        what = f"'{order[0]}' is none" if order else "there is no cursor"
        raise FlowError(f"splits: rows of '{label}' are dealt out by an integer as first cursor column, but {what}")
    return reading


def _order(
    config: PostgreSQLSourceConfig, columns: Sequence[Column], key: tuple[str, ...], field: str
) -> tuple[str, ...]:
    names = [column.name for column in columns]
    for setting, wanted in (("cursor", config.cursor_columns), (field, key)):
        for name in wanted:
            if names.count(name) != 1:
                there = "more than one column" if name in names else "no column"
                raise FlowError(f"{setting}: there is {there} '{name}'; there are: {', '.join(names)}")
    if not key:
        raise FlowError(
            f"rows with equal {', '.join(config.cursor_columns)} could be lost or repeated: set `tieBreak` to the"
            " column(s) that identify a row (the same as `cursor` if that is unique)"
        )
    return tuple(dict.fromkeys((*config.cursor_columns, *key)))


def _order_of_table(config: PostgreSQLSourceConfig, table: Table, key: tuple[str, ...]) -> tuple[str, ...]:
    cursor = config.cursor_columns
    if not config.tie_break_columns and any(unique <= set(cursor) for unique in table.unique_keys):
        return _order(config, table.columns, cursor, "cursor")
    order = _order(config, table.columns, key, "tieBreak")
    if not any(unique <= set(order) for unique in table.unique_keys):
        raise FlowError(
            f"cursor and tieBreak ({', '.join(order)}) do not identify a row of '{table.name}', so rows could be lost"
            " or repeated: name the columns of a unique index in `tieBreak`, or create one over these columns"
        )
    return order


def _primary_key_order(table: Table, label: str) -> tuple[str, ...]:
    types = {column.name: column.type for column in table.columns}
    if not table.primary_key:
        raise FlowError(
            f"'{label}' has no primary key, so new rows cannot be told from old ones: set `cursor` and `tieBreak`; or,"
            f" to deliver all rows again at every poll, set `query: SELECT * FROM {label}`"
        )
    for name in table.primary_key:
        if not types[name].startswith(_GROWING):
            raise FlowError(
                f"the primary key of '{label}' is {types[name]} ({name}), whose new values need not be beyond the old:"
                f" set `cursor` to a column that only grows (to `{name}` if it does, as UUIDs of version 7 do)"
            )
    return table.primary_key
