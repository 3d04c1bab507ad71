"""Changes: messages of the replication stream collected into batches, at any place within a transaction.

Per message there is only a look-up and a copy; what the rows mean is found out for all of a batch at once. Messages are
told apart by their first bytes (kind, table, and what comes first in it), which makes the groups.
"""

from __future__ import annotations

import io
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from airflow_provider_connect.connectors.postgresql_cdc.documents import RowType
from airflow_provider_connect.connectors.postgresql_cdc.messages import (
    BEGIN,
    COMMIT,
    DELETE,
    INSERT,
    RELATION,
    TRUNCATE,
    UPDATE,
    Relation,
    Transaction,
    end_of,
    truncated,
)
from airflow_provider_connect.connectors.postgresql_cdc.position import lsn_text
from airflow_provider_connect.connectors.postgresql_cdc.replication import KEEP_ALIVE, WAL_DATA, ReplicationStream
from airflow_provider_connect.engine.errors import ConnectError, Fatal

_HEAD = 25
"""Where pgoutput's message begins in a message of the stream."""
_KIND = slice(_HEAD, _HEAD + 6)
_LULL_SECONDS = 0.005
"""A batch that has something ends when nothing comes for so long."""
_ASK_SECONDS = 0.02


@dataclass(frozen=True, slots=True)
class Group:
    """Messages that are alike: their kind, their table, and whether an old row comes first (`K` its key, `O` whole,
    `N` none). `row` is None for tables that are not followed."""

    number: int
    kind: int
    marker: int
    row: RowType | None


@dataclass(slots=True)
class Collected:
    """Messages of one batch. Message `i` of `groups` ends in `data` at `ends[i]`; ignored ones are empty."""

    data: io.BytesIO = field(default_factory=io.BytesIO)
    ends: list[int] = field(default_factory=list)
    groups: list[int] = field(default_factory=list)
    kinds: list[Group] = field(default_factory=list)
    transactions: list[Transaction] = field(default_factory=list)
    starts: list[tuple[int, int]] = field(default_factory=list)
    """For each transaction: the number of its first message here, and that message's index in the transaction."""
    emptied: dict[int, list[RowType]] = field(default_factory=dict)
    """The tables of a TRUNCATE, by the number of its message."""


