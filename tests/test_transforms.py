"""Transforms: what they do to rows, and that the hidden row number stays with its row."""

import datetime as dt
import decimal
import json

import pyarrow as pa
import pytest
from pydantic import ValidationError

from airflow_provider_connect.engine import registry
from airflow_provider_connect.engine.batch import documents
from airflow_provider_connect.engine.errors import InvalidRecord
from airflow_provider_connect.engine.transform import ROW


def make(name, **config):
    cls = registry.transform(name)
    return cls(cls.config_type.model_validate(config))


def rows(*records):
    """Records as the json codec decodes them."""
    return registry.codec("json").decode(documents(pa.array([json.dumps(r) for r in records]), "json"))


def kept(column, **config):
    batch = pa.RecordBatch.from_arrays([column, pa.array(range(len(column)))], ["a", "i"])
    return make("filter", field="a", **config).apply(batch).column("i").to_pylist()


@pytest.mark.parametrize("name", registry.names("transforms"))
def test_every_transform_documents_its_fields(name):
    fields = registry.transform(name).config_type.model_fields
    assert fields and all(field.description for field in fields.values())


def test_select_orders_and_keeps_what_it_is_told():
    assert make("select", fields=["b", "c", "a"]).apply(rows({"a": 1, "x": 2, "b": "y"})).to_pylist() == [
        {"b": "y", "c": None, "a": 1}
    ]
    with pytest.raises(ValidationError):
        make("select", fields=[])


def test_select_keeps_the_marks_of_fields():
    batch = rows({"a": 1, "b": 1}, {"a": "x", "b": 2})
    assert make("select", fields=["a"]).apply(batch).schema.field("a").metadata == {b"json": b"value"}


def test_rename():
    renamed = make("rename", fields={"a": "b", "b": "a", "zz": "y"}).apply(rows({"a": 1, "b": 2, "c": 3}))
    assert renamed.to_pylist() == [{"b": 1, "a": 2, "c": 3}]
    assert renamed.schema.names == ["b", "a", "c"]


def test_rename_onto_another_field_refuses_every_row():
    with pytest.raises(InvalidRecord, match="second field 'b'") as raised:
        make("rename", fields={"a": "b"}).apply(rows({"a": 1, "b": 2}, {"a": 1}))
    assert set(raised.value.rows) == {0, 1}


@pytest.mark.parametrize(
    ("op", "value", "expected"),
    [
        ("==", 2, [1]), ("!=", 2, [0, 3]), ("<", 3, [0, 1]), ("<=", 3, [0, 1, 3]), (">", 1.5, [1, 3]),
        (">=", 2, [1, 3]),
        ("in", [1, 3], [0, 3]), ("exists", None, [0, 1, 3]), ("missing", None, [2]),
    ],
)  # fmt: skip
def test_filter_operations(op, value, expected):
    for type_ in (pa.int64(), pa.int8(), pa.float64(), pa.float32()):
        assert kept(pa.array([1, 2, None, 3], type_), op=op, value=value) == expected


def test_filter_by_type():
    assert kept(pa.array(["x", "é", None, ""]), value="é") == [1]
    assert kept(pa.array([True, False, None]), value=False) == [1]
    assert kept(pa.array([2**53 + 1, 2**53]), value=2**53) == [1]
    assert kept(pa.array([decimal.Decimal("1.50"), decimal.Decimal("2.00")]), op=">", value=1) == [0, 1]
    assert kept(pa.array([decimal.Decimal("1.50"), decimal.Decimal("2.00")]), op=">", value=1.75) == [1]
    days = pa.array([dt.date(2024, 1, 1), dt.date(2024, 1, 2)])
    assert kept(days, op=">", value="2024-01-01") == [1]
    times = pa.array([dt.datetime(2024, 1, 1, 10), dt.datetime(2024, 1, 1, 12)], pa.timestamp("us", "UTC"))
    assert kept(times, op="<", value="2024-01-01T11:00:00Z") == [0]
    assert kept(pa.array(["x", "y", None]).dictionary_encode(), value="y") == [1]


def test_filter_reaches_into_objects():
    batch = rows({"o": {"p": {"q": 1}}}, {"o": {"p": {"q": 2}}}, {"o": None}, {})
    assert make("filter", field="o.p.q", value=2).apply(batch).to_pylist() == [{"o": {"p": {"q": 2}}}]
    assert make("filter", field="o.p.nothing", value=2).apply(batch).num_rows == 0
    assert make("filter", field="o.p.q", op="missing").apply(batch).num_rows == 2


def test_a_field_that_no_record_has():
    assert make("filter", field="zz", value=1).apply(rows({"a": 1})).num_rows == 0
    assert make("filter", field="zz", op="in", value=[1]).apply(rows({"a": 1})).num_rows == 0
    assert make("filter", field="zz", op="missing").apply(rows({"a": 1})).num_rows == 1


def test_what_cannot_be_compared_is_refused_row_by_row():
    with pytest.raises(InvalidRecord, match="field 'a'") as raised:
        kept(pa.array(["x", None, "2"]), op=">", value=1)
    assert set(raised.value.rows) == {0, 2}
    for column, value in ((pa.array([1]), "1"), (pa.array([True]), 1), (pa.array([[1]]), 1)):
        with pytest.raises(InvalidRecord):
            kept(column, value=value)
    with pytest.raises(InvalidRecord):
        kept(pa.array([dt.date(2024, 1, 1)]), value="yesterday")


def test_a_record_is_judged_alike_alone_and_among_others():
    records = [{"a": 1}, {"a": "1"}, {"a": [1]}, {"a": None}, {}]
    outcomes = []
    for batch in ([rows(*records)], [rows(record) for record in records]):
        found = {}
        for number, part in enumerate(batch):
            try:
                found |= {
                    number + i: r for i, r in enumerate(make("filter", field="a", value=1).apply(part).to_pylist())
                }
            except InvalidRecord as error:
                found |= {number + index: "refused" for index in error.rows}
        outcomes.append(sorted(index for index, what in found.items() if what == "refused"))
    assert outcomes == [[1, 2], [1, 2]]


def test_values_of_several_types_are_filtered_once_the_others_are_gone():
    batch = rows({"a": 1}, {"a": True}, {"a": None}).filter(pa.array([True, False, True]))
    assert make("filter", field="a", value=1).apply(batch).to_pylist() == [{"a": "1"}]
    assert make("filter", field="a", op="missing").apply(batch).num_rows == 1
    assert make("filter", field="a", op="exists").apply(batch).num_rows == 1


@pytest.mark.parametrize(
    "config",
    [
        {"op": "in", "value": 1}, {"op": "in", "value": []}, {"op": "in", "value": [1, "x"]}, {"op": "=="},
        {"op": "exists", "value": 1}, {"op": "like", "value": "x"}, {"value": [1]},
    ],
)  # fmt: skip
def test_a_wrong_comparison_is_found_without_rows(config):
    with pytest.raises(ValidationError):
        make("filter", field="a", **config)


def test_the_row_number_stays_with_its_row():
    batch = rows({"a": 1, "b": 2}, {"a": 2, "b": 3}, {"a": 3, "b": 4}).append_column(ROW, pa.array([5, 6, 7]))
    assert make("filter", field="a", op=">", value=1).apply(batch).column(ROW).to_pylist() == [6, 7]
    assert make("rename", fields={"a": "c"}).apply(batch).column(ROW).to_pylist() == [5, 6, 7]
    assert make("select", fields=["a"]).apply(batch).num_rows == 3
