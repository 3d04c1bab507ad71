"""Avro to columns and back: right for every type and any data, fast path or not. fastavro tells what is right."""

import io
import json
import random
from decimal import Decimal

import fastavro
import numpy as np
import pyarrow as pa
import pytest

from airflow_provider_connect.codecs._avro.codec import AvroReader, StaticAvro
from airflow_provider_connect.codecs._avro.decode import decode
from airflow_provider_connect.codecs._avro.derive import grown, schema_of
from airflow_provider_connect.codecs._avro.encode import encode
from airflow_provider_connect.codecs._avro.resolve import resolved
from airflow_provider_connect.codecs._avro.schema import parse
from airflow_provider_connect.codecs._schema_registry.client import Schema
from airflow_provider_connect.codecs._schema_registry.framing import Values
from airflow_provider_connect.engine.batch import documents
from airflow_provider_connect.engine.errors import Fatal, FlowError, InvalidRecord
from tests.avro_cases import Cases, written

SEEDS = range(60)


def record(**fields):
    return {"type": "record", "name": "R", "fields": [{"name": n, "type": t} for n, t in fields.items()]}


def read(schema, data):
    """(array, refused) of data given as bytes each."""
    values = Values.of(pa.array(data, pa.binary()))
    return decode(parse(json.dumps(schema)), values.data, values.starts, values.ends)


def plain(schema, data):
    found, refused = read(schema, data)
    assert refused == {}
    found.validate(full=True)
    return found.to_pylist()


def case(seed, counts=(1, 2, 17, 60)):
    cases = Cases(seed)
    schema = cases.record()
    pairs = [cases.value(schema) for _ in range(cases.random.choice(counts))]
    return schema, written(schema, [pair[0] for pair in pairs]), [pair[1] for pair in pairs]


@pytest.mark.parametrize("seed", SEEDS)
def test_any_schema_is_read(seed):
    schema, data, wanted = case(seed)
    assert plain(schema, data) == wanted


