"""FileSource: what the contract does not ask for. Odd bytes, resuming anywhere, what arrives late, bad files."""

import gzip
import json
import os
import time
import uuid

import fsspec
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest
from pydantic import ValidationError

from airflow_provider_connect.connectors.file import FileSource, FileSourceConfig, ndjson, tables
from airflow_provider_connect.engine.batch import Checkpoint
from airflow_provider_connect.engine.connector import Share
from airflow_provider_connect.engine.errors import EndOfInput, Fatal, FlowError, Retryable
from airflow_provider_connect.testing.source import RecordedContext


def source(path, **config):
    return FileSource(FileSourceConfig(path=str(path), **{"poll_interval": 0.01, **config}))


def opened(path, *, stored=None, until=None, drain=True, share=None, **config):
    made = source(path, **config)
    made.open(RecordedContext("f", made.formats()[0], stored=stored, until=until, drain=drain, share=share))
    return made


def batches(made, max_records=1000):
    found = []
    with made:
        while True:
            try:
                batch = made.read(max_records, 0.05)
            except EndOfInput:
                return found
            if batch is not None:
                found.append(batch)


def rows(found):
    return [row for batch in found for row in batch.rows.to_pylist()]


def values(found):
    return [row["value"] for row in rows(found)]


def last(found):
    checkpoint = Checkpoint()
    for batch in found:
        checkpoint = checkpoint.advance(batch.checkpoint)
    return checkpoint


def lines(tmp_path, data, name="a.ndjson", **config):
    (tmp_path / name).write_bytes(data)
    return values(batches(opened(tmp_path / name, **config)))


# -- NDJSON ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", []),
        (b"\n", []),
        (b"\n\r\n  \n\t\n", []),
        (b'{"a":1}\n{"a":2}\n', [b'{"a":1}', b'{"a":2}']),
        (b'{"a":1}\n{"a":2}', [b'{"a":1}', b'{"a":2}']),
        (b'{"a":1}\r\n\r\n{"a":2}\r\n', [b'{"a":1}', b'{"a":2}']),
        (b'\n\n{"a":1}\n\n\n{"a":2}\n\n', [b'{"a":1}', b'{"a":2}']),
        (b'\xef\xbb\xbf{"a":1}\n', [b'{"a":1}']),
        ('{"a":"Zażółć 🙂\u2028"}\n'.encode(), ['{"a":"Zażółć 🙂\u2028"}'.encode()]),
        (b'not json\n[1]\nnull\n\xff\n  {"a":1}\n', [b"not json", b"[1]", b"null", b"\xff", b'  {"a":1}']),
    ],
)
def test_lines_of_a_file(tmp_path, data, expected):
    assert lines(tmp_path, data) == expected
    (tmp_path / "b.ndjson.gz").write_bytes(gzip.compress(data))
    assert values(batches(opened(tmp_path / "b.ndjson.gz"))) == expected


AWKWARD = b'\xef\xbb\xbf\n{"a":1}\r\n\r\n{"a":"\xc3\xa9"}\n   \nbad\n{"a":3}\n\n{"a":4}'


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 6, 100])
@pytest.mark.parametrize("block", [1, 2, 3, 5, 7, 11, 1000])
def test_resuming_at_every_position_gives_the_rest(tmp_path, monkeypatch, size, block, packed):
    monkeypatch.setattr(ndjson, "BLOCK", block)
    path = tmp_path / ("a.ndjson.gz" if packed else "a.ndjson")
    path.write_bytes(gzip.compress(AWKWARD) if packed else AWKWARD)
    whole = batches(opened(path), size)
    assert values(whole) == [b'{"a":1}', '{"a":"é"}'.encode(), b"bad", b'{"a":3}', b'{"a":4}']
    assert last(whole) == {path.name: {"offset": len(AWKWARD), **({"end": True} if packed else {})}}
    for at in range(len(whole) + 1):
        stored = last(whole[:at])
        rest = batches(opened(path, stored=stored), size)
        assert values(rest) == values(whole[at:]), stored
        if stored:
            again = batches(opened(path, until=stored, drain=False), size)
            assert (values(again), last(again)) == (values(whole[:at]), stored)


