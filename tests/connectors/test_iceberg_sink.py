"""The Iceberg sink beyond its contract: types, schemas, partitions, files, conflicts, and commits without an answer."""

import json
import uuid
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal

import pyarrow as pa
import pytest
from pyiceberg.catalog.sql import SqlCatalog
from pyiceberg.io.pyarrow import schema_to_pyarrow
from pyiceberg.schema import Schema
from pyiceberg.types import (
    BinaryType,
    BooleanType,
    DateType,
    DecimalType,
    DoubleType,
    FixedType,
    FloatType,
    IntegerType,
    ListType,
    LongType,
    MapType,
    NestedField,
    StringType,
    StructType,
    TimestampType,
    TimestamptzType,
    TimeType,
    UUIDType,
)
from requests import ConnectionError as Cut

from airflow_provider_connect.connectors.iceberg import IcebergSink, IcebergSinkConfig
from airflow_provider_connect.engine.batch import Batch, Checkpoint, documents
from airflow_provider_connect.engine.connector import SinkContext
from airflow_provider_connect.engine.errors import Fatal, Fenced, InvalidRecord, Retryable
from tests.connectors.iceberg_tables import Tables, write


@pytest.fixture
def tables(tmp_path):
    return Tables(tmp_path)


ALL_TYPES = Schema(
    NestedField(1, "id", LongType(), required=True),
    NestedField(2, "b", BooleanType()),
    NestedField(3, "i", IntegerType()),
    NestedField(4, "f", FloatType()),
    NestedField(5, "d", DoubleType()),
    NestedField(6, "n", DecimalType(38, 9)),
    NestedField(7, "day", DateType()),
    NestedField(8, "t", TimeType()),
    NestedField(9, "ts", TimestampType()),
    NestedField(10, "tz", TimestamptzType()),
    NestedField(11, "s", StringType()),
    NestedField(12, "u", UUIDType()),
    NestedField(13, "x", FixedType(3)),
    NestedField(14, "y", BinaryType()),
    NestedField(15, "l", ListType(16, LongType(), element_required=False)),
    NestedField(17, "m", MapType(18, StringType(), 19, DoubleType(), value_required=False)),
    NestedField(20, "r", StructType(NestedField(21, "a-b", IntegerType()), NestedField(22, "c", StringType()))),
)
FULL = {
    "id": 2**63 - 1, "b": True, "i": -(2**31), "f": 1.5, "d": 0.1,
    "n": Decimal("12345678901234567890123456789.123456789"),
    "day": date(1969, 12, 31), "t": time(23, 59, 59, 999999), "ts": datetime(1960, 1, 1, 0, 0, 0, 1),
    "tz": datetime(2026, 11, 21, 1, 2, 3, 456789, UTC), "s": "Zażółć 日本語 🙂 \0", "u": uuid.UUID(int=7),
    "x": b"\x00\x01\xff",
    "y": b"", "l": [1, None, 3], "m": [("k", 1.0), ("z", None)], "r": {"a-b": 5, "c": None},
}  # fmt: skip
EMPTY = {**dict.fromkeys(FULL), "id": 0}


