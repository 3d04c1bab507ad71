"""Protobuf: the text of .proto files, messages to columns, columns to messages."""

import struct

import pyarrow as pa
import pytest
from google.protobuf import json_format

from airflow_provider_connect.codecs import json as json_documents
from airflow_provider_connect.codecs._protobuf import messages
from airflow_provider_connect.codecs._protobuf.codec import ProtobufReader, ProtobufWriter
from airflow_provider_connect.codecs._schema_registry.client import Schema
from airflow_provider_connect.codecs._schema_registry.framing import Values
from airflow_provider_connect.engine.errors import Fatal, FlowError, InvalidRecord

SHOP = """
// An order.
syntax = "proto3";
package shop.v1;
import "google/protobuf/timestamp.proto";
import "google/protobuf/duration.proto";
import "google/protobuf/wrappers.proto";
import "google/protobuf/struct.proto";
import "validate/validate.proto";
option java_package = "com.shop";

message Order {
  reserved 3, 100 to max;
  int64 id = 1 [(validate.rules).int64 = {gt: 0}, deprecated = true];
  optional string note = 2;
  Kind kind = 0x4;
  repeated Item items = 5;
  map<string, Item> by_name = 6;
  google.protobuf.Timestamp at = 7;
  google.protobuf.Duration took = 8;
  google.protobuf.StringValue nick = 9;
  google.protobuf.Struct more = 10;
  oneof payment { string card = 11; uint64 cash = 12; }
  repeated int32 packed = 13;
  Item.Size size = 14;
  Node tree = 15;
  bytes raw = 16; double price = 17; sint32 less = 18; fixed32 word = 19; bool ok = 20; float f = 21;
  message Item { string name = 1; enum Size { SMALL = 0; LARGE = 1; } Size size = 2; }
}
/* A tree: it has no columns. */
message Node { int32 value = 1; repeated Node children = 2; }
enum Kind { KIND_UNKNOWN = 0; KIND_WEB = 1 [deprecated = true]; option allow_alias = true; KIND_NET = 1; }
service Orders { rpc Get(Order) returns (Order) { option (http) = { get: "/x" }; } }
"""


def values_of(*bodies):
    return Values.of(pa.array(bodies, pa.binary()))


def message(text, path=(0,), **fields):
    kind = messages.message_types(text)[path[0]]
    return json_format.ParseDict(fields, messages.message_class(kind)()).SerializeToString()


def test_everything_that_a_message_may_hold():
    body = message(
        SHOP,
        id="9007199254740993",
        note="",
        kind="KIND_WEB",
        items=[{"name": "a", "size": "LARGE"}, {}],
        byName={"x": {"name": "b"}},
        at="2024-02-29T12:30:15.123456Z",
        took="-1.500001s",
        nick="",
        more={"a": [1, None]},
        cash="18446744073709551615",
        packed=[1, -2],
        size="LARGE",
        tree={"value": 1, "children": [{"value": 2}]},
        raw="AAE=",
        price=0.1,
        less=-5,
        word=7,
        ok=True,
        f=1.5,
    )
    rows, refused = ProtobufReader(Schema("PROTOBUF", SHOP)).read(values_of(b"\0" + body, b"\2\0", b"\0"))
    assert refused == {}
    rows.validate(full=True)
    full, empty, _ = rows.drop_columns(["at", "took"]).to_pylist()
    assert full == {
        "id": 2**53 + 1,
        "note": "",
        "kind": "KIND_WEB",
        "items": [{"name": "a", "size": "LARGE"}, {"name": "", "size": "SMALL"}],
        "by_name": [("x", {"name": "b", "size": "SMALL"})],
        "nick": "",
        "more": '{"a": [1.0, null]}',
        "card": None,
        "cash": 2**64 - 1,
        "packed": [1, -2],
        "size": "LARGE",
        "tree": {"value": 1, "children": ['{"value": 2}']},
        "raw": b"\0\1",
        "price": 0.1,
        "less": -5,
        "word": 7,
        "ok": True,
        "f": 1.5,
    }
    assert rows.column("at").cast(pa.int64()).to_pylist() == [1709209815123456, None, None]
    assert rows.column("took").cast(pa.int64()).to_pylist() == [-1500001, None, None]
    absent = ("note", "nick", "more", "card", "cash", "tree")
    assert [empty[name] for name in absent] == [None] * 6
    assert [empty[name] for name in ("id", "kind", "items", "by_name", "raw", "ok")] == [
        0,
        "KIND_UNKNOWN",
        [],
        [],
        b"",
        False,
    ]
    children = rows.schema.field("tree").type.field("children").type.value_field
    assert children.metadata == rows.schema.field("more").metadata == {b"json": b"value"}


