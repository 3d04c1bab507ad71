"""Upserts: what replaces what, what deletes, and what is refused."""

import datetime
import random
from typing import ClassVar

import pytest

from airflow_provider_connect.engine.errors import Fatal
from tests.connectors.postgresql_tables import OnSchema, column_batch, json_batch

UPSERT = {"upsert_mode": True}
IF_NEWER = {"upsert_mode": True, "upsert_strategy": "ifNewer", "upsert_version_column": "v"}


class TestDocuments(OnSchema):
    def test_upsert_by_a_field_takes_the_last(self):
        sink = self.sink(auto_create_table=True, upsert_mode=True, conflict_key="id")
        self.deliver(sink, json_batch({"id": 1, "v": 1}, {"id": 2, "v": 1}, {"id": 1, "v": 2}))
        self.deliver(sink, json_batch({"id": 2, "v": 3}), json_batch({"id": 2, "v": 4}), position=2)
        assert self.rows("data") == [({"v": 2, "id": 1},), ({"v": 4, "id": 2},)]

    def test_upsert_by_two_fields(self):
        sink = self.sink(auto_create_table=True, upsert_mode=True, conflict_key="a, b")
        self.deliver(
            sink, json_batch({"a": 1, "b": "x", "v": 1}, {"a": 1, "b": "y", "v": 2}, {"a": 1, "b": "x", "v": 3})
        )
        assert sorted(row[0]["v"] for row in self.rows("data")) == [2, 3]

    def test_upsert_of_a_document_without_the_field_is_refused(self):
        sink = self.sink(auto_create_table=True, upsert_mode=True, conflict_key="id")
        error = self.refused(sink, json_batch({"id": 1}, {"v": 1}, {"id": None}))
        assert error.rows == dict.fromkeys((1, 2), "the document has no 'id' (conflictKey)")

    def test_the_specifications_example(self):
        sink = self.sink(auto_create_table=True, upsert_mode=True, conflict_key="id", batch_size=100)
        self.deliver(sink, json_batch({"id": 1, "v": 1}, {"id": "1", "v": 2}))
        assert self.rows("data") == [({"id": "1", "v": 2},)], "keys are compared as text"

    def test_only_newer_ones_replace(self):
        sink = self.sink(auto_create_table=True, conflict_key="id", **IF_NEWER)
        self.deliver(
            sink, json_batch({"id": 1, "v": 9}, {"id": 1, "v": 10}, {"id": 1, "v": 10, "late": 1}, {"id": 2, "v": 1})
        )
        self.deliver(
            sink, json_batch({"id": 1, "v": 8}, {"id": 1, "v": 10.0, "late": 2}, {"id": 2, "v": 2}), position=2
        )
        assert self.rows("data->>'id', data") == [("1", {"id": 1, "v": 10}), ("2", {"id": 2, "v": 2})]

    def test_a_document_without_version_is_refused(self):
        sink = self.sink(auto_create_table=True, conflict_key="id", **IF_NEWER)
        error = self.refused(sink, json_batch({"id": 1, "v": 1}, {"id": 2}, {"id": 3, "v": None}))
        assert error.rows == dict.fromkeys((1, 2), "the document has no 'v', its version (upsertVersionColumn)")

    def test_tombstones_delete_in_their_order(self):
        sink = self.sink(auto_create_table=True, conflict_key="id", **UPSERT)
        self.deliver(sink, json_batch(*({"id": number, "v": 1} for number in range(1, 6))))
        keys = [b"1", b"2", b"2", b'{"id": 3}', b'{"schema": {}, "payload": {"id": 4}}', b"7", b"6", b"6", b"6"]
        values = [None, None, {"id": 2, "v": 2}, None, None, None, {"id": 6}, None, {"id": 6, "v": 6}]
        self.deliver(sink, json_batch(*values, keys=keys), position=2)
        assert self.rows("data->>'id', data->>'v'") == [("2", "2"), ("5", "1"), ("6", "6")]

    @pytest.mark.parametrize("key", [None, b"{}", b'{"id": null}', b'{"id": {}}', b"\xff"])
    def test_a_tombstone_that_names_no_row_is_refused(self, key):
        sink = self.sink(auto_create_table=True, conflict_key="id, other", **UPSERT)
        error = self.refused(sink, json_batch({"id": 1, "other": 1}, None, keys=[b"1", key]))
        assert error.rows == {1: "a null document deletes a row, but its key has no 'id' and 'other'"}

    def test_deletes_of_a_key_of_two_fields(self):
        sink = self.sink(auto_create_table=True, conflict_key="a, b", **UPSERT)
        self.deliver(sink, json_batch({"a": 1, "b": "x"}, {"a": 1, "b": "y"}))
        self.deliver(sink, json_batch(None, keys=[b'{"b": "x", "a": 1}']), position=2)
        assert self.rows("data") == [({"a": 1, "b": "y"},)]

    def test_soft_deletes(self):
        sink = self.sink(auto_create_table=True, conflict_key="id", soft_delete_column="deleted_at", **UPSERT)
        assert self.columns() == {"id": "bigint", "data": "jsonb", "deleted_at": "timestamp with time zone"}
        self.deliver(
            sink,
            json_batch(
                {"id": 1}, None, {"id": 2}, None, {"id": 2}, {"id": 3}, keys=[b"1", b"1", b"2", b"2", b"2", b"3"]
            ),
        )
        assert self.rows("data->>'id', deleted_at IS NULL") == [("1", False), ("2", True), ("3", True)]
        self.deliver(sink, json_batch({"id": 1}, None, keys=[b"1", b"3"]), position=2)
        assert self.rows("data->>'id', deleted_at IS NULL") == [("1", True), ("2", True), ("3", False)]

    def test_a_null_without_upsert_is_a_row(self):
        sink = self.sink(auto_create_table=True)
        self.deliver(sink, json_batch({"id": 1}, None, keys=[b"1", b"1"]))
        assert self.rows("data") == [({"id": 1},), (None,)]


