"""Configuration of the ClickHouse source and sink."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, SecretStr, field_validator, model_validator

from airflow_provider_connect.connectors.clickhouse.access import Access
from airflow_provider_connect.connectors.clickhouse.names import TableName, column_list
from airflow_provider_connect.engine.config import Config, FromConnection, SinkConfig
from airflow_provider_connect.engine.pem import pem


class ClickHouseConfig(Config):
    """How to reach the server."""

    connection_string: Annotated[SecretStr, FromConnection("uri")] = Field(
        examples=["clickhouse://user:password@host:9000/database?dial_timeout=10s", "http://host:8123/database"]
    )
    """Server, account and database. `http://host:8123/database?username=…&password=…` (or `https://`, port 8443) speaks
    HTTP, `clickhouse://host:9000/database` (with `secure=true`: TLS, port 9440) the native protocol; a source of many
    columns is several times faster over HTTP, which streams Arrow. Options:
    `username`, `password`, `database`, `secure`, `skip_verify`, `dial_timeout`, `read_timeout`, `compress` (`lz4`,
    `zstd` or `none`), `max_execution_time`; those of the pool of Go's driver are accepted and ignored."""
    ca_cert: Annotated[str | None, FromConnection("extra.ca_cert", "CA certificate")] = None
    """Certificate of the authority that signed the server's: PEM, or the path of a file. Default: the public ones."""
    settings: dict[str, str | int | bool] = Field(default_factory=dict)
    """Settings of the server for every statement, such as `max_memory_usage`."""

    @field_validator("connection_string")
    @classmethod
    def _understood(cls, value: SecretStr) -> SecretStr:
        Access.parse(value.get_secret_value())
        return value

    @property
    def access(self) -> Access:
        """The connection string, taken apart."""
        return Access.parse(self.connection_string.get_secret_value())

    @property
    def ca(self) -> str | None:
        """The CA certificate as PEM."""
        return pem(self.ca_cert) if self.ca_cert else None


class ClickHouseSourceConfig(ClickHouseConfig):
    """What to read, and how new rows are found."""

    table: str | None = Field(default=None, examples=["source_table"])
    """Table or view to read: `table` or `database.table`, in exact case. Beside `query` it only names the rows."""
    query: str | None = None
    """SELECT to read instead of the table. Without `cursor` it is run whole at every poll, and its rows are delivered
    again each time."""
    poll_interval: float = Field(default=5.0, gt=0)
    """Seconds from one look for new rows to the next."""
    raw_mode: bool = False
    """Wrap each row: `{"value": row, "_metadata": {"table": …, "id": …}}`."""
    cursor: str | list[str] = ""
    """Column(s) that only grow from row to row; new rows are those beyond the last ones read. Default for a table: its
    column `id` if that is an integer, else `created_at` if that is a time. A table with neither is read whole at every
    poll."""
    tie_break: str | list[str] = ""
    """Column(s) that tell rows with equal `cursor` apart, so that none is lost or repeated. Default: a hash of the
    whole row; naming a column spares the server that."""
    late_rows_seconds: float = Field(default=2.0, ge=0)
    """How much later than a row with a greater cursor value a row may become visible, because its insert took longer.
    A poll looks up the newest value, waits so long, and then reads up to that value; it does not wait if the table's
    last insert is older. 0: for tables with a single writer."""

    @field_validator("table")
    @classmethod
    def _is_name(cls, value: str | None) -> str | None:
        if value is not None:
            TableName.parse(value)
        return value

    @field_validator("query")
    @classmethod
    def _is_one_select(cls, value: str | None) -> str | None:
        if value is None:
            return None
        text = value.strip().rstrip(";").rstrip()
        if not text:
            raise ValueError("the query is empty")
        return text

    @model_validator(mode="after")
    def _has_something_to_read(self) -> ClickHouseSourceConfig:
        if self.table is None and self.query is None:
            raise ValueError("nothing to read: set `table` or `query`")
        if self.tie_break_columns and not self.cursor_columns:
            raise ValueError("tieBreak without cursor: set `cursor` to the column(s) that new rows are found by")
        return self

    @property
    def table_name(self) -> TableName | None:
        """The table's name, parsed."""
        return TableName.parse(self.table) if self.table is not None else None

    @property
    def cursor_columns(self) -> tuple[str, ...]:
        """The configured cursor columns; empty if there are none."""
        return column_list(self.cursor)

    @property
    def tie_break_columns(self) -> tuple[str, ...]:
        """The configured tie-break columns; empty if there are none."""
        return column_list(self.tie_break)