def test_a_line_longer_than_blocks(tmp_path, monkeypatch):
    monkeypatch.setattr(ndjson, "BLOCK", 10)
    long = b'{"a":"' + b"x" * 1000 + b'"}'
    assert lines(tmp_path, long + b'\n{"b":1}\n' + long) == [long, b'{"b":1}', long]
    monkeypatch.setattr(ndjson, "LONGEST_LINE", 500)
    with pytest.raises(Fatal, match=r"'a.ndjson' has no newline within"):
        lines(tmp_path, long + b"\n")


def test_only_whole_lines_of_a_growing_file_are_taken(tmp_path):
    path = tmp_path / "a.ndjson"
    path.write_bytes(b'{"a":1}\n{"a"')
    made = opened(path, drain=False)
    found = []

    def read(expected):
        deadline = time.monotonic() + 5
        while len(found) < expected and time.monotonic() < deadline:
            batch = made.read(10, 0.05)
            found.extend([] if batch is None else values([batch]))
        for _ in range(3):
            assert not made.read(10, 0.02), "half a line"
        return found

    assert read(1) == [b'{"a":1}']
    with path.open("ab") as file:
        file.write(b':2}\n{"a":3}')
        file.flush()
        assert read(3) == [b'{"a":1}', b'{"a":2}', b'{"a":3}']
        file.write(b'\n{"a":4}\n')
        file.flush()
        assert read(4)[-1] == b'{"a":4}'
    made.close()


def test_a_last_line_that_is_no_object_waits_for_its_newline(tmp_path):
    assert lines(tmp_path, b'{"a":1}\n12') == [b'{"a":1}']
    assert lines(tmp_path, b'{"a":1}\n12\n') == [b'{"a":1}', b"12"]


def test_a_replaced_file_stops_the_flow(tmp_path):
    (tmp_path / "a.ndjson").write_bytes(b'{"a":1}\n')
    with pytest.raises(Fatal, match=r"'a\.ndjson' has 8 bytes, but 100 of it were read: it was replaced"):
        opened(tmp_path / "a.ndjson", stored={"a.ndjson": {"offset": 100}})


@pytest.mark.parametrize("damage", [lambda z: z[:-9], lambda z: b"no gzip at all"])
def test_a_damaged_archive_stops_the_flow(tmp_path, damage):
    path = tmp_path / "a.ndjson.gz"
    path.write_bytes(damage(gzip.compress(AWKWARD)))
    made = opened(path)
    with pytest.raises(OSError) as raised:
        batches(made)
    assert isinstance(made.classify(raised.value), Fatal)


def test_raw_mode_tells_where_each_line_was(tmp_path):
    found = [json.loads(value) for value in lines(tmp_path, b'\n{"a":1}\r\n\n{"a":2}', 'q".ndjson', raw_mode=True)]
    assert found == [
        {"value": {"a": 1}, "_metadata": {"file": 'q".ndjson', "offset": 1}},
        {"value": {"a": 2}, "_metadata": {"file": 'q".ndjson', "offset": 11}},
    ]


# -- CSV ---------------------------------------------------------------------------------------------------------------


def csv(tmp_path, data, name="a.csv", **config):
    (tmp_path / name).write_bytes(data)
    return rows(batches(opened(tmp_path / name, **config)))


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", []),
        (b"a,b\n", []),
        (b"a,b", []),
        (b"a,b\n1,x\n", [{"a": 1, "b": "x"}]),
        (b"a,b\r\n1,x\r\n2,y", [{"a": 1, "b": "x"}, {"a": 2, "b": "y"}]),
        (b'a,b\n1,\n2,""\n,"x"\n', [{"a": 1, "b": None}, {"a": 2, "b": ""}, {"a": None, "b": "x"}]),
        (b'a,b\n1,"x\ny"\n2,"q""q"\n', [{"a": 1, "b": "x\ny"}, {"a": 2, "b": 'q"q'}]),
        (b"\xef\xbb\xbfa,b\n9007199254740993,\xc3\xa9\n", [{"a": 2**53 + 1, "b": "é"}]),
        (b"a,b\n1,\n", [{"a": 1, "b": None}]),
    ],
)
def test_rows_of_a_csv_file(tmp_path, data, expected):
    assert csv(tmp_path, data) == expected