class ChangeReader:
    """Collects from a stream. `row_type` is asked for each table that comes up; None if it is not followed.

    `lsn` and `index` are where it stands: the position after the last message collected. It starts behind the first
    `index` messages of the transaction committed at `lsn`.
    """

    def __init__(
        self,
        stream: ReplicationStream,
        lsn: int,
        index: int,
        row_type: Callable[[Relation], RowType | None],
        on_truncate: str,
    ) -> None:
        self._stream, self._row_type, self._on_truncate = stream, row_type, on_truncate
        self.lsn, self.index = lsn, index
        self.done = False
        """Whether the bound is reached."""
        self._resumed = (lsn, index)
        self._transaction: Transaction | None = None
        self._skip = 0
        self._stop: tuple[int, int] | None = None
        self._left: int | None = None
        self._watched = False
        self._asked = 0.0
        self._rows: dict[int, RowType | None] = {}
        self._groups: dict[bytes, Group] = {}
        self._known: list[Group] = []
        self._failure: ConnectError | None = None

    def stop_at(self, lsn: int, index: int = 0) -> None:
        """End there: no message at or beyond it is collected."""
        self._stop = (lsn, index)
        if (self.lsn, self.index) >= self._stop:
            self.done = True

    @property
    def between_transactions(self) -> bool:
        """Whether every transaction that was begun has been collected to its end."""
        return self._transaction is None

    def ask(self) -> None:
        """Ask the server how far it has read, so that the position moves where nothing happens."""
        self._stream.tell(ask=True)

    def collect(self, max_records: int, max_bytes: int, deadline: float) -> Collected:
        """The next messages; none if nothing came in time."""
        self._raise_failure()
        found = self._begin()
        get, groups = self._stream.get, self._groups
        add, ended, belongs = found.data.write, found.ends.append, found.groups.append
        count = size = 0
        self._stream.tell_in_time()
        while count < max_records and size < max_bytes and not self.done:
            length, message = get(1)
            if length > 0:
                group = groups.get(bytes(message[_KIND]))
                if group is None or self._watched:
                    if message[0] == WAL_DATA:
                        group = self._control(message[_HEAD:], found)
                    elif message[0] == KEEP_ALIVE:
                        self._kept_alive(message)
                    if group is None:
                        if self._failure is not None:
                            break
                        continue
                if group.row is not None:
                    size += add(message)
                ended(size)
                belongs(group.number)
                count += 1
                self.index += 1
            elif length < 0:
                self._stream.ended()
            elif not self._rest(deadline, bool(count)):
                break
        return found

    def _raise_failure(self) -> None:
        """What came before it has been delivered by now."""
        if self._failure is not None:
            raise self._failure

    def _rest(self, deadline: float, has_some: bool) -> bool:
        """Nothing is there: wait for more; False if that is enough."""
        self._stream.tell_in_time()
        now = time.monotonic()
        if self._stop is not None and now - self._asked >= _ASK_SECONDS:
            self._asked = now
            self.ask()
        left = deadline - now
        if left <= 0:
            return False
        patience = min(left, _LULL_SECONDS if has_some else _ASK_SECONDS if self._stop is not None else left)
        return self._stream.wait(patience) or not has_some

    # --- what comes once per transaction or table

    def _begin(self) -> Collected:
        found = Collected(kinds=self._known)
        if self._transaction is not None:
            found.transactions.append(self._transaction)
            found.starts.append((0, self.index))
        return found

    def _control(self, message: memoryview, found: Collected) -> Group | None:
        """A message that is not of a known group, or any while we look for the place to start or to stop."""
        kind = message[0]
        if kind == BEGIN:
            self._begun(Transaction.of(message), found)
        elif kind == COMMIT:
            self._transaction, self._watched, self._skip, self._left = None, False, 0, None
            self._move(end_of(message))
        elif kind == RELATION:
            self._relation(Relation.of(message))
        elif kind in (INSERT, UPDATE, DELETE, TRUNCATE) and self._passes():
            if kind == TRUNCATE:
                return self._truncate(message, found)
            return self._group(bytes(message[:6]))
        return None

    def _begun(self, transaction: Transaction, found: Collected) -> None:
        if self._stop is not None and (transaction.lsn, 0) >= self._stop:
            if self._stop[1]:
                self._failure = Fatal(
                    f"the transaction committed at {lsn_text(self._stop[0])}, which was to be read again, is not there"
                    " any more; was the publication changed?"
                )
            self._move(self._stop[0])
            self.done = True
            return
        lsn, index = self._resumed
        self._resumed = (0, 0)
        self._skip = index if transaction.lsn == lsn else 0
        self._left = self._stop[1] if self._stop is not None and self._stop[0] == transaction.lsn else None
        self._watched = bool(self._skip) or self._left is not None
        self._transaction = transaction
        self.lsn, self.index = transaction.lsn, 0
        found.transactions.append(transaction)
        found.starts.append((len(found.ends), self._skip))

    def _passes(self) -> bool:
        """Whether a row's message is to be collected: not those that were delivered before, none behind the bound."""
        if not self._watched:
            return True
        if self._skip:
            self._skip -= 1
            self.index += 1
            self._watched = bool(self._skip) or self._left is not None
            return False
        if self._left is not None and self.index + 1 >= self._left:
            self.done = True  # with this one
        return True

    def _move(self, lsn: int) -> None:
        self.lsn, self.index = max(lsn, self.lsn), 0
        if self._stop is not None and self._stop[1] == 0 and self.lsn >= self._stop[0]:
            self.done = True

    def _kept_alive(self, message: memoryview) -> None:
        if message[17]:
            self._stream.tell()
        # Within a transaction the server has read further than it has sent.
        if self._transaction is None and not self._resumed[1]:
            lsn = int.from_bytes(message[1:9])
            if self._stop is not None and not self._stop[1]:
                lsn = min(lsn, self._stop[0])
            if lsn > self.lsn or self._stop is not None:
                self._move(lsn)

    def _relation(self, relation: Relation) -> None:
        self._rows[relation.oid] = self._row_type(relation)
        table = relation.oid.to_bytes(4)
        for key in [key for key in self._groups if key[1:5] == table]:
            del self._groups[key]

    def _group(self, key: bytes) -> Group:
        group = self._groups.get(key)
        if group is None:
            row = self._rows.get(int.from_bytes(key[1:5]))
            self._groups[key] = group = self._new_group(key[0], key[5], row)
        return group

    def _new_group(self, kind: int, marker: int, row: RowType | None) -> Group:
        group = Group(len(self._known), kind, marker, row)
        self._known.append(group)
        return group

    def _truncate(self, message: memoryview, found: Collected) -> Group | None:
        tables = [row for oid in truncated(message) if (row := self._rows.get(oid)) is not None]
        if tables and self._on_truncate == "fail":
            self._failure = Fatal(
                f"table '{tables[0].topic}' was emptied by TRUNCATE, which rows without an envelope cannot say;"
                " empty the target and set `truncate: ignore`, or set `envelope: debezium`"
            )
            return None
        if tables and self._on_truncate == "event":
            found.emptied[len(found.ends)] = tables
            return self._new_group(TRUNCATE, 0, tables[0])
        return self._new_group(TRUNCATE, 0, None)
