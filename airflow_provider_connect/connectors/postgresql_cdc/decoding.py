"""Decoding: what was collected of the stream turned into records, all rows of one kind and table at a time."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from airflow_provider_connect.connectors.postgresql_cdc import tuples
from airflow_provider_connect.connectors.postgresql_cdc.changes import Collected, Group
from airflow_provider_connect.connectors.postgresql_cdc.documents import (
    Documents,
    Origin,
    Part,
    RowType,
    batch_of,
)
from airflow_provider_connect.connectors.postgresql_cdc.messages import DELETE, INSERT, TRUNCATE, UPDATE
from airflow_provider_connect.connectors.postgresql_cdc.position import Stretch
from airflow_provider_connect.connectors.postgresql_cdc.tuples import Fields, Flags, Integers

log = logging.getLogger(__name__)

_ROW = 30
"""Where the first tuple's kind is in a message of the stream: after head, kind and table."""
_PLACES = 4
"""Records that a message may become: a delete, its tombstone, and the new row."""
_NO_OLD, _KEY, _WHOLE = b"NKO"

Comparable = Callable[[tuple[str, ...]], tuple[int | str, ...]]


class Decoder:
    """Makes records. `orderings` has for each table how keys compare, where stretches of a snapshot have to be told
    apart."""

    def __init__(self, documents: Documents) -> None:
        self._documents = documents
        self._warned: set[str] = set()

    def decode(
        self, found: Collected, tables: Mapping[str, tuple[Stretch, ...]], orderings: Mapping[str, Comparable]
    ) -> pa.RecordBatch:
        """The records of what was collected, without the changes that the stretches of `tables` hold already."""
        if not found.ends:
            return batch_of([])
        found.data.write(tuples.PADDING)
        data = found.data.getbuffer()
        begins = np.array([0, *found.ends[:-1]], np.int64)
        members = np.array(found.groups, np.int64)
        origin = _origin(found, data, begins)
        # What the snapshot holds is known by the commit.
        commits = np.array([each.lsn for each in found.transactions], np.int64)
        parts: list[Part] = []
        for number in np.unique(members).tolist():
            group = found.kinds[number]
            if group.row is None or group.kind == TRUNCATE:
                continue
            rows = np.flatnonzero(members == number)
            held = _Held(tables.get(group.row.topic, ()), orderings.get(group.row.topic), commits)
            parts += self._parts(group, group.row, data, begins[rows], rows * _PLACES, origin.take(rows), held)
        for number, emptied in found.emptied.items():
            for row in emptied:
                at = np.array([number])
                parts += self._documents.emptied(row, at * _PLACES, origin.take(at))
        return batch_of(parts)

    def _parts(
        self,
        group: Group,
        row: RowType,
        data: memoryview,
        begins: Integers,
        order: Integers,
        origin: Origin,
        held: _Held,
    ) -> list[Part]:
        width = len(row.columns)
        if not width:
            return []
        first, *rest = tuples.changes(
            data, begins + _ROW, 2 if group.kind == UPDATE and group.marker != _NO_OLD else 1, width
        )
        if group.kind == INSERT:
            return self._present(row, order, "c", first, None, origin, held)
        if group.kind == DELETE:
            return self._gone(row, order, first, group.marker == _WHOLE, origin, held)
        if not rest:
            return self._present(row, order, "u", first, None, origin, held)
        whole = group.marker == _WHOLE
        new = _completed(rest[0], first, None if whole else row.key)
        moved = _differs(row, first, new)
        parts: list[Part] = []
        if not moved.all():
            same = np.flatnonzero(~moved)
            before = first.take(same) if whole else None
            parts += self._present(row, order[same], "u", new.take(same), before, origin.take(same), held)
        if moved.any():
            # Under another key it is another row: the old one goes, a new one comes.
            other = np.flatnonzero(moved)
            at, origin = order[other], origin.take(other)
            self._warn_of_gaps(row, new.take(other))
            parts += self._gone(row, at, first.take(other), whole, origin, held)
            parts += self._present(row, at + 2, "c", new.take(other), None, origin, held)
        return parts

    def _warn_of_gaps(self, row: RowType, moved: Fields) -> None:
        """Under its new key nobody has the values that an UPDATE did not touch."""
        if row.topic in self._warned or all(flags is None for flags in moved.unavailable):
            return
        self._warned.add(row.topic)
        names = [name for name, flags in zip(row.columns, moved.unavailable, strict=True) if flags is not None]
        log.warning(
            "table=%s an UPDATE changed the key of a row and not its large values (%s), so the WAL does not have them;"
            " ALTER TABLE … REPLICA IDENTITY FULL has them written",
            row.topic,
            ", ".join(names),
        )

    def _present(self, row: RowType, order: Integers, op: str, after: Fields, before: Fields | None, origin: Origin,
                 held: _Held) -> list[Part]:  # fmt: skip
        if (news := held.news(row, after, origin.numbers)) is not None:
            order, after, origin = order[news], after.take(news), origin.take(news)
            before = before.take(news) if before is not None else None
        return self._documents.present(row, order, op, after, before, origin) if order.size else []

    def _gone(
        self, row: RowType, order: Integers, before: Fields, whole: bool, origin: Origin, held: _Held
    ) -> list[Part]:
        if (news := held.news(row, before, origin.numbers)) is not None:
            order, before, origin = order[news], before.take(news), origin.take(news)
        return self._documents.gone(row, order, before, whole, origin) if order.size else []


