"""What is configured about a table, whichever catalog it is in."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator
from pyiceberg.expressions import AlwaysTrue, BooleanExpression
from pyiceberg.expressions.parser import parse

from airflow_provider_connect.connectors._iceberg.partitioning import partition_fields
from airflow_provider_connect.engine.config import Config, SinkConfig


def _listed(value: Any) -> Any:
    """A list may be written as one name."""
    return [value] if isinstance(value, str) else value


Names = Annotated[list[str], BeforeValidator(_listed)]


class TableConfig(Config):
    """Which table."""

    namespace: str = Field(min_length=1)
    """Namespace (schema) of the table; levels are separated by dots."""
    table: str = Field(min_length=1)
    """Name of the table."""

    @field_validator("namespace")
    @classmethod
    def _has_levels(cls, value: str) -> str:
        if not all(value.split(".")):
            raise ValueError(f"'{value}' has an empty level; write levels with one dot between them")
        return value

    @property
    def levels(self) -> tuple[str, ...]:
        """The namespace, taken apart."""
        return tuple(self.namespace.split("."))

    @property
    def identifier(self) -> tuple[str, ...]:
        """Namespace and table, as catalogs want them."""
        return (*self.levels, self.table)

    @property
    def label(self) -> str:
        """Namespace and table, as people read them."""
        return f"{self.namespace}.{self.table}"


class TableSourceConfig(TableConfig):
    """What to read of a table, and how new rows are found."""

    poll_interval: float = Field(default=10.0, gt=0)
    """Seconds from one look for new data to the next."""
    raw_mode: bool = False
    """Wrap each row: `{"value": row, "_metadata": {"namespace": …, "table": …}}`."""
    incremental_by_snapshot: bool = True
    """Read the table once, and from then on what each new snapshot appends. False: read the whole table again whenever
    it has a new snapshot; its rows are then delivered again each time."""
    on_overwrite: Literal["fail", "skip", "reread"] = "fail"
    """What to do at a snapshot that changes or deletes rows: stop; go on with the next snapshot, which leaves its
    changes out; or read the whole table as that snapshot has it, which delivers its rows again. Compaction
    (`replace`) changes no rows and is passed."""
    columns: Names = Field(default_factory=list)
    """Columns to read; only these are fetched. Default: all."""
    filter: str | None = None
    """Rows to read, such as `region = 'eu' AND amount >= 10`. Files without such rows are not fetched."""
    splits: int = Field(default=1, ge=1, le=1024)
    """Parts that can be read side by side, by `parallelism` or by mapped tasks. A data file belongs to the part that
    its path hashes to; changing the number later starts from the beginning."""

    @field_validator("filter")
    @classmethod
    def _can_be_read(cls, value: str | None) -> str | None:
        if value is not None:
            _parsed(value)
        return value

    @property
    def row_filter(self) -> BooleanExpression:
        """The filter, parsed."""
        return AlwaysTrue() if self.filter is None else _parsed(self.filter)


def _parsed(text: str) -> BooleanExpression:
    try:
        return parse(text)
    except Exception as error:
        raise ValueError(
            f"cannot be read as a condition over columns, such as \"id > 5 and name = 'x'\": {error}"
        ) from None


class TableSinkConfig(TableConfig, SinkConfig):
    """Where rows go. Each flush of the flow is one snapshot of the table."""

    batch_size: int = Field(default=100, ge=0)
    """Records that make a flush, and with it a snapshot, due. 0: never by size. Large flows want thousands."""
    auto_create_table: bool = False
    """Create the table, and its namespace, if it is missing."""
    create_as: Literal["document", "typed"] = "document"
    """The table that is created: one `data` string column for whole JSON documents, or (`typed`) the columns of the
    first records."""
    partition_by: Names = Field(default_factory=list)
    """Partition fields of a table that is created: columns, or `year(c)`, `month(c)`, `day(c)`, `hour(c)`,
    `bucket(n, c)`, `truncate(n, c)`."""
    document_column: str | None = Field(default=None, min_length=1)
    """The string column that takes whole JSON documents. Default: `data`, if it is the table's only column."""
    schema_evolution: Literal["none", "add", "ignore"] = "none"
    """What becomes of fields that the table has no column for: the record is refused; a column is added (and int
    widened to long, float to double); or the field is left out."""
    target_file_size_bytes: int = Field(default=512 * 1024 * 1024, ge=1024 * 1024)
    """Size at which a data file is ended and the next one begun."""
    table_properties: dict[str, str] = Field(default_factory=dict)
    """Properties of a table that is created, such as `write.parquet.compression-codec`."""
    expire_snapshots_older_than_hours: float = Field(default=0, ge=0)
    """Forget snapshots that are older, about once an hour, so that the table's metadata stays small. The checkpoint is
    not lost by it. 0: keep them."""

    @model_validator(mode="after")
    def _of_new_tables(self) -> TableSinkConfig:
        for field in ("partition_by", "table_properties"):
            if getattr(self, field) and not self.auto_create_table:
                key = type(self).model_fields[field].alias
                raise ValueError(f"'{key}' is of tables that are created; set `autoCreateTable: true` or drop it")
        if self.partition_by and self.create_as == "document":
            raise ValueError("'partitionBy' needs typed columns: set `createAs: typed`")
        if self.create_as == "typed" and self.document_column is not None:
            raise ValueError("'createAs: typed' and 'documentColumn' exclude each other; drop one of them")
        partition_fields(self.partition_by)
        return self
