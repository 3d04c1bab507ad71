"""FileSink: what the contract does not ask for. Names, parts, types, left-overs, unwritable places."""

import datetime as dt
import os
import stat
import uuid
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest
from pydantic import ValidationError

from airflow_provider_connect.connectors.file import FileSink, FileSinkConfig, FileSource, FileSourceConfig
from airflow_provider_connect.engine.batch import Batch, Checkpoint, documents
from airflow_provider_connect.engine.connector import SinkContext
from airflow_provider_connect.engine.errors import EndOfInput, Fatal, InvalidRecord, Retryable
from airflow_provider_connect.testing.source import RecordedContext


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "out"


def opened(path, **config):
    sink = FileSink(FileSinkConfig(path=str(path), **config))
    sink.open(SinkContext("flow"))
    return sink


def docs(*values):
    return Batch(documents(pa.array(values, pa.binary()), "json"), Checkpoint())


def columns(**arrays):
    return Batch(pa.RecordBatch.from_pydict(arrays), Checkpoint())


def flush(sink, token, *batches):
    if token:
        sink.begin(token)
    for batch in batches:
        sink.write(batch)
    sink.flush()


def files(folder):
    return sorted(path.name for path in folder.iterdir())


def test_one_file_per_flush_named_by_its_token(folder):
    sink = opened(folder, prefix="orders-")
    flush(sink, "t1", docs(b'{"a":1}'), docs(b'{"a":2}', b'{"a":3}'))
    flush(sink, "t2", docs(b'{"a":4}'))
    flush(sink, "t3")
    assert files(folder) == ["orders-t1.ndjson", "orders-t2.ndjson"]
    assert (folder / "orders-t1.ndjson").read_bytes() == b'{"a":1}\n{"a":2}\n{"a":3}\n'


def test_documents_with_newlines_are_one_line_each(folder):
    flush(opened(folder), "t", docs(b'{\n  "a":\r\n 1}', b'{"b":"x\\ny"}', b""))
    assert (folder / "part-t.ndjson").read_bytes() == b'{   "a":   1}\n{"b":"x\\ny"}\n\n'


def test_a_tombstone_is_refused_by_its_index(folder):
    sink = opened(folder)
    sink.begin("t")
    with pytest.raises(InvalidRecord, match="tombstone") as raised:
        sink.write(docs(b"{}", None, b"{}", None))
    assert set(raised.value.rows) == {1, 3}
    sink.flush()
    assert files(folder) == []


def test_without_a_token_names_are_unique(folder):
    sink = opened(folder)
    flush(sink, None, docs(b"{}"))
    flush(sink, None, docs(b"{}"))
    assert len(files(folder)) == 2


def test_a_token_counts_for_one_flush_only(folder):
    sink = opened(folder)
    flush(sink, "t", docs(b"{}"))
    flush(sink, None, docs(b'{"a":1}'))
    assert (folder / "part-t.ndjson").read_bytes() == b"{}\n"
    assert len(files(folder)) == 2


def test_parquet_parts_for_columns_that_do_not_fit(folder):
    sink = opened(folder, format="parquet")
    flush(sink, "t", columns(a=[1]), columns(a=[2], b=["x"]), columns(b=["y"]), columns(a=["text"]))
    assert files(folder) == ["part-t.parquet", "part-t~1.parquet"]
    assert pyarrow.parquet.read_table(folder / "part-t.parquet").to_pylist() == [
        {"a": 1, "b": None}, {"a": 2, "b": "x"}, {"a": None, "b": "y"},
    ]  # fmt: skip
    assert pyarrow.parquet.read_table(folder / "part-t~1.parquet").to_pylist() == [{"a": "text"}]


@pytest.mark.parametrize("place", ["disk", "store"])
def test_parts_of_an_earlier_cut_are_removed(folder, place):
    path = str(folder) if place == "disk" else f"memory://{uuid.uuid4().hex}"
    fs, root = fsspec.core.url_to_fs(path)
    sink = opened(path, format="parquet")
    flush(sink, "t", columns(a=[1]), columns(a=["x"]), columns(a=[True]))
    flush(sink, "t-1", columns(a=[1]))
    assert len(fs.find(root)) == 4
    flush(sink, "t", columns(a=["1", "x", "true"]))
    assert sorted(path.rsplit("/", 1)[1] for path in fs.find(root)) == ["part-t-1.parquet", "part-t.parquet"]


