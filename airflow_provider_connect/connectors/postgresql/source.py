"""The source: polls a table or query for new rows, and streams them by COPY in bounded memory."""

from __future__ import annotations

import json
import logging
import time
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, TypeVar

import psycopg
import pyarrow as pa
from psycopg import pq

from airflow_provider_connect.connectors._postgresql.client import (
    Connection,
    connect,
    describe_server,
    run,
    sort_error,
)
from airflow_provider_connect.connectors._postgresql.copy_stream import CopyOut, Rows
from airflow_provider_connect.connectors._postgresql.session_name import session_name
from airflow_provider_connect.connectors.postgresql import copy_binary, copy_text
from airflow_provider_connect.connectors.postgresql.binary_types import OutputTexts
from airflow_provider_connect.connectors.postgresql.blocks import Blocks, split_names
from airflow_provider_connect.connectors.postgresql.config import PostgreSQLSourceConfig
from airflow_provider_connect.connectors.postgresql.horizon import running_transactions, still_running
from airflow_provider_connect.connectors.postgresql.query import Encoding, Reading, Tuple, look_up
from airflow_provider_connect.connectors.postgresql.table import no_rows, result_types
from airflow_provider_connect.engine.batch import ENVELOPE, Batch, Checkpoint, envelope_schema
from airflow_provider_connect.engine.connector import Source, SourceContext, dealt
from airflow_provider_connect.engine.errors import ConnectError, EndOfInput, Fatal, FlowError, Retryable

log = logging.getLogger(__name__)

T = TypeVar("T", str, bytes)

COPY_TEXT: Literal["postgresql-copy"] = "postgresql-copy"
COPY_BINARY: Literal["postgresql-copy-binary"] = "postgresql-copy-binary"
JSON: Literal["json"] = "json"

BATCH_BYTES = 4 * 1024 * 1024
"""Wide rows end a batch earlier than its number of records."""
LAG_ROWS = 1_000_000
"""No more rows than this are counted for `lag`."""
LAG_MILLISECONDS = 2_000

_HORIZON_PAUSE = 0.02
_HORIZON_WARNING_SECONDS = 60.0


@dataclass(slots=True)
class _Part:
    """How far a split has been read."""

    split: str
    blocks: Blocks | None
    """The blocks that it reads of the table; None: all of it."""
    after: Tuple | None = None
    until: Tuple | None = None
    bound: Tuple | None = None
    """Up to where the current poll reads."""
    next_value: int | None = None
    """From where on the current poll looks for the next block."""


