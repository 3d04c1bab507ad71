"""Codecs: every type, every odd document, and that a round trip loses nothing."""

import datetime as dt
import decimal
import json
import math

import pyarrow as pa
import pytest

from airflow_provider_connect.codecs.postgresql_copy import arrow_type
from airflow_provider_connect.engine import registry
from airflow_provider_connect.engine.batch import documents, envelope_schema
from airflow_provider_connect.engine.errors import Fatal, FlowError, InvalidRecord

UTC = dt.UTC


def docs(*values, encoding="json"):
    return documents(pa.array([v.encode() if isinstance(v, str) else v for v in values], pa.binary()), encoding)


def decode(*values):
    return registry.codec("json").decode(docs(*values))


def refused(*values):
    with pytest.raises(InvalidRecord) as raised:
        decode(*values)
    return raised.value.rows


def encode(columns):
    encoded = registry.codec("json").encode(columns)
    assert encoded.schema.equals(envelope_schema("json"), check_metadata=True)
    assert encoded.num_rows == columns.num_rows
    return [value.decode() for value in encoded.column("value").to_pylist()]


def encode_one(value, type_, **metadata):
    rows = pa.RecordBatch.from_arrays(
        [pa.array([value], type_)], schema=pa.schema([pa.field("a", type_, metadata=metadata)])
    )
    (text,) = encode(rows)
    assert text.startswith('{"a":') and text.endswith("}")
    json.loads(text)
    return text[5:-1]


# -- json to columns ---------------------------------------------------------------------------------------------------


def test_types_of_columns():
    rows = decode('{"i":1,"f":1.5,"b":true,"s":"x","n":null,"o":{"x":1},"l":[1,2]}')
    assert rows.schema == pa.schema(
        [
            ("i", pa.int64()), ("f", pa.float64()), ("b", pa.bool_()), ("s", pa.string()), ("n", pa.null()),
            ("o", pa.struct([("x", pa.int64())])), ("l", pa.list_(pa.int64())),
        ]
    )  # fmt: skip


@pytest.mark.parametrize("number", [2**53 + 1, 2**63 - 1, -(2**63), 2**63, 2**64 + 1, 10**37 + 1, -(10**37) - 1])
def test_integers_keep_every_digit(number):
    rows = decode(f'{{"a":{number}}}', '{"a":1}')
    assert [int(value) for value in rows.column("a").to_pylist()] == [number, 1]
    assert encode(rows) == [f'{{"a":{number}}}', '{"a":1}']


def test_big_integers_beside_fractions_are_floats():
    assert decode('{"a":9223372036854775808}', '{"a":0.5}').column("a").to_pylist() == [2.0**63, 0.5]


def test_big_integers_in_one_field_leave_the_types_of_others():
    rows = decode('{"f":0.5,"a":18446744073709551616,"t":"2024-01-01"}')
    assert rows.to_pylist() == [{"f": 0.5, "a": decimal.Decimal(2**64), "t": "2024-01-01"}]


@pytest.mark.parametrize("text", ["2024-01-01", "2024-01-01T00:00:00Z", "2024-01-01 10:00:00"])
def test_text_that_looks_like_a_time_stays_text(text):
    early = decode(json.dumps({"a": text, "b": {"c": [text]}, "z": 1}))
    assert early.to_pylist() == [{"a": text, "b": {"c": [text]}, "z": 1}]
    late = decode(*['{"z":1}'] * 40, json.dumps({"z": 2, "a": text, "b": {"c": [text]}}))
    assert late.schema.names == ["z", "a", "b"]
    assert late.to_pylist()[-1] == {"z": 2, "a": text, "b": {"c": [text]}}


def test_fields_are_in_order_of_first_appearance_wherever_that_is():
    first = '{"b":1,"a":"2024-01-01"}'
    assert decode(first, '{"c":1}').schema.names == ["b", "a", "c"]
    assert decode(*[first] * 40, '{"c":1}').schema.names == ["b", "a", "c"]


def test_the_same_batch_gives_the_same_columns_whatever_came_before():
    codec = registry.codec("json")
    again = docs('{"a":1}', '{"b":"2024-01-01"}')
    fresh = codec.decode(again)
    codec.decode(docs('{"b":1.5,"a":"x","c":[1]}'))
    codec.decode(docs('{"b":"2024-01-01"}'))
    assert codec.decode(again).equals(fresh, check_metadata=True)


def test_a_missing_field_is_null_and_a_tombstone_is_all_null():
    assert decode('{"a":1}', None, '{"b":"x"}', "{}").to_pylist() == [
        {"a": 1, "b": None}, {"a": None, "b": None}, {"a": None, "b": "x"}, {"a": None, "b": None},
    ]  # fmt: skip


