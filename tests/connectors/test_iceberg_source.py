"""The Iceberg source beyond its contract: what snapshots did, what is gone, what is read of it."""

import json
import uuid
from datetime import datetime

import pyarrow as pa
import pyarrow.parquet
import pytest
from pydantic import ValidationError
from pyiceberg.expressions import EqualTo
from pyiceberg.table import _parquet_files_to_data_files
from pyiceberg.table.snapshots import Operation, Summary
from pyiceberg.table.update.snapshot import _OverwriteFiles

from airflow_provider_connect.connectors.iceberg import IcebergSourceConfig
from airflow_provider_connect.engine.errors import Fatal
from airflow_provider_connect.testing.source import RecordedContext
from tests.connectors.iceberg_tables import Tables

SCHEMA = pa.schema([("id", pa.int64()), ("kind", pa.string())])


@pytest.fixture
def tables(tmp_path):
    tables = Tables(tmp_path)
    tables.create(SCHEMA)
    return tables


def append(tables, *ids):
    tables.table.append(pa.table({"id": list(ids), "kind": ["even" if id % 2 == 0 else "odd" for id in ids]}, SCHEMA))


class Rewrite(_OverwriteFiles):
    """Compaction, which pyiceberg can read but not write."""

    def _summary(self, snapshot_properties=None):
        return Summary(Operation.REPLACE)


def compact(tables):
    """All files into one, as Spark's rewrite_data_files does it."""
    table = tables.table
    rows = table.scan().to_arrow()
    with table.transaction() as transaction:
        path = f"{table.location()}/data/{uuid.uuid4()}.parquet"
        with table.io.new_output(path).create() as file:
            pa.parquet.write_table(rows, file)
        with Rewrite(
            operation=Operation.OVERWRITE, transaction=transaction, io=table.io, commit_uuid=uuid.uuid4()
        ) as rewrite:
            for task in table.scan().plan_files():
                rewrite.delete_data_file(task.file)
            transaction.set_properties({"schema.name-mapping.default": table.schema().name_mapping.model_dump_json()})
            (added,) = _parquet_files_to_data_files(table.metadata, [path], table.io)
            rewrite.append_data_file(added)


def ids(rows):
    return [row["id"] for row in rows]


class TestSnapshots:
    def test_everything_once_and_then_what_is_appended(self, tables):
        append(tables, 3, 1)
        append(tables, 2)
        rows, at = tables.drained()
        assert ids(rows) == [3, 1, 2]
        rows, at = tables.drained(at)
        assert rows == []
        append(tables, 5)
        append(tables, 4)
        rows, at = tables.drained(at)
        assert ids(rows) == [5, 4]

    def test_compaction_brings_no_rows(self, tables):
        append(tables, 1)
        append(tables, 2)
        _, at = tables.drained()
        append(tables, 3)
        compact(tables)
        append(tables, 4)
        assert len(list(tables.table.scan().plan_files())) == 2
        rows, at = tables.drained(at)
        assert ids(rows) == [3, 4]
        compact(tables)
        rows, moved = tables.drained(at)
        assert rows == []
        assert moved != at, "or the snapshot it stands at expires some day"

    @pytest.mark.parametrize("kind", ["delete", "overwrite"])
    def test_a_change_of_rows_stops_it_unless_told_otherwise(self, tables, kind):
        append(tables, 1, 2)
        append(tables, 3)
        _, at = tables.drained()
        if kind == "delete":
            tables.table.delete(EqualTo("id", 3))
        else:
            tables.table.overwrite(pa.table({"id": [33], "kind": ["odd"]}, SCHEMA), EqualTo("id", 3))
        append(tables, 4)
        with pytest.raises(Fatal, match=rf"changed or deleted rows \({kind}|delete\).*`onOverwrite: skip`"):
            tables.drained(at)
        rows, _ = tables.drained(at, on_overwrite="skip")
        assert ids(rows) == ([4] if kind == "delete" else [33, 4])
        rows, _ = tables.drained(at, on_overwrite="reread")
        assert ids(rows)[:2] == [1, 2]
        assert ids(rows)[-1] == 4

    def test_snapshots_that_are_gone(self, tables):
        append(tables, 1)
        _, at = tables.drained()
        for n in (2, 3):
            append(tables, n)
        tables.table.maintenance.expire_snapshots().older_than(datetime(2100, 1, 1)).commit()
        with pytest.raises(Fatal, match=r"no longer kept .*another flow name"):
            tables.drained(at)

    def test_expiry_of_what_was_read_harms_nothing(self, tables):
        append(tables, 1)
        _, at = tables.drained()
        append(tables, 2)
        tables.table.maintenance.expire_snapshots().older_than(datetime(2100, 1, 1)).commit()
        rows, _ = tables.drained(at)
        assert ids(rows) == [2]

    def test_a_table_that_was_made_anew(self, tables):
        append(tables, 1)
        _, at = tables.drained()
        tables.catalog.drop_table("shop.t")
        tables.create(SCHEMA)
        append(tables, 1)
        with pytest.raises(Fatal, match="made anew"):
            tables.drained(at)

    def test_a_snapshot_half_read_is_read_on_while_the_table_goes_on(self, tables):
        append(tables, *range(10))
        source = tables.source()
        source.open(RecordedContext("flow", "columns"))
        at = source.read(4, 1).checkpoint
        source.close()
        append(tables, 10)
        compact(tables)
        rows, _ = tables.drained(at)
        assert ids(rows) == [*range(4, 10), 10]

    def test_the_whole_table_at_every_change(self, tables):
        append(tables, 1)
        source = tables.source(incremental_by_snapshot=False)
        assert not source.replayable, "which snapshots it sees depends on when it looks"
        rows, at = tables.drained(incremental_by_snapshot=False)
        assert ids(rows) == [1]
        assert tables.drained(at, incremental_by_snapshot=False)[0] == []
        append(tables, 2)
        tables.table.delete(EqualTo("id", 1))
        assert ids(tables.drained(at, incremental_by_snapshot=False)[0]) == [2]

    def test_rows_deleted_by_position_are_not_read(self, tables):
        append(tables, 1, 2, 3)
        tables.table.delete(EqualTo("id", 2))
        assert ids(tables.drained()[0]) == [1, 3]


