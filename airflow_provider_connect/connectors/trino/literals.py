"""Literals: Arrow columns as texts of a statement, and the SQL that makes their values of them.

A statement holds one text literal per column, its values joined by a character that is in none of them:

    SELECT CAST(c0 AS bigint), c1 FROM UNNEST(split('1␟2␟3', '␟'), split('a␟b␟c', '␟')) AS t(c0, c1)

That is how most rows fit into the characters that a statement may have, and what the server is quickest to read.
Rows of 150 characters into Iceberg tables, statements of 1,000,000 characters, rows per second on two busy cores:

    VALUES ('…'), ('…'), …                            1,900
    UNNEST(ARRAY['…', '…', …])                       11,900
    UNNEST(CAST(json_parse('[…]') AS array(json)))   17,000
    UNNEST(split('…', …))                            18,500
    the same by EXECUTE IMMEDIATE … USING            20,500, within what runs differ by
    several of these statements at once                no more
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from airflow_provider_connect.codecs._json_text import texts as json_texts
from airflow_provider_connect.connectors.trino.names import literal, quoted
from airflow_provider_connect.connectors.trino.types import Type
from airflow_provider_connect.engine.errors import Fatal

_MARKS = [chr(code) for code in (0x1F, 0x1E, 0x1D, 0x1C, *range(0x01, 0x09), *range(0x0E, 0x1C), 0x7F)]
"""Characters that are hardly ever in texts."""
_AS_JSON = ("boolean", "tinyint", "smallint", "integer", "bigint", "real", "double", "decimal", "varchar", "json")
"""Types whose values within arrays, maps and rows are cast from JSON as such; others come as text."""


@dataclass(frozen=True, slots=True)
class Texts:
    """A column of a batch on its way into a column of the table."""

    name: str
    kind: Type
    """The type of the table's column."""
    values: pa.Array
    """Texts, as they stand within the quotes of a literal; null stays null."""
    from_text: bool
    """Whether the values were texts before, in whatever form."""

    @property
    def way(self) -> tuple[str, bool]:
        """What is the same for values that can be put together."""
        return self.name, self.from_text

    def slice(self, start: int, stop: int) -> Texts:
        """Some of the values."""
        return Texts(self.name, self.kind, self.values.slice(start, stop - start), self.from_text)

    def expression(self, variable: str) -> str:
        """The SQL that makes the column's value of its text."""
        return value_of(variable, self.kind, self.from_text)


def joined(parts: Sequence[Texts]) -> Texts:
    """The values of several that go the same way."""
    first = parts[0]
    if len(parts) == 1:
        return first
    return Texts(first.name, first.kind, pa.concat_arrays([part.values for part in parts]), first.from_text)


def texts(name: str, values: pa.Array, field: pa.Field, kind: Type) -> Texts:
    """A column's values as texts of the wanted type."""
    made = _texts(values, field, kind)
    return Texts(name, kind, pc.replace_substring(made, "'", "''"), _is_text(values.type))


def _texts(values: pa.Array, field: pa.Field, kind: Type) -> pa.Array:
    found = values.type
    if pa.types.is_dictionary(found):
        return _texts(values.cast(found.value_type), field.with_type(found.value_type), kind)
    if pa.types.is_null(found):
        return pa.nulls(len(values), pa.string())
    if _is_binary(found):
        values = values.cast(pa.binary()) if not pa.types.is_fixed_size_binary(found) else values
        if kind.name == "varbinary":
            return pa.array([None if v is None else base64.b64encode(v).decode() for v in values.to_pylist()])
        try:
            return values.cast(pa.binary()).cast(pa.string())
        except pa.ArrowInvalid:
            raise Fatal(f"column '{field.name}' holds bytes that are no text, for a column of {kind.sql}") from None
    if _is_text(found):
        if kind.name == "varbinary":
            return pa.array([None if v is None else base64.b64encode(v.encode()).decode() for v in values.to_pylist()])
        return values.cast(pa.string())
    if pa.types.is_timestamp(found):
        plain = values.cast(pa.timestamp(found.unit)).cast(pa.string())
        return pc.binary_join_element_wise(plain, "UTC", " ") if kind.has_zone else plain
    if pa.types.is_floating(found):
        return _floats(values.cast(pa.float32()) if found == pa.float16() else values)
    if pa.types.is_nested(found):
        return json_texts(values, field)
    if pa.types.is_duration(found):
        return values.cast(pa.int64()).cast(pa.string())
    return values.cast(pa.string())


def _floats(values: pa.Array) -> pa.Array:
    """NaN and the infinities as Trino calls them."""
    plain = values.cast(pa.string())
    if pc.all(pc.is_finite(values)).as_py() is not False:
        return plain
    found = pc.if_else(pc.is_nan(values), "NaN", pc.if_else(pc.less(values, 0.0), "-Infinity", "Infinity"))
    return pc.if_else(pc.is_finite(values), plain, found)


def value_of(text: str, kind: Type, from_text: bool = False) -> str:
    """The SQL that makes a value of a type from SQL for its text."""
    if kind.name in ("varchar", "char"):
        return text  # what is too long is then refused; a cast would cut it off
    if kind.name == "json":
        return f"json_parse({text})"
    if kind.name == "varbinary":
        return f"from_base64({text})"
    if kind.inner:
        return _nested(f"CAST(json_parse({text}) AS {_json_type(kind)})", kind)
    if from_text and kind.name.startswith("timestamp"):
        moment = f"from_iso8601_timestamp_nanos({text})"
        moment = moment if kind.has_zone else f"at_timezone({moment}, 'UTC')"
        return f"CASE WHEN {text} LIKE '____-__-__T%' THEN CAST({moment} AS {kind.sql}) ELSE {_cast(text, kind)} END"
    return _cast(text, kind)


