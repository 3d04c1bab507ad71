"""Reading: the statements that a source reads by, and the positions between them.

Rows are read in the order of the cursor and, as ClickHouse has no unique keys, of a tie-break: named columns, or a hash
of the whole row. A position holds the values of the last row, and how many rows with exactly these values were read:
rows that are equal in everything are worth the same, so counting them loses and repeats none.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pyarrow as pa

from airflow_provider_connect.connectors.clickhouse.client import Client
from airflow_provider_connect.connectors.clickhouse.config import ClickHouseSourceConfig
from airflow_provider_connect.connectors.clickhouse.names import TableName, literal, quoted
from airflow_provider_connect.connectors.clickhouse.table import find_table
from airflow_provider_connect.connectors.clickhouse.types import INTEGERS, UNIT_SCALES, Type, is_number, readable
from airflow_provider_connect.engine.errors import Fatal, FlowError

Values = tuple[Any, ...]
"""Cursor and tie-break values of one row: integers and texts."""

ROW_HASH = "#row"
"""The name in positions of the hash of the whole row."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_NOT_EXACT = {"Float32", "Float64", "BFloat16"}
_HASHED_AS_TEXT = {"JSON", "Object", "Dynamic", "Variant", "Map", "AggregateFunction"}
_TICKS = {
    "s": "intDiv(toUnixTimestamp64Milli({}), 1000)",
    "ms": "toUnixTimestamp64Milli({})",
    "us": "toUnixTimestamp64Micro({})",
    "ns": "toUnixTimestamp64Nano({})",
}
JSON_OUTPUT = {
    "output_format_json_quote_64bit_integers": 0,
    "output_format_json_quote_decimals": 0,
    "output_format_json_quote_denormals": 0,
    "output_format_json_named_tuples_as_objects": 1,
    "date_time_output_format": "iso",
}


@dataclass(frozen=True, slots=True)
class ReadColumn:
    """A column of the result: SQL for its value, the Arrow type that comes, and the field that is handed on."""

    name: str
    type: Type
    sql: str
    wire: pa.DataType
    field: pa.Field

    def finish(self, values: pa.Array) -> pa.Array:
        """The values as they are handed on; times come as their ticks."""
        return values if values.type == self.field.type else values.view(self.field.type)


@dataclass(frozen=True, slots=True)
class OrderColumn:
    """What rows are ordered by: SQL for its value, and how a value is written in positions and statements."""

    name: str
    sql: str
    column: ReadColumn

    def position(self, value: Any) -> Any:
        """A value of the result as JSON: an integer or a text."""
        kind = self.column.field.type
        if pa.types.is_timestamp(kind):
            return _time_text(int(value), kind.unit)
        return value if isinstance(value, int) else value.isoformat() if isinstance(value, date) else str(value)

    def literal(self, value: Any) -> str:
        """A value of a position in SQL."""
        kind = self.column.field.type
        if isinstance(value, bool) or not isinstance(value, int | str):
            raise FlowError(f"the stored position has {value!r} for '{self.name}', which is neither number nor text")
        if pa.types.is_timestamp(kind):
            return f"toDateTime64({literal(str(value))}, {UNIT_SCALES[kind.unit]}, 'UTC')"
        inner = self.column.type.inner
        arguments = f"({', '.join(inner.arguments)})" if inner.arguments else ""
        return f"CAST({literal(str(value))} AS {inner.name}{arguments})"


@dataclass(frozen=True, slots=True)
class Position:
    """After the row with these values, of which `rows` were read."""

    values: Values
    rows: int


