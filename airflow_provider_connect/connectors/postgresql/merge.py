"""Merge: staged rows and documents moved into the target, by one statement or a few.

A column without a field in a document gets its default, or keeps its value in an upsert. That depends on the document
alone, not on its neighbours, so documents of one kind go together: those with the same fields, and those that delete.
In an upsert the documents of one key keep their order, by layers: within a layer each key has documents of one kind.
"""

from __future__ import annotations

from dataclasses import dataclass

from airflow_provider_connect.connectors._postgresql.client import Connection, run
from airflow_provider_connect.connectors._postgresql.names import listed, literal, quoted
from airflow_provider_connect.connectors.postgresql.stage import DOCUMENT, FIELDS, GONE, LAYER, NUMBER, Stage
from airflow_provider_connect.connectors.postgresql.table import Column, document_key, field_text
from airflow_provider_connect.connectors.postgresql.target import Target, Upsert

_SHOWN = 1000
_OLD = "connect_old"


@dataclass(frozen=True, slots=True)
class Refused:
    """Numbers of staged rows that cannot be merged, with the reason."""

    rows: dict[int, str]


@dataclass(frozen=True, slots=True)
class _Kind:
    """Documents that one statement merges."""

    gone: bool
    fields: list[str] | None
    """Their names, sorted; None if they are no objects, or do not matter."""


def merge_columns(connection: Connection, target: Target, stage: Stage, columns: list[Column]) -> Refused | None:
    """Upsert staged rows."""
    nulls = " OR ".join(f"{quoted(name)} IS NULL" for name in target.key)
    if refused := _numbers(connection, f"{stage.sql} WHERE {nulls}"):
        return Refused(dict.fromkeys(refused, f"NULL in {', '.join(target.key)} identifies no row (conflictKey)"))
    run(connection, columns_statement(target, stage, columns))
    return None


def merge_documents(connection: Connection, target: Target, stage: Stage) -> Refused | None:
    """Insert, upsert and delete staged documents: whole ones, or their fields into the columns of the same names."""
    way = _Whole(target, stage) if target.document_column is not None else _Spread(target, stage)
    if target.key and (refused := _without_key(connection, target, stage)):
        return refused
    kinds = [
        _Kind(gone, fields)
        for gone, fields in run(
            connection, f"SELECT gone, fields FROM ({way.kinds()}) AS s GROUP BY 1, 2 ORDER BY min({NUMBER})"
        ).fetchall()
    ]
    columns: dict[int, list[Column]] = {}
    refused_rows: dict[int, str] = {}
    for index, kind in enumerate(kinds):
        columns[index], reason = ([], None) if kind.gone else way.columns(kind.fields)
        if reason is not None:
            same = "fields IS NOT DISTINCT FROM %s::text[] AND NOT gone"
            found = _numbers(connection, f"({way.kinds()}) AS s WHERE {same}", [kind.fields])
            refused_rows.update(dict.fromkeys(found, reason))
    if refused_rows:
        return Refused(dict(sorted(refused_rows.items())))
    if len(kinds) <= 1:
        for index, kind in enumerate(kinds):
            run(connection, way.statement(kind, columns[index], ""))
        return None
    order = Stage.of_order()
    order.create(connection)
    order.empty(connection)
    run(connection, f"INSERT INTO {order.sql} {way.layers()}")
    for layer, gone, fields in run(
        connection, f"SELECT {LAYER}, {GONE}, {FIELDS} FROM {order.sql} GROUP BY 1, 2, 3 ORDER BY 1, 2, 3"
    ).fetchall():
        kind = _Kind(gone, fields)
        array = "NULL" if fields is None else f"ARRAY[{', '.join(literal(name) for name in fields)}]"
        part = (
            f"SELECT {NUMBER} FROM {order.sql} WHERE {LAYER} = {layer} AND {GONE} = {gone}"
            f" AND {FIELDS} IS NOT DISTINCT FROM {array}::text[]"
        )
        run(connection, way.statement(kind, columns[kinds.index(kind)], f" WHERE d.{NUMBER} IN ({part})"))
    return None


def columns_statement(target: Target, stage: Stage, columns: list[Column]) -> str:
    """INSERT … of `merge_columns`."""
    return _insert(target, columns, f"{stage.sql} AS r")


def documents_statement(target: Target, stage: Stage) -> str:
    """INSERT … of `merge_documents` for whole documents."""
    return _Whole(target, stage).statement(_Kind(False, None), [], "")