class _Held:
    """What a snapshot of one table holds already."""

    def __init__(self, stretches: tuple[Stretch, ...], comparable: Comparable | None, commits: Integers) -> None:
        self._stretches, self._comparable, self._commits = stretches, comparable, commits
        newest = max((stretch.lsn for stretch in stretches), default=0)
        self._concerned = bool(stretches) and commits.size > 0 and bool((commits < newest).any())

    def news(self, row: RowType, fields: Fields, transactions: Integers) -> Integers | None:
        """Which rows' changes the snapshot does not hold; None for all."""
        if not self._concerned:
            return None
        if len(self._stretches) == 1 or self._comparable is None:
            return np.flatnonzero(self._commits[transactions] >= self._stretches[-1].lsn)
        bounds = [(self._comparable(each.upto), each.lsn) for each in self._stretches if each.upto is not None]
        last = self._stretches[-1].lsn
        keys = zip(*(fields.columns[place].to_pylist() for place in row.key), strict=True)
        kept = []
        for number, (key, commit) in enumerate(zip(keys, self._commits[transactions].tolist(), strict=True)):
            compared = self._comparable(key)
            if commit >= next((lsn for upto, lsn in bounds if compared <= upto), last):
                kept.append(number)
        return np.array(kept, np.int64)


def _origin(found: Collected, data: memoryview, begins: Integers) -> Origin:
    events = np.arange(len(found.ends))
    starts = np.array([start for start, _ in found.starts], np.int64)
    firsts = np.array([first for _, first in found.starts], np.int64)
    numbers = np.searchsorted(starts, events, side="right") - 1
    # Each message's own LSN follows its first byte; those that were not kept have none, and are no rows either.
    lsns = np.ndarray((len(data) - 7,), ">i8", data, strides=(1,))[np.minimum(begins + 1, len(data) - 8)]
    lsns = lsns.astype(np.int64)
    indices = firsts[numbers] + events - starts[numbers]
    fields = pc.binary_join_element_wise(
        ',"lsn":', pa.array(lsns).cast(pa.string()), ',"index":', pa.array(indices).cast(pa.string()), ""
    )
    transactions = [
        (f'"snapshot":"false","txId":{each.xid},"commitLsn":{each.lsn},', each.ts_ms) for each in found.transactions
    ]
    return Origin(transactions, numbers, fields)


def _completed(new: Fields, old: Fields, places: tuple[int, ...] | None) -> Fields:
    """The new rows with the values that the old ones lend them: all, or only those of the key."""
    columns, unavailable = list(new.columns), list(new.unavailable)
    for place, flags in enumerate(new.unavailable):
        if flags is not None and (places is None or place in places):
            columns[place] = pc.if_else(pa.array(flags), old.columns[place], columns[place])
            unavailable[place] = None
    return Fields(columns, unavailable)


def _differs(row: RowType, old: Fields, new: Fields) -> Flags:
    """Whether the key is another one."""
    moved = np.zeros(len(new.columns[0]), np.bool_)
    for place in row.key:
        same = pc.fill_null(pc.equal(old.columns[place], new.columns[place]), False)
        moved |= ~same.to_numpy(zero_copy_only=False)
    return moved
