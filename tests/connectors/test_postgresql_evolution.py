"""Typed tables that are created of what arrives and grow with it."""

import datetime
import decimal
import random
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import ClassVar

import pyarrow as pa
import pytest

from airflow_provider_connect.connectors.postgresql.column_types import fitted, type_of_column, wider
from airflow_provider_connect.engine.batch import Batch, Checkpoint
from airflow_provider_connect.engine.connector import SinkContext
from airflow_provider_connect.engine.errors import Fatal, InvalidRecord, Retryable
from airflow_provider_connect.engine.formats import negotiate
from airflow_provider_connect.testing.source import RecordedContext
from tests.connectors.postgresql_tables import OnSchema, column_batch, json_batch

TYPED = {"auto_create_table": "typed"}


class Typed(OnSchema):
    def delivered(self, *batches, **config):
        sink = self.sink(**TYPED, **config)
        for position, batch in enumerate(batches, 1):
            self.deliver(sink, batch, position=position)
        return sink


class TestDocuments(Typed):
    def test_the_table_is_made_of_the_first_documents(self):
        sink = self.sink(**TYPED)
        assert sink.accepts() == ("postgresql-copy", "columns", "json")
        assert self.postgresql.execute("SELECT to_regclass(%s)", self.table) == [(None,)]
        first = {
            "id": 1,
            "big": 2**70,
            "x": 0.1,
            "ok": True,
            "text": "a",
            "none": None,
            "tags": ["a"],
            "doc": {"a": 1.50},
        }
        self.deliver(sink, json_batch(first, {"text": None, "late": "2026-01-01"}))
        assert self.columns() == {
            "id": "bigint", "big": "numeric", "x": "double precision", "ok": "boolean", "text": "text",
            "tags": "jsonb", "doc": "jsonb", "late": "text",
        }  # fmt: skip
        assert self.rows() == [
            (1, 2**70, 0.1, True, "a", ["a"], {"a": 1.5}, None),
            (None, None, None, None, None, None, None, "2026-01-01"),
        ]

    def test_new_fields_become_columns_and_types_widen(self):
        self.delivered(
            json_batch({"n": 1, "f": 1, "z": None}),
            json_batch({"n": 2**63, "f": 0.5, "z": None}, {"n": None, "new": "x"}),
            json_batch({"n": -1, "z": [1]}, {"new": "y", "f": 1e300}),
        )
        assert self.columns() == {"n": "numeric", "f": "numeric", "new": "text", "z": "jsonb"}
        half = decimal.Decimal("0.5")
        assert self.rows("n, f, new, z")[:3] == [(-1, None, None, [1]), (1, 1, None, None), (2**63, half, None, None)]

    def test_fields_of_nothing_but_nulls_are_decided_late(self):
        self.delivered(json_batch({"a": 1, "b": None}, {"b": None}), json_batch({"b": None}), json_batch({"b": "x"}))
        assert self.columns() == {"a": "bigint", "b": "text"}
        assert len(self.rows()) == 4

    def test_whole_numbers_into_a_column_of_fractions(self):
        self.delivered(json_batch({"f": 0.5}), json_batch({"f": 3}), json_batch({"f": 2**53}))
        assert self.columns() == {"f": "double precision"}
        self.delivered(json_batch({"f": 2**53 + 1}))
        assert self.columns() == {"f": "numeric"}
        assert self.rows() == [(decimal.Decimal("0.5"),), (3,), (2**53,), (2**53 + 1,)]

    def test_an_existing_table_grows(self):
        self.create("id int PRIMARY KEY, small smallint, price numeric(6,2), v varchar(3), state text DEFAULT 'new'")
        sink = self.delivered(json_batch({"id": 1, "small": 1, "price": 1.5, "v": "abc", "more": True}))
        self.deliver(sink, json_batch({"id": 2**31, "small": 40000}, {"id": 2, "price": 1.555}), position=2)
        assert self.columns() == {
            "id": "bigint", "small": "integer", "price": "numeric(6,2)", "v": "character varying(3)",
            "state": "text", "more": "boolean",
        }  # fmt: skip
        assert self.rows("id, small, price::text, state") == [
            (1, 1, "1.50", "new"), (2, None, "1.56", "new"), (2**31, 40000, None, "new")
        ]  # fmt: skip
        assert list(self.refused(sink, json_batch({"id": 3, "v": "abcd"})).rows) == [0]

    def test_documents_without_fields(self):
        self.delivered(json_batch({}, {"a": None}), json_batch({"b": 1}, {}))
        assert self.columns() == {"b": "bigint"}
        assert len(self.rows()) == 4

    def test_values_that_fit_no_more_are_refused(self):
        sink = self.delivered(json_batch({"n": 1}))
        error = self.refused(sink, json_batch({"n": 2}, {"n": "x"}))
        assert "invalid input syntax" in str(error)
        sink.abort()
        self.deliver(sink, json_batch({"n": 2, "more": 1}), position=2)
        assert self.rows() == [(1, None), (2, 1)]

    @pytest.mark.parametrize(
        ("name", "reason"),
        [
            ("", "no column can have"),
            ("a\0b", "no column can have"),
            ("é" * 40, "more than 63 bytes"),
            ("ctid", "system"),
        ],
    )
    def test_names_that_no_column_can_have(self, name, reason):
        sink = self.sink(**TYPED)
        error = self.refused(sink, json_batch({"a": 1}, {"a": 2, name: 1}, {"a": 3, name: None}))
        assert list(error.rows) == [1]
        assert reason in error.rows[1]
        null = {} if "\0" in name else {name: None}  # jsonb takes no NUL, wherever it is
        self.deliver(sink, json_batch({"a": 1}, {"a": 3, **null}))
        assert self.rows() == [(1,), (3,)]

    def test_odd_names(self):
        names = ["select", 'qu"ote', "Großes É", "50%", "a b", "$1", "x" * 63, "data"]
        self.delivered(
            json_batch({name: number for number, name in enumerate(names)}), json_batch(dict.fromkeys(names, 0.5))
        )
        assert list(self.columns()) == names
        assert set(self.columns().values()) == {"numeric"}

    def test_documents_that_are_none_are_named(self):
        sink = self.sink(**TYPED)
        assert list(self.refused(sink, json_batch({"a": 1}, b"{", [1])).rows) == [1, 2]
        assert list(self.refused(sink, json_batch({"a": 1}, None)).rows) == [1]
        self.deliver(sink, json_batch({"a": 1}))
        assert list(self.refused(sink, json_batch({"a": 1}, None, b"{")).rows) == [1]
        assert self.rows() == [(1,)]

    def test_a_rolled_back_flush_takes_its_columns_with_it(self):
        sink = self.delivered(json_batch({"a": 1}))
        sink.write(json_batch({"a": 2, "b": 1}))
        sink.flush()
        self.refused(sink, json_batch({"a": 3, "b": 2, "c": 1}, {"a": "x"}))
        self.deliver(sink, json_batch({"a": 4, "c": "text"}), position=2)
        assert self.columns() == {"a": "bigint", "b": "bigint", "c": "text"}
        sink.write(json_batch({"d": 1}))
        sink.flush()
        sink.abort()
        assert list(self.columns()) == ["a", "b", "c"]
        self.deliver(sink, json_batch({"d": "x"}), position=3)
        assert self.columns()["d"] == "text"

    def test_upserts_with_tombstones(self):
        sink = self.sink(**TYPED, upsert_mode=True, conflict_key="id", soft_delete_column="deleted_at")
        self.deliver(sink, json_batch(None, None, keys=[b"1", b"2"]))
        assert self.postgresql.execute("SELECT to_regclass(%s)", self.table) == [(None,)]
        batch = json_batch(
            {"id": 1, "a": 1}, None, {"id": 2, "a": 1.5}, {"id": 1, "b": "x"}, keys=[b"1", b"1", b"2", b"1"]
        )
        self.deliver(sink, batch, position=2)
        assert self.columns() == {
            "id": "bigint", "a": "double precision", "b": "text", "deleted_at": "timestamp with time zone"
        }  # fmt: skip
        self.deliver(sink, json_batch({"id": 3, "c": 1}, None, keys=[b"3", b"2"]), position=3)
        assert self.rows("id, a, b, c, deleted_at IS NULL") == [
            (1, 1, "x", None, True), (2, 1.5, None, None, False), (3, None, None, 1, True)
        ]  # fmt: skip
        assert list(self.refused(sink, json_batch({"id": 4}, {"a": 4})).rows) == [1]

    def test_documents_without_the_key_make_no_table(self):
        sink = self.sink(**TYPED, upsert_mode=True, conflict_key="id")
        assert list(self.refused(sink, json_batch({"a": 1}, None, {"id": None}, keys=[None] * 3)).rows) == [0, 2]
        self.deliver(sink, json_batch({"id": "k", "a": 1}))
        assert self.rows() == [("k", 1)]

    def test_random_documents_are_all_kept(self):
        """Whatever comes in whatever order, every value that was accepted reads back as it was."""
        for seed in range(4):
            chance = random.Random(seed)
            make = [
                lambda c: c.randrange(100), lambda c: c.randrange(2**62, 2**66), lambda c: c.random(), lambda c: None,
                lambda c: c.choice([True, False]), lambda c: c.choice(["x", "é", ""]), lambda c: [c.randrange(3)],
            ]  # fmt: skip
            kinds = {"a": [0, 1, 3], "b": [0, 2, 3], "c": [3, 4], "d": [5, 3], "e": [6, 3], "f": [1, 2, 0]}
            table, wanted = f"{self.schema}.r{seed}", []
            sink = self.sink(**TYPED, table=table)
            for position in range(8):
                documents = []
                for _ in range(chance.randrange(1, 5)):
                    fields = {n: make[chance.choice(k)](chance) for n, k in kinds.items() if chance.random() < 0.4}
                    documents.append({"n": len(wanted), **fields})
                    wanted.append(documents[-1])
                sink.write(json_batch(*documents))
                if chance.random() < 0.5:
                    self.deliver(sink, position=position)
            self.deliver(sink, position=99)
            stored = [row for (row,) in self.rows("to_jsonb(t)", table)]
            stored.sort(key=lambda row: row["n"])
            assert [{k: v for k, v in row.items() if v is not None} for row in stored] == [
                {k: v for k, v in row.items() if v is not None} for row in wanted
            ]