@pytest.mark.parametrize("values", [["{}"], ["{}", "{}"], [None, "{}", None]])
def test_documents_without_fields_keep_their_number(values):
    rows = decode(*values)
    assert (rows.num_rows, rows.num_columns) == (len(values), 0)
    assert encode(rows) == ["{}"] * len(values)


def test_no_documents():
    assert decode().num_rows == 0


@pytest.mark.parametrize("text", ['{\n  "a": 1,\r\n  "b": "x"\n}\n', ' \t{"a":1,"b":"x"} ', '{"a":\n\n1,"b":"x"}'])
def test_white_space_is_free(text):
    assert decode(text, text).to_pylist() == [{"a": 1, "b": "x"}] * 2


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        ("", "blank"),
        ("  \n", "blank"),
        ("null", "null, not an object"),
        ("[1]", "an array, not an object"),
        ('"x"', "text, not an object"),
        ("3", "a number, not an object"),
        ("true", "a boolean, not an object"),
        ("{", "not JSON"),
        ('{"a":', "not JSON"),
        ('{"a":1}}', "not JSON"),
        ('{"a":1} null', "not JSON"),
        ('{"a":1}{"a":2}', "not JSON"),
        ('{"a":1}\n{"a":2}', "not JSON"),
        ('{"a":01}', "not JSON"),
        ('{"a":1,}', "not JSON"),
        ('{"a":"x\ty"}', "not JSON"),
        ("{'a':1}", "not JSON"),
        (b'{"a":"\xff"}', "not JSON"),
        (b"\x00", "not JSON"),
        ("not json } {", "not JSON"),
        ('{"a":' + "[" * 300 + "]" * 300 + "}", "nested more than 250"),
        ('{"a":' * 50000 + "1" + "}" * 50000, "nested more than 250"),
        ("[" * 100000, "nested more than 250"),
    ],
)
def test_each_bad_document_is_named(bad, why):
    for values in ([bad], ['{"a":1}', bad, '{"a":2}'], [bad, '{"a":1}'], ['{"a":1}', bad]):
        rows = refused(*values)
        assert list(rows) == [values.index(bad)]
        assert why in rows[values.index(bad)]


def test_documents_that_only_together_have_the_right_number():
    assert set(refused('{"a":', '{"b":1}}', "{} {}")) == {0, 1, 2}


def test_all_bad_documents_are_found_at_once():
    assert set(refused("x", '{"a":1}', "null", "", '{"a":2}')) == {0, 2, 3}


def test_brackets_alone_are_not_depth():
    flat = json.dumps({"a": [{} for _ in range(5000)], "s": "[{" * 5000})
    assert decode(flat).column("s").to_pylist() == ["[{" * 5000]


def test_values_without_one_type_are_kept_as_json_text():
    values = ['{"id":1,"a":1}', '{"id":2,"a":"x"}', '{"id":3,"a":[1,"é"]}', '{"id":4}', '{"id":5,"a":null}']
    rows = decode(*values)
    assert rows.schema.field("id").type == pa.int64()
    assert rows.column("a").to_pylist() == ["1", '"x"', '[1, "é"]', None, "null"]
    assert [json.loads(text) for text in encode(rows)] == [{"a": None, **json.loads(text)} for text in values]


def test_a_field_twice_in_one_document_takes_the_last():
    assert decode('{"a":1,"a":2}').to_pylist() == [{"a": 2}]


def test_sliced_documents():
    rows = docs('{"a":1}', '{"a":2}', '{"a":3}', "{bad").slice(1, 2)
    assert registry.codec("json").decode(rows).to_pylist() == [{"a": 2}, {"a": 3}]
    with pytest.raises(InvalidRecord) as raised:
        registry.codec("json").decode(docs('{"a":1}', '{"a":2}', "{bad").slice(1))
    assert list(raised.value.rows) == [1]


