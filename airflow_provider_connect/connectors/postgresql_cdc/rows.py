"""Rows: what the stream says of a table's columns, joined with what the catalog knows of its key and its types."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from airflow_provider_connect.connectors._postgresql.client import Connection
from airflow_provider_connect.connectors._postgresql.names import TableName
from airflow_provider_connect.connectors.postgresql_cdc.catalog import FollowedTable, table_of, types_beneath
from airflow_provider_connect.connectors.postgresql_cdc.config import Pattern
from airflow_provider_connect.connectors.postgresql_cdc.documents import RowType
from airflow_provider_connect.connectors.postgresql_cdc.messages import Relation
from airflow_provider_connect.connectors.postgresql_cdc.publication import Published
from airflow_provider_connect.connectors.postgresql_cdc.values import element_of, is_built_in


class RowTypes:
    """The row types of the tables that are followed."""

    def __init__(
        self,
        connection: Connection,
        patterns: tuple[Pattern, ...],
        tables: Iterable[FollowedTable],
        published: Mapping[TableName, Published],
    ) -> None:
        self._connection, self._patterns, self._published = connection, frozenset(patterns), published
        self._names = frozenset(table.name for table in tables)
        self._types: dict[int, tuple[int, int]] = {}

    def of_relation(self, relation: Relation) -> RowType | None:
        """The rows that follow in the stream; None if their table is not followed."""
        name = TableName(relation.schema, relation.table)
        if name not in self._names and (relation.schema, None) not in self._patterns:
            return None
        names = tuple(column.name for column in relation.columns)
        # The key may be younger or older than these rows; then what identifies them is the next best.
        table = table_of(self._connection, relation.oid)
        key = table.key if table is not None and set(table.key) <= set(names) else ()
        identity = tuple(column.name for column in relation.columns if column.identifies)
        if not key and len(identity) < len(names):
            key = identity
        return self._row_type(relation.schema, relation.table, names, [c.type for c in relation.columns], key)

    def of_table(self, table: FollowedTable) -> RowType:
        """The rows of a table as it is now, as far as they are published."""
        listed = self._published.get(table.name, Published()).columns
        columns = [column for column in table.columns if listed is None or column.name in listed]
        names = tuple(column.name for column in columns)
        return self._row_type(
            table.name.schema or "", table.name.table, names, [column.type for column in columns], table.key
        )

    def _row_type(
        self, schema: str, table: str, names: tuple[str, ...], types: list[int], key: tuple[str, ...]
    ) -> RowType:
        unknown = {type_ for type_ in types if not is_built_in(type_)} - set(self._types)
        if unknown:
            self._types |= types_beneath(self._connection, unknown)
        known = tuple(self._types.get(type_, (type_, element_of(type_))) for type_ in types)
        return RowType(schema, table, names, known, tuple(names.index(name) for name in key))
