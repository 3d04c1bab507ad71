"""Ledger: who owns which split of a flow, and how far it got.

The owner of a split is whoever claimed it last. A `TransactionalSink` *is* the ledger of its flows, and commits rows
and checkpoint in one step; for any other sink the worker uses the ledger of a `CheckpointStore`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable

from airflow_provider_connect.engine.batch import Checkpoint


class Ledger(ABC):
    """Durable positions, compare-and-set per split.

    1. `claim(splits)` makes us the owner: from its return on, a commit by any earlier owner of one of these splits
       fails with `Fenced`. It returns the stored positions; a split that was never committed is absent.
    2. `commit(checkpoint)` advances claimed splits, all of them or none. `Fenced` if one of them has another owner by
       now. After any other error the outcome is unknown until `positions` is asked.
    3. `positions(splits)` reads what is durably stored, afresh, also after a lost connection. `Fenced` if one of the
       splits has another owner by now.
    4. `release(splits)` ends an ownership in good order, after the last commit. A later `claim` by another owner
       would fence us anyway; releasing spares it whatever that costs.

    All calls come from the lane's writer thread.
    """

    @abstractmethod
    def claim(self, splits: Iterable[str]) -> Checkpoint:
        """Take over `splits`; returns their stored positions."""

    @abstractmethod
    def positions(self, splits: Iterable[str]) -> Checkpoint:
        """The stored positions of claimed `splits`, read afresh."""

    @abstractmethod
    def commit(self, checkpoint: Checkpoint) -> None:
        """Make `checkpoint` durable for splits that we own."""

    def release(self, splits: Iterable[str]) -> None:
        """Give `splits` up in good order. Default: nothing to do."""
        return