class TestTypes:
    def test_all_types_round_trip(self, tables):
        tables.create(ALL_TYPES)
        rows, _ = tables.drained()
        assert rows == []
        sink = tables.sink()
        write(sink, pa.Table.from_pylist([FULL, EMPTY], arrow_schema(tables.table)), 1)
        rows, _ = tables.drained()
        assert rows == [FULL, EMPTY]
        (task,) = tables.table.scan().plan_files()
        assert task.file.record_count == 2
        assert task.file.null_value_counts[tables.table.schema().find_field("s").field_id] == 1, (
            "statistics are by field id"
        )
        assert tables.table.scan("id = 0").to_arrow().num_rows == 1

    def test_what_was_read_can_be_written_again(self, tables):
        """Iceberg to Iceberg: batches of the source fit the sink."""
        tables.create(ALL_TYPES)
        tables.table.append(pa.Table.from_pylist([FULL, EMPTY], arrow_schema(tables.table)))
        rows, _ = tables.drained()
        sink = tables.sink(table="copy", auto_create_table=True, create_as="typed")
        write(sink, pa.Table.from_pylist(rows, arrow_schema(tables.table)), 1)
        assert tables.catalog.load_table("shop.copy").scan().to_arrow().to_pylist() == [FULL, EMPTY]

    def test_values_of_json_fit_typed_columns(self, tables):
        tables.create(ALL_TYPES)
        sink = tables.sink()
        texts = {
            "id": [1], "i": [5], "f": [0.5], "n": ["1.5"], "day": ["2026-01-02"],
            "tz": ["2026-01-02T03:04:05.000006+02:00"],
            "u": ["00000000-0000-0000-0000-000000000007"], "y": ["AAH/"], "r": [{"c": "x"}],
        }  # fmt: skip
        write(sink, texts, 1)
        (row,) = tables.rows()
        assert (row["n"], row["day"], row["u"]) == (Decimal("1.500000000"), date(2026, 1, 2), uuid.UUID(int=7))
        assert row["tz"] == datetime(2026, 1, 2, 1, 4, 5, 6, UTC)
        assert (row["y"], row["r"]) == (b"\x00\x01\xff", {"a-b": None, "c": "x"})

    @pytest.mark.parametrize(
        ("values", "column"),
        [
            ({"id": [1], "i": [2**31]}, "i"),
            ({"id": [1], "day": ["soon"]}, "day"),
            ({"id": [1], "tz": [datetime(2026, 1, 1)]}, "tz"),
            ({"id": [1], "u": ["no uuid"]}, "u"),
            ({"id": [1], "x": ["AAAAAAAA"]}, "x"),
            ({"id": [1], "l": ["text"]}, "l"),
            ({"i": [1]}, "id"),
            ({"id": [1], "r": [{"c": "x", "zzz": 1}]}, "r.zzz"),
        ],
    )
    def test_a_value_that_does_not_fit_is_refused_by_name(self, tables, values, column):
        tables.create(ALL_TYPES)
        sink = tables.sink()
        with pytest.raises(InvalidRecord, match=f"'{column}'"):
            write(sink, values, 1)
        sink.abort()
        assert tables.data_files() == []


class TestSchemas:
    def test_typed_columns_come_with_the_first_records(self, tables):
        sink = tables.sink(auto_create_table=True, create_as="typed")
        assert sink.accepts() == ("columns",)
        write(sink, {"id": [1], "at": [datetime(2026, 1, 1, tzinfo=UTC)], "tags": [["a"]], "nothing": [None]}, 1)
        names = [(field.name, str(field.field_type)) for field in tables.table.schema().fields]
        assert names == [("id", "long"), ("at", "timestamptz"), ("tags", "list<string>")]
        assert tables.rows() == [{"id": 1, "at": datetime(2026, 1, 1, tzinfo=UTC), "tags": ["a"]}]

    def test_unknown_fields_are_refused_unless_empty(self, tables):
        tables.create(Schema(NestedField(1, "id", LongType())))
        sink = tables.sink()
        with pytest.raises(InvalidRecord, match=r"no column for 'extra'; `schemaEvolution: add`"):
            write(sink, {"id": [1], "extra": ["x"]}, 1)
        sink.abort()
        write(sink, {"id": [1], "extra": pa.array([None], pa.string())}, 1)
        assert tables.rows() == [{"id": 1}]

    def test_unknown_fields_are_left_out(self, tables):
        tables.create(Schema(NestedField(1, "id", LongType())))
        write(tables.sink(schema_evolution="ignore"), {"id": [1], "extra": ["x"]}, 1)
        assert tables.rows() == [{"id": 1}]

    def test_columns_and_fields_within_are_added_and_widened(self, tables):
        tables.create(
            Schema(
                NestedField(1, "id", IntegerType()),
                NestedField(2, "f", FloatType()),
                NestedField(3, "r", StructType(NestedField(4, "a", LongType()))),
            )
        )
        sink = tables.sink(schema_evolution="add")
        write(sink, {"id": [1], "f": [0.5], "r": [{"a": 1}]}, 1)
        assert str(tables.table.schema().find_type("id")) == "int", "what fits is no reason to widen"
        write(sink, {"id": [2**40], "f": [0.1], "r": [{"a": 2, "b": "x"}], "new": [True]}, 2)
        schema = tables.table.schema()
        assert [str(schema.find_type(name)) for name in ("id", "f", "r.b", "new")] == [
            "long", "float", "string", "boolean",
        ]  # fmt: skip
        assert sorted(tables.rows(), key=lambda row: row["id"]) == [
            {"id": 1, "f": 0.5, "r": {"a": 1, "b": None}, "new": None},
            {"id": 2**40, "f": pytest.approx(0.1), "r": {"a": 2, "b": "x"}, "new": True},
        ]

    def test_a_column_that_appears_within_a_flush(self, tables):
        sink = tables.sink(auto_create_table=True, create_as="typed", schema_evolution="add")
        for rows in ({"id": [1]}, {"id": [2], "new": ["x"]}, {"id": [3]}):
            sink.write(Batch(pa.RecordBatch.from_pydict(rows), Checkpoint()))
        sink.flush()
        sink.commit(Checkpoint({"0": 3}))
        assert sorted(map(tuple, (row.values() for row in tables.rows()))) == [(1, None), (2, "x"), (3, None)]

    def test_a_column_that_somebody_else_adds_meanwhile(self, tables):
        tables.create(Schema(NestedField(1, "id", LongType())))
        sink = tables.sink(schema_evolution="add")
        write(sink, {"id": [1]}, 1)
        with tables.table.update_schema() as update:
            update.add_column("other", StringType())
        write(sink, {"id": [2], "mine": [True]}, 2)
        assert sorted((row["id"], row["other"], row["mine"]) for row in tables.rows()) == [
            (1, None, None), (2, None, True),
        ]  # fmt: skip

    def test_records_without_any_value_are_no_first_records(self, tables):
        sink = tables.sink(auto_create_table=True, create_as="typed")
        with pytest.raises(InvalidRecord, match="no columns yet"):
            write(sink, {"nothing": [None, None]}, 1)
        sink.abort()
        write(sink, {"nothing": [None], "id": [1]}, 1)
        write(sink, {"nothing": [None, None]}, 2)
        assert [row["id"] for row in tables.rows()].count(None) == 2

    def test_a_type_without_counterpart(self, tables):
        sink = tables.sink(auto_create_table=True, create_as="typed")
        with pytest.raises(Fatal, match="column 'x' of type month_day_nano_interval has no type in Iceberg"):
            write(sink, pa.table({"x": pa.array([(1, 2, 3)], pa.month_day_nano_interval())}), 1)