def test_integers_and_floats_do_not_share_a_column(folder):
    flush(opened(folder, format="parquet"), "t", columns(a=[2**53 + 1]), columns(a=[0.5]))
    found = [pyarrow.parquet.read_table(folder / name).column("a").to_pylist() for name in files(folder)]
    assert found == [[2**53 + 1], [0.5]]


@pytest.mark.parametrize("format", ["csv", "parquet"])
@pytest.mark.parametrize("cut", [[3], [1, 2], [1, 1, 1]])
def test_the_cut_into_batches_makes_no_difference(folder, format, cut):
    batch = columns(a=[1, None, 3], b=["x", "", None])
    flush(opened(folder, format=format), "once", batch)
    at, parts = 0, []
    for size in cut:
        parts.append(batch.with_rows(batch.rows.slice(at, size)))
        at += size
    flush(opened(folder, format=format), "cut", *parts)
    assert (folder / f"part-once.{format}").read_bytes() == (folder / f"part-cut.{format}").read_bytes()


def test_csv_of_every_kind_of_value(folder):
    batch = columns(
        t=["x", "", None, 'q"\n,', "é"],
        i=[2**63 - 1, None, 0, -1, 1],
        d=pa.array([dt.datetime(2024, 1, 2, 3, 4, 5, 6, dt.UTC)] + [None] * 4, pa.timestamp("us", "UTC")),
        b=[b"\x00\xff", None, b"", b"x", b"y"],
        n=[{"x": [1, None]}, None, {"x": []}, {"x": None}, {"x": [2]}],
        z=pa.nulls(5),
    )
    flush(opened(folder, format="csv"), "t", batch)
    assert (folder / "part-t.csv").read_text().splitlines()[:3] == [
        '"t","i","d","b","n","z"',
        '"x",9223372036854775807,2024-01-02 03:04:05.000006Z,"AP8=","{""x"":[1,null]}",',
        '"",,,,,',
    ]
    assert pyarrow.csv.read_csv(
        folder / "part-t.csv", parse_options=pyarrow.csv.ParseOptions(newlines_in_values=True),
        convert_options=pyarrow.csv.ConvertOptions(strings_can_be_null=True, quoted_strings_can_be_null=False),
    ).column("t").to_pylist() == ["x", "", None, 'q"\n,', "é"]  # fmt: skip


@pytest.mark.parametrize(
    ("format", "compression", "suffix", "magic"),
    [
        ("ndjson", None, ".ndjson", b"{"), ("ndjson", "gzip", ".ndjson.gz", b"\x1f\x8b"),
        ("csv", "zstd", ".csv.zst", b"\x28\xb5\x2f\xfd"), ("parquet", "snappy", ".parquet", b"PAR1"),
        ("parquet", "none", ".parquet", b"PAR1"), ("parquet", None, ".parquet", b"PAR1"),
    ],
)  # fmt: skip
def test_compression(folder, format, compression, suffix, magic):
    batch = docs(b'{"a":1}') if format == "ndjson" else columns(a=[1])
    flush(opened(folder, format=format, compression=compression), "t", batch)
    data = (folder / f"part-t{suffix}").read_bytes()
    assert data.startswith(magic)
    if format == "parquet":
        chosen = pyarrow.parquet.ParquetFile(folder / "part-t.parquet").metadata.row_group(0).column(0).compression
        assert chosen == {"snappy": "SNAPPY", "none": "UNCOMPRESSED", None: "ZSTD"}[compression]


@pytest.mark.parametrize("format", ["ndjson", "csv", "parquet"])
def test_what_is_written_is_what_the_source_reads(folder, format):
    batch = docs(b'{"a":1,"b":"x"}', b'{"a":null,"b":""}')
    if format != "ndjson":
        batch = columns(a=[1, None], b=["x", ""])
    flush(opened(folder, format=format), "t", batch)
    (folder / ".part-left.tmp").write_bytes(b"half a fi")
    source = FileSource(FileSourceConfig(path=str(folder), format=format))
    source.open(RecordedContext("f", source.formats()[0], drain=True))
    found = source.read(10, 1)
    assert found.rows.equals(batch.rows)
    with pytest.raises(EndOfInput):
        source.read(10, 1)
    source.close()


