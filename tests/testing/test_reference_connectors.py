"""The reference connectors join the contracts like any other."""

from typing import ClassVar

from airflow_provider_connect.testing import (
    IdempotentSinkContract,
    SinkContract,
    SourceContract,
    TransactionalSinkContract,
)
from airflow_provider_connect.testing.memory import MemoryIdempotentSink, MemorySink, MemoryTransactionalSink
from airflow_provider_connect.testing.sqlite import SqliteIdempotentSink, SqliteSink, SqliteTransactionalSink

from .systems import InLists, InMemory, InSqlite

NO_DEATH = "what is in memory dies with the process"


class TestListSource(InLists, SourceContract):
    pass


class TestListSourceWithOneSplit(InLists, SourceContract):
    names = ("only",)


class TestMemorySink(InMemory, SinkContract):
    kind = MemorySink


class TestMemoryIdempotentSink(InMemory, IdempotentSinkContract):
    kind = MemoryIdempotentSink
    exempt: ClassVar = {"test_death_at_any_line_and_a_repetition_write_once": NO_DEATH}


class TestMemoryTransactionalSink(InMemory, TransactionalSinkContract):
    kind = MemoryTransactionalSink
    exempt: ClassVar = {"test_death_at_any_line_leaves_rows_and_checkpoint_both_old_or_both_new": NO_DEATH}


class TestSqliteSink(InSqlite, SinkContract):
    kind = SqliteSink


class TestSqliteIdempotentSink(InSqlite, IdempotentSinkContract):
    kind = SqliteIdempotentSink


class TestSqliteTransactionalSink(InSqlite, TransactionalSinkContract):
    kind = SqliteTransactionalSink