@dataclass(frozen=True, slots=True)
class Reading:
    """What is read: the rows `selection` yields, incrementally by `cursor` and `tie_break` if there is a cursor."""

    selection: str
    label: str
    table: TableName | None
    columns: tuple[ReadColumn, ...]
    cursor: tuple[OrderColumn, ...] = ()
    tie_break: tuple[OrderColumn, ...] = ()
    nullable: tuple[str, ...] = field(default=())

    @property
    def order(self) -> tuple[OrderColumn, ...]:
        """Cursor, then tie-break."""
        return self.cursor + self.tie_break

    # --- positions

    def dump(self, position: Position) -> dict[str, Any]:
        """The position as JSON."""
        names = [column.name for column in self.order]
        return {"after": dict(zip(names, position.values, strict=True)), "rows": position.rows}

    def load(self, stored: Any) -> Position:
        """A stored position. FlowError if it was made with other columns."""
        after = stored.get("after") if isinstance(stored, dict) else None
        names = [column.name for column in self.order]
        if not isinstance(after, dict) or set(after) != set(names):
            made = ", ".join(after) if isinstance(after, dict) else "no cursor"
            raise FlowError(
                f"the stored position of '{self.label}' was made with {made}, but cursor and tieBreak are now"
                f" {', '.join(names)}; change them back, or give the flow a new name to begin anew"
            )
        return Position(tuple(after[name] for name in names), int(stored.get("rows", 1)))

    # --- statements

    def select(
        self, json: bool, raw: bool, after: Position | None, bound: Values | None, until: Position | None
    ) -> str:
        """The rows behind `after`, those that `after` counts among them, up to the cursor `bound` or to `until`."""
        values = [self._key(), self._document(raw)] if json else [column.sql for column in self.columns]
        values += [column.column.sql for column in self._carried(json)]
        # No alias is a column's name: it would stand for the column in WHERE and ORDER BY.
        chosen = ", ".join(f"{value} AS {quoted(f'#{at}')}" for at, value in enumerate(values))
        order = f" ORDER BY {', '.join(column.sql for column in self.order)}" if self.order else ""
        where = self._where(after, bound, until)
        return f"SELECT {chosen} FROM {self.selection}{where}{order}"

    def schema(self, json: bool) -> pa.Schema:
        """The columns of `select`, as they come."""
        kinds = [pa.string(), pa.string()] if json else [column.wire for column in self.columns]
        kinds += [column.column.wire for column in self._carried(json)]
        return pa.schema([pa.field(f"#{at}", kind) for at, kind in enumerate(kinds)])

    def place(self, at: int, json: bool) -> int:
        """Where in the result the values of the order's column `at` are."""
        carried = self._carried(json)
        column = self.order[at]
        values = 2 if json else len(self.columns)
        return values + carried.index(column) if column in carried else self.columns.index(column.column)

    def _carried(self, json: bool) -> list[OrderColumn]:
        """What has to be selected beside the rows, as it is not among their columns."""
        return [column for column in self.order if json or column.column not in self.columns]

    def newest(self, after: Position | None) -> str:
        """The greatest cursor values behind `after`."""
        names = ", ".join(f"{column.column.sql} AS {quoted(f'#{at}')}" for at, column in enumerate(self.cursor))
        order = ", ".join(f"{column.sql} DESC" for column in self.cursor)
        return f"SELECT {names} FROM {self.selection}{self._where(after, None, None, True)} ORDER BY {order} LIMIT 1"

    def count(self, after: Position | None) -> str:
        """How many rows are behind `after`, and how many are equal to it."""
        if after is None:
            return f"SELECT count(), 0 FROM {self.selection}"
        row, values = self._row(self.order), self._literals(self.order, after.values)
        return (
            f"SELECT countIf({row} > {values}), countIf({row} = {values})"
            f" FROM {self.selection}{self._where(after, None, None)}"
        )

    def missing_values(self) -> str:
        """A row if a column of the order is NULL anywhere."""
        nulls = " OR ".join(f"isNull({quoted(name)})" for name in self.nullable)
        return f"SELECT 1 FROM {self.selection} WHERE {nulls} LIMIT 1"

    def _where(self, after: Position | None, bound: Values | None, until: Position | None, beyond: bool = False) -> str:
        conditions = []
        if after is not None:
            first = self.cursor[0]
            # Alone, so that the primary key serves it.
            conditions.append(f"{first.sql} >= {first.literal(after.values[0])}")
            conditions.append(
                f"{self._row(self.order)} {'>' if beyond else '>='} {self._literals(self.order, after.values)}"
            )
        if bound is not None:
            conditions.append(f"{self.cursor[0].sql} <= {self.cursor[0].literal(bound[0])}")
            conditions.append(f"{self._row(self.cursor)} <= {self._literals(self.cursor, bound)}")
        if until is not None:
            conditions.append(f"{self.cursor[0].sql} <= {self.cursor[0].literal(until.values[0])}")
            conditions.append(f"{self._row(self.order)} <= {self._literals(self.order, until.values)}")
        return f" WHERE {' AND '.join(conditions)}" if conditions else ""

    @staticmethod
    def _row(columns: tuple[OrderColumn, ...]) -> str:
        return f"tuple({', '.join(column.sql for column in columns)})"

    @staticmethod
    def _literals(columns: tuple[OrderColumn, ...], values: Values) -> str:
        pairs = zip(columns, values, strict=True)
        return f"tuple({', '.join(column.literal(value) for column, value in pairs)})"

    # --- documents

    def _document(self, raw: bool) -> str:
        names = ", ".join(quoted(column.name) for column in self.columns)
        document = f"formatRowNoNewline('JSONEachRow', {names})"
        if not raw:
            return document
        id_ = f"ifNull(toJSONString({quoted('id')}), 'null')" if self._has_id else "'null'"
        return (
            f'concat(\'{{"value":\', {document}, \',"_metadata":{{"table":\', toJSONString({literal(self.label)}),'
            f" ',\"id\":', {id_}, '}}}}')"
        )

    @property
    def _has_id(self) -> bool:
        return any(column.name == "id" for column in self.columns)

    def _key(self) -> str:
        return (
            f"CAST(toString({quoted('id')}) AS Nullable(String))" if self._has_id else "CAST(NULL AS Nullable(String))"
        )