def _cast(text: str, kind: Type) -> str:
    return f"CAST({text} AS {kind.sql})"


def _json_type(kind: Type) -> str:
    """The type that JSON is cast to first. Keys of JSON find the fields of rows whose names are in lower case."""
    if kind.inner:
        parts = [
            f"{quoted(name.lower())} {_json_type(of)}" if name is not None else _json_type(of)
            for name, of in kind.inner
        ]
        if kind.name == "map":
            parts[0] = "varchar"
        return f"{kind.name}({', '.join(parts)})"
    return kind.sql if _is_json(kind) else "varchar"


def _nested(value: str, kind: Type, depth: int = 0) -> str:
    """From the type that JSON was cast to, to the wanted one."""
    if not kind.inner:
        return value if _is_json(kind) else value_of(value, kind, True)
    if _holds(kind, _is_json) and kind.sql == kind.sql.lower():
        return value
    if not _holds(kind, lambda of: of.name == "varbinary" or of.name.startswith("timestamp"), some=True):
        return f"CAST({value} AS {kind.sql})"
    inner = f"x{depth}"
    if kind.name == "array":
        return f"transform({value}, {inner} -> {_nested(inner, kind.inner[0][1], depth + 1)})"
    if kind.name == "map":
        (_, key), (_, item) = kind.inner
        items = f"transform_values({value}, (k{depth}, {inner}) -> {_nested(inner, item, depth + 1)})"
        return f"transform_keys({items}, (k{depth}, {inner}) -> {value_of(f'k{depth}', key, True)})"
    fields = [_nested(f"{inner}[{at + 1}]", of, depth + 1) for at, (_, of) in enumerate(kind.inner)]
    made = f"CAST(ROW({', '.join(fields)}) AS {kind.sql})"
    return f"transform(ARRAY[{value}], {inner} -> IF({inner} IS NOT NULL, {made}))[1]"


def _is_json(kind: Type) -> bool:
    return kind.name in _AS_JSON and not (kind.name == "varchar" and kind.numbers)


def _holds(kind: Type, wanted: Callable[[Type], bool], *, some: bool = False) -> bool:
    """Whether all types within, or some, are of the wanted kind; keys of maps come as texts."""
    if not kind.inner:
        return wanted(kind)
    found = [_holds(of, wanted, some=some) for _, of in kind.inner]
    if kind.name == "map" and not some and kind.inner[0][1].sql != "varchar":
        return False
    return any(found) if some else all(found)


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _is_binary(kind: pa.DataType) -> bool:
    variable = pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind)
    return bool(variable or pa.types.is_fixed_size_binary(kind))


# --- rows of a statement


def lengths(columns: Sequence[Texts]) -> pa.Array:
    """How many characters each row takes at most, as the server counts them (in UTF-16)."""
    total: pa.Array | None = None
    for column in columns:
        characters = pc.utf8_length(column.values)
        beyond = pc.divide(pc.subtract(pc.binary_length(column.values), characters), 3)
        length = pc.add(pc.fill_null(pc.add(characters, beyond), 1).cast(pa.int64()), 1)
        total = length if total is None else pc.add(total, length)
    assert total is not None
    return total


def cuts(row_lengths: pa.Array, at_most: int) -> Iterator[tuple[int, int]]:
    """The stretches of rows that fit into a statement each. A row that fits into none is one by itself."""
    ends = row_lengths.to_numpy().cumsum()
    start, before = 0, 0
    while start < len(ends):
        stop = max(int(ends.searchsorted(before + at_most, side="right")), start + 1)
        yield start, stop
        start, before = stop, int(ends[stop - 1])


def unnested(columns: Sequence[Texts], names: Sequence[str], numbered: str | None = None) -> str:
    """FROM that yields a row for each text, as variables of these names; `numbered` is that of the number, from 1."""
    parts, values = [], []
    for column, name in zip(columns, names, strict=True):
        separator, nothing = _marks(column.values)
        filled = pc.fill_null(column.values, nothing) if column.values.null_count else column.values
        lists = pa.ListArray.from_arrays(pa.array([0, len(filled)], pa.int32()), filled)
        parts.append(f"split('{pc.binary_join(lists, separator)[0].as_py()}', {literal(separator)})")
        values.append(f"nullif({name}, {literal(nothing)})" if column.values.null_count else name)
    ordinal = " WITH ORDINALITY" if numbered else ""
    listed = ", ".join([*names, *([numbered] if numbered else [])])
    if values == list(names):
        return f"UNNEST({', '.join(parts)}){ordinal} AS u({listed})"
    chosen = ", ".join(
        [
            *(f"{value} AS {name}" for value, name in zip(values, names, strict=True)),
            *([numbered] if numbered else []),
        ]
    )
    return f"(SELECT {chosen} FROM UNNEST({', '.join(parts)}){ordinal} AS u({listed})) AS v"


def _marks(values: pa.Array) -> tuple[str, str]:
    """Two characters that are in none of the texts: what stands between them, and what stands for null."""
    found: list[str] = []
    for mark in _MARKS:
        if not pc.any(pc.match_substring(values, mark)).as_py():
            found.append(mark)
            if len(found) == 2:
                return found[0], found[1]
    raise Fatal("texts with every control character there is cannot be written; take them out by a transformation")