class TestPartitions:
    def test_rows_go_to_the_files_of_their_partitions(self, tables):
        sink = tables.sink(auto_create_table=True, create_as="typed", partition_by=["day(at)", "bucket(4, id)", "kind"])
        start = datetime(2026, 1, 1, tzinfo=UTC)
        rows = {
            "id": list(range(60)),
            "at": [start + timedelta(hours=n) for n in range(60)],
            "kind": ["a" if n % 2 else None for n in range(60)],
        }
        write(sink, rows, 1)
        table = tables.table
        assert [field.name for field in table.spec().fields] == ["at_day", "id_bucket", "kind"]
        assert sorted(row["id"] for row in tables.rows()) == rows["id"]
        assert table.scan("at < '2026-01-02T00:00:00+00:00'").to_arrow().num_rows == 24
        days = {task.file.partition[0] for task in table.scan().plan_files()}
        assert len(days) == 3

    def test_partitions_that_are_changed_meanwhile(self, tables):
        tables.create(Schema(NestedField(1, "id", LongType())))
        sink = tables.sink()
        sink.write(Batch(pa.RecordBatch.from_pydict({"id": [1]}), Checkpoint()))
        sink.flush()
        with tables.table.update_spec() as update:
            update.add_identity("id")
        tables.table.append(pa.table({"id": [9]}))
        with pytest.raises(Retryable, match="written anew"):
            sink.commit(Checkpoint({"0": 1}))
        assert sink.positions(["0"]) == {}
        write(sink, {"id": [1]}, 1)
        assert sorted(row["id"] for row in tables.rows()) == [1, 9]

    def test_a_partition_of_no_column(self, tables):
        sink = tables.sink(auto_create_table=True, create_as="typed", partition_by=["day(at)"])
        with pytest.raises(Fatal, match="no column 'at' in the first records; they have id"):
            write(sink, {"id": [1]}, 1)


