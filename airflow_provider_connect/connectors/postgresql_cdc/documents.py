"""Documents: rows as columns of texts turned into records: key, envelope or flat row, tombstones; in their order."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from airflow_provider_connect.connectors.postgresql_cdc import values
from airflow_provider_connect.connectors.postgresql_cdc.config import PostgreSQLCdcSourceConfig
from airflow_provider_connect.connectors.postgresql_cdc.tuples import Fields, Integers
from airflow_provider_connect.engine.batch import documents

UNAVAILABLE = "__debezium_unavailable_value"
"""Stands for a large value that an UPDATE did not touch, as Debezium writes it."""


@dataclass(frozen=True, slots=True)
class RowType:
    """The rows of a table at some time: its columns, with their types and their elements' types; and its key."""

    schema: str
    table: str
    columns: tuple[str, ...]
    types: tuple[tuple[int, int], ...]
    key: tuple[int, ...]
    """Which columns identify a row; empty if none do."""

    @property
    def topic(self) -> str:
        """What the records' topic is called."""
        return f"{self.schema}.{self.table}"


@dataclass(frozen=True, slots=True)
class Origin:
    """Where changes come from: for each row the number of its transaction in `transactions`, which are JSON fields
    (with a comma at the end) and a time in ms; and more JSON fields of the row alone."""

    transactions: Sequence[tuple[str, int]]
    numbers: Integers
    fields: pa.Array

    def take(self, rows: Integers) -> Origin:
        """Some of the rows."""
        return Origin(self.transactions, self.numbers[rows], self.fields.take(pa.array(rows)))


@dataclass(frozen=True, slots=True)
class Part:
    """Records of one table and kind; `order` says where they stand among all of a batch."""

    order: Integers
    key: pa.Array
    value: pa.Array
    topic: str
    ts_ms: Integers


class Documents:
    """Makes records as the configuration wants them. `source` is what `source.name` and `source.db` say."""

    def __init__(self, config: PostgreSQLCdcSourceConfig, flow: str, database: str) -> None:
        self._numeric = config.numeric
        self._flat = config.envelope == "flat"
        self._omits = config.omits_unavailable
        self._tombstones = self._flat or config.tombstones
        self._source = _members(connector="postgresql", name=flow, db=database)

    # --- kinds of changes

    def present(self, row: RowType, order: Integers, op: str, after: Fields, before: Fields | None, origin: Origin,
                ) -> list[Part]:  # fmt: skip
        """Rows that are there now: `op` is `c`, `u` or `r`. `before` has all columns, or is not known."""
        key = self._keys(row, after)
        old = None if self._flat or before is None else self._rows(row, before)
        return [self._part(row, order, op, key, old, self._rows(row, after), origin)]

    def gone(self, row: RowType, order: Integers, before: Fields, whole: bool, origin: Origin) -> list[Part]:
        """Rows that are there no more; `before` has all columns if `whole`, else the key."""
        key = self._keys(row, before)
        parts = []
        if not self._flat:
            old = self._rows(row, before) if whole else key
            parts.append(self._part(row, order, "d", key, old, None, origin))
        if self._tombstones and row.key:
            nothing = pa.nulls(len(key), pa.string())
            parts.append(Part(order + 1, key, nothing, row.topic, _times(origin)))
        return parts

    def emptied(self, row: RowType, order: Integers, origin: Origin) -> list[Part]:
        """A table that has lost all its rows at once."""
        return [self._part(row, order, "t", pa.nulls(order.size, pa.string()), None, None, origin)]

    # --- texts

    def _part(self, row: RowType, order: Integers, op: str, key: pa.Array, before: pa.Array | None,
              after: pa.Array | None, origin: Origin) -> Part:  # fmt: skip
        times = _times(origin)
        if self._flat:
            assert after is not None
            return Part(order, key, after, row.topic, times)
        place = _members(schema=row.schema, table=row.table)
        transactions = pa.array(
            [f',"source":{{{self._source},"ts_ms":{ts},{fields}' for fields, ts in origin.transactions], pa.string()
        ).take(pa.array(origin.numbers))
        ends = pa.array([f'}},"op":"{op}","ts_ms":{ts}}}' for _, ts in origin.transactions], pa.string()).take(
            pa.array(origin.numbers)
        )
        value = pc.binary_join_element_wise(
            '{"before":', before if before is not None else "null",
            ',"after":', after if after is not None else "null",
            transactions, place, origin.fields, ends, "",
        )  # fmt: skip
        return Part(order, key, value, row.topic, times)

    def _keys(self, row: RowType, fields: Fields) -> pa.Array:
        if not row.key:
            return pa.nulls(len(fields.columns[0]) if fields.columns else 0, pa.string())
        return values.objects(
            [row.columns[place] for place in row.key],
            [fields.columns[place] for place in row.key],
            [row.types[place] for place in row.key],
            self._numeric,
        )

    def _rows(self, row: RowType, fields: Fields) -> pa.Array:
        """The rows as JSON objects. What is unavailable is left out or replaced."""
        absent = [place for place, flags in enumerate(fields.unavailable) if flags is not None]
        if not absent:
            return values.objects(list(row.columns), fields.columns, list(row.types), self._numeric)
        # Rows that lack the same columns are made together.
        flags = np.stack([each for each in fields.unavailable if each is not None])
        patterns, members = np.unique(flags, axis=1, return_inverse=True)
        members = members.reshape(-1)
        made: list[pa.Array] = []
        places: list[Integers] = []
        for number in range(patterns.shape[1]):
            rows = np.flatnonzero(members == number)
            lacking = {place for place, lacks in zip(absent, patterns[:, number], strict=True) if lacks}
            made.append(self._rows_lacking(row, fields, rows, lacking))
            places.append(rows)
        return pa.concat_arrays(made).take(pa.array(np.argsort(np.concatenate(places), kind="stable")))

    def _rows_lacking(self, row: RowType, fields: Fields, rows: Integers, lacking: set[int]) -> pa.Array:
        names, columns, types = [], [], []
        for place, name in enumerate(row.columns):
            if place not in lacking:
                columns.append(fields.columns[place].take(pa.array(rows)))
                types.append(row.types[place])
            elif self._omits:
                continue
            else:
                columns.append(pa.repeat(UNAVAILABLE, rows.size))
                types.append((25, 0))
            names.append(name)
        return values.objects(names, columns, types, self._numeric)


def _members(**fields: str) -> str:
    """The inside of a JSON object."""
    return json.dumps(fields, ensure_ascii=False, separators=(",", ":"))[1:-1]


def _times(origin: Origin) -> Integers:
    return np.array([ts for _, ts in origin.transactions], np.int64)[origin.numbers]


def batch_of(parts: list[Part]) -> pa.RecordBatch:
    """The records of all parts, in order."""
    if not parts:
        return documents(pa.array([], pa.binary()), "json")
    order = np.concatenate([part.order for part in parts])
    places = pa.array(np.argsort(order, kind="stable"))
    columns: dict[str, Any] = {
        "key": pa.concat_arrays([part.key.cast(pa.binary()) for part in parts]),
        "value": pa.concat_arrays([part.value.cast(pa.binary()) for part in parts]),
        "topic": pa.concat_arrays([pa.repeat(part.topic, part.order.size) for part in parts]),
        "timestamp": pa.array(np.concatenate([part.ts_ms for part in parts]), pa.timestamp("ms", tz="UTC")),
    }
    if len(parts) > 1 or (np.diff(order) < 0).any():
        columns = {name: column.take(places) for name, column in columns.items()}
    value = columns.pop("value")
    return documents(value, "json", **columns)
