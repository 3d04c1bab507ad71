"""Snapshot: the rows that are there, table by table in the order of their keys, from one snapshot of the server.

The snapshot fits to an LSN: it holds exactly the transactions committed before. If reading is interrupted, it goes on
behind the last key in a newer snapshot; each stretch of keys keeps its own LSN in the position, and of the changes that
follow those are left out that the stretch of their row holds already. So each state of each row comes once.
"""

from __future__ import annotations

import time
from collections.abc import Mapping

import numpy as np
import pyarrow as pa

from airflow_provider_connect.connectors._postgresql.access import Access
from airflow_provider_connect.connectors._postgresql.client import connect, run
from airflow_provider_connect.connectors._postgresql.copy_stream import CopyOut
from airflow_provider_connect.connectors._postgresql.names import TableName, literal, quoted
from airflow_provider_connect.connectors.postgresql_cdc import tuples
from airflow_provider_connect.connectors.postgresql_cdc.catalog import FollowedTable, Ordering, text_of
from airflow_provider_connect.connectors.postgresql_cdc.documents import Documents, Origin, RowType, batch_of
from airflow_provider_connect.connectors.postgresql_cdc.position import Position, Stretch
from airflow_provider_connect.connectors.postgresql_cdc.publication import Published
from airflow_provider_connect.connectors.postgresql_cdc.slot import export_snapshot

_BYTES = 4 * 1024 * 1024


class SnapshotReader:
    """Reads what `position` lacks of the tables. `position` is where it stands; `done` when nothing is left.

    With `until`, the stretches of that position are read again as they were: no row behind them, and under their LSN.
    """

    def __init__(
        self,
        access: Access,
        session: str,
        tables: list[FollowedTable],
        row_types: Mapping[str, RowType],
        published: Mapping[TableName, Published],
        documents: Documents,
        position: Position,
        until: Position | None,
    ) -> None:
        self.position = position
        self._again = until is not None
        self._until = until if until is not None and until.tables else None
        self._row_types, self._published, self._documents = row_types, published, documents
        self._tables = [table for table in tables if not position.finished(table.label)]
        self._copy: CopyOut | None = None
        self._clock = int(time.time() * 1000)
        exported = export_snapshot(access, f"{session} snapshot"[:63])
        self._lsn = exported.lsn
        self._connection = connect(access, f"{session} snapshot"[:63], read_only=True)
        try:
            run(self._connection, "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
            run(self._connection, f"SET TRANSACTION SNAPSHOT {literal(exported.name)}")
        except BaseException:
            self._connection.close()
            raise
        finally:
            exported.session.close()
        self._skip_what_until_does_not_name()

    @property
    def done(self) -> bool:
        """Whether all rows have been read."""
        return not self._tables

    def close(self) -> None:
        """Let the snapshot go."""
        self._connection.close()

    def read(self, max_records: int, timeout: float) -> pa.RecordBatch:
        """The next rows, of one table; maybe none. `position` is then behind them."""
        table = self._tables[0]
        if self._copy is None:
            self._begin(table)
        assert self._copy is not None
        rows = self._copy.fetch(max_records, _BYTES, timeout)
        batch = batch_of([])
        stretch = self._stretch(table)
        if rows.count:
            data = memoryview(bytes(rows.data) + tuples.PADDING)
            row = self._row_types[table.label]
            fields = tuples.copied(data, rows.ends, len(row.columns))
            numbers = np.zeros(rows.count, np.int64)
            told = pa.repeat(f',"lsn":{stretch.lsn},"index":null', rows.count)
            fields_of_all = '"snapshot":"true","txId":null,"commitLsn":null,'
            origin = Origin([(fields_of_all, stretch.ts_ms)], numbers, told)
            order = np.arange(rows.count, dtype=np.int64)
            batch = batch_of(self._documents.present(row, order, "r", fields, None, origin))
            # Where the last row stands tells where to go on, also amid a stretch that is read again.
            last = tuple(str(fields.columns[place][-1].as_py()) for place in row.key)
            self.position = self.position.with_stretch(table.label, Stretch(last, stretch.lsn, stretch.ts_ms))
        if self._copy.done:
            self._copy = None
            self.position = self.position.with_stretch(table.label, stretch)
            if self._until is None or self.position.tables[table.label] == self._until.tables[table.label]:
                self._tables.pop(0)
        return batch

    # --- which rows

    def _skip_what_until_does_not_name(self) -> None:
        if self._until is not None:
            until = self._until
            self._tables = [
                table
                for table in self._tables
                if table.label in until.tables and self.position.tables.get(table.label) != until.tables[table.label]
            ]

    def _stretch(self, table: FollowedTable) -> Stretch:
        """What is read now: all that is left, or up to the end of a stretch that is read again."""
        read = self.position.tables.get(table.label, ())
        if self._until is None:
            # To be read again up to the snapshot's end: that was in the snapshot that it began in.
            return Stretch(None, read[-1].lsn, read[-1].ts_ms) if self._again and read else self._new_stretch()
        wanted = self._until.tables[table.label]
        if not read:
            return wanted[0]
        # The last stretch may be read in part: then it is the one to go on with.
        at = len(read) - 1
        return wanted[at] if read[-1] != wanted[at] else wanted[at + 1]

    def _new_stretch(self) -> Stretch:
        return Stretch(None, self._lsn, self._clock)

    def _begin(self, table: FollowedTable) -> None:
        row, ordering = self._row_types[table.label], Ordering.of(table)
        types = {column.name: column.type for column in table.columns}
        # With the table before it: a bare name would be that of a text that is selected.
        keys = ordering.expressions(tuple(f"t.{quoted(name)}" for name in table.key))
        conditions = []
        if (condition := self._published.get(table.name, Published()).condition) is not None:
            conditions.append(f"({condition})")
        read = self.position.tables.get(table.label, ())
        for bound, sign in ((read[-1].upto if read else None, ">"), (self._stretch(table).upto, "<=")):
            if bound is not None:
                values = ordering.literals([literal(text) for text in bound])
                conditions.append(f"({', '.join(keys)}) {sign} ({', '.join(values)})")
        texts = ", ".join(text_of(quoted(name), types[name]) for name in row.columns)
        where = f" WHERE {' AND '.join(conditions)}" if conditions else ""
        only = "" if table.partitioned else "ONLY "
        self._copy = CopyOut(
            self._connection,
            f"COPY (SELECT {texts} FROM {only}{table.name.sql} AS t{where} ORDER BY {', '.join(keys)})"
            " TO STDOUT (FORMAT binary)",
            binary=True,
        )