class _Whole:
    """Documents into the one column for them."""

    def __init__(self, target: Target, stage: Stage) -> None:
        assert target.document_column is not None
        self._target, self._stage = target, stage
        self._data = quoted(target.document_column.name)
        self._keys = [field_text(f"d.{DOCUMENT}", name) for name in target.key]

    def kinds(self) -> str:
        return f"SELECT {NUMBER}, {GONE} AS gone, NULL::text[] AS fields FROM {self._stage.sql}"

    def columns(self, fields: list[str] | None) -> tuple[list[Column], str | None]:
        return [], None

    def layers(self) -> str:
        return _layers(self._stage.sql + " AS d", "NULL::text[]", self._keys, self._target.upsert)

    def statement(self, kind: _Kind, columns: list[Column], where: str) -> str:
        target, upsert = self._target, self._target.upsert
        assert upsert is not None
        staged = f"{self._stage.sql} AS d{where}"
        stored = [field_text(f"{_OLD}.{self._data}", name) for name in upsert.key]
        if kind.gone:
            return _delete(target, upsert, stored, self._keys, staged)
        version = _version_in(f"d.{DOCUMENT}", upsert.version) if upsert.version is not None else None
        newer = ""
        if upsert.version is not None:
            new, old = (_version_in(f"{row}.{self._data}", upsert.version) for row in ("EXCLUDED", _OLD))
            newer = _newer(new, old)
        values = [(self._data, f"d.{DOCUMENT}")]
        index = document_key(upsert.key, self._data)
        return _upsert(target, upsert, values, staged, self._keys, version, index, [self._data], newer)


class _Spread:
    """Fields of documents into columns."""

    def __init__(self, target: Target, stage: Stage) -> None:
        self._target, self._stage = target, stage
        record = f"jsonb_populate_record(NULL::{target.table.name.sql}, d.{DOCUMENT})"
        self._rows = f"{stage.sql} AS d CROSS JOIN LATERAL {record} AS r"

    def kinds(self) -> str:
        return f"SELECT {NUMBER}, {GONE} AS gone, {_fields_of('d')} AS fields FROM {self._stage.sql} AS d"

    def columns(self, fields: list[str] | None) -> tuple[list[Column], str | None]:
        return self._target.known(fields)

    def layers(self) -> str:
        keys = [f"r.{quoted(name)}" for name in self._target.key]
        return _layers(self._rows if keys else f"{self._stage.sql} AS d", _fields_of("d"), keys, self._target.upsert)

    def statement(self, kind: _Kind, columns: list[Column], where: str) -> str:
        target, upsert = self._target, self._target.upsert
        if kind.gone:
            assert upsert is not None
            keys = [quoted(name) for name in upsert.key]
            return _delete(target, upsert, [f"{_OLD}.{k}" for k in keys], [f"r.{k}" for k in keys], self._rows + where)
        if not columns:
            return f"INSERT INTO {target.table.name.sql} SELECT FROM {self._stage.sql} AS d{where}"
        return _insert(target, columns, self._rows + where)


def _insert(target: Target, columns: list[Column], rows: str) -> str:
    """Insert or upsert the columns of the same names in `rows`, which calls them `r`."""
    upsert = target.upsert
    names = [column.name for column in columns]
    if upsert is None:
        overriding = _overriding(columns)
        return (
            f"INSERT INTO {target.table.name.sql} ({listed(names)}){overriding}"
            f" SELECT {listed(names, 'r.')} FROM {rows} ORDER BY {NUMBER}"
        )
    values = [(quoted(name), f"r.{quoted(name)}") for name in names]
    updated = [quoted(c.name) for c in columns if c.name not in upsert.key and not c.always_identity]
    version = newer = None
    if upsert.version is not None:
        version = f"r.{quoted(upsert.version)}"
        newer = _newer(f"EXCLUDED.{quoted(upsert.version)}", f"{_OLD}.{quoted(upsert.version)}")
    keys = [f"r.{quoted(name)}" for name in upsert.key]
    overriding = _overriding(columns)
    return _upsert(target, upsert, values, rows, keys, version, listed(upsert.key), updated, newer or "", overriding)


def _upsert(
    target: Target,
    upsert: Upsert,
    values: list[tuple[str, str]],
    rows: str,
    keys: list[str],
    version: str | None,
    index: str,
    updated: list[str],
    newer: str,
    overriding: str = "",
) -> str:
    """INSERT … ON CONFLICT of the last row of each key, or the first of those with its greatest version."""
    if upsert.soft_delete is not None and quoted(upsert.soft_delete.name) not in dict(values):
        values = [*values, (quoted(upsert.soft_delete.name), upsert.present)]
        updated = [*updated, quoted(upsert.soft_delete.name)]
    order = f"{version} DESC NULLS LAST, {NUMBER}" if version is not None else f"{NUMBER} DESC"
    sets = ", ".join(f"{name} = EXCLUDED.{name}" for name in updated)
    return (
        f"INSERT INTO {target.table.name.sql} AS {_OLD} ({', '.join(name for name, _ in values)}){overriding}"
        f" SELECT DISTINCT ON ({', '.join(keys)}) {', '.join(value for _, value in values)} FROM {rows}"
        f" ORDER BY {', '.join(keys)}, {order}"
        f" ON CONFLICT ({index}) DO {f'UPDATE SET {sets}{newer}' if updated else 'NOTHING'}"
    )


