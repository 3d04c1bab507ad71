"""Checkpoint stores: ledgers for sinks that cannot hold checkpoints themselves, and the intents of idempotent sinks.

`open_store(url)` takes a file path or `sqlite:///path` (SQLite, the default), or `postgresql://…`. Several
workers, also on several machines where the database allows it, may share a store.
"""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from airflow_provider_connect.engine.batch import Checkpoint
from airflow_provider_connect.engine.errors import Fatal, Fenced, FlowError, Retryable
from airflow_provider_connect.engine.ledger import Ledger


@dataclass(frozen=True, slots=True)
class Intent:
    """What an idempotent sink is about to be given under `token`: the records of [start, end)."""

    token: str
    start: Checkpoint
    end: Checkpoint


class CheckpointStore(ABC):
    """Keeps checkpoints and intents of many flows. Every method is safe to call from any thread."""

    @abstractmethod
    def ledger(self, flow: str) -> Ledger:
        """A new owner's ledger for a flow."""

    @abstractmethod
    def log_intent(self, flow: str, lane: str, intent: Intent) -> None:
        """Make `intent` durable; it replaces the lane's last one."""

    @abstractmethod
    def intents(self, flow: str) -> dict[str, Intent]:
        """The last intent of every lane of the flow, by the lane. One whose end is committed is done."""

    @abstractmethod
    def close(self) -> None:
        """Free everything."""


_SCHEMA = (
    "CREATE TABLE IF NOT EXISTS airflow_connect_checkpoint (flow TEXT NOT NULL, split TEXT NOT NULL, "
    "epoch BIGINT NOT NULL, position TEXT, PRIMARY KEY (flow, split))",
    "CREATE TABLE IF NOT EXISTS airflow_connect_intent (flow TEXT NOT NULL, lane TEXT NOT NULL, "
    "body TEXT NOT NULL, PRIMARY KEY (flow, lane))",
)


class SqlStore(CheckpointStore):
    """A store in a SQL database that has `INSERT … ON CONFLICT`. One short transaction per call."""

    @abstractmethod
    def transaction(self) -> contextlib.AbstractContextManager[Any]:
        """A cursor in a transaction that commits at the end of the block; driver errors come out as ConnectErrors."""

    @abstractmethod
    def sql(self, statement: str) -> str:
        """`statement`, whose parameters are `?`, in the driver's style."""

    def ledger(self, flow: str) -> Ledger:
        return SqlLedger(self, flow)

    def log_intent(self, flow: str, lane: str, intent: Intent) -> None:
        body = json.dumps({"token": intent.token, "start": intent.start, "end": intent.end})
        with self.transaction() as cursor:
            cursor.execute(
                self.sql(
                    "INSERT INTO airflow_connect_intent (flow, lane, body) VALUES (?, ?, ?) "
                    "ON CONFLICT (flow, lane) DO UPDATE SET body = excluded.body"
                ),
                (flow, lane, body),
            )

    def intents(self, flow: str) -> dict[str, Intent]:
        with self.transaction() as cursor:
            cursor.execute(
                self.sql("SELECT lane, body FROM airflow_connect_intent WHERE flow = ? ORDER BY lane"), (flow,)
            )
            bodies = {lane: json.loads(body) for lane, body in cursor.fetchall()}
        return {lane: Intent(b["token"], Checkpoint(b["start"]), Checkpoint(b["end"])) for lane, b in bodies.items()}