# -- crashes -----------------------------------------------------------------------------------------------------------


def test_left_overs_go_with_their_token_or_with_time(folder):
    folder.mkdir()
    for name in (".part-t~1234.tmp", ".part-t-1~1234.tmp", ".part-old~1234.tmp", ".other-t~1234.tmp"):
        (folder / name).write_bytes(b"half")
    os.utime(folder / ".part-old~1234.tmp", (1, 1))
    sink = opened(folder)
    assert files(folder) == [".other-t~1234.tmp", ".part-t-1~1234.tmp", ".part-t~1234.tmp"]
    flush(sink, "t", docs(b"{}"))
    assert files(folder) == [".other-t~1234.tmp", ".part-t-1~1234.tmp", "part-t.ndjson"]


def test_a_failed_write_leaves_nothing_and_can_be_repeated(folder):
    sink = opened(folder)
    (folder / "part-t.ndjson").mkdir()  # nothing can be renamed onto a folder
    with pytest.raises(OSError):
        flush(sink, "t", docs(b"{}"))
    assert files(folder) == ["part-t.ndjson"]
    (folder / "part-t.ndjson").rmdir()
    flush(sink, "t", docs(b"{}"))
    assert (folder / "part-t.ndjson").read_bytes() == b"{}\n"


def test_readers_never_see_half_a_file(folder):
    sink = opened(folder)
    flush(sink, "t", docs(*[b'{"a":1}'] * 1000))
    with (folder / "part-t.ndjson").open("rb") as before:
        flush(sink, "t", docs(*[b'{"a":2}'] * 1000))
        assert before.read() == b'{"a":1}\n' * 1000, "replaced by another file, not written over"


# -- configuration and errors ------------------------------------------------------------------------------------------


def test_check_leaves_nothing_and_makes_nothing(tmp_path, folder):
    sink = FileSink(FileSinkConfig(path=str(folder / "deep")))
    assert sink.check() == f"{folder / 'deep'} is writable"
    assert files(tmp_path) == []
    folder.mkdir()
    sink.check()
    assert files(folder) == []
    name = uuid.uuid4().hex
    FileSink(FileSinkConfig(path=f"memory://{name}")).check()
    assert fsspec.filesystem("memory").find(f"/{name}") == []


def test_a_place_that_cannot_be_written_is_fatal(tmp_path):
    (tmp_path / "file").write_text("")
    sink = FileSink(FileSinkConfig(path=str(tmp_path / "file" / "out")))
    for call in (sink.check, lambda: sink.open(SinkContext("f"))):
        with pytest.raises(OSError) as raised:
            call()
        assert type(sink.classify(raised.value)) is Fatal
        assert str(tmp_path / "file") in str(sink.classify(raised.value))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission_is_fatal(tmp_path):
    tmp_path.chmod(stat.S_IRUSR | stat.S_IXUSR)
    sink = FileSink(FileSinkConfig(path=str(tmp_path)))
    with pytest.raises(PermissionError) as raised:
        sink.check()
    assert type(sink.classify(raised.value)) is Fatal


def test_a_full_disk_is_retryable(tmp_path):
    sink = FileSink(FileSinkConfig(path=str(tmp_path)))
    with pytest.raises(OSError) as raised, Path("/dev/full").open("wb") as full:
        full.write(b"x")
        full.flush()
    assert isinstance(sink.classify(raised.value), Retryable)


@pytest.mark.parametrize(
    "config",
    [
        {"format": "xml"}, {"compression": "snappy"}, {"format": "csv", "compression": "snappy"},
        {"compression": "lz4"},
        {"prefix": ""}, {"prefix": ".x"}, {"prefix": "_x"}, {"prefix": "a/b"}, {"prefix": "a~"}, {"prefix": "x" * 41},
        {"batchFlushIntervalSeconds": 0}, {"path": ""},
    ],
)  # fmt: skip
def test_a_wrong_configuration_is_refused(config):
    with pytest.raises(ValidationError):
        FileSinkConfig.model_validate({"path": "out", **config})


def test_the_longest_names_fit(folder):
    sink = opened(folder, prefix="p" * 40, compression="zstd")
    flush(sink, "t" * 200, docs(b"{}"))
    assert [len(name) for name in files(folder)] == [251]