def _delete(target: Target, upsert: Upsert, stored: list[str], keys: list[str], rows: str) -> str:
    """Delete the rows with staged keys, or mark them."""
    found = ", ".join(f"{key} AS k{number}" for number, key in enumerate(keys))
    same = " AND ".join(f"{old} = s.k{number}" for number, old in enumerate(stored))
    staged = f"(SELECT DISTINCT {found} FROM {rows}) AS s"
    if upsert.soft_delete is None:
        return f"DELETE FROM {target.table.name.sql} AS {_OLD} USING {staged} WHERE {same}"
    mark = f"{quoted(upsert.soft_delete.name)} = {upsert.deleted}"
    return f"UPDATE {target.table.name.sql} AS {_OLD} SET {mark} FROM {staged} WHERE {same}"


def _newer(new: str, old: str) -> str:
    return f" WHERE {new} > {old} OR ({old} IS NULL AND {new} IS NOT NULL)"


def _version_in(documents: str, field: str) -> str:
    """The version in a document: numbers compare as numbers, texts as texts."""
    return f"nullif(({documents})::jsonb -> {literal(field)}, 'null')"


def _overriding(columns: list[Column]) -> str:
    return " OVERRIDING SYSTEM VALUE" if any(column.always_identity for column in columns) else ""


def _layers(rows: str, fields: str, keys: list[str], upsert: Upsert | None) -> str:
    """`n, gone, fields, layer` of staged documents. What comes before the deletion of its key does not matter."""
    if not keys:
        return f"SELECT {NUMBER}, {GONE}, {fields}, 0 FROM {rows}"
    of_key = ", ".join(f"k{number}" for number in range(len(keys)))
    named = ", ".join(f"{key} AS k{number}" for number, key in enumerate(keys))
    kinds = f"SELECT {NUMBER} AS n, {GONE} AS gone, {fields} AS fields, {named} FROM {rows}"
    if upsert is not None and upsert.soft_delete is None:
        last = f"max(n) FILTER (WHERE gone) OVER (PARTITION BY {of_key})"
        kinds = (
            f"SELECT * FROM (SELECT *, {last} AS last_gone FROM ({kinds}) AS s) AS s WHERE n >= coalesce(last_gone, n)"
        )
    before = f"OVER (PARTITION BY {of_key} ORDER BY n)"
    changed = f"gone IS DISTINCT FROM lag(gone) {before} OR fields IS DISTINCT FROM lag(fields) {before}"
    return (
        f"SELECT n, gone, fields, sum(changed::int) {before}"
        f" FROM (SELECT *, {changed} AS changed FROM ({kinds}) AS s) AS s"
    )


def _without_key(connection: Connection, target: Target, stage: Stage) -> Refused | None:
    """Documents that lack a field of the key, or whole ones without version."""
    upsert = target.upsert
    assert upsert is not None
    absent = " OR ".join(f"({field_text(DOCUMENT, field)}) IS NULL" for field in upsert.key)
    objects = f"jsonb_typeof({DOCUMENT}) = 'object'" if target.document_column is None else "true"
    if found := _numbers(connection, f"{stage.sql} WHERE {objects} AND ({absent})"):
        reason = f"the document has no {' and '.join(repr(field) for field in upsert.key)} (conflictKey)"
        return Refused(dict.fromkeys(found, reason))
    if target.document_column is not None and upsert.version is not None:
        missing = f"NOT {GONE} AND {_version_in(DOCUMENT, upsert.version)} IS NULL"
        if found := _numbers(connection, f"{stage.sql} WHERE {missing}"):
            reason = f"the document has no {upsert.version!r}, its version (upsertVersionColumn)"
            return Refused(dict.fromkeys(found, reason))
    return None


def _numbers(connection: Connection, rows: str, parameters: list[object] | None = None) -> list[int]:
    """The numbers of staged rows, no more than are worth naming."""
    sql = f"SELECT {NUMBER} FROM {rows} ORDER BY 1 LIMIT {_SHOWN}"
    return [number for (number,) in run(connection, sql, parameters).fetchall()]


def _fields_of(alias: str) -> str:
    """The names of a document's fields, as an array in a fixed order; NULL if it is no object."""
    document = f"{alias}.{DOCUMENT}"
    return (
        f"CASE WHEN jsonb_typeof({document}) = 'object' THEN ARRAY(SELECT jsonb_object_keys({document}) ORDER BY 1) END"
    )