# -- columns to json ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "type_", "text"),
    [
        (2**63 - 1, pa.int64(), "9223372036854775807"),
        (2**64 - 1, pa.uint64(), "18446744073709551615"),
        (True, pa.bool_(), "true"),
        (0.1, pa.float64(), "0.1"),
        (1e300, pa.float64(), "1e+300"),
        (math.nan, pa.float64(), "null"),
        (math.inf, pa.float32(), "null"),
        (-math.inf, pa.float64(), "null"),
        (decimal.Decimal("12345678901234567890.10"), pa.decimal128(38, 2), "12345678901234567890.10"),
        (decimal.Decimal(10**60 + 1), pa.decimal256(76, 0), str(10**60 + 1)),
        (dt.date(2024, 2, 29), pa.date32(), '"2024-02-29"'),
        (dt.time(1, 2, 3, 4), pa.time64("us"), '"01:02:03.000004"'),
        (dt.datetime(2024, 1, 2, 3, 4, 5, 6), pa.timestamp("us"), '"2024-01-02T03:04:05.000006"'),
        (dt.datetime(2024, 1, 2, 3, 4, 5, 6, UTC), pa.timestamp("us", "UTC"), '"2024-01-02T03:04:05.000006Z"'),
        (dt.datetime(2024, 7, 2, 12, tzinfo=UTC), pa.timestamp("s", "Europe/Berlin"), '"2024-07-02T12:00:00Z"'),
        (dt.timedelta(seconds=1), pa.duration("us"), "1000000"),
        (b"\x00\xff", pa.binary(), '"AP8="'),
        (b"\x00\xff", pa.binary(2), '"AP8="'),
        ("é\u2028😀", pa.string(), '"é\u2028😀"'),
        ('"\\/', pa.string(), '"\\"\\\\/"'),
        ("a\nb\tc\r\b\f\x00\x1f\x7f", pa.string(), '"a\\nb\\tc\\r\\b\\f\\u0000\\u001f\x7f"'),
        ("x", pa.large_string(), '"x"'),
        ("x", pa.dictionary(pa.int8(), pa.string()), '"x"'),
        (None, pa.null(), "null"),
        ({"x": 1, "y": None}, pa.struct([("x", pa.int8()), ("y", pa.string())]), '{"x":1,"y":null}'),
        ([1, None, 3], pa.list_(pa.int64()), "[1,null,3]"),
        ([], pa.list_(pa.string()), "[]"),
        (['a"', None], pa.large_list(pa.string()), '["a\\"",null]'),
        ([1, 2], pa.list_(pa.int8(), 2), "[1,2]"),
        ([[1], None, []], pa.list_(pa.list_(pa.int8())), "[[1],null,[]]"),
        ([{"x": ["é"]}], pa.list_(pa.struct([("x", pa.list_(pa.string()))])), '[{"x":["é"]}]'),
        ([('k"', 1), ("l", None)], pa.map_(pa.string(), pa.int8()), '{"k\\"":1,"l":null}'),
        ([(7, "x")], pa.map_(pa.int8(), pa.string()), '{"7":"x"}'),
        ([], pa.map_(pa.string(), pa.int8()), "{}"),
    ],
)
def test_every_type_has_its_text(value, type_, text):
    assert encode_one(value, type_) == text
    if not pa.types.is_null(type_):
        assert encode_one(None, type_) == "null"
        three = pa.RecordBatch.from_arrays([pa.array([None, value, None], type_)], ["a"])
        assert encode(three) == ['{"a":null}', f'{{"a":{text}}}', '{"a":null}']
        assert encode(three.slice(1, 1)) == [f'{{"a":{text}}}']


def test_text_marked_as_json_is_written_as_it_is():
    assert encode_one('{"x": [1]}', pa.string(), json="value") == '{"x": [1]}'
    assert "\n" not in encode_one('{\r\n"x": 1\n}', pa.string(), json="value")
    assert encode_one("12345678901234567890.123456789", pa.string(), json="number") == "12345678901234567890.123456789"
    for text in ("NaN", "Infinity", "-Infinity"):
        assert encode_one(text, pa.string(), json="number") == "null"


def test_names_are_escaped_and_must_differ():
    assert encode(pa.RecordBatch.from_arrays([pa.array([1])], ['a"\\\n'])) == ['{"a\\"\\\\\\n":1}']
    with pytest.raises(FlowError, match="two columns are named 'a'"):
        encode(pa.RecordBatch.from_arrays([pa.array([1]), pa.array([2])], ["a", "a"]))


def test_many_columns_with_and_without_nulls():
    rows = pa.RecordBatch.from_pydict(
        {
            "s": ["x", None, 'q"'],
            "i": [1, None, 3],
            "t": pa.array([None, 1, 2], pa.timestamp("ms")),
            "e": ["", "é", "z"],
        }
    )
    assert [json.loads(text) for text in encode(rows)] == [
        {"s": "x", "i": 1, "t": None, "e": ""},
        {"s": None, "i": None, "t": "1970-01-01T00:00:00.001", "e": "é"},
        {"s": 'q"', "i": 3, "t": "1970-01-01T00:00:00.002", "e": "z"},
    ]


def test_a_type_without_json_form_is_refused():
    rows = pa.RecordBatch.from_arrays([pa.array([(1, 2, 3)], pa.month_day_nano_interval())], ["a"])
    with pytest.raises(FlowError, match=r"column 'a'.*has no JSON form"):
        encode(rows)