def test_csv_options(tmp_path):
    assert csv(tmp_path, b"1;x\n", csv={"delimiter": ";", "header": False}) == [{"f0": 1, "f1": "x"}]
    named = {"header": False, "columnNames": ["a", "b"], "columnTypes": {"a": "string"}}
    assert csv(tmp_path, b"01,x\n", csv=named) == [{"a": "01", "b": "x"}]
    assert csv(tmp_path, b"a\tb\n1\tx,y\n", "a.tsv") == [{"a": 1, "b": "x,y"}]
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress(b"a\n1\n"))
    assert rows(batches(opened(tmp_path / "a.csv.gz"))) == [{"a": 1}]


def test_a_column_that_is_empty_at_first_is_text(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "BLOCK", 64)
    data = b"a,b\n" + b"1,\n" * 100 + b"2,x\n"
    assert csv(tmp_path, data)[-1] == {"a": 2, "b": "x"}


@pytest.mark.parametrize("size", [1, 2, 3, 7, 100])
def test_resuming_at_every_row_gives_the_rest(tmp_path, monkeypatch, size):
    monkeypatch.setattr(tables, "BLOCK", 64)
    monkeypatch.setattr(tables, "_ROWS", 3)
    table = pa.table({"i": range(20), "s": [f"text\n{i}" for i in range(20)]})
    pyarrow.csv.write_csv(table, tmp_path / "a.csv")
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet", row_group_size=7)
    for name in ("a.csv", "a.parquet"):
        whole = batches(opened(tmp_path / name), size)
        assert rows(whole) == table.to_pylist()
        assert last(whole) == {name: {"row": 20, "end": True}}
        for at in range(len(whole) + 1):
            stored = last(whole[:at])
            assert rows(batches(opened(tmp_path / name, stored=stored), size)) == rows(whole[at:])
            if stored:
                again = batches(opened(tmp_path / name, until=stored, drain=False), size)
                assert (rows(again), last(again)) == (rows(whole[:at]), stored)


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.csv", b"a,b\n1,2\n1,2,3\n", r"'a\.csv' cannot be read: .*#3.*Expected 2 columns, got 3"),
        ("a.csv", b"a,b\n1,2\n1\n", r"'a\.csv' cannot be read: .*Expected 2 columns, got 1"),
        ("a.csv", b"a\n\xff\n", r"'a\.csv' cannot be read: .*UTF8"),
        ("a.parquet", b"no parquet", r"'a\.parquet' cannot be read"),
        ("a.parquet", b"", r"'a\.parquet' cannot be read"),
    ],
)
def test_a_bad_file_is_named(tmp_path, name, data, message):
    config = {"csv": {"column_types": {"a": "string"}}} if b"\xff" in data else {}
    (tmp_path / name).write_bytes(data)
    with pytest.raises(Fatal, match=message):
        batches(opened(tmp_path / name, **config))


def test_a_late_value_of_another_type_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "BLOCK", 64)
    with pytest.raises(Fatal, match=r"'a\.csv'.*invalid value 'x'"):
        csv(tmp_path, b"a\n" + b"1\n" * 100 + b"x\n")
    assert csv(tmp_path, b"a\n" + b"1\n" * 100 + b"x\n", csv={"column_types": {"a": "string"}})[-1] == {"a": "x"}


def test_raw_mode_of_tables(tmp_path):
    (tmp_path / "a.csv").write_bytes(b"a,b\n1,x\n2,\n")
    assert [json.loads(value) for value in values(batches(opened(tmp_path / "a.csv", raw_mode=True), 1))] == [
        {"value": {"a": 1, "b": "x"}, "_metadata": {"file": "a.csv", "row": 0}},
        {"value": {"a": 2, "b": None}, "_metadata": {"file": "a.csv", "row": 1}},
    ]


# -- which files -------------------------------------------------------------------------------------------------------


def put(folder, *names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"name": name}) + "\n")


def names(found):
    return [json.loads(value)["name"] for value in values(found)]


