"""postgresql-cdc: follows the changes of tables by logical replication (pgoutput), from a snapshot on.

**What is promised.** With an exactly-once sink: of each row that is there at the beginning its state, then every
committed change of it, once and in the order of the commits, whatever is killed when. A snapshot that is interrupted
goes on behind the last key in a newer snapshot, and of the changes those are left out that it holds already. With an
effectively-once sink the same holds for changes; a flush of snapshot rows that a crash interrupted is made again from
the rows as they are by then: a row that changed meanwhile may come in its newer state, and its change once more.
Transactions are delivered when they are committed, large ones in several batches.

**The slot** keeps the server's WAL until the sink has committed it, also while the flow does not run: watch the metric
`connect_lag_bytes`, set `max_slot_wal_keep_size`, and drop the slot of a flow that is given up:
`SELECT pg_drop_replication_slot('…')`. It is never dropped for you. If it is gone, invalidated, or was confirmed beyond
the flow's position, changes are lost, and the flow stops and says so. A newer worker of the flow ends the session of an
older one that does not let go of the slot.

**Tables** need a primary key (or a replica identity by index). Tables of `schema.*` that are made later join when the
flow starts again, with the changes from then on but without the rows they have by then. Columns may come, go and change
while the flow runs; while a snapshot is read, the table is locked against ALTER. A key of integers or uuids is read
along its index, any other is sorted first. The server needs `wal_level = logical`, and a free slot besides for the
time that a snapshot is exported.
"""

from airflow_provider_connect.connectors.postgresql_cdc.config import PostgreSQLCdcSourceConfig
from airflow_provider_connect.connectors.postgresql_cdc.source import PostgreSQLCdcSource

source = PostgreSQLCdcSource

__all__ = ["PostgreSQLCdcSource", "PostgreSQLCdcSourceConfig", "source"]
