"""Checkpoints in the state of an asset."""

import json

import pytest
from airflow.sdk.exceptions import AirflowRuntimeError, ErrorType
from airflow.sdk.execution_time.comms import ErrorResponse

from airflow_provider_connect.engine.batch import Checkpoint
from airflow_provider_connect.engine.checkpoints import Intent
from airflow_provider_connect.engine.errors import Fenced, Retryable
from airflow_provider_connect.state import AssetStore


class State(dict):
    """Stands for Airflow's accessor: JSON in, JSON out, never None."""

    def get(self, key, default=None):
        return json.loads(self[key]) if key in self else default

    def set(self, key, value):
        assert value is not None
        assert len(key) <= 512
        self[key] = json.dumps(value)


@pytest.fixture
def store():
    return AssetStore(State())


def test_what_is_committed_is_there_for_the_next_owner(store):
    first = store.ledger("orders")
    assert first.claim(["a", "b"]) == {}
    first.commit(Checkpoint({"a": 2**60 + 1, "b": {"after": "x"}}))
    first.commit(Checkpoint({"a": 2**60 + 2}))
    assert store.ledger("orders").claim(["a", "b", "c"]) == {"a": 2**60 + 2, "b": {"after": "x"}}
    assert store.ledger("other").claim(["a"]) == {}


def test_an_earlier_owner_is_fenced_for_the_splits_it_lost_only(store):
    old, new = store.ledger("orders"), store.ledger("orders")
    old.claim(["a", "b"])
    new.claim(["a"])
    with pytest.raises(Fenced, match="another worker of flow 'orders' has taken over split 'a'"):
        old.commit(Checkpoint({"b": 1, "a": 1}))
    with pytest.raises(Fenced):
        old.positions(["a"])
    assert old.positions(["b"]) == {}  # nothing of the refused commit
    old.commit(Checkpoint({"b": 2}))
    new.commit(Checkpoint({"a": 3}))
    assert new.positions(["a"]) == {"a": 3}


def test_nobody_commits_what_he_did_not_claim(store):
    with pytest.raises(Fenced):
        store.ledger("orders").commit(Checkpoint({"a": 1}))


def test_the_last_intent_of_every_lane(store):
    intents = [Intent(f"t{n}", Checkpoint({"a": n}), Checkpoint({"a": n + 1})) for n in range(3)]
    store.log_intent("orders", "0", intents[0])
    store.log_intent("orders", "1", intents[1])
    store.log_intent("orders", "0", intents[2])
    assert sorted(store.intents("orders").values(), key=lambda intent: intent.token) == [intents[1], intents[2]]
    assert store.intents("other") == {}


def test_a_lane_that_another_task_overwrites_is_written_again():
    class Contended(State):
        lost = 0

        def set(self, key, value):
            super().set(key, value)
            if key.endswith("/lanes") and not self.lost:
                self.lost += 1
                super().set(key, ["other"])

    store = AssetStore(Contended())
    intent = Intent("t", Checkpoint(), Checkpoint({"a": 1}))
    store.log_intent("orders", "0", intent)
    assert intent in store.intents("orders").values()


@pytest.mark.parametrize(
    "error",
    [ConnectionResetError("gone"), AirflowRuntimeError(ErrorResponse(error=ErrorType.API_SERVER_ERROR))],
)
def test_an_api_server_that_is_away_may_come_back(error):
    class Away(State):
        def get(self, key, default=None):
            raise error

    with pytest.raises(Retryable, match="Airflow's asset state store"):
        AssetStore(Away()).ledger("orders").claim(["a"])