def test_a_round_trip_through_both_ways():
    values = ['{"a":1,"b":{"c":[1,2],"d":null},"e":"\\u0000\\n\\"é"}', '{"a":null,"b":null,"e":""}']
    assert [json.loads(text) for text in encode(decode(*values))] == [json.loads(text) for text in values]


# -- bytes -------------------------------------------------------------------------------------------------------------


def test_bytes_are_the_envelope():
    codec = registry.codec("bytes")
    rows = documents(pa.array([b"\xff", None]), "bytes", key=pa.array([b"k", None]))
    columns = codec.decode(rows)
    assert columns.schema.metadata is None and columns.column("value").to_pylist() == [b"\xff", None]
    assert codec.encode(columns).equals(rows, check_metadata=True)
    with pytest.raises(FlowError, match="'value'"):
        codec.encode(pa.RecordBatch.from_pydict({"a": [1]}))


# -- postgresql-copy ---------------------------------------------------------------------------------------------------


def copied(types, *rows):
    columns = json.dumps([{"name": f"c{i}", "type": type_} for i, type_ in enumerate(types)])
    batch = docs(*rows, encoding="postgresql-copy")
    return batch.replace_schema_metadata({"encoding": "postgresql-copy", "columns": columns})


def from_copy(type_, *rows):
    return registry.codec("postgresql-copy").decode(copied([type_], *rows)).column(0)


@pytest.mark.parametrize(
    ("pg_type", "type_"),
    [
        ("character varying(20)", pa.string()), ("uuid", pa.string()), ("public.\"Mood\"", pa.string()),
        ("numeric", pa.string()), ("numeric(10,2)", pa.decimal128(10, 2)), ("numeric(60,5)", pa.decimal256(60, 5)),
        ("numeric(3,5)", pa.decimal128(5, 5)), ("numeric(5,-2)", pa.string()), ("numeric(100,2)", pa.string()),
        ("timestamp(3) without time zone", pa.timestamp("us")),
        ("timestamp(0) with time zone", pa.timestamp("us", "UTC")), ("time(3) without time zone", pa.time64("us")),
        ("time with time zone", pa.string()), ("numeric(10,2)[]", pa.list_(pa.decimal128(10, 2))),
        ("character varying(5)[]", pa.list_(pa.string())), ("bytea", pa.binary()),
    ],
)  # fmt: skip
def test_arrow_types_of_postgresql(pg_type, type_):
    assert arrow_type(pg_type) == type_


def test_null_and_empty_text_differ_in_copy():
    assert from_copy("text", "", "\\N", "\\\\N", " ").to_pylist() == ["", None, "\\N", " "]


def test_escapes_of_copy():
    assert from_copy("text", "a\\tb\\nc\\\\n\\r\\b\\f\\v\x01é", "\\\\\\\\", "plain").to_pylist() == [
        "a\tb\nc\\n\r\b\f\v\x01é", "\\\\", "plain",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("pg_type", "text", "value"),
    [
        ("boolean", "t", True), ("smallint", "-1", -1), ("bigint", str(2**63 - 1), 2**63 - 1),
        ("double precision", "NaN", None), ("numeric(10,2)", "-0.01", decimal.Decimal("-0.01")),
        ("numeric(60,5)", "1.5", decimal.Decimal("1.5")), ("numeric", "1e40", "1e40"),
        ("date", "2024-02-29", dt.date(2024, 2, 29)),
        ("timestamp without time zone", "2024-01-02 03:04:05.000006", dt.datetime(2024, 1, 2, 3, 4, 5, 6)),
        ("timestamp with time zone", "2024-01-02 03:04:05+02", dt.datetime(2024, 1, 2, 1, 4, 5, tzinfo=UTC)),
        ("timestamp with time zone", "2024-01-02 03:04:05.5+05:30", dt.datetime(2024, 1, 1, 21, 34, 5, 500000, UTC)),
        ("bytea", "\\\\x00ff", b"\x00\xff"), ("bytea", "\\\\x", b""), ("jsonb", '{"a": "x\\\\ny"}', '{"a": "x\\ny"}'),
        ("integer[]", "{1,NULL,3}", [1, None, 3]), ("integer[]", "{}", []),
        ("text[]", '{a,"b,c","NULL","q\\\\"z",""}', ["a", "b,c", "NULL", 'q"z', ""]),
        ("boolean[]", "{t,f}", [True, False]), ("bytea[]", '{"\\\\\\\\xff"}', [b"\xff"]),
        ("timestamp with time zone[]", '{"2024-01-02 03:04:05+02"}', [dt.datetime(2024, 1, 2, 1, 4, 5, tzinfo=UTC)]),
    ],
)  # fmt: skip
def test_values_of_copy(pg_type, text, value):
    found = from_copy(pg_type, "\\N", text, "\\N").to_pylist()
    if value is None:
        assert math.isnan(found.pop(1))
    else:
        assert found.pop(1) == value
    assert found == [None, None]


