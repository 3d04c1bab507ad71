"""A worker's side of a Kafka source, for tests: it commits what it was given when a split is claimed or revoked."""

import threading
import time

from airflow_provider_connect.engine.batch import Checkpoint
from airflow_provider_connect.engine.connector import Share, SourceContext
from airflow_provider_connect.engine.errors import EndOfInput


class FakeWorker(SourceContext):
    """Reads a source on a thread of its own; `ledger` is shared with other workers and guarded by `lock`."""

    def __init__(self, flow, source, ledger=None, lock=None, *, drain=False, until=None, fixed_splits=False):
        self.flow, self.format, self.share = flow, source.formats()[0], Share()
        self.drain, self.fixed_splits, self.until = drain, fixed_splits, Checkpoint(until or {})
        self.source = source
        self.ledger = ledger if ledger is not None else {}
        self.lock = lock or threading.Lock()
        self.owned = set()
        self.pending, self.rows = Checkpoint(), []
        self.events, self.delivered = [], []
        self.ended = threading.Event()
        self.error = None
        self.stopping = threading.Event()

    # --- SourceContext

    def claim(self, splits):
        self.commit()
        self.events.append(("claim", tuple(splits)))
        with self.lock:
            self.owned.update(splits)
            return Checkpoint({split: self.ledger[split][0] for split in splits if split in self.ledger})

    def revoked(self, splits):
        self.commit()
        self.events.append(("revoked", tuple(splits)))
        self.owned -= set(splits)

    def settle(self):
        self.commit()
        self.events.append(("settle", ()))

    def lost(self, splits):
        self.events.append(("lost", tuple(splits)))
        self.pending, self.rows = Checkpoint(), []
        self.owned -= set(splits)

    # --- the loop

    def commit(self):
        """As a transactional sink would: rows and positions together."""
        with self.lock:
            for split, position in self.pending.items():
                assert split in self.owned, f"{split} was read but is not ours"
                before = self.ledger.get(split, (0, None))[0]
                assert position >= before, f"{split} went back from {before} to {position}"
                self.ledger[split] = (position, self)
            self.delivered += self.rows
        self.source.acknowledge(self.pending) if self.pending else None
        self.pending, self.rows = Checkpoint(), []

    def take(self, batch):
        """Take a batch as the worker's writer would."""
        self.pending = self.pending.advance(batch.checkpoint)
        self.rows += zip(
            batch.rows.column("partition").to_pylist(),
            batch.rows.column("offset").to_pylist(),
            batch.rows.column("value").to_pylist(),
            strict=True,
        )

    def run(self, pace=0.0, max_records=500):
        """Read until the end of input, an error, or `stop`."""
        try:
            self.source.open(self)
            while not self.stopping.is_set():
                batch = self.source.read(max_records, 0.1)
                if batch is not None:
                    self.take(batch)
                    if len(self.rows) >= 200 or not len(batch):
                        self.commit()
                elif self.rows:
                    self.commit()
                if pace:
                    time.sleep(pace)
            self.commit()
        except EndOfInput:
            self.commit()
            self.ended.set()
        except Exception as error:
            self.error = error
        finally:
            self.source.close()

    def start(self, **keywords):
        """Run on a thread."""
        self.thread = threading.Thread(target=self.run, kwargs=keywords, daemon=True)
        self.thread.start()
        return self

    def stop(self):
        """Leave in good order."""
        self.stopping.set()
        self.thread.join(30)
        assert not self.thread.is_alive(), "the worker hangs"
        if self.error is not None:
            raise self.error


def wait_for(condition, seconds=30.0, what="it"):
    """Until `condition()` is true."""
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, f"{what} did not happen within {seconds} s"
        time.sleep(0.02)