def test_which_message_of_the_file():
    """The second one, and the second of the first: before it comes the entry of the map."""
    node = message(SHOP, (1,), value=3)
    rows, refused = ProtobufReader(Schema("PROTOBUF", SHOP)).read(values_of(b"\2\2" + node, b"\4\0\2\x0a\1x"))
    assert refused == {}
    assert rows.select(["value", "name"]).to_pylist() == [{"value": 3, "name": None}, {"value": None, "name": "x"}]


@pytest.mark.parametrize(
    "body", [b"", b"\2\x12", b"\0\x08", b"\1", b"\0\x0a\x05x", b"\4\0\6", b"\xff\xff\xff\xff\xff\xff"]
)
def test_what_is_no_message_is_refused(body):
    good = b"\0" + message(SHOP, id=1)
    _, refused = ProtobufReader(Schema("PROTOBUF", SHOP)).read(values_of(good, body, good))
    assert list(refused) == [1] and "no Protobuf message" in refused[1]


def test_other_files_and_names_in_scopes():
    other = 'syntax = "proto3"; package lib; message Money { int64 units = 1; } enum E { A = 0; B = 1; }'
    text = """syntax = 'proto2'; package app.deep; import 'lib/money.proto';
      message Money { required string text = 1; }
      message M { optional .lib.Money price = 1; optional Money own = 2; optional lib.E e = 3 [default = B];
                  repeated sint64 many = 4 [packed=true]; optional string s = 5 [default = 'a\\'s'];
                  extensions 100 to 200; }
      extend M { optional int32 x = 100; }"""
    reader = ProtobufReader(Schema("PROTOBUF", text, (("lib/money.proto", other),)))
    rows, refused = reader.read(values_of(b"\2\2" + b"\x0a\x02\x08\x05" + b"\x22\x02\x01\x02"))
    assert refused == {}
    assert rows.to_pylist() == [{"price": {"units": 5}, "own": None, "e": None, "many": [-1, 1], "s": None}]


def test_random_bytes_never_do_harm():
    import random

    pick, reader = random.Random(1), ProtobufReader(Schema("PROTOBUF", SHOP))
    bodies = [b"\0" + pick.randbytes(pick.randint(0, 40)) for _ in range(500)]
    _, refused = reader.read(values_of(*bodies))
    kept = [body for index, body in enumerate(bodies) if index not in refused]
    rows, refused = reader.read(values_of(*kept))
    assert refused == {} and len(rows) == len(kept)
    rows.validate(full=True)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('syntax = "proto4";', "only proto2 and proto3"),
        ('syntax = "proto3"; message M { int32 a 1; }', "'=' is expected"),
        ('syntax = "proto3";\n\nmessage M { int32 a = x; }', "line 3: a number is expected"),
        ('syntax = "proto3"; message M { Unknown a = 1; }', "lacks the type 'Unknown' of 'M.a'"),
        ('syntax = "proto3"; message M { int32 a = 1; int32 b = 1; }', "wrong"),
        ('syntax = "proto3"; message M {', "ends in the middle"),
        ("hello", "'hello' is not expected"),
        ("syntax = proto3;", "text in quotes"),
        ('syntax = "proto2"; message M { optional group G = 1 { } }', "groups"),
    ],
)
def test_a_wrong_file_says_what_is_wrong(text, why):
    with pytest.raises(FlowError) as raised:
        messages.message_types(text)
    assert why in str(raised.value)


# --- columns to messages

