"""Whole flows into PostgreSQL, through the worker: what it halves, sets aside and writes again."""

import json

import pytest

from airflow_provider_connect.engine.flow import dataflow
from airflow_provider_connect.engine.plan import Limits
from airflow_provider_connect.engine.worker import Worker
from tests.connectors.postgresql_tables import OnSchema

GOOD = 400
BAD = {117: b'{"id": 117, "n": "text"}', 230: b"{", 231: b"[1]", 399: b'{"n": 1}'}
"""Where, and what stands there: a value of another type than before, no JSON, no object, no key."""


class TestFlows(OnSchema):
    def drained(self, source, errors=None, **sink):
        settings = {"connectionString": self.postgresql.dsn, "table": self.table, "batchSize": 150, **sink}
        spec = {"errors": errors} if errors is not None else {}
        flow = dataflow(self.schema, source=source, sink=("postgresql", settings), readRecords=50, **spec)
        return Worker(flow.plan(), Limits(mode="drain")).run()

    def lines(self, tmp_path):
        rows = [BAD.get(number, b'{"id": %d, "n": %d}' % (number, number)) for number in range(GOOD)]
        (tmp_path / "in.ndjson").write_bytes(b"\n".join(rows) + b"\n")
        return "file", {"path": str(tmp_path / "in.ndjson")}

    @pytest.mark.parametrize("create", [True, "json", "typed"])
    @pytest.mark.parametrize("upsert", [False, True])
    def test_refused_documents_go_to_a_table_that_is_created_for_them(self, create, upsert, tmp_path):
        aside = f"{self.schema}.refused"
        errors = "postgresql", {"connectionString": self.postgresql.dsn, "table": aside, "autoCreateTable": create}
        config = {"upsertMode": True, "conflictKey": "id"} if upsert else {}
        summary = self.drained(self.lines(tmp_path), errors, autoCreateTable="typed", **config)
        refused = set(BAD) if upsert else set(BAD) - {399}
        assert (summary.records, summary.dead_letters) == (GOOD, len(refused))
        assert self.columns() == {"id": "bigint", "n": "bigint"}
        assert self.rows("count(*), sum(n)")[0] == (
            GOOD - len(refused),
            sum(number for number in range(GOOD) if number not in BAD) + (0 if upsert else 1),
        )
        if create == "typed":
            self.table = aside
            assert self.columns()["error"] == "jsonb"
            letters = self.rows("error->>'message', original_message", aside)
        else:
            letters = self.rows("data->'error'->>'message', data->'original_message'", aside)
        assert len(letters) == len(refused)
        assert all(message for message, _ in letters)
        assert any("117" in json.dumps(original) for _, original in letters)

    @pytest.mark.parametrize("lanes", [1, 3])
    def test_lanes_read_one_table_and_make_another(self, lanes):
        here = self.create("id bigint PRIMARY KEY, price numeric(10,2), at timestamptz(3) DEFAULT now()", "here")
        self.postgresql.execute(f"INSERT INTO {here} (id, price) SELECT n, n * 0.01 FROM generate_series(1, 3000) n")
        source = "postgresql", {
            "connectionString": self.postgresql.dsn, "table": here, "splits": 3, "splitSize": 100
        }  # fmt: skip
        settings = {"connectionString": self.postgresql.dsn, "table": self.table, "autoCreateTable": "typed"}
        for added in (0, 500):
            self.postgresql.execute(
                f"INSERT INTO {here} (id, price) SELECT n, 1 FROM generate_series(3001, {3000 + added}) n"
            )
            flow = dataflow(
                self.schema, source=source, sink=("postgresql", {**settings, "batchSize": 100}),
                readRecords=50, parallelism=lanes,
            )  # fmt: skip
            summary = Worker(flow.plan(), Limits(mode="drain")).run()
            assert summary.records == (added or 3000)
        assert self.columns() == {"id": "bigint", "price": "numeric(10,2)", "at": "timestamp(3) with time zone"}
        digest = "count(*), sum(hashtextextended(t::text, 0))"
        assert self.rows(digest) == self.rows(digest, here)