class TestFiles:
    def test_what_is_aborted_or_fenced_leaves_no_files(self, tables):
        sink = tables.sink(auto_create_table=True)
        sink.write(Batch(document(b"{}"), Checkpoint()))
        sink.flush()
        sink.write(Batch(document(b"{}"), Checkpoint()))
        sink.abort()
        assert tables.data_files() == []
        sink.write(Batch(document(b"{}"), Checkpoint()))
        sink.flush()
        tables.sink()
        with pytest.raises(Fenced):
            sink.commit(Checkpoint({"0": 1}))
        assert tables.data_files() == []

    def test_files_end_at_their_target_size(self, tables):
        sink = tables.sink(auto_create_table=True, target_file_size_bytes=1024 * 1024)
        blob = [json.dumps({"n": n, "x": uuid.uuid4().hex * 40}).encode() for n in range(4_000)]
        for _ in range(20):
            sink.write(Batch(document(*blob), Checkpoint()))
        sink.flush()
        sink.commit(Checkpoint({"0": 1}))
        assert len(tables.named_files()) > 1
        assert tables.table.scan().to_arrow().num_rows == 80_000
        assert tables.named_files() == tables.data_files()


class TestCommits:
    def test_the_checkpoint_is_in_the_commit_of_the_rows(self, tables):
        sink = tables.sink(flow="a/b", auto_create_table=True)
        write(sink, [b'{"id": 1}'], {"offset": 7})
        entry = json.loads(tables.table.properties["airflow-connect/a%2Fb/0"])
        assert entry == {"epoch": 1, "position": {"offset": 7}}
        claim, append = tables.table.metadata.snapshots
        assert (claim.summary["total-records"], append.summary["total-records"]) == ("0", "1")

    def test_expiry_does_not_lose_the_checkpoint(self, tables):
        sink = tables.sink(auto_create_table=True)
        for n in range(4):
            write(sink, [b"{}"], n)
        tables.table.maintenance.expire_snapshots().older_than(datetime(2100, 1, 1)).commit()
        assert len(tables.table.metadata.snapshots) == 1
        heir = IcebergSink(IcebergSinkConfig(**tables.settings))
        heir.open(SinkContext("flow"))
        assert heir.claim(["0"]) == {"0": 3}
        write(heir, [b"{}"], 4)
        assert len(tables.rows()) == 5

    def test_snapshots_are_expired(self, tables):
        sink = tables.sink(auto_create_table=True, expire_snapshots_older_than_hours=1e-9)
        sink._opened()._expired_at -= 7200
        for n in range(3):
            write(sink, [b"{}"], n)
        assert len(tables.table.metadata.snapshots) < 4
        assert len(tables.rows()) == 3
        assert sink.positions(["0"]) == {"0": 2}

    def test_another_writer_in_between(self, tables):
        sink = tables.sink(auto_create_table=True)
        for n in range(3):
            tables.table.append(pa.table({"data": [f"theirs {n}"]}))
            write(sink, [f'"ours {n}"'.encode()], n)
        assert sorted(row["data"] for row in tables.rows()) == [
            *(f'"ours {n}"' for n in range(3)), *(f"theirs {n}" for n in range(3)),
        ]  # fmt: skip

    @pytest.mark.parametrize("landed", [True, False], ids=["landed", "lost"])
    def test_a_commit_without_an_answer(self, tables, landed, monkeypatch):
        """The catalog is asked again, and decides; whatever it was, every row is there once."""
        sink = tables.sink(auto_create_table=True)
        sink.write(Batch(document(b'{"id": 1}'), Checkpoint()))
        sink.flush()
        commit = SqlCatalog.commit_table
        calls = []

        def cut(self, *arguments, **named):
            calls.append(1)
            if len(calls) > 1:
                return commit(self, *arguments, **named)
            if landed:
                commit(self, *arguments, **named)
            raise Cut("connection reset")

        monkeypatch.setattr(SqlCatalog, "commit_table", cut)
        with pytest.raises(Retryable, match="no clear answer"):
            sink.commit(Checkpoint({"0": 1}))
        sink.abort()
        sink.close()
        sink.open(SinkContext("flow"))
        assert sink.positions(["0"]) == ({"0": 1} if landed else {})
        assert len(tables.data_files()) == int(landed)
        if not landed:
            write(sink, [b'{"id": 1}'], 1)
        write(sink, [b'{"id": 2}'], 2)
        assert sorted(row["data"] for row in tables.rows()) == ['{"id": 1}', '{"id": 2}']

    def test_a_commit_that_was_sent_twice(self, tables, monkeypatch):
        """Refused because it is there already: its files are the table's now."""
        sink = tables.sink(auto_create_table=True)
        sink.write(Batch(document(b'{"id": 1}'), Checkpoint()))
        sink.flush()
        commit = SqlCatalog.commit_table

        def twice(self, *arguments, **named):
            commit(self, *arguments, **named)
            return commit(self, *arguments, **named)

        monkeypatch.setattr(SqlCatalog, "commit_table", twice)
        sink.commit(Checkpoint({"0": 1}))
        monkeypatch.undo()
        write(sink, [b'{"id": 2}'], 2)
        assert sorted(row["data"] for row in tables.rows()) == ['{"id": 1}', '{"id": 2}']

    def test_an_answer_that_cannot_be_read(self, tables, monkeypatch):
        """Whatever goes wrong after a commit was sent, its files may be the table's."""
        sink = tables.sink(auto_create_table=True)
        sink.write(Batch(document(b'{"id": 1}'), Checkpoint()))
        sink.flush()
        commit = SqlCatalog.commit_table

        def garbled(self, *arguments, **named):
            commit(self, *arguments, **named)
            raise ValueError("no JSON")

        monkeypatch.setattr(SqlCatalog, "commit_table", garbled)
        with pytest.raises(Retryable, match="no clear answer"):
            sink.commit(Checkpoint({"0": 1}))
        monkeypatch.undo()
        sink.abort()
        assert sink.positions(["0"]) == {"0": 1}
        assert tables.rows() == [{"data": '{"id": 1}'}]

    def test_a_commit_that_is_late_never_lands(self, tables, monkeypatch):
        """It is still on its way when the positions were asked; after that it is refused."""
        sink = tables.sink(auto_create_table=True)
        sink.write(Batch(document(b'{"id": 1}'), Checkpoint()))
        sink.flush()
        commit, late = SqlCatalog.commit_table, []

        def delayed(self, *arguments, **named):
            if late:
                return commit(self, *arguments, **named)
            late.append((self, arguments, named))
            raise Cut("timed out")

        monkeypatch.setattr(SqlCatalog, "commit_table", delayed)
        with pytest.raises(Retryable):
            sink.commit(Checkpoint({"0": 1}))
        assert sink.positions(["0"]) == {}
        ((_, arguments, named),) = late
        with pytest.raises(Exception, match="branch main has changed"):
            commit(tables.catalog, *arguments, **named)
        write(sink, [b'{"id": 1}'], 1)
        assert len(tables.rows()) == 1