@pytest.mark.parametrize("seed", SEEDS)
def test_what_is_written_is_read_by_others(seed):
    schema, data, _ = case(seed)
    rows = pa.RecordBatch.from_struct_array(read(schema, data)[0])
    again = encode(parse(json.dumps(schema)), rows).to_pylist()
    theirs = fastavro.parse_schema(schema)
    for ours, original in zip(again, data, strict=True):
        assert fastavro.schemaless_reader(io.BytesIO(ours), theirs) == fastavro.schemaless_reader(
            io.BytesIO(original), theirs
        )
    assert encode(parse(json.dumps(schema)), rows.slice(len(rows) // 2)).to_pylist() == again[len(rows) // 2 :]


@pytest.mark.parametrize("seed", SEEDS)
def test_columns_get_a_schema_that_holds_them(seed):
    schema, data, wanted = case(seed)
    rows = pa.RecordBatch.from_struct_array(read(schema, data)[0])
    derived = json.loads(schema_of(rows.schema, "made.R"))
    fastavro.parse_schema(json.loads(json.dumps(derived)))
    assert plain(derived, encode(parse(json.dumps(derived)), rows).to_pylist()) == wanted


@pytest.mark.parametrize("seed", range(25))
def test_a_datum_that_ends_too_early_is_refused_and_its_neighbours_are_not(seed):
    schema, data, wanted = case(seed, counts=(3,))
    for cut in range(0, len(data[1]), max(1, len(data[1]) // 20)):
        found, refused = read(schema, [data[0], data[1][:cut], data[2]])
        assert list(refused) == [1]
        assert [found[0].as_py(), found[2].as_py()] == [wanted[0], wanted[2]]
    found, refused = read(schema, [data[0], data[1] + b"\0", data[2]])
    assert list(refused) == [1] and "left over" in refused[1]


@pytest.mark.parametrize("seed", range(40))
def test_spoilt_data_are_refused_or_read_as_others_read_them(seed):
    schema, data, _ = case(seed, counts=(17,))
    pick, theirs = random.Random(seed), fastavro.parse_schema(json.loads(json.dumps(schema)))
    spoilt = []
    for value in data:
        raw = bytearray(value)
        for _ in range(pick.randint(1, 3)):
            if raw:
                raw[pick.randrange(len(raw))] = pick.randrange(256)
        spoilt.append(bytes(raw))
    found, refused = read(schema, spoilt)
    kept = [index for index in range(len(spoilt)) if index not in refused]
    found = found.take(pa.array(kept, pa.int64()))
    found.validate(full=True)
    again = encode(parse(json.dumps(schema)), pa.RecordBatch.from_struct_array(found)).to_pylist()
    for index, ours in zip(kept, again, strict=True):
        try:
            right = fastavro.schemaless_reader(io.BytesIO(spoilt[index]), theirs)
        except Exception:  # what Python's dates, for one, cannot hold
            continue
        assert repr(fastavro.schemaless_reader(io.BytesIO(ours), theirs)) == repr(right)


def test_nothing_at_all():
    found, refused = read(record(a="long", b=["null", "string"], c={"type": "array", "items": "string"}), [])
    assert (found.to_pylist(), refused) == ([], {})
    assert plain({"type": "record", "name": "E", "fields": []}, [b"", b""]) == [{}, {}]


def test_a_long_array_and_many_blocks():
    schema = record(a={"type": "array", "items": "long"})
    many = list(range(-3_000, 3_000))
    assert plain(schema, written(schema, [{"a": many}, {"a": []}, {"a": [7]}])) == [{"a": many}, {"a": []}, {"a": [7]}]
    blocks = b"\x02\x0e" + b"\x03\x02\x10" + b"\x00"  # one element; then -2, its bytes, and one more (negative count)
    assert plain(schema, [b"\x02\x0e\x01\x02\x10\x00"]) == [{"a": [7, 8]}]
    assert read(schema, [blocks])[1]


@pytest.mark.parametrize("seed", range(40))
def test_long_arrays_of_anything(seed):
    """Few data with many elements take another way to the same."""
    cases = Cases(seed)
    schema = record(a={"type": "array", "items": cases.schema(2)}, m={"type": "map", "values": "string"}, z="long")
    item = schema["fields"][0]["type"]["items"]
    written_, wanted = [], []
    for length in (0, 200, 3, 70):
        pairs = [cases.value(item) for _ in range(length)]
        many = {f"k{n}": f"v{n}" for n in range(length)}
        written_.append({"a": [pair[0] for pair in pairs], "m": many, "z": length})
        wanted.append({"a": [pair[1] for pair in pairs], "m": list(many.items()), "z": length})
    data = written(schema, written_)
    assert plain(schema, data) == wanted
    cut = data[1][: cases.random.randrange(1, len(data[1]))]
    found, refused = read(schema, [data[0], cut, data[2]])
    assert list(refused) == [1]
    assert [found[0].as_py(), found[2].as_py()] == [wanted[0], wanted[2]]


@pytest.mark.parametrize(
    ("schema", "data", "message"),
    [
        ("long", b"\xff" * 11, "number of more than 10 bytes"),
        ("int", b"\xfe\xff\xff\xff\xff\x01", "too big for an int"),
        ("boolean", b"\x02", "neither true nor false"),
        ("string", b"\x04\xff\xfe", "is no UTF-8"),
        ("string", b"\x01", "negative length"),
        ("bytes", b"\x10ab", "longer than the datum"),
        ({"type": "enum", "name": "E", "symbols": ["A"]}, b"\x02", "symbol 1 of 1"),
        (["null", "long"], b"\x04", "branch 2 of 2"),
        ({"type": "array", "items": "long"}, b"\x80\x80\x80\x80\x20\x00", "more elements than the datum has bytes"),
        ({"type": "array", "items": "null"}, b"\x80\x80\x80\x80\x20\x00", "more elements than"),
        (
            {"type": "bytes", "logicalType": "decimal", "precision": 3, "scale": 0},
            b"\x04\x7f\xff",
            "more than 3 digits",
        ),
        ({"type": "bytes", "logicalType": "decimal", "precision": 3}, b"\x28" + b"\x7f" * 20, "more than 3 digits"),
        ({"type": "long", "logicalType": "time-micros"}, b"\x01", "no time of a day"),
        ({"type": "int", "logicalType": "time-millis"}, b"\x80\x80\x80\x80\x0f", "no time of a day"),
        ("double", b"\0" * 7, "ends within f"),
    ],
)
def test_the_reason_names_the_field(schema, data, message):
    good = {"type": "record", "name": "R", "fields": [{"name": "f", "type": schema}]}
    refused = read(good, [data])[1]
    assert message in refused[0] and "f" in refused[0]


def test_logical_types_that_do_not_fit_are_ignored():
    schema = record(
        a={"type": "string", "logicalType": "timestamp-millis"},
        b={"type": "bytes", "logicalType": "decimal", "precision": 2, "scale": 5},
        c={"type": "long", "logicalType": "new-one"},
    )
    assert plain(schema, [b"\x02x\x02\x01\x0e"]) == [{"a": "x", "b": b"\x01", "c": 7}]


def test_uuids_in_sixteen_bytes_and_long_decimals():
    schema = record(
        u={"type": "fixed", "name": "U", "size": 16, "logicalType": "uuid"},
        d={"type": "bytes", "logicalType": "decimal", "precision": 4, "scale": 2},
    )
    data = [bytes(range(16)) + b"\x26" + b"\xff" * 18 + b"\x85", bytes(16) + b"\x00"]
    assert plain(schema, data) == [
        {"u": "00010203-0405-0607-0809-0a0b0c0d0e0f", "d": Decimal("-1.23")},
        {"u": "00000000-0000-0000-0000-000000000000", "d": Decimal("0.00")},
    ]


def test_unions_that_one_type_holds_and_others():
    schema = record(n=["null", "int", "long"], x=["string", "long"])
    data = written(schema, [{"n": 1, "x": "a"}, {"n": None, "x": 5}, {"n": 2**40, "x": ""}])
    assert plain(schema, data) == [
        {"n": 1, "x": {"string": "a", "long": None}},
        {"n": None, "x": {"string": None, "long": 5}},
        {"n": 2**40, "x": {"string": "", "long": None}},
    ]


def test_names_and_namespaces():
    inner = {"type": "enum", "name": "E", "symbols": ["A", "B"]}
    schema = {
        "type": "record",
        "name": "a.b.R",
        "fields": [
            {"name": "x", "type": inner},
            {"name": "y", "type": "E"},
            {"name": "z", "type": ["null", "a.b.E"]},
        ],
    }
    assert plain(schema, [b"\x00\x02\x02\x00"]) == [{"x": "A", "y": "B", "z": "A"}]
    parsed = parse(json.dumps(record(p="Other")), [json.dumps({"type": "fixed", "name": "Other", "size": 2})])
    assert parsed.fields[0].type.size == 2


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        ("{", "is not JSON"),
        ('"nothing"', "'nothing' is not defined"),
        ("7", "not 7"),
        ('{"type": "array"}', "lacks `items`"),
        ('{"type": "record", "name": "R"}', "lacks `fields`"),
        ('{"type": "record", "name": "R", "fields": ["a"]}', "list of objects"),
        ('{"type": "record", "name": "1", "fields": []}', "no name for an Avro type"),
        ('{"type": "enum", "name": "E", "symbols": "A"}', "list of names"),
        ('{"type": "fixed", "name": "F", "size": "2"}', "number of bytes"),
        ('["int", "int"]', "branch 'int' twice"),
        ('[["int"]]', "none of them a union"),
        ("[]", "needs branches"),
        (
            '{"type": "record", "name": "R", "fields": [{"name": "next", "type": ["null", "R"]}]}',
            "schema.next: the Avro type 'R' contains itself",
        ),
        (
            '{"type": "record", "name": "R", "fields": [{"name": "a", "type": "int"}, {"name": "a", "type": "int"}]}',
            "two fields 'a'",
        ),
        ('{"type":"array","items":' * 70 + '"int"' + "}" * 70, "nested more than"),
    ],
)
def test_a_wrong_schema_says_what_is_wrong(schema, message):
    with pytest.raises(FlowError) as raised:
        parse(schema)
    assert message in str(raised.value)


# --- a schema to read with

WRITER = record(
    id="int",
    name=["null", "string"],
    gone="string",
    inner={"type": "record", "name": "I", "fields": [{"name": "x", "type": "float"}]},
    items={"type": "array", "items": "int"},
    kinds={"type": "map", "values": "int"},
)
READER = {
    "type": "record",
    "name": "R",
    "fields": [
        {"name": "title", "type": ["null", "string"], "aliases": ["name"]},
        {"name": "id", "type": "long"},
        {"name": "new", "type": "string", "default": "none"},
        {"name": "maybe", "type": ["null", "long"], "default": None},
        {"name": "items", "type": {"type": "array", "items": "double"}},
        {"name": "kinds", "type": {"type": "map", "values": "long"}},
        {
            "name": "inner",
            "type": {
                "type": "record",
                "name": "I",
                "fields": [
                    {"name": "y", "type": {"type": "array", "items": "int"}, "default": [1, 2]},
                    {"name": "x", "type": ["null", "double"]},
                ],
            },
        },
    ],
}


def test_a_schema_to_read_with_follows_the_rules_of_avro():
    values = [
        {"id": 1, "name": "a", "gone": "x", "inner": {"x": 1.5}, "items": [1, 2], "kinds": {"k": 1}},
        {"id": 2, "name": None, "gone": "y", "inner": {"x": -2.0}, "items": [], "kinds": {}},
    ]
    data = written(WRITER, values)
    reader = AvroReader(Schema("AVRO", json.dumps(WRITER)), parse(json.dumps(READER)))
    rows, refused = reader.read(Values.of(pa.array(data)))
    theirs = [
        fastavro.schemaless_reader(io.BytesIO(each), fastavro.parse_schema(WRITER), fastavro.parse_schema(READER))
        for each in data
    ]
    for each in theirs:
        each["kinds"] = list(each["kinds"].items())
    assert (rows.to_pylist(), refused) == (theirs, {})


@pytest.mark.parametrize(
    ("writer", "reader", "message"),
    [
        ("long", "int", "written as 'long'"),
        ("string", "long", "cannot take as 'long'"),
        (["null", "long"], "long", "is null in a record"),
        (
            {"type": "enum", "name": "E", "symbols": ["A"]},
            {"type": "enum", "name": "E", "symbols": ["B"]},
            "symbol 'A'",
        ),
        ({"type": "fixed", "name": "F", "size": 1}, {"type": "fixed", "name": "F", "size": 2}, "cannot take"),
    ],
)
def test_schemas_with_no_way_between_them(writer, reader, message):
    first = {"long": 7, "string": "x"}.get(writer if isinstance(writer, str) else "")
    if first is None:
        first = None if isinstance(writer, list) else {"enum": "A", "fixed": b"\0"}[writer["type"]]
    schema = parse(json.dumps(record(f=writer)))
    found = read(record(f=writer), written(record(f=writer), [{"f": first}]))[0]
    with pytest.raises(Fatal) as raised:
        resolved(found, schema, parse(json.dumps(record(f=reader))))
    assert message in str(raised.value) and "f" in str(raised.value)


def test_a_field_without_a_default_cannot_be_made_up():
    found = read(record(a="int"), [b"\x02"])[0]
    with pytest.raises(Fatal, match=r"b: .* lacks this field"):
        resolved(found, parse(json.dumps(record(a="int"))), parse(json.dumps(record(a="int", b="int"))))


# --- one schema that is given


def test_bare_data_of_one_schema():
    schema = record(a="long", b=["null", "string"])
    codec = StaticAvro(lambda: json.dumps(schema), "avro@x")
    data = written(schema, [{"a": 1, "b": "x"}, {"a": 2, "b": None}])
    rows = documents(pa.array([None, *data, None], pa.binary()), "avro@x")
    wanted = [{"a": None, "b": None}, {"a": 1, "b": "x"}, {"a": 2, "b": None}, {"a": None, "b": None}]
    assert codec.decode(rows).to_pylist() == wanted
    assert codec.decode(rows.slice(1, 2)).to_pylist() == wanted[1:3]
    assert codec.encode(codec.decode(rows.slice(1, 2))).column("value").to_pylist() == data
    with pytest.raises(InvalidRecord) as raised:
        codec.decode(documents(pa.array([data[0], b"\0\0\0\0\1" + data[0], data[1]]), "avro@x"))
    assert list(raised.value.rows) == [1] and "schemaRegistry" in raised.value.rows[1]
    with pytest.raises(InvalidRecord, match="takes no null"):
        codec.encode(codec.decode(rows))


def test_data_that_are_no_records_are_one_column():
    codec = StaticAvro(lambda: '"string"', "avro@x")
    assert codec.decode(documents(pa.array([b"\x04hi"]), "avro@x")).to_pylist() == [{"value": "hi"}]
    with pytest.raises(FlowError, match="must be a record"):
        codec.encode(pa.RecordBatch.from_pydict({"value": ["hi"]}))


# --- schemas from columns


def test_a_schema_grows_with_the_columns():
    first = schema_of(pa.schema([pa.field("a", pa.int64())]), "R")
    assert grown(first, pa.schema([pa.field("a", pa.int32())])) == first
    second = grown(first, pa.schema([pa.field("b", pa.string())]))
    assert [field["name"] for field in json.loads(second)["fields"]] == ["a", "b"]
    rows = pa.RecordBatch.from_pydict({"b": ["x"]})
    assert plain(json.loads(second), encode(parse(second), rows).to_pylist()) == [{"a": None, "b": "x"}]
    with pytest.raises(Fatal, match=r"column 'a' is string.*int64"):
        grown(first, pa.schema([pa.field("a", pa.string())]))


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"a-b": pa.array([1])}, "column 'a-b': Avro names"),
        ({"i": pa.nulls(1, pa.month_day_nano_interval())}, "has no Avro form"),
    ],
)
def test_columns_that_avro_does_not_have(columns, message):
    with pytest.raises(FlowError, match=message):
        schema_of(pa.RecordBatch.from_pydict(columns).schema, "R")


