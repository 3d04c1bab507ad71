"""Configuration of the PostgreSQL source and sink."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator, model_validator

from airflow_provider_connect.connectors._postgresql.config import PostgreSQLConfig
from airflow_provider_connect.connectors._postgresql.names import TableName, column_list
from airflow_provider_connect.engine.config import SinkConfig


class PostgreSQLSourceConfig(PostgreSQLConfig):
    """What to read, and how new rows are found."""

    table: str | None = Field(default=None, examples=["my_table"])
    """Table or view to read: `table` or `schema.table`, in exact case. Beside `query` it only names the rows and lends
    its primary key."""
    query: str | None = None
    """SELECT to read instead of the table. Without `cursor` it is run whole at every poll, and its rows are delivered
    again each time."""
    poll_interval: float = Field(default=5.0, gt=0)
    """Seconds from one look for new rows to the next."""
    raw_mode: bool = False
    """Wrap each row: `{"value": row, "_metadata": {"table": …, "id": …}}`."""
    cursor: str | list[str] = ""
    """Column(s) that only grow from row to row, such as `updated_at`; new rows are those beyond the last ones read.
    Default for a table: its primary key, if that is made of numbers or times. Values must not be NULL."""
    tie_break: str | list[str] = ""
    """Column(s) that tell rows with equal `cursor` apart, so that none is lost or repeated. Default: the primary
    key of `table`."""
    late_commits: Literal["wait", "ignore"] = "wait"
    """Cursor values are handed out before a transaction commits, so a smaller one may become visible later. `wait`:
    rows are read once all transactions that ran beside them have ended, so none is skipped; a transaction left open
    holds reading up. `ignore`: read at once, for tables with a single writer."""
    splits: int = Field(default=1, ge=1, le=1000)
    """Parts that lanes (`parallelism`) or mapped tasks read side by side. The values of the first cursor column, an
    integer, are cut into blocks of `splitSize`, which are dealt to the parts in turn. Rows then keep their order within
    a part. Do not change it for a flow that has run: other parts are read from the beginning."""
    split_size: int = Field(default=100_000, ge=1)
    """Consecutive values of the first cursor column that one part reads before it is another's turn. As `splits`, not
    to be changed for a flow that has run."""

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
    def _has_something_to_read(self) -> PostgreSQLSourceConfig:
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


class PostgreSQLSinkConfig(PostgreSQLConfig, SinkConfig):
    """Where rows go, and how they meet the ones that are there."""

    table: str
    """Table to write: `table` or `schema.table`, in exact case. If its only column without a default is a json(b)
    column named `data`, whole documents go there; else fields go to the columns of their names."""
    auto_create_table: bool | Literal["json", "typed"] = False
    """Create the table if it is missing. `true` or `json`: `id` (identity, primary key), `data jsonb` and a GIN index
    on `data`, with a unique index over `conflictKey` in `upsertMode`. `typed`: a column for each field, of the type
    that its values need, `conflictKey` being the primary key; then columns are also added to a table and widened (never
    dropped or narrowed) as new fields and larger values arrive, in the transaction of the rows that need it."""
    document_column: str | None = Field(default=None, min_length=1)
    """The json(b) column that takes whole documents, where it is not to be found as described at `table`."""
    upsert_mode: bool = False
    """Replace rows that have the same `conflictKey` instead of adding to them; the last one of a key wins. A null
    document (a tombstone) deletes the row of its record's key: the text of the `conflictKey`, or a JSON object with its
    fields."""
    conflict_key: str | list[str] = ""
    """Column(s) that identify a row in `upsertMode`, or field(s) of the document; a unique index must cover them.
    Default: the primary key of a table with typed columns."""
    upsert_strategy: Literal["always", "ifNewer"] = "always"
    """`ifNewer`: a row replaces one with the same key only if its `upsertVersionColumn` is greater, so that what comes
    late never overwrites what is newer; of equal versions the first stays."""
    upsert_version_column: str | None = Field(default=None, min_length=1)
    """The column, or field of the document, that `ifNewer` compares, such as `updated_at`."""
    soft_delete_column: str | None = Field(default=None, min_length=1)
    """Column that is set where a tombstone would delete the row: to the time for a timestamp such as `deleted_at`, to
    true for a boolean. A later upsert of the row unsets it. It is a column also of a table of documents."""
    ignore_unknown_columns: bool = False
    """Leave out fields that the table has no column for; else such records are refused."""

    @field_validator("table")
    @classmethod
    def _is_name(cls, value: str) -> str:
        TableName.parse(value)
        return value

    @model_validator(mode="after")
    def _upsert_is_whole(self) -> PostgreSQLSinkConfig:
        for field, value in (
            ("conflictKey", self.conflict_columns),
            ("upsertStrategy: ifNewer", self.upsert_strategy != "always"),
            ("softDeleteColumn", self.soft_delete_column),
        ):
            if value and not self.upsert_mode:
                raise ValueError(f"{field} has no effect without `upsertMode: true`")
        if self.upsert_strategy == "ifNewer" and self.upsert_version_column is None:
            raise ValueError("upsertStrategy: ifNewer needs `upsertVersionColumn`, the column that tells what is newer")
        if self.upsert_version_column is not None and self.upsert_strategy != "ifNewer":
            raise ValueError("upsertVersionColumn has no effect without `upsertStrategy: ifNewer`")
        if self.creates_typed and self.document_column is not None:
            raise ValueError("documentColumn takes whole documents, but `autoCreateTable: typed` spreads their fields")
        if self.creates_typed and self.ignore_unknown_columns:
            raise ValueError(
                "ignoreUnknownColumns leaves fields out, but `autoCreateTable: typed` adds columns for them"
            )
        return self

    @property
    def creates_typed(self) -> bool:
        """Whether a missing table is created with typed columns, and any table evolves."""
        return self.auto_create_table == "typed"

    @property
    def table_name(self) -> TableName:
        """The table's name, parsed."""
        return TableName.parse(self.table)

    @property
    def conflict_columns(self) -> tuple[str, ...]:
        """The configured conflict key; empty if there is none."""
        return column_list(self.conflict_key)
