"""Handoff: the bounded queue between a lane's reader and its writer.

Batches and requests go through in order, so when the writer sees a request, everything read before it has been handled.
"""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass, field
from typing import Literal

from airflow_provider_connect.engine.batch import Batch, Checkpoint
from airflow_provider_connect.engine.errors import ConnectError, Fatal, Retryable

Kind = Literal["claim", "revoked", "lost", "settle"]


@dataclass(slots=True, eq=False)
class Request:
    """A change of split ownership that the reader waits for the writer to act on."""

    kind: Kind
    splits: tuple[str, ...]
    _answered: threading.Event = field(default_factory=threading.Event)
    _positions: Checkpoint = field(default_factory=Checkpoint)
    _error: BaseException | None = None
    _expired: bool = False

    def answer(self, positions: Checkpoint | None = None) -> None:
        """Let the reader go on; `positions` is what `claim` returns."""
        self._positions = positions if positions is not None else Checkpoint()
        self._answered.set()

    def refuse(self, error: BaseException) -> None:
        """Let the reader's call raise `error`."""
        self._error = error
        self._answered.set()

    @property
    def expired(self) -> bool:
        """Whether nobody waits for the answer any more; then the request must not be acted on."""
        return self._expired

    def wait(self, seconds: float) -> Checkpoint:
        """Block until answered; raises what the writer refused with, Retryable after so many seconds."""
        if not self._answered.wait(seconds):
            self._expired = True
            raise Retryable(f"the sink kept {', '.join(self.splits) or 'the source'} waiting for {seconds:.0f} s")
        if self._error is not None:
            raise self._error
        return self._positions


@dataclass(frozen=True, slots=True)
class Ended:
    """The reader will put nothing more: at the end of the input (`error` is None), or because of `error`."""

    error: ConnectError | None = None


class Handoff:
    """A FIFO of batches, requests and one final `Ended`, bounded by the bytes of the batches in it.

    One thread puts (the reader), one takes (the writer); `acknowledge` travels the other way. A single batch may
    exceed the bound, so that any batch fits.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._items: deque[Batch | Request | Ended] = deque()
        self._bytes = 0
        self._requests = 0
        self._ended = self._left = False
        self._acknowledged = Checkpoint()
        self._changed = threading.Condition()

    # --- the reader's side

    def wait_for_room(self, timeout: float) -> bool:
        """True once the bytes in the queue are below the bound; False after `timeout` seconds."""
        with self._changed:
            return self._changed.wait_for(lambda: self._bytes < self._max_bytes, timeout)

    def put(self, batch: Batch) -> None:
        """Add a batch; `wait_for_room` first."""
        with self._changed:
            self._items.append(batch)
            self._bytes += batch.nbytes
            self._changed.notify_all()

    def request(self, request: Request, seconds: float) -> Checkpoint:
        """Add a request and block until the writer has acted on it; Retryable if that takes longer than `seconds`."""
        with self._changed:
            self._items.append(request)
            self._requests += 1
            self._changed.notify_all()
        return request.wait(seconds)

    def end(self, error: ConnectError | None) -> None:
        """Nothing more will be put."""
        with self._changed:
            self._items.append(Ended(error))
            self._ended = True
            self._changed.notify_all()

    def leave(self) -> None:
        """The reader is gone; whoever waits for something of it need not any longer."""
        if not self._ended:
            self.end(Fatal("the reader's thread has died"))
        with self._changed:
            self._left = True
            self._changed.notify_all()

    def acknowledgement(self) -> Checkpoint:
        """What was acknowledged since the last call; empty if nothing."""
        with self._changed:
            acknowledged, self._acknowledged = self._acknowledged, Checkpoint()
            return acknowledged

    # --- the writer's side

    @property
    def left(self) -> bool:
        """Whether the reader is gone."""
        return self._left

    def get(self, timeout: float) -> Batch | Request | Ended | None:
        """The next item; None after `timeout` seconds, or when the reader is gone and nothing of it is left."""
        with self._changed:
            self._changed.wait_for(lambda: bool(self._items) or self._left, timeout)
            if not self._items:
                return None
            item = self._items.popleft()
            if isinstance(item, Batch):
                self._bytes -= item.nbytes
            elif isinstance(item, Request):
                self._requests -= 1
            self._changed.notify_all()
            return item

    def wait_for_request(self, timeout: float) -> bool:
        """True as soon as a request is in the queue; False after `timeout` seconds."""
        with self._changed:
            return self._changed.wait_for(lambda: self._requests > 0, timeout)

    def __len__(self) -> int:
        return len(self._items)

    def acknowledge(self, checkpoint: Checkpoint) -> None:
        """Pass `checkpoint` on to the reader, for `Source.acknowledge`."""
        with self._changed:
            self._acknowledged = self._acknowledged.advance(checkpoint)