class SqlLedger(Ledger):
    """Positions in a SqlStore: the epoch is the owner, the update is the compare-and-set."""

    def __init__(self, store: SqlStore, flow: str) -> None:
        self._store, self._flow = store, flow
        self._epochs: dict[str, int] = {}

    def claim(self, splits: Iterable[str]) -> Checkpoint:
        positions = Checkpoint()
        with self._store.transaction() as cursor:
            for split in splits:
                cursor.execute(
                    self._store.sql(
                        "INSERT INTO airflow_connect_checkpoint (flow, split, epoch) VALUES (?, ?, 1) "
                        "ON CONFLICT (flow, split) DO UPDATE SET epoch = airflow_connect_checkpoint.epoch + 1 "
                        "RETURNING epoch, position"
                    ),
                    (self._flow, split),
                )
                self._epochs[split], position = cursor.fetchone()
                if position is not None:
                    positions[split] = json.loads(position)
        return positions

    def positions(self, splits: Iterable[str]) -> Checkpoint:
        positions = Checkpoint()
        with self._store.transaction() as cursor:
            for split in splits:
                cursor.execute(
                    self._store.sql(
                        "SELECT epoch, position FROM airflow_connect_checkpoint WHERE flow = ? AND split = ?"
                    ),
                    (self._flow, split),
                )
                epoch, position = cursor.fetchone() or (None, None)
                if epoch != self._epochs.get(split):
                    raise self._fenced(split)
                if position is not None:
                    positions[split] = json.loads(position)
        return positions

    def commit(self, checkpoint: Checkpoint) -> None:
        with self._store.transaction() as cursor:
            for split, position in checkpoint.items():
                cursor.execute(
                    self._store.sql(
                        "UPDATE airflow_connect_checkpoint SET position = ? WHERE flow = ? AND split = ? AND epoch = ?"
                    ),
                    (json.dumps(position), self._flow, split, self._epochs.get(split)),
                )
                if cursor.rowcount != 1:
                    raise self._fenced(split)

    def _fenced(self, split: str) -> Fenced:
        return Fenced(f"another worker of flow '{self._flow}' has taken over split '{split}'", splits=(split,))


class SqliteStore(SqlStore):
    """A store in a SQLite file, durable at each commit."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with self.transaction() as cursor:
                for statement in _SCHEMA:
                    cursor.execute(statement)
        except OSError as error:
            raise Fatal(f"checkpoint store {path}: {error}") from error

    @contextlib.contextmanager
    def transaction(self) -> Iterator[Any]:
        try:
            connection = sqlite3.connect(self._path, timeout=30.0, isolation_level=None)
            try:
                connection.execute("PRAGMA synchronous = FULL")
                connection.execute("BEGIN IMMEDIATE")
                yield connection.cursor()
                connection.execute("COMMIT")
            finally:
                connection.close()
        except sqlite3.OperationalError as error:
            kind = Retryable if "locked" in str(error) or "busy" in str(error) else Fatal
            raise kind(f"checkpoint store {self._path}: {error}") from error
        except sqlite3.DatabaseError as error:
            raise Fatal(f"checkpoint store {self._path}: {error}") from error

    def sql(self, statement: str) -> str:
        return statement

    def close(self) -> None:
        return


class PostgresStore(SqlStore):
    """A store in a PostgreSQL database."""

    def __init__(self, url: str) -> None:
        try:
            import psycopg
        except ModuleNotFoundError as error:
            raise FlowError(
                "a checkpoint store in PostgreSQL needs psycopg: pip install 'airflow-provider-connect[postgresql]'"
            ) from error
        self._psycopg = psycopg
        self._url = url
        with contextlib.suppress(Retryable), self.transaction() as cursor:
            # Two workers that create the tables at once collide in the catalogue; the loser finds them there.
            for statement in _SCHEMA:
                cursor.execute(statement)

    @contextlib.contextmanager
    def transaction(self) -> Iterator[Any]:
        try:
            with self._psycopg.connect(self._url, connect_timeout=10) as connection, connection.cursor() as cursor:
                yield cursor
        except self._psycopg.OperationalError as error:
            raise Retryable(f"checkpoint store: {error}") from error
        except self._psycopg.errors.UniqueViolation as error:
            raise Retryable(f"checkpoint store: {error}") from error
        except self._psycopg.Error as error:
            raise Fatal(f"checkpoint store: {error}") from error

    def sql(self, statement: str) -> str:
        return statement.replace("?", "%s")

    def close(self) -> None:
        return


def default_path() -> Path:
    """`$AIRFLOW_CONNECT_STATE`, or `airflow-connect/checkpoints.db` in the user's state folder."""
    given = os.environ.get("AIRFLOW_CONNECT_STATE")
    if given:
        return Path(given)
    state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(state) / "airflow-connect" / "checkpoints.db"


def open_store(url: str = "") -> CheckpointStore:
    """The store at `url`: a file path, `sqlite:///path`, `postgresql://…`, or empty for `default_path()`."""
    if url.startswith(("postgresql://", "postgres://")):
        return PostgresStore(url)
    if url.startswith("sqlite:///"):
        return SqliteStore(Path(url.removeprefix("sqlite:///")))
    if "://" in url:
        scheme = url.split("://", 1)[0]
        raise FlowError(f"checkpoints: unknown store '{scheme}://'; known: a file path, sqlite:///path, postgresql://…")
    return SqliteStore(Path(url) if url else default_path())
