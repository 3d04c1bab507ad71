"""Formats: what is converted, what is not, and who is to blame when a row cannot be."""

import json

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from airflow_provider_connect.engine import registry
from airflow_provider_connect.engine.batch import Batch, Checkpoint, documents
from airflow_provider_connect.engine.codec import Codec
from airflow_provider_connect.engine.config import Config
from airflow_provider_connect.engine.errors import Fatal, FlowError, InvalidRecord
from airflow_provider_connect.engine.formats import Conversion, negotiate
from airflow_provider_connect.engine.transform import ROW, Transform


def batch(*values, encoding="json", **columns):
    return Batch(documents(pa.array(values, pa.binary()), encoding, **columns), Checkpoint())


def transform(name, **config):
    cls = registry.transform(name)
    return cls(cls.config_type.model_validate(config))


class Step(Transform):
    """A transform from a function."""

    config_type = Config

    def __init__(self, function):
        super().__init__(Config())
        self.function = function

    def apply(self, rows):
        return self.function(rows)


def texts(rows):
    return [None if value is None else value.decode() for value in rows.column("value").to_pylist()]


@pytest.mark.parametrize(
    ("source", "transforms", "sink", "read", "decodes", "encodes"),
    [
        (("json",), False, ("json",), "json", False, False),
        (("json", "columns"), False, ("columns", "json"), "columns", False, False),
        (("columns", "json"), False, ("json", "columns"), "json", False, False),
        (("bytes",), False, ("bytes",), "bytes", False, False),
        (("unknown",), False, ("json", "unknown"), "unknown", False, False),
        (("json",), False, ("columns",), "json", True, False),
        (("bytes", "json"), False, ("columns",), "json", True, False),
        (("columns",), False, ("json",), "columns", False, True),
        (("postgresql-copy",), False, ("json",), "postgresql-copy", True, True),
        (("unknown", "json"), False, ("columns",), "json", True, False),
        (("json",), True, ("json",), "json", True, True),
        (("json", "columns"), True, ("json",), "columns", False, True),
        (("json", "columns"), True, ("json", "columns"), "columns", False, False),
        (("json",), True, ("json", "columns"), "json", True, False),
        (("json",), True, ("postgresql-copy", "json"), "json", True, True),
        (("bytes",), True, ("bytes",), "bytes", True, True),
        (("bytes",), True, ("json", "bytes"), "bytes", True, True),
        (("bytes",), False, ("columns",), "bytes", True, False),
    ],
)  # fmt: skip
def test_negotiation(source, transforms, sink, read, decodes, encodes):
    conversion = negotiate(source, transforms, sink)
    assert conversion.read_format == read
    assert (conversion.decoder is not None, conversion.encoder is not None) == (decodes, encodes)


@pytest.mark.parametrize("transforms", [False, True])
@pytest.mark.parametrize(
    ("source", "sink"),
    [
        (("bytes",), ("json",)),
        (("unknown",), ("columns",)),
        (("columns",), ("postgresql-copy",)),
        (("json",), ("unknown",)),
    ],
)
def test_what_does_not_fit_names_both_sides(source, sink, transforms):
    with pytest.raises(FlowError) as raised:
        negotiate(source, transforms, sink)
    assert all(f"'{name}'" in str(raised.value) for name in (*source, *sink))
    if source == ("bytes",):
        assert "format: json" in str(raised.value)


def test_what_fits_is_not_touched():
    given = batch(b"not even json")
    assert negotiate(("json",), False, ("json",)).apply(given, ()) is given.rows


def test_documents_become_columns_and_columns_documents():
    rows = negotiate(("json",), False, ("columns",)).apply(batch(b'{"a":1}'), ())
    assert rows.to_pylist() == [{"a": 1}]
    again = negotiate(("columns",), False, ("json",)).apply(Batch(rows, Checkpoint()), ())
    assert texts(again) == ['{"a":1}']


def test_the_key_survives_decoding_filtering_and_encoding():
    given = batch(
        b'{"a":1}', b'{"a":2}', b'{"a":3}',
        key=pa.array([b"k1", b"k2", b"k3"]), topic=pa.array(["t"] * 3), offset=pa.array([7, 8, 9]),
        timestamp=pa.array([1, 2, 3], pa.timestamp("ms", "UTC")),
    )  # fmt: skip
    steps = [transform("filter", field="a", op="!=", value=2), transform("rename", fields={"a": "b"})]
    rows = negotiate(("json",), True, ("json",)).apply(given, steps)
    assert texts(rows) == ['{"b":1}', '{"b":3}']
    assert rows.column("key").to_pylist() == [b"k1", b"k3"]
    assert rows.column("offset").to_pylist() == [7, 9]
    assert rows.column("timestamp").cast(pa.int64()).to_pylist() == [1, 3]
    assert ROW not in texts(rows)[0]


