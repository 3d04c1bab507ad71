"""Sinks of the three kinds over a SQLite file: small, real, and what they hold survives the death of the process.

A NULL value is refused by the table's own constraint. SQLite runs without fsync here, which outlives a killed process
but not a power cut.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from airflow_provider_connect.engine.batch import Batch, Checkpoint
from airflow_provider_connect.engine.config import SinkConfig
from airflow_provider_connect.engine.connector import IdempotentSink, Sink, SinkContext, TransactionalSink
from airflow_provider_connect.engine.errors import ConnectError, Fatal, Fenced, InvalidRecord, Retryable

_TABLES = """
CREATE TABLE IF NOT EXISTS records (id INTEGER PRIMARY KEY, flow TEXT NOT NULL, value BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS tokens (flow TEXT, token TEXT, PRIMARY KEY (flow, token));
CREATE TABLE IF NOT EXISTS splits (flow TEXT, split TEXT, epoch INTEGER NOT NULL, position TEXT,
                                   PRIMARY KEY (flow, split));
CREATE TEMP TABLE IF NOT EXISTS staged (value BLOB NOT NULL);
"""


class SqliteSinkConfig(SinkConfig):
    """Configuration of the SQLite sinks."""

    path: str
    """The database file; it is made if it is not there, its folder is not."""

    lock_timeout_seconds: float = 5.0
    """Longest wait for another writer of the file."""


class SqliteSink(Sink[SqliteSinkConfig]):
    """Rows become visible at `flush`, all or none: at least once."""

    config_type = SqliteSinkConfig

    def __init__(self, config: SqliteSinkConfig) -> None:
        super().__init__(config)
        self._flow = ""
        self._connection: sqlite3.Connection | None = None
        self._written: list[tuple[Any]] = []

    def check(self) -> str:
        connection = self._connect("rw")
        try:
            return f"SQLite {sqlite3.sqlite_version}, {connection.execute('PRAGMA page_count').fetchone()[0]} pages"
        finally:
            connection.close()

    def open(self, context: SinkContext) -> None:
        self.close()
        self._flow = context.flow
        connection = self._connect("rwc")
        connection.execute("PRAGMA synchronous = OFF")
        connection.executescript(_TABLES)
        self._connection = connection

    def accepts(self) -> tuple[str, ...]:
        return ("json", "bytes")

    def write(self, batch: Batch) -> None:
        if batch.format not in self.accepts():
            raise Fatal(f"write got rows in format '{batch.format}', which accepts() does not name")
        self._written.extend((value,) for value in batch.rows.column("value").to_pylist())

    def flush(self) -> None:
        written, self._written = self._written, []
        with self._transaction() as connection:
            connection.executemany(f"INSERT INTO records (flow, value) VALUES ({self._quoted_flow()}, ?)", written)

    def close(self) -> None:
        self._written = []
        if self._connection is not None:
            self._connection.close()
        self._connection = None

    def classify(self, error: Exception) -> ConnectError:
        if isinstance(error, sqlite3.IntegrityError):
            return InvalidRecord(str(error))
        if isinstance(error, sqlite3.OperationalError) and "locked" in str(error):
            return Retryable(str(error))
        return super().classify(error)

    def _connect(self, mode: str) -> sqlite3.Connection:
        return sqlite3.connect(
            f"file:{self.config.path}?mode={mode}",
            uri=True,
            timeout=self.config.lock_timeout_seconds,
            isolation_level=None,
            check_same_thread=False,
        )

    def _opened(self) -> sqlite3.Connection:
        if self._connection is None:
            raise Fatal("the sink is not open")
        return self._connection

    def _quoted_flow(self) -> str:
        return "'" + self._flow.replace("'", "''") + "'"

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        connection = self._opened()
        connection.execute("BEGIN IMMEDIATE")
        try:
            yield connection
        except BaseException:
            connection.execute("ROLLBACK")
            raise
        connection.execute("COMMIT")


class SqliteIdempotentSink(SqliteSink, IdempotentSink[SqliteSinkConfig]):
    """Rows become visible at `flush`, unless the flow flushed under this token before: effectively once."""

    _token: str | None = None

    def begin(self, token: str) -> None:
        self._written = []
        self._token = token

    def flush(self) -> None:
        written, self._written = self._written, []
        token, self._token = self._token, None
        if token is None:
            raise Fatal("flush before begin(token)")
        with self._transaction() as connection:
            new = connection.execute("INSERT OR IGNORE INTO tokens VALUES (?, ?)", (self._flow, token)).rowcount
            if new:
                connection.executemany(f"INSERT INTO records (flow, value) VALUES ({self._quoted_flow()}, ?)", written)


class SqliteTransactionalSink(SqliteSink, TransactionalSink[SqliteSinkConfig]):
    """Rows and checkpoint become visible at `commit`, by compare-and-set of each split's epoch: exactly once.

    `flush` stages rows in a temporary table, which belongs to the connection and holds no lock on the file.
    What this object claimed it still owns after `close` and `open`, unless somebody else has claimed it since.
    """

    def __init__(self, config: SqliteSinkConfig) -> None:
        super().__init__(config)
        self._epochs: dict[str, int] = {}

    def flush(self) -> None:
        written, self._written = self._written, []
        connection = self._opened()
        connection.execute("BEGIN")  # touches only the temporary table
        try:
            connection.executemany("INSERT INTO temp.staged VALUES (?)", written)
        except BaseException:
            connection.execute("ROLLBACK")
            raise
        connection.execute("COMMIT")

    def claim(self, splits: Iterable[str]) -> Checkpoint:
        found = Checkpoint()
        epochs = {}
        with self._transaction() as connection:
            for split in splits:
                epochs[split], position = connection.execute(
                    "INSERT INTO splits VALUES (?, ?, 1, NULL)"
                    " ON CONFLICT (flow, split) DO UPDATE SET epoch = epoch + 1 RETURNING epoch, position",
                    (self._flow, split),
                ).fetchone()
                if position is not None:
                    found[split] = json.loads(position)
        self._epochs.update(epochs)
        return found

    def positions(self, splits: Iterable[str]) -> Checkpoint:
        found = Checkpoint()
        gone = []
        with self._transaction() as connection:
            for split in splits:
                epoch, position = connection.execute(
                    "SELECT epoch, position FROM splits WHERE flow = ? AND split = ?", (self._flow, split)
                ).fetchone() or (None, None)
                if epoch != self._epoch(split):
                    gone.append(split)
                elif position is not None:
                    found[split] = json.loads(position)
        if gone:
            raise self._fenced(gone)
        return found

    def commit(self, checkpoint: Checkpoint) -> None:
        with self._transaction() as connection:
            gone = [split for split, position in checkpoint.items() if not self._advance(connection, split, position)]
            if gone:
                raise self._fenced(gone)
            connection.execute(
                f"INSERT INTO records (flow, value) SELECT {self._quoted_flow()}, value FROM temp.staged ORDER BY rowid"
            )
            connection.execute("DELETE FROM temp.staged")

    def abort(self) -> None:
        self._written = []
        if self._connection is not None:
            self._connection.execute("DELETE FROM temp.staged")

    def release(self, splits: Iterable[str]) -> None:
        for split in splits:
            self._epochs.pop(split, None)

    def _advance(self, connection: sqlite3.Connection, split: str, position: Any) -> bool:
        changed = connection.execute(
            "UPDATE splits SET position = ? WHERE flow = ? AND split = ? AND epoch = ?",
            (json.dumps(position), self._flow, split, self._epoch(split)),
        )
        return changed.rowcount == 1

    def _epoch(self, split: str) -> int:
        if split not in self._epochs:
            raise Fatal(f"flow '{self._flow}' never claimed split '{split}'; claim it first")
        return self._epochs[split]

    def _fenced(self, splits: Iterable[str]) -> Fenced:
        splits = tuple(splits)
        return Fenced(f"flow '{self._flow}': splits {', '.join(splits)} belong to a newer worker", splits=splits)


def stored_values(path: str, flow: str | None = None) -> list[bytes]:
    """What a reader of the file sees, in order: the values of one flow, or of all."""
    connection = sqlite3.connect(path)
    try:
        return [
            bytes(value)
            for (value,) in connection.execute(
                "SELECT value FROM records WHERE ?1 IS NULL OR flow = ?1 ORDER BY id", (flow,)
            )
        ]
    finally:
        connection.close()