class TestColumns(Typed):
    kinds: ClassVar = {
        "tiny": (pa.int8(), "smallint", 1),
        "u32": (pa.uint32(), "bigint", 2**32 - 1),
        "u64": (pa.uint64(), "numeric(20,0)", 2**64 - 1),
        "real": (pa.float32(), "real", 0.5),
        "double": (pa.float64(), "double precision", float("inf")),
        "exact": (pa.decimal128(12, 3), "numeric(12,3)", decimal.Decimal("123456789.125")),
        "flag": (pa.bool_(), "boolean", True),
        "text": (pa.large_string(), "text", "x"),
        "coded": (pa.dictionary(pa.int8(), pa.string()), "text", "x"),
        "bin": (pa.binary(3), "bytea", b"\0\1\2"),
        "day": (pa.date32(), "date", datetime.date(2024, 2, 29)),
        "clock": (pa.time64("us"), "time without time zone", datetime.time(1, 2, 3, 4)),
        "local": (pa.timestamp("ms"), "timestamp without time zone", datetime.datetime(2026, 1, 1)),
        "zoned": (
            pa.timestamp("us", "UTC"), "timestamp with time zone", datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
        ),
        "lasting": (pa.duration("s"), "interval", datetime.timedelta(seconds=5)),
        "ints": (pa.list_(pa.int32()), "integer[]", [1, None]),
        "texts": (pa.list_(pa.string()), "text[]", ["a,b"]),
        "doc": (pa.struct([("x", pa.int64())]), "jsonb", {"x": 1}),
        "docs": (pa.list_(pa.struct([("x", pa.int64())])), "jsonb", [{"x": 1}]),
    }  # fmt: skip

    def test_every_type(self):
        arrays = {name: pa.array([value], kind) for name, (kind, _, value) in self.kinds.items()}
        self.delivered(column_batch(nothing=pa.nulls(1), **arrays))
        assert self.columns() == {name: type_ for name, (_, type_, _) in self.kinds.items()}
        assert self.rows() == [tuple(value for _, _, value in self.kinds.values())]

    def test_they_widen(self):
        def batch(**columns):
            return column_batch(**{name: pa.array([value], kind) for name, (kind, value) in columns.items()})

        one, more = decimal.Decimal("1.25"), decimal.Decimal("1.5")
        small, large = (pa.decimal128(4, 2), one), (pa.decimal128(6, 1), more)
        self.delivered(
            batch(i=(pa.int16(), 1), f=(pa.float32(), 0.5), n=small, l=(pa.list_(pa.int16()), [1])),
            batch(i=(pa.int64(), 2), f=(pa.float64(), 0.1), n=large, l=(pa.list_(pa.int64()), [2])),
        )
        assert self.columns() == {"i": "smallint", "f": "double precision", "n": "numeric(7,2)", "l": "bigint[]"}
        self.delivered(
            batch(i=(pa.int64(), 2**31), n=(pa.int64(), 5)),
            batch(i=(pa.float64(), 0.5)),
            batch(d=(pa.date32(), datetime.date(2026, 1, 1))),
        )
        assert self.columns()["i"] == "numeric"
        self.delivered(batch(d=(pa.timestamp("us"), datetime.datetime(2026, 1, 1, 12))))
        assert self.columns()["d"] == "timestamp without time zone"

    def test_columns_without_the_key(self):
        with pytest.raises(Fatal, match="no column 'id', which is to identify them"):
            self.sink(**TYPED, upsert_mode=True, conflict_key="id").write(column_batch(a=[1]))

    def test_names_that_no_column_can_have(self):
        with pytest.raises(Fatal, match="rename it by a transform"):
            self.sink(**TYPED).write(column_batch(**{"x" * 64: [1]}))

    @pytest.mark.parametrize(
        ("have", "wanted", "to"),
        [
            ("smallint", "integer", "integer"),
            ("bigint", "integer", None),
            ("bigint", "double precision", "numeric"),
            ("integer", "numeric(10,2)", "numeric"),
            ("real", "smallint", None),
            ("real", "integer", "numeric"),
            ("double precision", "integer", None),
            ("double precision", "bigint", "numeric"),
            ("double precision", "real", None),
            ("numeric", "double precision", None),
            ("numeric(6,2)", "double precision", None),
            ("numeric(6,2)", "bigint", "numeric(21,2)"),
            ("numeric(6,2)", "numeric(5,3)", "numeric(7,3)"),
            ("numeric(6,2)", "numeric", "numeric"),
            ("numeric(600,0)", "numeric(900,500)", "numeric"),
            ("character varying(3)", "character varying(5)", "character varying(5)"),
            ("character varying(5)", "character varying(3)", None),
            ("text", "bigint", None),
            ("jsonb", "text", None),
            ("integer[]", "bigint[]", "bigint[]"),
            ("integer[]", "integer", None),
            ("timestamp with time zone", "date", None),
            ("boolean", "integer", None),
        ],
    )
    def test_what_holds_both(self, have, wanted, to):
        assert wider(have, wanted) == to

    def test_what_integers_really_need(self):
        assert fitted("bigint", "smallint", pa.array([2**15], pa.int64())) == "integer"
        assert fitted("bigint", "smallint", pa.array([-(2**15)], pa.int64())) == "smallint"
        assert fitted("bigint", "smallint", pa.array([None], pa.int64())) == "smallint"
        assert fitted("numeric(20,0)", "bigint", pa.array([2**63], pa.uint64())) == "numeric"
        assert fitted("bigint", "real", pa.array([2**24 + 1])) == "numeric"
        assert fitted("bigint", "text", pa.array([1])) == "bigint"
        assert type_of_column(pa.field("x", pa.list_(pa.null()))) == "jsonb"