def test_the_key_survives_without_transforms():
    given = Batch(
        documents(pa.array([b"1", b"2"]), "postgresql-copy", key=pa.array([b"k", None])).replace_schema_metadata(
            {"encoding": "postgresql-copy", "columns": json.dumps([{"name": "a", "type": "integer"}])}
        ),
        Checkpoint(),
    )
    rows = negotiate(("postgresql-copy",), False, ("json",)).apply(given, ())
    assert (texts(rows), rows.column("key").to_pylist()) == (['{"a":1}', '{"a":2}'], [b"k", None])


def test_a_transform_that_makes_more_rows_keeps_the_key_with_each():
    twice = Step(lambda rows: rows.take(pa.array([0, 0, 1])))
    given = batch(b'{"a":1}', b'{"a":2}', key=pa.array([b"k1", b"k2"]))
    rows = negotiate(("json",), True, ("json",)).apply(given, [twice])
    assert rows.column("key").to_pylist() == [b"k1", b"k1", b"k2"]


def test_a_tombstone_stays_one_through_transforms():
    given = batch(b'{"a":1}', None, b'{"a":3}', None, key=pa.array([b"k1", b"k2", b"k3", b"k4"]))
    rows = negotiate(("json",), True, ("json",)).apply(given, [transform("rename", fields={"a": "b"})])
    assert texts(rows) == ['{"b":1}', None, '{"b":3}', None]
    assert rows.column("key").to_pylist() == [b"k1", b"k2", b"k3", b"k4"]
    backwards = Step(lambda rows: rows.take(pa.array([3, 2, 0])))
    rows = negotiate(("json",), True, ("json",)).apply(given, [backwards])
    assert texts(rows) == [None, '{"a":3}', '{"a":1}']


def test_a_tombstone_becomes_no_row_of_nulls():
    given = batch(b'{"a":1}', None, b'{"a":3}', None)
    for steps in ([], [transform("rename", fields={"a": "b"})]):
        with pytest.raises(InvalidRecord, match="tombstone") as raised:
            negotiate(("json",), bool(steps), ("columns",)).apply(given, steps)
        assert set(raised.value.rows) == {1, 3}
    kept = negotiate(("json",), True, ("columns",)).apply(given, [transform("filter", field="a", op=">", value=0)])
    assert kept.column("a").to_pylist() == [1, 3], "what a transform drops is no matter"
    opaque = negotiate(("bytes",), True, ("columns",)).apply(batch(b"x", None, encoding="bytes"), [Step(lambda r: r)])
    assert opaque.column("value").to_pylist() == [b"x", None]


def test_a_transform_that_loses_track_loses_the_key_only():
    total = Step(lambda rows: pa.RecordBatch.from_pydict({"sum": [pc.sum(rows.column("a")).as_py()]}))
    rows = negotiate(("json",), True, ("json",)).apply(
        batch(b'{"a":1}', b'{"a":2}', key=pa.array([b"x", b"y"])), [total]
    )
    assert (texts(rows), rows.column("key").to_pylist()) == (['{"sum":3}'], [None])


def test_no_rows_stay_no_rows():
    conversion = negotiate(("json",), True, ("json",))
    assert conversion.apply(batch(), [transform("select", fields=["a"])]).num_rows == 0
    assert conversion.apply(batch(b'{"a":1}'), [transform("filter", field="a", value=2)]).num_rows == 0


def refusal(conversion, given, steps=()):
    with pytest.raises(InvalidRecord) as raised:
        conversion.apply(given, steps)
    assert raised.value.rows, "the worker can only set aside rows that it is told"
    return raised.value.rows


def test_a_refused_row_is_an_index_into_what_was_read():
    decode = negotiate(("json",), True, ("columns",))
    assert list(refusal(decode, batch(b'{"a":1}', b"{", b'{"a":2}'))) == [1]
    steps = [transform("filter", field="a", op=">", value=1), transform("filter", field="b", op=">", value=1)]
    given = batch(b'{"a":1,"b":5}', b'{"a":1,"b":"x"}', b'{"a":2,"b":5}', b'{"a":2,"b":"x"}')
    assert list(refusal(decode, given, steps)) == [3]


def test_a_row_that_the_encoder_refuses_is_an_index_into_what_was_read():
    class Picky(type(registry.codec("json"))):
        def encode(self, columns):
            bad = {i: "odd" for i, a in enumerate(columns.column("a").to_pylist()) if a == 3}
            if bad:
                raise InvalidRecord("odd", rows=bad)
            return super().encode(columns)

    conversion = Conversion("json", registry.codec("json"), Picky())
    given = batch(b'{"a":1}', b'{"a":2}', b'{"a":3}')
    assert list(refusal(conversion, given, [transform("filter", field="a", op=">", value=1)])) == [2]
    assert list(refusal(conversion, given)) == [2]