def test_arrow_types_that_avro_has_under_another_name():
    rows = pa.RecordBatch.from_arrays(
        [
            pa.array([2**64 - 1, None], pa.uint64()),
            pa.array([1, -1], pa.int8()),
            pa.array([1.5, None], pa.float32()),
            pa.array(["x", "y"]).dictionary_encode(),
            pa.array([Decimal("12300"), None], pa.decimal128(5, -2)),
            pa.array([b"ab", None], pa.binary(2)),
            pa.array([[1], None], pa.large_list(pa.int64())),
            pa.array([[("k", 1)], None], pa.map_(pa.string(), pa.int64())),
            pa.array([1_000_000_001, None], pa.timestamp("ns")),
            pa.array([3, None], pa.duration("s")),
            pa.nulls(2),
        ],
        names=list("abcdefghijk"),
    )
    schema = schema_of(rows.schema, "R")
    found, refused = read(json.loads(schema), encode(parse(schema), rows).to_pylist())
    assert refused == {}
    assert list(zip(*(part.to_pylist() for part in found.flatten()[:8]), strict=True)) == [
        (Decimal(2**64 - 1), 1, 1.5, "x", Decimal(12300), b"ab", [1], [("k", 1)]),
        (None, -1, None, "y", None, None, None, None),
    ]
    assert [found.field(name).cast(pa.int64())[0].as_py() for name in "ij"] == [1_000_000_001, 3]
    assert found.field("k").null_count == 2