@pytest.mark.parametrize(
    ("pg_type", "bad"),
    [
        ("integer", "x"), ("integer", "99999999999"), ("integer", "1\t2"), ("date", "infinity"),
        ("timestamp without time zone", "0044-03-15 00:00:00 BC"), ("numeric(10,2)", "NaN"), ("bytea", "abc"),
        ("bytea", "\\\\xf"), ("bytea", "\\\\xzz"), ("integer[]", "{{1},{2}}"), ("integer[]", "[0:1]={1,2}"),
        ("text", None), ("text", b"\xff"), ("integer", "1\n2"),
    ],
)  # fmt: skip
def test_each_bad_row_of_copy_is_named(pg_type, bad):
    for rows in ([bad, "\\N"], ["\\N", "\\N", bad], [bad]):
        with pytest.raises(InvalidRecord, match="'c0'") as raised:
            from_copy(pg_type, *rows)
        assert list(raised.value.rows) == [rows.index(bad)]


def test_columns_of_copy_may_share_a_name():
    columns = json.dumps([{"name": "a", "type": "integer"}, {"name": "a", "type": "text"}])
    rows = docs("1\tx", encoding="postgresql-copy").replace_schema_metadata({"columns": columns})
    assert registry.codec("postgresql-copy").decode(rows).schema.types == [pa.int32(), pa.string()]


def test_copy_to_json_keeps_numbers_and_json_as_such():
    types = ["integer", "numeric", "jsonb", "text", "numeric(10,2)"]
    columns = registry.codec("postgresql-copy").decode(
        copied(types, '1\t1.50\t{"a": 1}\tx\t2.50', "\\N\tNaN\t\\N\t\t\\N")
    )
    assert encode(columns) == [
        '{"c0":1,"c1":1.50,"c2":{"a": 1},"c3":"x","c4":2.50}',
        '{"c0":null,"c1":null,"c2":null,"c3":"","c4":null}',
    ]


def test_copy_without_its_columns_and_the_way_back_are_refused():
    with pytest.raises(Fatal, match="'columns'"):
        registry.codec("postgresql-copy").decode(docs("1", encoding="postgresql-copy"))
    with pytest.raises(FlowError, match="read from PostgreSQL only"):
        registry.codec("postgresql-copy").encode(pa.RecordBatch.from_pydict({"a": [1]}))


def test_no_rows_of_copy():
    assert from_copy("integer").type == pa.int32()


EVERY_TYPE = """
select 1::int, 'a' || chr(9) || 'b\\n\\N' || chr(10) || chr(1) || 'x', ''::varchar(5), '\\x00ff'::bytea, 1e40::numeric,
  true, date '2024-02-03', timestamp '2024-02-03 04:05:06.123456', timestamptz '2024-02-03 04:05:06.1+02',
  '{"a": "x\\ny"}'::jsonb, array[1,null,3], array['a,b','NULL',null,'q"\\z', chr(9)], time '12:34:56.7', 1.5::real
union all select null, null, null, null, null, null, null, null, null, null, null, null, null, null
"""


def test_rows_as_a_real_server_copies_them(postgresql):
    psycopg = pytest.importorskip("psycopg")
    with psycopg.connect(postgresql.dsn) as connection:
        cursor = connection.execute(f"{EVERY_TYPE} limit 0")
        types = [
            connection.execute("select format_type(%s, null)", [d.type_code]).fetchone()[0] for d in cursor.description
        ]
        expected = connection.execute(EVERY_TYPE).fetchall()
        connection.execute("set time zone 'Asia/Kathmandu'")
        with connection.cursor().copy(f"copy ({EVERY_TYPE}) to stdout") as copy:
            rows = [bytes(row).removesuffix(b"\n") for row in copy]
    found = registry.codec("postgresql-copy").decode(copied(types, *rows))
    first = [column[0].as_py() for column in found.columns]
    for value, wanted, type_ in zip(first, expected[0], types, strict=True):
        if type_ == "jsonb":
            assert json.loads(value) == wanted
        elif type_ == "numeric":
            assert decimal.Decimal(value) == wanted
        else:
            assert value == wanted, type_
    assert [column[1].as_py() for column in found.columns] == [None] * len(types)