class PostgreSQLSource(Source[PostgreSQLSourceConfig]):
    """Rows of a table or query, in the order of a cursor; one split, named by the table, or several (`blocks`).

    New rows are those beyond the last cursor value: updates of a row are seen if they move its cursor value, and
    deletes never are (that takes change data capture). A poll reads up to its horizon, see `horizon`.

    Without a cursor a query is run whole at every poll and its rows are delivered again: that is at least once, and
    `replayable` is False. Draining then runs it once.
    """

    config_type: ClassVar[type[PostgreSQLSourceConfig]] = PostgreSQLSourceConfig

    def __init__(self, config: PostgreSQLSourceConfig) -> None:
        super().__init__(config)
        self.replayable = config.query is None or bool(config.cursor_columns)
        self._connection: Connection | None = None
        self._texts: OutputTexts | None = None
        self._reading: Reading

    # --- what it is

    def formats(self) -> tuple[str, ...]:
        return (JSON,) if self.config.raw_mode else (COPY_TEXT, JSON, COPY_BINARY)

    def splits(self) -> list[str]:
        return split_names(self.config.table or "query", self.config.splits, self.config.split_size)

    def _part(self, split: str) -> _Part:
        count, size = self.config.splits, self.config.split_size
        return _Part(split, Blocks(self.splits().index(split), count, size) if count > 1 else None)

    def classify(self, error: Exception) -> ConnectError:
        return sort_error(error)

    def check(self) -> str:
        return describe_server(self.config.access)

    # --- life cycle

    def open(self, context: SourceContext) -> None:
        self.close()
        self._context = context
        self._encoding: Encoding = COPY_TEXT
        if context.format in (JSON, COPY_BINARY):
            self._encoding = JSON if context.format == JSON else COPY_BINARY
        self._copy: CopyOut | None = None
        self._parts: list[_Part] = []
        self._queue: list[_Part] = []
        self._moved: Batch | None = None
        self._waiting: dict[str, int | None] | None = None
        self._ended = False
        self._next_poll = self._waiting_since = time.monotonic()
        self._warn_at = self._waiting_since + _HORIZON_WARNING_SECONDS
        name = f"{session_name(context.flow)} source"[:63]
        self._texts = OutputTexts(self.config.access, name)
        self._connection = connect(self.config.access, name, read_only=True)
        self._reading = look_up(self._connection, self.config)
        if self._reading.nullable and run(self._connection, self._reading.missing_values()).fetchone():
            raise FlowError(
                f"rows of '{self._reading.label}' have NULL in {', '.join(self._reading.nullable)} and would never be"
                " read: declare it NOT NULL, or set `query` with coalesce() for the cursor"
            )
        self._schema = self._batch_schema()
        splits = dealt(context, self.splits())
        if splits:
            self._start(splits, context.claim(splits))

    def _start(self, splits: list[str], claimed: Checkpoint) -> None:
        self._parts = [self._part(split) for split in splits]
        self._polls = 0
        if self._reading.order:
            for part in self._parts:
                position = claimed.get(part.split)
                part.after = self._reading.values(position) if position is not None else None
                if part.split in self._context.until:
                    part.until = self._reading.values(self._context.until[part.split])
        else:
            if self._context.until:
                raise FlowError("a query without `cursor` cannot be read again up to a position; set `cursor`")
            log.warning(
                "flow=%s query has no cursor: all its rows are delivered at every poll; set `cursor` and `tieBreak` to"
                " read new rows only",
                self._context.flow,
            )
            position = claimed.get(splits[0])
            self._polls = int(position["polls"]) if isinstance(position, dict) and "polls" in position else 0

    def close(self) -> None:
        connection, self._connection = self._connection, None
        texts, self._texts = self._texts, None
        if texts is not None:
            texts.close()
        if connection is not None:
            connection.close()

    # --- reading

    def read(self, max_records: int, timeout: float) -> Batch | None:
        deadline = time.monotonic() + timeout
        while True:
            if self._moved is not None:
                moved, self._moved = self._moved, None
                return moved
            if self._ended or not self._parts:
                raise EndOfInput
            if self._copy is not None:
                rows = self._copy.fetch(max_records, BATCH_BYTES, max(0.0, deadline - time.monotonic()))
                done = self._copy.done
                batch = self._batch(self._queue[0], rows, done)
                if done:
                    self._finish_copy()
                if batch is not None or not done:
                    return batch
            elif not self._prepare(deadline):
                return None

    def _prepare(self, deadline: float) -> bool:
        """One step towards the next COPY; False when that is all there is to do before `deadline`."""
        connection = self._open_connection()
        if self._waiting is not None:
            return self._pass_horizon(connection, deadline)
        if self._queue:
            self._next_copy(connection, self._queue[0])
            return True
        pause = self._next_poll - time.monotonic()
        if pause > 0:
            time.sleep(max(0.0, min(pause, deadline - time.monotonic())))
            return time.monotonic() >= self._next_poll
        self._next_poll = time.monotonic() + self.config.poll_interval
        if not self._reading.order:
            self._queue = list(self._parts)
        elif self._context.until:
            # A logged range lies below the horizon of its first reading.
            for part in self._parts:
                part.bound = part.until
            self._queue = list(self._parts)
        else:
            for part in self._parts:
                newest = run(connection, self._reading.newest(part.after)).fetchone()
                part.bound = tuple(newest) if newest is not None else None
            self._queue = [part for part in self._parts if part.bound is not None]
            if not self._queue:
                self._ended = self._context.drain
            else:
                self._waiting_since = time.monotonic()
                self._warn_at = self._waiting_since + _HORIZON_WARNING_SECONDS
                running = {} if self.config.late_commits == "ignore" else self._running(connection)
                self._waiting = running
        return True

    def _pass_horizon(self, connection: Connection, deadline: float) -> bool:
        if self._waiting:
            self._waiting = still_running(self._waiting, self._running(connection))
        if not self._waiting:
            self._waiting = None
            return True
        now = time.monotonic()
        if now >= self._warn_at:
            self._warn_at = now + _HORIZON_WARNING_SECONDS
            log.warning(
                "flow=%s waits since %.0f s for transactions that may commit older rows (lateCommits); processes: %s",
                self._context.flow,
                now - self._waiting_since,
                ", ".join(str(pid) if pid is not None else name for name, pid in list(self._waiting.items())[:10]),
            )
        time.sleep(max(0.0, min(max(_HORIZON_PAUSE, (now - self._waiting_since) / 10), 1.0, deadline - now)))
        return time.monotonic() < deadline

    def _running(self, connection: Connection) -> dict[str, int | None]:
        return running_transactions(connection, session_name(self._context.flow))

    def _next_copy(self, connection: Connection, part: _Part) -> None:
        """Begin the COPY of the part's rows up to its bound, or of its next block; or finish it with the last one."""
        if part.blocks is None or part.bound is None:
            self._begin_copy(connection, part, None)
            return
        if part.next_value is None:
            first = int(part.after[0]) if part.after is not None else self._least(connection, None)
            part.next_value = first if first is not None else int(part.bound[0]) + 1
        block = part.blocks.at_or_after(part.next_value)
        if block[0] <= int(part.bound[0]):
            part.next_value = block[1]
            self._begin_copy(connection, part, block)
            return
        part.next_value = None
        if part.after != part.bound:
            # What is beyond our last row belongs to others: it need not be looked at again.
            part.after = part.bound
            position = Checkpoint({part.split: self._reading.position(part.bound)})
            self._moved = Batch(self._as_documents(Rows(memoryview(b""), [], b"")), position)
        self._finish_part()

    def _least(self, connection: Connection, at_least: int | None) -> int | None:
        row = run(connection, self._reading.least(at_least)).fetchone()
        return row[0] if row is not None else None

    def _begin_copy(self, connection: Connection, part: _Part, block: tuple[int, int] | None) -> None:
        self._copy = CopyOut(
            connection,
            self._reading.copy(self._encoding, self.config.raw_mode, part.after, part.bound, block),
            binary=self._encoding != COPY_TEXT,
            # Whole rows are sent as they are, so they must be what the batches say.
            first=no_rows(self._reading.selection) if self._encoding != JSON else "",
            check=self._check_columns,
        )
        self._rows_of_copy = 0

    def _check_columns(self, described: pq.abc.PGresult) -> None:
        if result_types(described) != self._reading.types:
            raise Retryable(f"the columns of '{self._reading.label}' have changed; it is opened anew")

    def _finish_copy(self) -> None:
        self._copy = None
        part = self._queue[0]
        if part.blocks is None:
            self._finish_part()
        elif not self._rows_of_copy and part.bound is not None:
            # There may be no values for long: on to the next one that there is.
            least = self._least(self._open_connection(), part.next_value)
            part.next_value = least if least is not None else int(part.bound[0]) + 1

    def _finish_part(self) -> None:
        self._queue.pop(0)
        if not self._queue:
            self._polls += 1
            self._ended = self._context.drain or bool(self._context.until)

    def _open_connection(self) -> Connection:
        if self._connection is None:
            raise Fatal("the source is not open")
        return self._connection

    # --- rows to batches

    def _batch_schema(self) -> pa.Schema:
        columns = [
            {"name": column.name, "type": column.type, "oid": oid}
            for column, (_, oid) in zip(self._reading.columns, self._reading.types, strict=True)
        ]
        return envelope_schema(self._encoding, table=self._reading.label, columns=json.dumps(columns))

    def _batch(self, part: _Part, rows: Rows, done: bool) -> Batch | None:
        if not rows.count:
            # The poll's end: nothing else says that a query without cursor was read whole.
            if done and not self._reading.order:
                return Batch(self._as_documents(rows), Checkpoint({part.split: {"polls": self._polls + 1}}))
            return None
        self._rows_of_copy += rows.count
        position: dict[str, Any] = {"polls": self._polls, "rows": self._rows_of_copy}
        if done and not self._reading.order:
            position = {"polls": self._polls + 1}
        if self._reading.order:
            part.after = self._order_values(rows.last)
            position = self._reading.position(part.after)
        documents = self._as_documents(rows)
        return Batch(documents, Checkpoint({part.split: position}))

    def _order_values(self, row: bytes) -> Tuple:
        reading, texts = self._reading, self._texts
        names = list(reading.leading()) if self._encoding == JSON else [name for name, _ in reading.types]
        places = [names.index(name) for name in reading.order]
        if self._encoding == COPY_TEXT:
            return self._complete(copy_text.fields_of(row, places))
        values = self._complete(copy_binary.fields_of(row, places))
        if self._encoding == JSON:
            return tuple(value.decode() for value in values)
        assert texts is not None
        return texts.of(values, [reading.types[place][1] for place in places])

    def _complete(self, values: list[T | None]) -> tuple[T, ...]:
        if None in values:
            raise Fatal(f"a row of '{self._reading.label}' has NULL in its cursor {', '.join(self._reading.order)}")
        return tuple(value for value in values if value is not None)

    def _as_documents(self, rows: Rows) -> pa.RecordBatch:
        arrays = {}
        if self._encoding == COPY_TEXT:
            arrays["value"] = copy_text.split_rows(rows.data)
        elif self._encoding == COPY_BINARY:
            arrays["value"] = copy_binary.tuples(rows)
        else:
            leading, key = self._reading.leading(), self._reading.key
            wanted = [len(leading), *([leading.index(key[0])] if len(key) == 1 else [])]
            arrays = dict(zip(("value", "key"), copy_binary.split_tuples(rows, len(leading) + 1, wanted), strict=False))
        count = len(arrays["value"])
        filled = [arrays[f.name] if f.name in arrays else pa.nulls(count, f.type) for f in ENVELOPE]
        return pa.RecordBatch.from_arrays(filled, schema=self._schema)

    # --- lag

    def lag(self, checkpoint: Checkpoint) -> int | None:
        """Rows past `checkpoint`, counted up to a million; None for a query without cursor, or if counting is slow."""
        with connect(self.config.access, "airflow-connect lag", read_only=True) as connection:
            reading = look_up(connection, self.config)
            if not reading.order:
                return None
            run(connection, f"SET statement_timeout = {LAG_MILLISECONDS}")
            found = 0
            try:
                for part in map(self._part, self.splits()):
                    position = checkpoint.get(part.split)
                    after = reading.values(position) if position is not None else None
                    row = run(connection, reading.count(after, LAG_ROWS, part.blocks)).fetchone()
                    found += int(row[0]) if row is not None else 0
            except psycopg.errors.QueryCanceled:
                return None
        return found