@pytest.mark.parametrize("loses_track", [False, True])
def test_rows_that_nobody_names_are_found_by_halving(loses_track):
    def refuse(rows):
        if pc.any(pc.equal(pc.bit_wise_and(rows.column("a"), 3), 3)).as_py():
            raise InvalidRecord("threes")
        return rows

    first = Step(lambda rows: rows.filter(pc.greater(rows.column("a"), 0)))
    if loses_track:
        first = Step(lambda rows: rows.filter(pc.greater(rows.column("a"), 0)).select(["a"]))
    given = batch(*(f'{{"a":{i}}}'.encode() for i in range(9)))
    assert list(refusal(negotiate(("json",), True, ("json",)), given, [first, Step(refuse)])) == [3, 7]


def test_rows_that_are_wrong_only_together_stop_the_flow():
    def refuse(rows):
        if rows.num_rows > 1:
            raise InvalidRecord("too many")
        return rows

    with pytest.raises(Fatal, match="too many"):
        negotiate(("json",), True, ("json",)).apply(batch(b'{"a":1}', b'{"a":2}'), [Step(refuse)])


def test_a_broken_transform_is_named():
    with pytest.raises(Fatal, match=r"transformations\[1\] \(Step\) failed: ZeroDivisionError"):
        negotiate(("json",), True, ("json",)).apply(
            batch(b'{"a":1}'), [transform("select", fields=["a"]), Step(lambda rows: 1 / 0)]
        )


def test_setting_the_refused_rows_aside_leaves_the_rest_deliverable():
    given = batch(b'{"a":1}', b"{", b'{"a":"x"}', b'{"a":2}', key=pa.array([b"1", b"2", b"3", b"4"]))
    conversion = negotiate(("json",), True, ("json",))
    steps = [transform("filter", field="a", op=">", value=0)]
    refused = []
    while True:
        try:
            rows = conversion.apply(given, steps)
            break
        except InvalidRecord as error:
            refused += [given.rows.column("key")[index].as_py() for index in error.rows]
            keep = pa.array([index not in error.rows for index in range(len(given))])
            given = given.with_rows(given.rows.filter(keep))
    assert (refused, texts(rows)) == ([b"2", b"3"], ['{"a":1}', '{"a":2}'])


# --- codecs that only a connector can configure


class Reversed(Codec):
    """Documents of which every byte is at the other end."""

    def decode(self, documents):
        turned = pa.array([value.as_py()[::-1] for value in documents.column("value")])
        return registry.codec("json").decode(pa.RecordBatch.from_arrays([turned], ["value"]))

    def encode(self, columns):
        made = registry.codec("json").encode(columns)
        return documents(pa.array([value[::-1] for value in made.column("value").to_pylist()]), "reversed@a")


def own(*encodings):
    return lambda encoding: Reversed() if encoding in encodings else None


def test_the_source_decodes_what_only_it_can_read():
    conversion = negotiate(("reversed@a",), False, ("columns",), source_codec=own("reversed@a"))
    rows = conversion.apply(batch(b'}1:"a"{', encoding="reversed@a"), ())
    assert rows.to_pylist() == [{"a": 1}]


def test_the_sink_encodes_what_only_it_can_write():
    conversion = negotiate(("json",), False, ("reversed@a",), sink_codec=own("reversed@a"))
    rows = conversion.apply(batch(b'{"a":1}', key=pa.array([b"k"])), ())
    assert (texts(rows), rows.column("key").to_pylist()) == (['}1:"a"{'], [b"k"])


def test_the_same_encoding_passes_and_another_one_does_not():
    both = {"source_codec": own("reversed@a"), "sink_codec": own("reversed@a", "reversed@b")}
    same = negotiate(("reversed@a",), False, ("reversed@a",), **both)
    assert (same.decoder, same.encoder) == (None, None)
    other = negotiate(("reversed@a",), False, ("reversed@b",), **both)
    assert isinstance(other.decoder, Reversed) and isinstance(other.encoder, Reversed)


def test_a_codec_of_one_side_does_not_serve_the_other():
    with pytest.raises(FlowError, match="nothing fits"):
        negotiate(("reversed@a",), False, ("columns",), sink_codec=own("reversed@a"))
    with pytest.raises(FlowError, match="nothing fits"):
        negotiate(("json",), False, ("reversed@a",), source_codec=own("reversed@a"))
