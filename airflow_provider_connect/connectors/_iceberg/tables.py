"""Tables that we create, and columns that we add."""

from __future__ import annotations

import contextlib

import pyarrow as pa
from pyiceberg.catalog import Catalog
from pyiceberg.exceptions import (
    CommitFailedException,
    NamespaceAlreadyExistsError,
    NoSuchNamespaceError,
    NoSuchTableError,
    TableAlreadyExistsError,
)
from pyiceberg.schema import Schema
from pyiceberg.table import Table
from pyiceberg.types import NestedField, StringType

from airflow_provider_connect.connectors._iceberg.commits import ATTEMPTS, TableCommits
from airflow_provider_connect.connectors._iceberg.config import TableConfig, TableSinkConfig
from airflow_provider_connect.connectors._iceberg.fitting import Fitting
from airflow_provider_connect.connectors._iceberg.partitioning import partition_fields
from airflow_provider_connect.engine.errors import Fatal, Retryable

DOCUMENT_COLUMN = "data"

_OF_NEW_TABLES = {
    "commit.manifest-merge.enabled": "true",
    "write.metadata.delete-after-commit.enabled": "true",
    "write.metadata.previous-versions-max": "100",
}
"""A table that gets a snapshot every few seconds drowns in small metadata otherwise."""


def load_table(catalog: Catalog, config: TableConfig) -> Table:
    """The table. Fatal, with the remedy, if it is missing."""
    try:
        return catalog.load_table(config.identifier)
    except (NoSuchTableError, NoSuchNamespaceError) as error:
        raise missing_table(catalog, config, "create it, or check `namespace` and `table`") from error


def missing_table(catalog: Catalog, config: TableConfig, remedy: str) -> Fatal:
    """The error for a table that is not there; tells whether its namespace is."""
    there = False
    with contextlib.suppress(Exception):
        there = catalog.namespace_exists(config.levels)
    what = f"table '{config.label}'" if there else f"namespace '{config.namespace}', so no table '{config.label}'"
    return Fatal(f"there is no {what}; {remedy}")


def find_or_create(catalog: Catalog, config: TableSinkConfig) -> Table:
    """The table. Safe when several do it at once."""
    try:
        return catalog.load_table(config.identifier)
    except (NoSuchTableError, NoSuchNamespaceError) as error:
        if not config.auto_create_table:
            raise missing_table(catalog, config, "create it, or set `autoCreateTable: true`") from error
    for depth in range(1, len(config.levels) + 1):
        with contextlib.suppress(NamespaceAlreadyExistsError):
            if not catalog.namespace_exists(config.levels[:depth]):
                catalog.create_namespace(config.levels[:depth])
    # Typed columns come with the first records.
    columns = [NestedField(1, DOCUMENT_COLUMN, StringType(), required=False)] if config.create_as == "document" else []
    with contextlib.suppress(TableAlreadyExistsError, CommitFailedException):
        return catalog.create_table(
            config.identifier, Schema(*columns), properties={**_OF_NEW_TABLES, **config.table_properties}
        )
    return catalog.load_table(config.identifier)


def document_column(table: Table, config: TableSinkConfig) -> str | None:
    """The column that takes whole documents, if it is such a table."""
    columns = table.schema().columns
    if config.document_column is not None:
        found = next((column for column in columns if column.name == config.document_column), None)
        if found is None or not isinstance(found.field_type, StringType):
            problem = "is missing" if found is None else f"is {found.field_type}, not string"
            raise Fatal(f"documentColumn: '{config.document_column}' of '{config.label}' {problem}")
        return found.name
    alone = len(columns) == 1 and columns[0].name == DOCUMENT_COLUMN and isinstance(columns[0].field_type, StringType)
    return DOCUMENT_COLUMN if alone and config.create_as == "document" else None


def evolve(commits: TableCommits, config: TableSinkConfig, batch: pa.RecordBatch) -> None:
    """Give the table the columns that `batch` needs, as a change of its own, and see it as it is then."""
    for _ in range(ATTEMPTS):
        table = commits.table
        missing = Fitting(table.schema(), None, False).missing(batch)
        if not len(missing):
            return
        new = not table.schema().columns
        try:
            with table.transaction() as transaction:
                with transaction.update_schema() as schema:
                    schema.union_by_name(missing)
                if new and config.partition_by:
                    with transaction.update_spec() as spec:
                        for field in partition_fields(config.partition_by):
                            if field.column not in missing.names:
                                raise Fatal(
                                    f"partitionBy: there is no column '{field.column}' in the first records; they have "
                                    f"{', '.join(missing.names)}"
                                )
                            spec.add_field(field.column, field.transform, field.name)
        except CommitFailedException:  # somebody else was quicker
            pass
        commits.refresh()
    raise Retryable(f"the columns of '{config.label}' are being changed by others")