class TestColumns(OnSchema):
    def test_upsert_of_columns(self):
        self.create("id int PRIMARY KEY, v text, kept text DEFAULT 'kept'")
        sink = self.sink(upsert_mode=True)
        self.deliver(sink, column_batch(id=[1, 2, 1], v=["a", "b", "c"]), column_batch(id=[2], v=["d"]))
        assert self.rows() == [(1, "c", "kept"), (2, "d", "kept")]

    def test_upsert_of_documents_keeps_what_they_do_not_name_and_their_order(self):
        self.create("id int PRIMARY KEY, a int, b int, kept text DEFAULT 'default'")
        self.postgresql.execute(f"INSERT INTO {self.table} VALUES (1, 0, 0, 'old')")
        sink = self.sink(upsert_mode=True)
        self.deliver(sink, json_batch({"id": 1, "a": 1}, {"id": 1, "b": 2}, {"id": 1, "a": 3}, {"id": 2}))
        assert self.rows() == [(1, 3, 2, "old"), (2, None, None, "default")]
        assert list(self.refused(sink, json_batch({"id": 3}, {"a": 1})).rows) == [1]

    def test_the_primary_key_is_the_default(self):
        self.create("a int, b text, v int, PRIMARY KEY (b, a)")
        sink = self.sink(auto_create_table=True, **UPSERT)
        self.deliver(
            sink, json_batch({"a": 1, "b": "x", "v": 1}, {"a": 1, "b": "y", "v": 1}, {"a": 1, "b": "x", "v": 2})
        )
        assert self.rows() == [(1, "x", 2), (1, "y", 1)]

    def test_only_newer_rows_replace(self):
        self.create("id int PRIMARY KEY, v timestamptz, text text")
        at = [datetime.datetime(2026, 1, 1, 0, 0, 0, n, datetime.UTC) for n in range(4)]
        sink = self.sink(**IF_NEWER)
        self.deliver(sink, column_batch(id=[1, 1, 1, 2], v=[at[1], at[2], at[2], None], text=["a", "b", "c", "d"]))
        assert self.rows("id, text") == [(1, "b"), (2, "d")]
        self.deliver(
            sink,
            json_batch(
                {"id": 1, "v": at[1].isoformat(), "text": "late"}, {"id": 2, "v": at[3].isoformat(), "text": "e"}
            ),
            json_batch({"id": 2, "v": at[0].isoformat()}, {"id": 1, "v": at[3].isoformat()}),
            position=2,
        )
        assert self.rows("id, text, v") == [(1, "b", at[3]), (2, "e", at[3])]

    def test_tombstones_among_documents_of_other_fields(self):
        self.create("id int PRIMARY KEY, a int, b int, kept int DEFAULT 7")
        sink = self.sink(**UPSERT)
        self.deliver(sink, json_batch({"id": 1, "a": 1, "kept": 1}, {"id": 2, "a": 1, "kept": 1}, {"id": 3, "kept": 1}))
        values = [{"id": 1, "a": 2}, None, {"id": 1, "b": 2}, {"id": 2, "b": 3}, {"id": 2, "a": 4}, None, {"id": 4}]
        keys = [b"1", b"1", b"1", b"2", b"2", b"3", b"4"]
        self.deliver(sink, json_batch(*values, keys=keys), position=2)
        assert self.rows() == [(1, None, 2, 7), (2, 4, 3, 1), (4, None, None, 7)]

    def test_a_row_that_only_tombstones_name(self):
        self.create("id uuid PRIMARY KEY, a int")
        sink = self.sink(**UPSERT)
        key = "c0ffee00-0000-4000-8000-000000000001"
        self.deliver(sink, json_batch({"id": key, "a": 1}))
        self.deliver(sink, json_batch(None, None, keys=[key.upper().encode(), key.encode()]), position=2)
        assert self.rows() == []
        self.refused(sink, json_batch(None, keys=[b"no uuid"]))

    soft: ClassVar = {"timestamptz": "at IS NULL", "timestamp": "at IS NULL", "date": "at IS NULL", "boolean": "NOT at"}

    @pytest.mark.parametrize("kind", soft)
    def test_soft_deletes(self, kind):
        self.create(f"id int PRIMARY KEY, v int, at {kind} {'NOT NULL' if kind == 'boolean' else ''}")
        sink = self.sink(soft_delete_column="at", **IF_NEWER)
        self.deliver(
            sink,
            json_batch({"id": 1, "v": 5}, None, {"id": 1, "v": 4}, {"id": 2, "v": 1}, keys=[b"1", b"1", b"1", b"2"]),
        )
        here = f"id, v, {self.soft[kind]}"
        assert self.rows(here) == [(1, 5, False), (2, 1, True)], "an older version brings nothing back"
        self.deliver(sink, column_batch(id=[1], v=[6]), json_batch(None, keys=[b"2"]), position=2)
        assert self.rows(here) == [(1, 6, True), (2, 1, False)]

    def test_null_identifies_no_row(self):
        self.create("id int UNIQUE, v int")
        sink = self.sink(conflict_key="id", **UPSERT)
        assert list(self.refused(sink, column_batch(id=[1, None, None], v=[1, 2, 3])).rows) == [1, 2]
        assert list(self.refused(sink, json_batch({"id": 1}, {"id": None})).rows) == [1]

    def test_columns_that_fill_themselves(self):
        self.create(
            "id int PRIMARY KEY, n int GENERATED ALWAYS AS IDENTITY, twice int GENERATED ALWAYS AS (id * 2) STORED"
        )
        sink = self.sink(**UPSERT)
        self.deliver(sink, column_batch(id=[1], n=[70]), column_batch(id=[2]))
        self.deliver(sink, column_batch(id=[1], n=[71]), json_batch({"id": 2, "n": 9}, {"id": 3, "n": 8}), position=2)
        assert self.rows() == [(1, 70, 2), (2, 1, 4), (3, 8, 6)]

    @pytest.mark.parametrize("strategy", [UPSERT, IF_NEWER])
    @pytest.mark.parametrize("soft", [None, "gone"])
    def test_whatever_the_cut_into_batches_the_table_is_that_of_one_by_one(self, strategy, soft):
        """Documents of random fields, versions and keys, and tombstones."""
        columns = "id int PRIMARY KEY, v int, a int, b int DEFAULT 5, gone boolean"
        chance = random.Random(7)
        events = []
        for number in range(150):
            key = chance.randrange(12)
            document = {"id": key, "v": chance.randrange(20)}
            document |= {name: number for name in "ab" if chance.random() < 0.6}
            events.append((str(key).encode(), None if chance.random() < 0.25 else document))
        found = []
        for size in (1, 7, len(events)):
            self.create(columns, f"cut{size}")
            sink = self.sink(table=f"{self.schema}.cut{size}", soft_delete_column=soft, **strategy)
            for start in range(0, len(events), size):
                keys, values = zip(*events[start : start + size], strict=True)
                sink.write(json_batch(*values, keys=list(keys)))
                if size == 1:
                    sink.flush()
            self.deliver(sink)
            found.append(self.rows(table=f"{self.schema}.cut{size}"))
        assert found[0] == found[1] == found[2]
        assert len(found[0]) > 5


