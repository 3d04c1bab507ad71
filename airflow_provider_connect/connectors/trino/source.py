"""The source: polls a table or query for new rows, and streams them page by page into columns."""

from __future__ import annotations

import logging
import time
from typing import Any, ClassVar

import pyarrow as pa

from airflow_provider_connect.codecs._json_text import objects
from airflow_provider_connect.connectors.trino.client import SOURCE, Client, Statement
from airflow_provider_connect.connectors.trino.config import TrinoSourceConfig
from airflow_provider_connect.connectors.trino.errors import sort_error
from airflow_provider_connect.connectors.trino.query import Reading, Tuple, look_up
from airflow_provider_connect.connectors.trino.table import describe_server
from airflow_provider_connect.connectors.trino.values import record_batch
from airflow_provider_connect.engine.batch import COLUMNS, Batch, Checkpoint, documents
from airflow_provider_connect.engine.connector import Source, SourceContext, dealt
from airflow_provider_connect.engine.errors import ConnectError, EndOfInput, Fatal, FlowError

log = logging.getLogger(__name__)

LAG_SESSION = {"query_max_run_time": "5s"}


class TrinoSource(Source[TrinoSourceConfig]):
    """Rows of a table or query, in the order of a cursor; one split, named by the table.

    New rows are those beyond the last cursor value: updates of a row are seen if they move its cursor value, deletes
    never are. Without a cursor all rows are delivered again at every poll: that is at least once, and `replayable` is
    False; draining then runs it once.

    One statement runs at a time and its pages are fetched as they are wanted, so the server does not run ahead of the
    reader by more than its output buffers.
    """

    config_type: ClassVar[type[TrinoSourceConfig]] = TrinoSourceConfig

    def __init__(self, config: TrinoSourceConfig) -> None:
        super().__init__(config)
        self.replayable = bool(config.cursor_columns)
        self._client: Client | None = None
        self._statement: Statement | None = None
        self._reading: Reading

    # --- what it is

    def formats(self) -> tuple[str, ...]:
        return ("json",) if self.config.raw_mode else (COLUMNS,)

    def splits(self) -> list[str]:
        return [self.config.table or "query"]

    def classify(self, error: Exception) -> ConnectError:
        return sort_error(error)

    def check(self) -> str:
        with Client(self.config) as client:
            return describe_server(client, self.config)

    # --- life cycle

    def open(self, context: SourceContext) -> None:
        self.close()
        self._context = context
        self._rows: list[list[Any]] = []
        self._at = 0
        self._ended = False
        self._next_poll = time.monotonic()
        self._client = Client(self.config, f"{SOURCE} {context.flow}")
        self._reading = look_up(self._client, self.config)
        if self._reading.order and self._client.run(self._reading.missing_values()):
            raise FlowError(
                f"rows have NULL in {', '.join(column.name for column in self._reading.order)} and would never be read:"
                " set `query` with coalesce() for the cursor"
            )
        splits = dealt(context, self.splits())
        self._split = splits[0] if splits else None
        if self._split is not None:
            self._start(self._split, context.claim([self._split]))

    def _start(self, split: str, claimed: Checkpoint) -> None:
        position = claimed.get(split)
        self._until: Tuple | None = None
        self._after: Tuple | None = None
        self._polls = self._rows_of_poll = 0
        if self._reading.order:
            self._after = self._reading.values(position) if position is not None else None
            if split in self._context.until:
                self._until = self._reading.values(self._context.until[split])
            elif self._context.drain:
                self._until = self._newest()
                self._ended = self._until is None
            return
        if self._context.until:
            raise FlowError("without `cursor` rows cannot be read again up to a position; set `cursor`")
        log.warning(
            "flow=%s there is no cursor: all rows are delivered at every poll; set `cursor` and `tieBreak` to read new"
            " rows only",
            self._context.flow,
        )
        self._polls = int(position["polls"]) if isinstance(position, dict) and "polls" in position else 0

    def _newest(self) -> Tuple | None:
        assert self._client is not None
        rows = self._client.run(self._reading.newest(self._after))
        return tuple(str(value) for value in rows[0]) if rows else None

    def close(self) -> None:
        client, self._client = self._client, None
        statement, self._statement = self._statement, None
        if statement is not None:
            statement.cancel()
        if client is not None:
            client.close()

    # --- reading

    def read(self, max_records: int, timeout: float) -> Batch | None:
        deadline = time.monotonic() + timeout
        while True:
            if self._at < len(self._rows):
                return self._batch(max_records)
            if self._ended or self._split is None:
                raise EndOfInput
            left = deadline - time.monotonic()
            if self._statement is None:
                if not self._begin(left):
                    return None
                continue
            page = self._statement.fetch(max(left, 0.01))
            if page is not None:
                self._rows, self._at = page.rows, 0
                self._rows_of_statement += len(page.rows)
            elif self._statement.done:
                batch = self._finish_poll()
                if batch is not None:
                    return batch
            elif time.monotonic() >= deadline:
                return None

    def _begin(self, timeout: float) -> bool:
        """Start the next statement if it is time; else wait for that, no longer than `timeout`."""
        pause = self._next_poll - time.monotonic()
        if pause > 0:
            time.sleep(max(0.0, min(pause, timeout)))
            if time.monotonic() < self._next_poll:
                return False
        if self._client is None:
            raise Fatal("the source is not open")
        self._next_poll = time.monotonic() + self.config.poll_interval
        self._rows_of_statement = 0
        self._statement = self._client.start(self._reading.select(self._after, self._until, self.config.page_rows))
        return True

    def _finish_poll(self) -> Batch | None:
        """The statement has nothing more; a batch without rows where only that tells that all has been read."""
        self._statement = None
        if self._reading.order:
            if self._rows_of_statement >= self.config.page_rows:
                self._next_poll = time.monotonic()  # there is more
            elif self._until is not None:
                self._ended = True
                if self._split in self._context.until and self._after != self._until:
                    self._after = self._until  # the last rows of the stretch are gone
                    return self._empty()
            return None
        self._polls, self._rows_of_poll = self._polls + 1, 0
        self._ended = self._context.drain
        return self._empty()

    def _empty(self) -> Batch:
        empty = self._columns([])
        return Batch(self._as_documents(empty) if self.config.raw_mode else empty, self._checkpoint())

    # --- rows to batches

    def _batch(self, max_records: int) -> Batch:
        rows = self._rows[self._at : self._at + max_records]
        self._at += len(rows)
        if self._reading.order:
            self._after = self._reading.values_of(rows[-1])
        self._rows_of_poll += len(rows)
        columns = self._columns(rows)
        return Batch(self._as_documents(columns) if self.config.raw_mode else columns, self._checkpoint())

    def _checkpoint(self) -> Checkpoint:
        assert self._split is not None
        if self._reading.order:
            assert self._after is not None
            return Checkpoint({self._split: self._reading.position(self._after)})
        position = {"polls": self._polls}
        return Checkpoint({self._split: {**position, "rows": self._rows_of_poll} if self._rows_of_poll else position})

    def _columns(self, rows: list[list[Any]]) -> pa.RecordBatch:
        return record_batch(self._reading.columns, rows, self._place())

    def _as_documents(self, columns: pa.RecordBatch) -> pa.RecordBatch:
        """`{"value": row, "_metadata": {catalog, schema, table, id}}`"""
        count = columns.num_rows
        key = self._reading.key
        constant = {name: pa.repeat(text, count) for name, text in self._place().items()}
        if len(key) == 1:
            identity = columns.column(key[0])
        elif key:
            identity = pa.StructArray.from_arrays([columns.column(name) for name in key], names=list(key))
        else:
            identity = pa.nulls(count)
        metadata = pa.StructArray.from_arrays([*constant.values(), identity], names=[*constant, "id"])
        value = pa.StructArray.from_arrays(columns.columns, fields=list(columns.schema))
        wrapped = pa.RecordBatch.from_arrays([value, metadata], names=["value", "_metadata"])
        return documents(objects(wrapped), "json")

    def _place(self) -> dict[str, str]:
        config = self.config
        return {"catalog": config.catalog, "schema": config.schema_name, "table": config.table or "query"}

    # --- lag

    def lag(self, checkpoint: Checkpoint) -> int | None:
        """Rows past `checkpoint`; None without a cursor, or if counting takes longer than five seconds."""
        with Client(self.config, session=LAG_SESSION) as client:
            reading = look_up(client, self.config)
            if not reading.order:
                return None
            position = checkpoint.get(self.splits()[0])
            after = reading.values(position) if position is not None else None
            try:
                return int(client.run(reading.count(after))[0][0])
            except ConnectError as error:
                if "EXCEEDED_TIME_LIMIT" in str(error):
                    return None
                raise
