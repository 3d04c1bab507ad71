"""The contract of sources, on PostgreSQL's changes: by snapshot, by the slot alone, and flat rows."""

import json
from typing import ClassVar

import pytest

from airflow_provider_connect.connectors.postgresql_cdc import PostgreSQLCdcSource, PostgreSQLCdcSourceConfig
from airflow_provider_connect.testing import SourceContract
from tests.services.process import free_port


class OfTable(SourceContract):
    """Each check has a table, a publication and a slot of its own."""

    settings: ClassVar[dict[str, object]] = {}

    exempt: ClassVar = {
        "test_the_stored_position_wins_over_what_was_acknowledged": "the server has removed what was acknowledged; that"
        " such a position stops the flow is TestSlot::test_a_position_behind_the_slot"
    }

    @pytest.fixture(autouse=True)
    def _table(self, postgresql):
        self.postgresql = postgresql
        self.table = postgresql.unique_name("cdc")
        postgresql.execute(f"CREATE TABLE {self.table} (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, text text)")
        self.prepare()
        yield
        for source in self._opened:  # an open snapshot keeps the table from being dropped
            source.close()
        postgresql.drop_replication(self.table)
        postgresql.execute(f"DROP TABLE {self.table}")

    def prepare(self):
        """Before anything is produced."""

    def source(self, dsn):
        return PostgreSQLCdcSource(
            PostgreSQLCdcSourceConfig(connection_string=dsn, tables=self.table, slot=self.table, **self.settings)
        )

    def make(self):
        return self.source(self.postgresql.dsn)

    def make_unreachable(self):
        return self.source(f"postgresql://nobody@127.0.0.1:{free_port()}/none")

    def produce(self, count):
        rows = self.postgresql.execute(
            f"INSERT INTO {self.table} (text) SELECT 'text ' || n FROM generate_series(1, %s) AS n RETURNING id", count
        )
        return {"changes": sorted(id for (id,) in rows)}

    def identify(self, rows):
        return [json.loads(value)["after"]["id"] for value in rows.column("value").to_pylist()]


class TestSnapshotThenChanges(OfTable):
    pass


class TestChanges(OfTable):
    settings: ClassVar = {"snapshot": "never"}

    def prepare(self):
        self.postgresql.execute(f"CREATE PUBLICATION {self.table} FOR TABLE {self.table}")
        self.postgresql.execute("SELECT pg_create_logical_replication_slot(%s, 'pgoutput')", self.table)


class TestFlatChanges(TestChanges):
    settings: ClassVar = {"snapshot": "never", "envelope": "flat"}

    def identify(self, rows):
        return [json.loads(value)["id"] for value in rows.column("value").to_pylist()]
