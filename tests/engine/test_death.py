"""The worker dies before each line it executes, and is started again: what each kind of sink promises still holds."""

from __future__ import annotations

import json

import pytest

from airflow_provider_connect.engine import (
    checkpoints,
    dead_letters,
    delivery,
    handoff,
    lane,
    reader,
    session,
    worker,
)
from airflow_provider_connect.engine.plan import Limits, Plan
from airflow_provider_connect.engine.worker import Worker
from airflow_provider_connect.testing.crash import deaths
from airflow_provider_connect.testing.memory import ListLog, ListSource, ListSourceConfig
from airflow_provider_connect.testing.sqlite import (
    SqliteIdempotentSink,
    SqliteSink,
    SqliteSinkConfig,
    SqliteTransactionalSink,
    stored_values,
)

LOG = ListLog({"0": [b'"0"', b'"1"', None, b'"3"'], "1": [b'"x"', b'"y"']})
GOOD = sorted(value for split in ("0", "1") for value in LOG.values(split) if value is not None)

DELIVERY = [delivery, dead_letters, checkpoints]
EVERYTHING = [*DELIVERY, session, lane, worker, reader, handoff]


def run(folder, kind) -> None:
    """Everything in LOG to a file in `folder`; the NULL is refused and goes to the errors sink."""
    plan = Plan(
        "orders",
        source=lambda: ListSource(LOG, ListSourceConfig(batch_records=2)),
        sink=lambda: kind(SqliteSinkConfig(path=str(folder / "rows.db"), batch_size=2)),
        errors=lambda: SqliteTransactionalSink(SqliteSinkConfig(path=str(folder / "errors.db"))),
        checkpoints=str(folder / "checkpoints.db"),
    )
    Worker(plan, Limits(mode="drain")).run()


@pytest.mark.crash
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("kind", "modules", "least"),
    [
        (SqliteTransactionalSink, EVERYTHING, 400),
        (SqliteIdempotentSink, DELIVERY, 150),
        (SqliteSink, DELIVERY, 100),
    ],
    ids=["transactional", "idempotent", "plain"],
)
def test_death_at_every_line(tmp_path, kind, modules, least):
    def folder(attempt):
        path = tmp_path / str(attempt)
        path.mkdir(exist_ok=True)
        return path

    died = 0
    for death in deaths(lambda attempt: run(folder(attempt), kind), modules):
        died += 1
        run(folder(death.attempt), kind)
        delivered = stored_values(str(folder(death.attempt) / "rows.db"))
        if kind is SqliteSink:
            assert set(delivered) == set(GOOD), death
        else:
            assert sorted(delivered) == GOOD, death
        letters = [json.loads(letter) for letter in stored_values(str(folder(death.attempt) / "errors.db"))]
        assert {letter["error"]["metadata"]["id"] for letter in letters} == {"list:0:2"}, death
    assert died >= least, "the watched modules hardly ran"
