"""The source: polls a table or query for new rows, and streams them in bounded memory."""

from __future__ import annotations

import logging
import time
from contextlib import closing
from typing import Any, ClassVar

import pyarrow as pa

from airflow_provider_connect.connectors.clickhouse.client import Client, connect, describe_server
from airflow_provider_connect.connectors.clickhouse.config import ClickHouseSourceConfig
from airflow_provider_connect.connectors.clickhouse.errors import sort_error
from airflow_provider_connect.connectors.clickhouse.names import literal
from airflow_provider_connect.connectors.clickhouse.pump import Pump
from airflow_provider_connect.connectors.clickhouse.reading import (
    JSON_OUTPUT,
    Position,
    Reading,
    Values,
    check_values,
    look_up,
)
from airflow_provider_connect.engine.batch import COLUMNS, Batch, Checkpoint, documents
from airflow_provider_connect.engine.connector import Source, SourceContext, dealt
from airflow_provider_connect.engine.errors import ConnectError, EndOfInput, Fatal, FlowError, InvalidRecord

log = logging.getLogger(__name__)

JSON = "json"
BATCH_BYTES = 4 * 1024 * 1024
"""Wide rows end a batch earlier than its number of records."""
BLOCK_ROWS = 16_384
"""Rows that the server sends at once."""
LAG_SECONDS = 2