class TestRefusals(OnSchema):
    def fatal(self, match, **config):
        with pytest.raises(Fatal, match=match):
            self.sink(**config)

    def test_upsert_without_a_unique_index(self):
        self.create("id int, v int")
        self.fatal(
            "no unique index .* covers conflictKey id; create one: CREATE UNIQUE", upsert_mode=True, conflict_key="id"
        )
        self.fatal("set `conflictKey` to the column", upsert_mode=True)
        self.fatal("has no column 'nope'", upsert_mode=True, conflict_key="nope")

    def test_upsert_of_documents_without_a_unique_index(self):
        self.create("id bigserial PRIMARY KEY, data jsonb")
        self.fatal(r"\(\(\"data\" ->> 'id'\)\)", upsert_mode=True, conflict_key="id")
        self.fatal("set `conflictKey` to the field", upsert_mode=True)

    def test_a_table_to_create_needs_the_key(self):
        self.fatal("is to be created, so set `conflictKey`", upsert_mode=True, auto_create_table=True)

    def test_columns_that_do_not_fit(self):
        self.create("id int PRIMARY KEY, v int, mark text")
        self.fatal("has no column 'nope'", upsert_mode=True, upsert_strategy="ifNewer", upsert_version_column="nope")
        self.fatal("softDeleteColumn: 'nope' .* is missing", upsert_mode=True, soft_delete_column="nope")
        self.fatal("'mark' .* is text, but must be a timestamp or boolean", upsert_mode=True, soft_delete_column="mark")

    def test_rows_without_key_or_version(self):
        self.create("id int PRIMARY KEY, v int")
        with pytest.raises(Fatal, match="no column 'id', which identifies"):
            self.sink(**UPSERT).write(column_batch(v=[1]))
        with pytest.raises(Fatal, match="no column 'v', their version"):
            self.sink(**IF_NEWER).write(column_batch(id=[1]))
        error = self.refused(self.sink(**IF_NEWER), json_batch({"id": 1, "v": 1}, {"id": 2}))
        assert error.rows == {1: "the document has no 'v', its version (upsertVersionColumn)"}
