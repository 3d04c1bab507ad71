"""Checkpoints in Airflow's asset state store: what a flow inside Airflow uses when its sink cannot hold checkpoints.

The store belongs to an asset (the task's first outlet), so it outlives DAG runs, retries and workers, and Airflow's UI
shows it on the asset's page. A task state store would not do: it is deleted with its DAG run.
"""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable, Iterable
from typing import Any, Protocol

from airflow.sdk.exceptions import AirflowRuntimeError

from airflow_provider_connect.engine.batch import Checkpoint
from airflow_provider_connect.engine.checkpoints import CheckpointStore, Intent
from airflow_provider_connect.engine.errors import Fenced, Retryable
from airflow_provider_connect.engine.ledger import Ledger


class KeyValueStore(Protocol):
    """What of Airflow's `AssetStateStoreAccessor` is used here. Values are JSON."""

    def get(self, key: str, default: Any = None) -> Any:
        """The value under `key`."""

    def set(self, key: str, value: Any) -> None:
        """Write the value under `key`."""


class AssetStore(CheckpointStore):
    """A checkpoint store in the state of one asset; one key per split, one per lane's intent.

    The store has neither compare-and-set nor transactions. So the look at the owner and the write are two steps, and a
    worker that is replaced between them may still move a position once; and a commit of several splits may be cut off
    after some of them. Either only repeats records, which a sink that needs such a store may do anyway. Two runs of the
    same flow at a time are to be ruled out by the DAG (`max_active_runs=1`, which `load_dataflows` sets).
    """

    def __init__(self, state: KeyValueStore) -> None:
        self._state = state
        self._lock = threading.Lock()

    def ledger(self, flow: str) -> Ledger:
        return AssetLedger(self, flow)

    def log_intent(self, flow: str, lane: str, intent: Intent) -> None:
        body = {"token": intent.token, "start": dict(intent.start), "end": dict(intent.end)}
        with self._lock:
            self.write(f"{flow}/intent/{lane}", body)
            # Another task may add its lane at the same time: write until ours is there to stay.
            while lane not in (lanes := self._lanes(flow)):
                self.write(f"{flow}/lanes", sorted({*lanes, lane}))

    def intents(self, flow: str) -> dict[str, Intent]:
        with self._lock:
            bodies = {lane: self.read(f"{flow}/intent/{lane}") for lane in self._lanes(flow)}
        return {
            lane: Intent(b["token"], Checkpoint(b["start"]), Checkpoint(b["end"])) for lane, b in bodies.items() if b
        }

    def close(self) -> None:
        return

    def read(self, key: str) -> Any:
        """The value under `key`, None without one."""
        return _reached(lambda: self._state.get(_PREFIX + key))

    def write(self, key: str, value: Any) -> None:
        """Write the value under `key`."""
        _reached(lambda: self._state.set(_PREFIX + key, value))

    def _lanes(self, flow: str) -> list[str]:
        return list(self.read(f"{flow}/lanes") or [])


class AssetLedger(Ledger):
    """Positions in an AssetStore; the owner is who wrote its name last."""

    def __init__(self, store: AssetStore, flow: str) -> None:
        self._store, self._flow = store, flow
        self._owner = uuid.uuid4().hex
        self._claimed: set[str] = set()

    def claim(self, splits: Iterable[str]) -> Checkpoint:
        positions = Checkpoint()
        for split in splits:
            stored = self._store.read(self._key(split)) or {}
            self._store.write(self._key(split), {**stored, "owner": self._owner})
            self._claimed.add(split)
            if "position" in stored:
                positions[split] = stored["position"]
        return positions

    def positions(self, splits: Iterable[str]) -> Checkpoint:
        stored = {split: self._owned(split) for split in splits}
        return Checkpoint({split: state["position"] for split, state in stored.items() if "position" in state})

    def commit(self, checkpoint: Checkpoint) -> None:
        for split in checkpoint:
            self._owned(split)
        for split, position in checkpoint.items():
            self._store.write(self._key(split), {"owner": self._owner, "position": position})

    def _owned(self, split: str) -> dict[str, Any]:
        stored: dict[str, Any] = self._store.read(self._key(split)) or {}
        if split not in self._claimed or stored.get("owner") != self._owner:
            raise Fenced(f"another worker of flow '{self._flow}' has taken over split '{split}'", splits=(split,))
        return stored

    def _key(self, split: str) -> str:
        return f"{self._flow}/split/{split}"


_PREFIX = "connect/"


def _reached(call: Callable[[], Any]) -> Any:
    """What `call` returns; that the API server could not be asked may be better the next time."""
    try:
        return call()
    except (OSError, AirflowRuntimeError) as error:
        raise Retryable(f"Airflow's asset state store: {error}") from error