class ClickHouseSinkConfig(ClickHouseConfig, SinkConfig):
    """Where rows go, and how they meet the ones that are there."""

    table: str
    """Table to write: `table` or `database.table`, in exact case. If its only column without a default is a String or
    JSON column named `data`, whole documents go there; else fields go to the columns of their names. A table that does
    not remember the tokens of inserts (MergeTree with `non_replicated_deduplication_window` 0, its default; Memory) is
    written at least once: a warning at the start says so, with the ALTER TABLE that mends it."""
    batch_size: int = Field(default=100, ge=0)
    """Records that make a flush due; what the source has handed over by then is written with them, as one insert.
    0: never by size. ClickHouse likes few large inserts: use thousands where latency allows."""
    auto_create_table: bool | Literal["json", "typed"] = False
    """Create the table if it is missing. `true` or `json`: MergeTree with `data String` and `created_at DateTime`.
    `typed`: columns by the names and types of the first rows. Either remembers the tokens of its inserts."""
    document_column: str | None = Field(default=None, min_length=1)
    """The String or JSON column that takes whole documents, where it is not to be found as described at `table`."""
    upsert_mode: bool = False
    """The last row of a `conflictKey` replaces earlier ones, by the engine ReplacingMergeTree: at merges, and at once
    for queries with FINAL. A table that exists must have that engine."""
    conflict_key: str | list[str] = ""
    """Column(s) that identify a row, in `upsertMode` with `autoCreateTable: typed`: the ORDER BY of the new table."""
    version_column: str | None = Field(default=None, min_length=1)
    """Column whose greatest value wins in `upsertMode`, in a table that is created. Default: the last insert wins."""
    deleted_column: str | None = Field(default=None, min_length=1)
    """Column of a created table that is 1 in a row that deletes its key, in `upsertMode` with `versionColumn`."""
    ignore_unknown_columns: bool = False
    """Leave out fields that the table has no column for; else such records are refused."""

    @field_validator("table")
    @classmethod
    def _is_name(cls, value: str) -> str:
        TableName.parse(value)
        return value

    @model_validator(mode="after")
    def _upsert_is_complete(self) -> ClickHouseSinkConfig:
        if not self.upsert_mode:
            for name in ("conflict_key", "version_column", "deleted_column"):
                if getattr(self, name):
                    raise ValueError(f"{_ALIASES[name]} has no effect without `upsertMode: true`")
        elif self.shape == "json":
            raise ValueError(
                "upsertMode needs a table with typed columns: `autoCreateTable: typed`, or create the table"
            )
        elif self.shape == "typed" and not self.conflict_columns:
            raise ValueError("upsertMode with `autoCreateTable: typed` needs `conflictKey`")
        if self.deleted_column and not self.version_column:
            raise ValueError("deletedColumn needs `versionColumn`")
        return self

    @property
    def shape(self) -> Literal["json", "typed"] | None:
        """The kind of table to create; None if none is to be created."""
        return "json" if self.auto_create_table is True else self.auto_create_table or None

    @property
    def table_name(self) -> TableName:
        """The table's name, parsed."""
        return TableName.parse(self.table)

    @property
    def conflict_columns(self) -> tuple[str, ...]:
        """The configured conflict key; empty if there is none."""
        return column_list(self.conflict_key)


_ALIASES = {"conflict_key": "conflictKey", "version_column": "versionColumn", "deleted_column": "deletedColumn"}