COLUMNS = {
    "id": pa.array([2**60, None]),
    "u": pa.array([2**64 - 1, 0], pa.uint64()),
    "small": pa.array([1, None], pa.int16()),
    "name": pa.array(['Müller "x"', ""]),
    "price": pa.array([0.1, None]),
    "ok": pa.array([False, None]),
    "raw": pa.array([b"\0\xff", None], pa.binary()),
    "at": pa.array([1709209815123456, None], pa.timestamp("us", tz="UTC")),
    "before": pa.array([-1, -1_000_000], pa.timestamp("us", tz="UTC")),
    "all": pa.array([[0, -1], [None][:0]], pa.list_(pa.timestamp("us", tz="UTC"))),
    "tags": pa.array([["a", ""], None]),
    "inner": pa.array([{"x": 1, "deep": [{"y": "z"}]}, None]),
    "kinds": pa.array([[("k", 1)], None], pa.map_(pa.string(), pa.int64())),
}


def writer(name="shop.v1.Row"):
    return ProtobufWriter(name, json_documents.codec())


def test_columns_come_back():
    rows = pa.RecordBatch.from_pydict(COLUMNS)
    made = writer()
    schema = made.schema_for(rows.schema, None)
    assert made.full_name(schema) == "shop.v1.Row"
    bodies = made.write(rows, schema).to_pylist()
    back, refused = ProtobufReader(Schema("PROTOBUF", schema)).read(values_of(*bodies))
    wanted = rows.to_pylist()
    wanted[1] |= {"tags": [], "kinds": []}  # which Protobuf does not tell from null
    assert (back.to_pylist(), refused) == (wanted, {})


def test_a_schema_grows_and_keeps_its_numbers():
    made = writer()
    first = made.schema_for(pa.schema([("a", pa.int64()), ("b", pa.string())]), None)
    assert made.schema_for(pa.schema([("b", pa.string())]), first) == first
    second = made.schema_for(pa.schema([("b", pa.string()), ("c", pa.struct([("x", pa.bool_())]))]), first)
    numbers = {field.name: field.number for field in messages.message_types(second)[0].fields}
    assert numbers == {"a": 1, "b": 2, "c": 3}
    with pytest.raises(Fatal, match="not made here, lacks fields: new"):
        made.schema_for(pa.schema([("new", pa.int64())]), SHOP)


def test_rows_that_the_schema_does_not_take_are_named():
    made = writer()
    schema = 'syntax = "proto3"; message M { int32 a = 1; }'
    with pytest.raises(InvalidRecord) as raised:
        made.write(pa.RecordBatch.from_pydict({"a": [1, 2**40, 3]}), schema)
    assert list(raised.value.rows) == [1]


@pytest.mark.parametrize(
    ("columns", "why"),
    [
        ({"a-b": pa.array([1])}, "Protobuf names"),
        ({"l": pa.array([[[1]]])}, "has no Protobuf form"),
        ({"i": pa.nulls(1, pa.month_day_nano_interval())}, "has no Protobuf form"),
    ],
)
def test_columns_that_protobuf_does_not_have(columns, why):
    with pytest.raises(FlowError, match=why):
        writer().schema_for(pa.RecordBatch.from_pydict(columns).schema, None)


def test_columns_into_the_types_of_others():
    text = """syntax = "proto3"; import "google/protobuf/wrappers.proto"; import "google/protobuf/struct.proto";
      enum E { A = 0; B = 1; } message M { google.protobuf.StringValue s = 1; E e = 2; google.protobuf.Struct more = 3;
      int64 i = 4; M deep = 5; }"""
    rows = pa.RecordBatch.from_pydict(
        {
            "s": ["x", None],
            "e": ["B", "A"],
            "i": ["7", "8"],
            "deep": [{"s": "y", "i": 1}, None],
            "more": [{"a": 1}, None],
        }
    )
    bodies = writer().write(rows, text).to_pylist()
    back, refused = ProtobufReader(Schema("PROTOBUF", text)).read(values_of(*bodies))
    assert refused == {}
    assert back.select(["s", "e", "i", "more"]).to_pylist() == [
        {"s": "x", "e": "B", "i": 7, "more": '{"a": 1.0}'},
        {"s": None, "e": "A", "i": 8, "more": None},
    ]
    assert back.column("deep").to_pylist() == ['{"s": "y", "i": "1"}', None]  # a message within itself


def test_a_float_is_exact():
    schema = 'syntax = "proto3"; message M { float f = 1; }'
    (body,) = writer().write(pa.RecordBatch.from_pydict({"f": pa.array([0.1], pa.float32())}), schema).to_pylist()
    assert body == b"\0\x0d" + struct.pack("<f", 0.1)