class TestRefusals:
    def test_a_missing_table(self, tables):
        with pytest.raises(Fatal, match=r"no table 'shop.t'; create it, or set `autoCreateTable: true`"):
            tables.sink()

    def test_a_missing_namespace(self, tables):
        with pytest.raises(Fatal, match=r"no namespace 'none', so no table 'none.t'; .*autoCreateTable"):
            tables.sink(namespace="none")

    def test_namespaces_are_created_level_by_level(self, tables):
        sink = tables.sink(namespace="new.below", auto_create_table=True)
        write(sink, [b"{}"], 1)
        assert tables.catalog.load_table("new.below.t").scan().to_arrow().num_rows == 1

    @pytest.mark.parametrize(("column", "problem"), [("none", "is missing"), ("id", "is long, not string")])
    def test_a_wrong_document_column(self, tables, column, problem):
        tables.create(Schema(NestedField(1, "id", LongType()), NestedField(2, "data", StringType())))
        with pytest.raises(Fatal, match=f"documentColumn: '{column}' of 'shop.t' {problem}"):
            tables.sink(document_column=column)

    def test_documents_beside_other_columns(self, tables):
        tables.create(Schema(NestedField(1, "id", LongType()), NestedField(2, "doc", StringType())))
        write(tables.sink(document_column="doc"), [b'{"a": 1}', None], 1)
        assert tables.rows() == [{"id": None, "doc": '{"a": 1}'}, {"id": None, "doc": None}]

    def test_a_catalog_that_is_away_is_worth_another_try(self, tables):
        sink = IcebergSink(IcebergSinkConfig(uri="http://127.0.0.1:1", namespace="shop", table="t"))
        with pytest.raises(Retryable, match=r"127\.0\.0\.1"):
            sink.open(SinkContext("flow"))


def arrow_schema(table):
    return schema_to_pyarrow(table.schema(), include_field_ids=False)


def document(*values):
    return documents(pa.array(values, pa.binary()), "json")