class TestFromPostgreSQL(Typed):
    def copied(self, position, **config):
        """The flow's way, from where it was."""
        source = self.source(table=f"{self.schema}.here")
        sink = self.sink(**TYPED, source=source, claim=False, **config)
        stored = sink.claim([f"{self.schema}.here"])
        chosen = negotiate(source.formats(), False, sink.accepts()).read_format
        source.open(RecordedContext(self.schema, chosen, stored=stored, drain=True))
        for batch in self.batches(source):
            sink.write(batch)
            stored = batch.checkpoint
        sink.flush()
        sink.commit(Checkpoint(stored))
        return chosen

    def test_the_table_gets_the_types_of_the_source(self):
        self.postgresql.execute(f"CREATE TYPE {self.schema}.mood AS ENUM ('a'); CREATE DOMAIN {self.schema}.few AS int")
        columns = (
            f"id bigint PRIMARY KEY, n numeric(10,2), v varchar(5), at timestamptz(3), a int[], m {self.schema}.mood"
        )
        self.create(f"{columns}, d {self.schema}.few, j jsonb", "here")
        values = "(1, 1.5, 'x', '2026-01-01', '{{1},{2}}', 'a', 5, '{}')"
        self.postgresql.execute(f"INSERT INTO {self.schema}.here VALUES {values}")
        assert self.copied(1) == "postgresql-copy"
        here = self.table
        self.table = f"{self.schema}.here"
        expected = self.columns()
        self.table = here
        assert self.columns() == expected
        assert self.rows("t::text") == self.rows("t::text", f"{self.schema}.here")

    def test_tuples_pass_and_the_source_evolves(self):
        self.create("id bigint PRIMARY KEY, n int", "here")
        self.postgresql.execute(f"INSERT INTO {self.schema}.here VALUES (1, 1)")
        assert self.copied(1) == "postgresql-copy-binary"
        self.postgresql.execute(
            f"ALTER TABLE {self.schema}.here ADD t text, ALTER n TYPE numeric;"
            f" INSERT INTO {self.schema}.here VALUES (2, 0.5, 'x')"
        )
        assert self.copied(2) == "postgresql-copy"
        assert self.columns() == {"id": "bigint", "n": "numeric", "t": "text"}
        assert self.rows() == [(1, 1, None), (2, decimal.Decimal("0.5"), "x")]
        self.postgresql.execute(f"INSERT INTO {self.schema}.here VALUES (3, 3, 'y')")
        assert self.copied(3) == "postgresql-copy-binary"

    def test_a_column_that_another_lane_widens_is_not_misread(self):
        """int8 and the bytes of a numeric have nothing in common."""
        self.create("id bigint PRIMARY KEY", "here")
        self.postgresql.execute(f"INSERT INTO {self.schema}.here VALUES (1)")
        source = self.source(table=f"{self.schema}.here")
        sink = self.sink(**TYPED, source=source)
        source.open(RecordedContext(self.schema, "postgresql-copy-binary", drain=True))
        (batch,) = self.batches(source)
        self.postgresql.execute(f"ALTER TABLE {self.table} ALTER id TYPE numeric")
        with pytest.raises(Fatal, match=r"rows do not fit .* 'id' is of another type than numeric"):
            sink.write(batch)

    def test_types_that_are_unknown_become_text(self):
        sink = self.sink(**TYPED)
        columns = (
            '[{"name": "m", "type": "nowhere.mood", "oid": 99999}, {"name": "ms", "type": "mood[]", "oid": 99998},'
        )
        columns += ' {"name": "few", "type": "nowhere.few", "oid": 23}]'
        rows = json_batch(b"happy\t{happy,sad}\t5").rows
        schema = rows.schema.with_metadata({b"encoding": b"postgresql-copy", b"columns": columns.encode()})
        self.deliver(sink, Batch(rows.cast(schema), Checkpoint()))
        assert self.columns() == {"m": "text", "ms": "text[]", "few": "integer"}
        assert self.rows() == [("happy", ["happy", "sad"], 5)]