class ClickHouseSource(Source[ClickHouseSourceConfig]):
    """Rows of a table or query, in the order of a cursor; one split, named by the table.

    New rows are those beyond the last cursor value: a changed row is seen if its cursor value moves, a deleted one
    never. How late rows with smaller values may become visible is `lateRowsSeconds` of the configuration.

    What has no cursor is read whole at every poll and its rows are delivered again: that is at least once, and
    `replayable` is False. Draining then reads it once.

    HTTP streams Arrow. The native protocol passes each value through Python objects of its driver, so it is several
    times slower in columns, and little slower in JSON documents. Columns of text must be UTF-8.
    """

    config_type: ClassVar[type[ClickHouseSourceConfig]] = ClickHouseSourceConfig

    def __init__(self, config: ClickHouseSourceConfig) -> None:
        super().__init__(config)
        self._client: Client | None = None
        self._pump: Pump | None = None
        self._has_cursor: bool | None = True if config.cursor_columns else None if config.query is None else False
        self._reading: Reading

    # --- what it is

    @property
    def replayable(self) -> bool:  # type: ignore[override]
        """Whether rows can be read again from a position. Asks the server where only the table's columns tell."""
        if self._has_cursor is None:
            try:
                with closing(self._connect()) as client:
                    self._has_cursor = bool(look_up(client, self.config).order)
            except Exception:
                return True  # what is wrong tells `open`
        return self._has_cursor

    def formats(self) -> tuple[str, ...]:
        return (JSON,) if self.config.raw_mode else (COLUMNS, JSON)

    def splits(self) -> list[str]:
        return [self.config.table or "query"]

    def classify(self, error: Exception) -> ConnectError:
        found = sort_error(error)
        return Fatal(str(found)) if isinstance(found, InvalidRecord) else found

    def check(self) -> str:
        return describe_server(self.config.access, self.config.ca)

    # --- life cycle

    def open(self, context: SourceContext) -> None:
        self.close()
        self._context, self._json = context, context.format == JSON
        self._bound: Values | None = None
        self._waits_until: float | None = None
        self._ended = False
        self._next_poll = time.monotonic()
        self._client = client = self._connect()
        self._reading = look_up(client, self.config)
        self._has_cursor = bool(self._reading.order)
        if self._reading.nullable and client.query(self._reading.missing_values()):
            raise FlowError(
                f"rows of '{self._reading.label}' have NULL in {', '.join(self._reading.nullable)} and would never be"
                " read; set `query` with ifNull() for the cursor"
            )
        splits = dealt(context, self.splits())
        self._split = splits[0] if splits else None
        if self._split is not None:
            self._start(self._split, context.claim([self._split]))

    def _start(self, split: str, claimed: Checkpoint) -> None:
        stored, until = claimed.get(split), self._context.until.get(split)
        self._after: Position | None = None
        self._until: Position | None = None
        self._polls = 0
        if self._reading.order:
            self._after = self._reading.load(stored) if stored is not None else None
            self._until = self._reading.load(until) if until is not None else None
            return
        if until is not None:
            raise FlowError("what is read without `cursor` cannot be read again up to a position; set `cursor`")
        log.warning(
            "flow=%s '%s' is read without a cursor: all its rows are delivered at every poll; set `cursor` to read new"
            " rows only",
            self._context.flow,
            self._reading.label,
        )
        self._polls = int(stored["polls"]) if isinstance(stored, dict) and "polls" in stored else 0

    def close(self) -> None:
        pump, self._pump = self._pump, None
        client, self._client = self._client, None
        if pump is not None:
            pump.close()
        if client is not None:
            client.close()

    def _connect(self) -> Client:
        return connect(self.config.access, {**JSON_OUTPUT, **self.config.settings}, self.config.ca)

    # --- reading

    def read(self, max_records: int, timeout: float) -> Batch | None:
        deadline = time.monotonic() + timeout
        while True:
            if self._ended or self._split is None:
                raise EndOfInput
            if self._pump is not None:
                rows = self._pump.fetch(max_records, BATCH_BYTES, deadline - time.monotonic())
                batch = self._batch(rows) if rows is not None else None
                if self._pump is not None and self._pump.done:
                    batch = self._finish_poll()
                if batch is not None or time.monotonic() >= deadline:
                    return batch
            elif not self._prepare(deadline):
                return None

    def _prepare(self, deadline: float) -> bool:
        """One step towards the next stream; False when that is all there is to do before `deadline`."""
        client = self._opened()
        now = time.monotonic()
        due = self._waits_until if self._waits_until is not None else self._next_poll
        if now < due:
            time.sleep(max(0.0, min(due, deadline) - now))
            if time.monotonic() < due:
                return False
        if self._waits_until is not None:
            self._waits_until = None
            self._begin(self._bound)
            return True
        self._next_poll = time.monotonic() + self.config.poll_interval
        if not self._reading.order or self._until is not None:
            # A logged range was settled when it was first read.
            self._begin(None)
            return True
        found = client.query(self._reading.newest(self._after))
        if not found and self._after is not None and self._equal_rows_came(client):
            self._begin(self._after.values[: len(self._reading.cursor)])
        elif not found:
            self._ended = self._context.drain
        else:
            columns = self._reading.cursor
            self._bound = tuple(column.position(value) for column, value in zip(columns, found[0], strict=True))
            self._waits_until = time.monotonic() + (0.0 if self._is_quiet(client) else self.config.late_rows_seconds)
        return True

    def _equal_rows_came(self, client: Client) -> bool:
        """Whether there are more rows now that are equal to the last one read."""
        assert self._after is not None
        ((_, equal),) = client.query(self._reading.count(self._after))
        return int(equal) > self._after.rows

    def _is_quiet(self, client: Client) -> bool:
        """Whether the table's last insert is so old that no row can be late any more."""
        late, table = self.config.late_rows_seconds, self._reading.table
        if late == 0:
            return True
        if table is None:
            return False
        database = literal(table.database) if table.database else "currentDatabase()"
        ((parts, age),) = client.query(
            "SELECT count(), toInt64(now()) - toInt64(max(modification_time)) FROM system.parts"
            f" WHERE active AND database = {database} AND table = {literal(table.table)}"
        )
        return int(parts) > 0 and int(age) > late + 1

    def _begin(self, bound: Values | None) -> None:
        client, reading = self._opened(), self._reading
        statement = reading.select(self._json, self.config.raw_mode, self._after, bound, self._until)
        schema = reading.schema(self._json)
        self._pump = Pump(lambda: client.stream(statement, schema, {"max_block_size": BLOCK_ROWS}))
        self._skip = self._after
        self._rows_of_poll = 0

    def _finish_poll(self) -> Batch | None:
        """The end of a stream; for what has no cursor, the batch that says that it was read whole."""
        assert self._pump is not None and self._split is not None
        self._pump.close()
        self._pump = None
        self._polls += 1
        self._ended = self._context.drain or self._until is not None
        if self._reading.order:
            return None
        empty = pa.RecordBatch.from_pylist([], self._reading.schema(self._json))
        return Batch(self._rows(empty), Checkpoint({self._split: {"polls": self._polls}}))

    def _opened(self) -> Client:
        if self._client is None:
            raise Fatal("the source is not open")
        return self._client

    # --- rows to batches

    def _batch(self, found: pa.RecordBatch) -> Batch | None:
        assert self._split is not None
        reading = self._reading
        if reading.order:
            found = self._within(found)
            if not found.num_rows:
                return None
            self._after = self._position_after(found)
            position = reading.dump(self._after)
        else:
            self._rows_of_poll += found.num_rows
            position = {"polls": self._polls, "rows": self._rows_of_poll}
        return Batch(self._rows(found), Checkpoint({self._split: position}))

    def _within(self, found: pa.RecordBatch) -> pa.RecordBatch:
        """Without the rows that were read before, and those that the bound does not count any more."""
        if self._skip is not None:
            equal = self._leading_equal(found, self._skip.values)
            dropped = min(equal, self._skip.rows)
            rest = self._skip.rows - dropped
            self._skip = Position(self._skip.values, rest) if rest and equal == found.num_rows else None
            found = found.slice(dropped)
        if self._until is not None and found.num_rows:
            last = self._trailing_equal(found, self._until.values)
            before = self._after.rows if self._after is not None and self._after.values == self._until.values else 0
            allowed = max(0, self._until.rows - before)
            found = found.slice(0, found.num_rows - max(0, last - allowed))
        return found

    def _position_after(self, found: pa.RecordBatch) -> Position:
        values = self._values_at(found, found.num_rows - 1)
        equal = self._trailing_equal(found, values)
        before = self._after
        if equal == found.num_rows and before is not None and before.values == values:
            equal += before.rows
        return Position(values, equal)

    def _values_at(self, found: pa.RecordBatch, row: int) -> Values:
        values = []
        for at, column in enumerate(self._reading.order):
            value = found.column(self._reading.place(at, self._json))[row].as_py()
            values.append(None if value is None else column.position(value))
        return check_values(values, self._reading.label)

    def _leading_equal(self, found: pa.RecordBatch, values: Values) -> int:
        """How many rows from the first on have these values."""
        low, high = 0, found.num_rows  # they are ordered
        while low < high:
            middle = (low + high) // 2
            if self._values_at(found, middle) == values:
                low = middle + 1
            else:
                high = middle
        return low

    def _trailing_equal(self, found: pa.RecordBatch, values: Values) -> int:
        """How many rows up to the last one have these values."""
        low, high = 0, found.num_rows
        while low < high:
            middle = (low + high) // 2
            if self._values_at(found, middle) == values:
                high = middle
            else:
                low = middle + 1
        return int(found.num_rows) - low

    def _rows(self, found: pa.RecordBatch) -> pa.RecordBatch:
        if self._json:
            return documents(found.column(1), JSON, key=found.column(0).cast(pa.binary()))
        columns = self._reading.columns
        arrays = [column.finish(values) for column, values in zip(columns, found.columns, strict=False)]
        for column, values in zip(columns, arrays, strict=True):
            if pa.types.is_string(values.type):
                _check_text(column.name, values)
        return pa.RecordBatch.from_arrays(arrays, schema=pa.schema([column.field for column in columns]))

    # --- lag

    def lag(self, checkpoint: Checkpoint) -> int | None:
        """Rows past `checkpoint`; None without cursor, or if counting takes longer than two seconds."""
        with closing(self._connect()) as client:
            reading = look_up(client, self.config)
            if not reading.order:
                return None
            stored: Any = checkpoint.get(self.splits()[0])
            after = reading.load(stored) if stored is not None else None
            try:
                ((behind, equal),) = client.query(reading.count(after), {"max_execution_time": LAG_SECONDS})
            except Exception:
                return None
        return int(behind) + max(0, int(equal) - (after.rows if after is not None else 0))


def _check_text(name: str, values: pa.Array) -> None:
    try:
        values.validate(full=True)
    except pa.ArrowInvalid:
        raise Fatal(
            f"'{name}' holds bytes that are no UTF-8 text; set `query` with hex({name}) or base64Encode({name})"
        ) from None