def test_hidden_files_and_folders_below_are_passed_over(tmp_path):
    put(tmp_path, "b.ndjson", "a.ndjson", ".hidden.ndjson", "_SUCCESS", "c.ndjson.tmp", "sub/d.ndjson")
    assert names(batches(opened(tmp_path, format="ndjson"))) == ["a.ndjson", "b.ndjson"]


def test_patterns(tmp_path):
    put(tmp_path, "a.ndjson", "b.txt", "x/a.ndjson", "x/y/c.ndjson", "x/.h/d.ndjson", "_x/e.ndjson")
    assert names(batches(opened(tmp_path / "*.ndjson"))) == ["a.ndjson"]
    found = batches(opened(tmp_path / "**" / "*.ndjson"))
    assert names(found) == ["a.ndjson", "x/a.ndjson", "x/y/c.ndjson"]
    assert set(last(found)) == set(names(found))
    assert set(last(batches(opened(tmp_path / "x" / "*" / "*.ndjson")))) == {"y/c.ndjson"}
    assert names(batches(opened(tmp_path / "no*.ndjson"))) == []


def test_a_late_file_with_a_smaller_name_is_not_lost(tmp_path):
    put(tmp_path, "b.ndjson")
    made = opened(tmp_path, format="ndjson", drain=False)
    assert names([made.read(10, 1)]) == ["b.ndjson"]
    os.utime(tmp_path / "b.ndjson", (2**31, 2**31))
    put(tmp_path, "a.ndjson")
    os.utime(tmp_path / "a.ndjson", (1, 1))
    deadline = time.monotonic() + 5
    while (batch := made.read(10, 0.05)) is None and time.monotonic() < deadline:
        pass
    assert names([batch]) == ["a.ndjson"]
    assert made._context.claims == ["b.ndjson", "a.ndjson"]
    made.close()


def test_shares_stay_the_same_when_files_arrive(tmp_path):
    put(tmp_path, *(f"{i}.ndjson" for i in range(20)))
    before = [set(last(batches(opened(tmp_path, format="ndjson", share=Share(i, 3))))) for i in range(3)]
    put(tmp_path, *(f"-{i}.ndjson" for i in range(20)))
    after = [set(last(batches(opened(tmp_path, format="ndjson", share=Share(i, 3))))) for i in range(3)]
    assert all(old <= new for old, new in zip(before, after, strict=True))
    assert sum(map(len, after)) == 40 == len(set().union(*after))
    assert all(before)


def test_a_file_that_vanishes_is_passed_over_but_not_when_it_is_to_be_read_again(tmp_path, caplog):
    put(tmp_path, "a.ndjson", "b.ndjson")
    made = opened(tmp_path, format="ndjson")
    (tmp_path / "a.ndjson").unlink()
    assert names(batches(made)) == ["b.ndjson"]
    assert "'a.ndjson' vanished" in caplog.text
    with pytest.raises(Fatal, match=r"e.g. 'a\.ndjson'; put them back"):
        opened(tmp_path, format="ndjson", until={"a.ndjson": {"offset": 5}})


def test_drain_leaves_what_is_appended_meanwhile(tmp_path):
    path = tmp_path / "a.ndjson"
    path.write_bytes(b'{"a":1}\n')
    made = opened(path)
    with path.open("ab") as file:
        file.write(b'{"a":2}\n' * 500_000)
    assert 1 <= len(values(batches(made, 100_000))) < 500_000


def test_another_format_than_before_is_refused(tmp_path):
    put(tmp_path, "a")
    with pytest.raises(FlowError, match="'a' was read in another format before"):
        batches(opened(tmp_path, format="csv", stored={"a": {"offset": 5}}))


def test_lag(tmp_path):
    put(tmp_path, "a.ndjson", "b.ndjson")
    assert source(tmp_path, format="ndjson").lag(Checkpoint()) == 2
    assert source(tmp_path, format="ndjson").lag(Checkpoint({"a.ndjson": {"offset": 21}})) == 1
    (tmp_path / "c.ndjson").write_bytes(b'{"a":1}\n' * 600_000)
    assert source(tmp_path, format="ndjson").lag(Checkpoint()) is None
    assert source(tmp_path, format="ndjson").lag(Checkpoint({"c.ndjson": {"offset": 4_799_992}})) == 3
    pyarrow.parquet.write_table(pa.table({"a": range(100_000)}), tmp_path / "p.parquet")
    parquet = source(tmp_path / "*.parquet")
    assert parquet.lag(Checkpoint()) == 100_000
    assert parquet.lag(Checkpoint({"p.parquet": {"row": 99_999}})) == 1
    assert parquet.lag(Checkpoint({"p.parquet": {"row": 100_000, "end": True}})) == 0