class TestLanes(Typed):
    def test_lanes_create_and_grow_one_table(self):
        """Each lane brings fields of its own, and all of them one that must be widened."""
        failed, both = [], threading.Barrier(3)

        def lane(number):
            try:
                sink = self.sink(**TYPED, lane=number)
                for step in range(6):
                    if step in (0, 3):
                        both.wait(20)
                    document = {"lane": number, "step": step, f"of{number}": step, "n": [1, 2**40, 2**70][step % 3]}
                    self.deliver(sink, json_batch(document), position=step + 1, split=str(number))
            except BaseException as error:
                failed.append(error)
                both.abort()

        threads = [threading.Thread(target=lane, args=(number,)) for number in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(90)
        assert not failed, failed
        assert self.rows("count(*), count(of0), count(of1), count(of2), sum(n)") == [
            (18, 6, 6, 6, 6 * (1 + 2**40 + 2**70))
        ]

    def test_a_lane_sees_what_another_has_added(self):
        first, second = self.sink(**TYPED), self.sink(**TYPED, lane=1)
        self.deliver(first, json_batch({"a": 1}))
        self.deliver(second, json_batch({"a": 2, "b": 0.5}), split="1")
        self.deliver(first, json_batch({"a": 3, "b": 7, "c": "x"}), position=2)
        self.deliver(second, json_batch({"a": 4, "c": "y"}), position=2, split="1")
        assert self.columns() == {"a": "bigint", "b": "double precision", "c": "text"}
        assert self.rows("a") == [(1,), (2,), (3,), (4,)]

    def test_a_table_that_was_dropped_meanwhile(self):
        sink = self.delivered(json_batch({"a": 1}))
        self.postgresql.execute(f"DROP TABLE {self.table}")
        with pytest.raises(Exception) as raised:
            sink.write(json_batch({"a": 2}))
            sink.flush()
        assert not isinstance(sink.classify(raised.value), InvalidRecord)
        self.deliver(sink, json_batch({"a": 2}), position=2)
        assert self.rows() == [(2,)]

    def test_a_change_waits_for_the_flush_of_another_lane(self):
        first, second = self.sink(**TYPED), self.sink(**TYPED, lane=1)
        self.deliver(first, json_batch({"a": 1}))
        first.write(json_batch({"a": 2}))
        first.flush()
        with ThreadPoolExecutor(1) as pool:
            growing = pool.submit(self.deliver, second, json_batch({"a": 3, "b": "x"}), split="1")
            with pytest.raises(TimeoutError):
                growing.result(0.5)
            first.commit(Checkpoint({"0": 2}))
            growing.result(20)
        assert self.rows() == [(1, None), (2, None), (3, "x")]

    def test_of_two_lanes_that_wait_for_each_other_one_tries_again(self):
        lanes = [self.sink(**TYPED), self.sink(**TYPED, lane=1)]
        self.deliver(lanes[0], json_batch({"a": 0}))
        for number, sink in enumerate(lanes, 1):
            sink.write(json_batch({"a": number}))
            sink.flush()

        def grow(number):
            sink, batches = (
                lanes[number],
                [json_batch({"a": number + 1}), json_batch({"a": number + 10, f"b{number}": 1})],
            )
            try:
                sink.write(batches[1])
                sink.flush()
            except Retryable as error:
                sink.close()  # the worker's way
                sink.open(SinkContext(self.schema, number))
                sink.positions([str(number)])
                for batch in batches:
                    sink.write(batch)
                    sink.flush()
                sink.commit(Checkpoint({str(number): 2}))
                return str(error)
            sink.commit(Checkpoint({str(number): 2}))
            return None

        with ThreadPoolExecutor(2) as pool:
            tried = [failure for failure in pool.map(grow, range(2)) if failure]
        assert len(tried) == 1 and "deadlock" in tried[0]
        assert self.rows("a, b0, b1") == [
            (0, None, None),
            (1, None, None),
            (2, None, None),
            (10, 1, None),
            (11, None, 1),
        ]

    def test_a_table_with_deferred_constraints(self):
        self.create("id int UNIQUE DEFERRABLE INITIALLY DEFERRED")
        sink = self.sink(**TYPED)
        self.deliver(sink, json_batch({"id": 1}), json_batch({"id": 2, "more": 1}))
        assert self.rows() == [(1, None), (2, 1)]
        assert "duplicate key" in str(self.refused(sink, json_batch({"id": 2}), json_batch({"id": 3, "again": 1})))