def look_up(client: Client, config: ClickHouseSourceConfig) -> Reading:
    """What the configuration means on this server. FlowError if it cannot be read incrementally as it is."""
    if config.query is not None:
        # The line break ends a comment at the end of the query.
        selection, label = f"({config.query}\n)", config.table or "query"
        described = client.query(f"DESCRIBE TABLE {selection}")
        found = [(str(row[0]), Type.parse(row[1])) for row in described]
    else:
        assert config.table_name is not None
        table = find_table(client, config.table_name)
        if table is None:
            raise FlowError(f"there is no table '{config.table}'; check `table` and the database")
        selection, label = table.name.sql, config.table or ""
        found = [(column.name, column.type) for column in table.columns if column.default != "EPHEMERAL"]
    if twice := sorted({name for name, _ in found if [other for other, _ in found].count(name) > 1}):
        raise FlowError(f"query: more than one column is named {', '.join(twice)}; give them names with AS")
    columns = tuple(_column(name, type_) for name, type_ in found)
    reading = Reading(selection, label, None if config.query else config.table_name, columns)
    names = config.cursor_columns or (_default_cursor(found) if config.query is None else ())
    if not names:
        return reading
    cursor = tuple(_order_column(reading, name, "cursor") for name in names)
    tied = tuple(_order_column(reading, name, "tieBreak") for name in config.tie_break_columns if name not in names)
    tie_break = tied if config.tie_break_columns else (_row_hash(columns),)
    nullable = tuple(column.name for column in cursor + tied if column.column.type.nullable)
    return Reading(selection, label, reading.table, columns, cursor, tie_break, nullable)


def _default_cursor(columns: list[tuple[str, Type]]) -> tuple[str, ...]:
    types = dict(columns)
    if "id" in types and types["id"].inner.name in INTEGERS:
        return ("id",)
    if "created_at" in types and types["created_at"].inner.name in {"DateTime", "DateTime64"}:
        return ("created_at",)
    return ()


def _column(name: str, type_: Type) -> ReadColumn:
    found = readable(type_)
    if found is None:
        as_json = pa.field(name, pa.string(), metadata={"json": "value"})
        return ReadColumn(name, type_, f"toJSONString({quoted(name)})", pa.string(), as_json)
    if pa.types.is_timestamp(found.arrow):
        ticks = _TICKS[found.arrow.unit].format(f"CAST({quoted(name)} AS {found.text})")
        return ReadColumn(name, type_, ticks, pa.int64(), pa.field(name, found.arrow))
    number = {"json": "number"} if is_number(type_) else None
    plain = type_.name == found.text
    sql = quoted(name) if plain else f"CAST({quoted(name)} AS {found.text})"
    return ReadColumn(name, type_, sql, found.arrow, pa.field(name, found.arrow, metadata=number))


def _order_column(reading: Reading, name: str, setting: str) -> OrderColumn:
    column = next((column for column in reading.columns if column.name == name), None)
    if column is None:
        there = ", ".join(column.name for column in reading.columns)
        raise FlowError(f"{setting}: '{reading.label}' has no column '{name}'; there are: {there}")
    kind = column.field.type
    if column.type.inner.name in _NOT_EXACT or pa.types.is_nested(kind) or readable(column.type) is None:
        raise FlowError(
            f"{setting}: '{name}' is {column.type.inner.name}, whose values have no exact text or order; name a column"
            " of integers, times, decimals or text"
        )
    return OrderColumn(name, quoted(name), column)


def _row_hash(columns: tuple[ReadColumn, ...]) -> OrderColumn:
    names = ", ".join(quoted(column.name) for column in columns)
    as_text = any(readable(column.type) is None or pa.types.is_nested(column.field.type) or
                  column.type.inner.name in _HASHED_AS_TEXT for column in columns)  # fmt: skip
    # A tuple, as the hash of a NULL alone is NULL.
    sql = f"cityHash64(formatRowNoNewline('TSV', {names}))" if as_text else f"cityHash64(tuple({names}))"
    column = ReadColumn(ROW_HASH, Type("UInt64"), sql, pa.uint64(), pa.field(ROW_HASH, pa.uint64()))
    return OrderColumn(ROW_HASH, sql, column)


def _time_text(ticks: int, unit: str) -> str:
    """Ticks since 1970 as ClickHouse reads them, in UTC, to the last digit."""
    digits = UNIT_SCALES[unit]
    seconds, rest = divmod(ticks, 10**digits)
    text = (_EPOCH + timedelta(seconds=seconds)).strftime("%Y-%m-%d %H:%M:%S")
    return f"{text}.{rest:0{digits}d}" if digits else text


def check_values(values: list[Any], label: str) -> Values:
    """The values of a row's order. Fatal if one is NULL."""
    if None in values:
        raise Fatal(f"a row of '{label}' has NULL in its cursor")
    return tuple(values)