@pytest.mark.parametrize(
    ("kind", "value", "message"),
    [
        ({"type": "enum", "name": "E", "symbols": ["A"]}, "B", "none of the symbols"),
        ("int", 2**40, "does not fit"),
        (["string", "long"], None, "no branch for null"),
        (
            {"type": "fixed", "name": "F", "size": 1, "logicalType": "decimal", "precision": 9, "scale": 0},
            1000,
            "1 bytes",
        ),
        ({"type": "fixed", "name": "F", "size": 16, "logicalType": "uuid"}, "x", "no UUID"),
        ({"type": "fixed", "name": "F", "size": 3}, b"x", "does not fit"),
    ],
)
def test_values_that_the_given_schema_does_not_take(kind, value, message):
    arrays = (
        [pa.nulls(1, pa.struct([("string", pa.string()), ("long", pa.int64())]))]
        if value is None
        else [pa.array([value])]
    )
    with pytest.raises(InvalidRecord, match=message):
        encode(parse(json.dumps(record(f=kind))), pa.RecordBatch.from_arrays(arrays, ["f"]))


def test_speed_is_columnar():
    """No loop per record: twenty times the records take much less than twenty times as long."""
    import time

    schema = record(id="long", name="string", price="double", note=["null", "string"])
    one = written(schema, [{"id": n, "name": f"n{n}", "price": n / 7, "note": None} for n in range(500)])

    def seconds(data):
        values = Values.of(pa.array(data, pa.binary()))
        parsed, best = parse(json.dumps(schema)), 9.0
        for _ in range(5):
            began = time.perf_counter()
            decode(parsed, values.data, values.starts, values.ends)
            best = min(best, time.perf_counter() - began)
        return best

    assert seconds(one * 20) < 15 * seconds(one)


def test_positions_beyond_the_first_values_of_a_buffer():
    data = pa.array([b"junk", b"\x02", b"\x04", b"more"]).slice(1, 2)
    values = Values.of(data)
    found, refused = decode(parse('"long"'), values.data, values.starts, values.ends)
    assert (found.to_pylist(), refused) == ([1, 2], {})
    assert values.array().to_pylist() == [b"\x02", b"\x04"]
    assert np.array_equal(values.rows, [0, 1])