def test_a_store(tmp_path):
    fs, folder = fsspec.filesystem("memory"), uuid.uuid4().hex
    fs.pipe_file(f"/{folder}/a.ndjson", b'{"a":1}\n')
    fs.pipe_file(f"/{folder}/b.ndjson.gz", gzip.compress(b'{"a":2}\n'))
    fs.pipe_file(f"/{folder}/.c.ndjson.tmp", b'{"a":3}\n')
    found = batches(opened(f"memory://{folder}/*.ndjson*"))
    assert values(found) == [b'{"a":1}', b'{"a":2}']
    assert last(found) == {"a.ndjson": {"offset": 8}, "b.ndjson.gz": {"offset": 8, "end": True}}
    assert values(batches(opened(f"memory://{folder}", format="ndjson"))) == [b'{"a":1}', b'{"a":2}']
    pyarrow.parquet.write_table(pa.table({"a": [1]}), tmp_path / "x")
    fs.pipe_file(f"/{folder}/d.parquet", (tmp_path / "x").read_bytes())
    assert rows(batches(opened(f"memory://{folder}/d.parquet"))) == [{"a": 1}]


# -- configuration and errors ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("a.ndjson", "ndjson"), ("a/*.jsonl", "ndjson"), ("a.json.gz", "ndjson"), ("a.csv", "csv"),
        ("a.tsv.zst", "csv"),
        ("s3://b/x=1.2/*.parquet", "parquet"), ("*.csv*", "csv"),
    ],
)  # fmt: skip
def test_the_format_is_told_from_the_path(path, kind):
    assert FileSourceConfig(path=path).kind == kind


@pytest.mark.parametrize(
    "config",
    [
        {"path": "in"}, {"path": "in/*"}, {"path": "a.xlsx"}, {"path": ""}, {"path": "a.csv", "format": "xml"},
        {"path": "a.csv", "pollInterval": 0}, {"path": "a.csv", "csv": {"columnTypes": {"a": "int99"}}},
        {"path": "a.csv", "csv": {"delimiter": ";;"}}, {"path": "a.csv", "csv": {"columnNames": ["a"]}},
        {"path": "a.csv", "storageOptions": "{"}, {"path": "a.csv", "nothing": 1},
    ],
)  # fmt: skip
def test_a_wrong_configuration_is_refused(config):
    with pytest.raises(ValidationError):
        FileSourceConfig.model_validate(config)


def test_storage_options_are_not_shown():
    config = FileSourceConfig(path="a.csv", storageOptions='{"secret": "hush"}')
    assert config.storage_options == {"secret": "hush"}
    assert "hush" not in repr(config)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("nowhere://x/a.csv", "no way to reach 'nowhere://'"),
        ("/not/there/a.csv", "no file or folder '/not/there/a.csv'"),
        ("memory://not/there/a.csv", "no file or folder 'memory://not/there/a.csv'"),
    ],
)
def test_a_place_that_is_not_there_is_named(path, message):
    with pytest.raises(FlowError, match=message):
        opened(path)
    with pytest.raises(FlowError, match=message):
        source(path).check()


def test_errors_are_sorted():
    made = source("a.csv")
    for error in (TimeoutError("t"), ConnectionResetError("r"), OSError(5, "io"), OSError(28, "full")):
        assert isinstance(made.classify(error), Retryable)
    for error in (PermissionError(13, "no"), FileNotFoundError(2, "no"), OSError("odd"), ValueError("x")):
        assert type(made.classify(error)) is Fatal


def test_check_counts(tmp_path):
    put(tmp_path, "a.ndjson")
    assert source(tmp_path, format="ndjson").check() == f"1 files with 21 bytes at {tmp_path}"