class TestWhatIsRead:
    def test_columns_and_filter(self, tables):
        append(tables, 1, 2, 3)
        append(tables, 5, 7)
        rows, at = tables.drained(columns=["kind", "id"], filter="kind = 'even' OR id > 6")
        assert rows == [{"id": 2, "kind": "even"}, {"id": 7, "kind": "odd"}]
        append(tables, 8)
        rows, _ = tables.drained(at, columns="id", filter="kind = 'even'")
        assert rows == [{"id": 8}]

    def test_files_that_cannot_match_are_not_opened(self, tables):
        append(tables, 1, 2)
        append(tables, 100)
        (task,) = [task for task in tables.table.scan().plan_files() if task.file.record_count == 2]
        tables.table.io.delete(task.file.file_path)
        assert ids(tables.drained(filter="id >= 100")[0]) == [100]
        with pytest.raises(Exception) as raised:
            tables.drained()
        error = tables.source().classify(raised.value)
        assert isinstance(error, Fatal)
        assert "is gone" in str(error)

    def test_filtered_rows_move_the_checkpoint(self, tables):
        append(tables, 1, 2)
        rows, at = tables.drained(filter="id > 10")
        assert rows == []
        assert at["0"]["file"] == -1

    def test_raw_mode(self, tables):
        append(tables, 2)
        rows, _ = tables.drained(raw_mode=True)
        assert rows == [{"value": {"id": 2, "kind": "even"}, "_metadata": {"namespace": "shop", "table": "t"}}]

    def test_columns_that_were_added_later(self, tables):
        append(tables, 1)
        with tables.table.update_schema() as update:
            update.union_by_name(pa.schema([("more", pa.string())]))
        tables.table.append(pa.table({"id": [2], "kind": ["even"], "more": ["x"]}))
        rows, _ = tables.drained()
        assert [row["more"] for row in rows] == [None, "x"]

    def test_lag_of_a_filtered_table_is_not_known(self, tables):
        append(tables, 1)
        assert tables.source().lag({}) == 1
        assert tables.source(filter="id = 1").lag({}) is None

    def test_positions_name_snapshot_file_and_row(self, tables):
        append(tables, 1, 2, 3)
        source = tables.source()
        source.open(RecordedContext("flow", "columns"))
        position = source.read(2, 1).checkpoint["0"]
        source.close()
        snapshot = tables.table.current_snapshot().snapshot_id
        assert json.loads(json.dumps(position)) == {
            "scan": snapshot, "snapshot": snapshot, "sequence": 1, "file": 0, "row": 2,
        }  # fmt: skip


class TestRefusals:
    def test_a_missing_table(self, tables):
        with pytest.raises(Fatal, match=r"no table 'shop.none'; create it, or check"):
            tables.drained(table="none")

    def test_a_missing_column(self, tables):
        with pytest.raises(Fatal, match=r"columns: .*nothing.*'shop.t' has id, kind"):
            tables.drained(columns=["nothing"])

    def test_a_position_of_something_else(self, tables):
        append(tables, 1)
        with pytest.raises(Fatal, match="is no position in an Iceberg table"):
            tables.drained({"0": 17})

    @pytest.mark.parametrize("text", ["id >", "", "drop table x"])
    def test_a_filter_that_is_none(self, text):
        with pytest.raises(ValidationError, match="condition over columns"):
            IcebergSourceConfig(uri="http://catalog", namespace="shop", table="t", filter=text)

    def test_parts_that_were_changed(self, tables):
        append(tables, 1)
        _, at = tables.drained(splits=2)
        with pytest.raises(Fatal, match="no part 1 of 1; was `splits` changed"):
            tables.source().open(RecordedContext("flow", "columns", until=at))
