"""JSON documents into typed columns: whether read here or by the server, the table is the same."""

import json
import random

import pyarrow as pa
import pytest

from airflow_provider_connect.connectors.postgresql import loading
from airflow_provider_connect.connectors.postgresql.document_columns import columns_of
from airflow_provider_connect.engine.errors import ConnectError, InvalidRecord
from tests.connectors.postgresql_tables import OnSchema, json_batch

TABLE = (
    "n serial, id bigint, small smallint, whole int, flag boolean, single real, double float8, price numeric(10,2),"
    " loose numeric, txt text, short varchar(5), padded char(5), uid uuid, day date, clock time, local timestamp,"
    " at timestamptz, lasting interval, net inet, bin bytea, state text DEFAULT 'new', tags text[], doc jsonb"
)

HERE, SERVER = True, False

DOCUMENTS = [
    (HERE, [{"id": 1}, {"id": 2, "txt": "x"}]),
    (HERE, [{"id": 2**63 - 1, "small": -5, "whole": 7, "flag": True}, {"id": None, "flag": None}]),
    (HERE, [b'{"single": 0.1, "double": 0.1}', b'{"single": 16777217, "double": -0.0}', b'{"double": 5e-324}']),
    (HERE, [b'{"price": 1.5}', b'{"price": 12}', b'{"price": -0.01}', b'{"price": 1e3}', b'{"price": null}']),
    (HERE, [{"loose": 12345678901234567890123456789}, {"loose": 0}]),
    (SERVER, [b'{"loose": 1.50}', b'{"loose": 12345678901234567890.123456789}']),
    (SERVER, [b'{"price": 1.555}']),
    (SERVER, [b'{"id": "5", "whole": "7", "txt": 5}']),
    (SERVER, [b'{"double": "NaN", "single": "-Infinity"}']),
    (HERE, [{"txt": "", "short": "ab  ", "padded": "ab"}]),
    (HERE, [{"txt": "tab\t nl\n \\ \\N \" 日本 🙂"}, {"txt": "a\u007f\x01"}]),
    (HERE, [{"uid": "C0FFEE00-0000-4000-8000-000000000001", "net": "10.0.0.0/8", "bin": "\\x00ff"}]),
    (HERE, [{"day": "infinity", "clock": "24:00", "local": "2026-01-01T00:00:00.000001"}]),
    (HERE, [{"at": "2026-01-01 00:00+02"}, {}]),
    (HERE, [{"at": "2026-11-20T12:00:00.123456Z", "lasting": "1 day 00:00:01"}]),
    (HERE, [{"at": "-infinity", "day": "0044-03-15 BC"}]),
    (HERE, [{"state": "old", "id": 1}, {"state": "a\"b", "id": 2}]),
    (SERVER, [{"state": None}, {"id": 1}]),
    (HERE, [{"state": None, "id": 3}, {"state": "x", "id": 4}]),
    (HERE, [{"txt": "\u00e9, escaped"}, {"txt": "colon\": \u00e9"}]),
    (SERVER, [b'{"\\u0073tate": null}', b'{"id": 1}']),
    (SERVER, [{"tags": ["a", None]}, {"doc": {"x": 1.50}}]),
    (SERVER, [{"doc": None, "id": 1}]),
    (SERVER, [b'{"id": 1, "id": 2}']),
    (SERVER, [{}, {}]),
    (HERE, [b' {"id": 1} ', b'{"id"\n:\t2}\n']),
]  # fmt: skip

REFUSED = [
    [{"id": 1}, b"{", {"id": 2}],
    [{"id": 1}, b'{"id": 1}{"id": 2}'],
    [{"id": 1}, b'{"double": NaN}'],
    [{"id": 1}, b'{"single": 1e300}'],
    [{"id": 1}, b'{"double": 1e400}'],
    [{"id": 1}, {"id": 2**63}],
    [{"id": 1}, {"small": 40000}],
    [{"id": 1}, b'{"id": 1.5}'],
    [{"id": 1}, {"price": 123456789.5}],
    [{"id": 1}, {"short": "too long"}],
    [{"id": 1}, {"txt": "NUL \0"}],
    [{"id": 1}, b'{"txt": "\xff"}'],
    [{"id": 1}, b'{"txt": "\\ud800"}'],
    [{"id": 1}, {"uid": "no uuid"}],
    [{"id": 1}, {"day": "2026-02-30"}],
    [{"id": 1}, {"nowhere": 1}],
    [{"id": 1}, {"nowhere": None}],
    [{"id": 1}, [1]],
    [{"id": 1}, b" "],
]


class TestSameAsTheServer(OnSchema):
    def both(self, *batches, columns=TABLE, monkeypatch=None, **config):
        """What the table holds, read here and read by the server: its rows, or why they were refused."""
        found = []
        for name, read in (("here", columns_of), ("server", lambda documents, target: None)):
            self.create(columns, name)
            sink = self.sink(table=f"{self.schema}.{name}", **config)
            monkeypatch.setattr(loading, "columns_of", read)
            try:
                self.deliver(sink, *batches)
                numberless = "(to_jsonb(t) - 'n')::text"  # the server takes documents of equal fields together
                found.append([text for (text,) in self.rows(numberless, f"{self.schema}.{name}")])
            except ConnectError as error:
                sink.abort()
                found.append(type(error))
        return found

    def read_here(self, batch, **config):
        self.create(TABLE)
        target = self.sink(**config)._target
        return columns_of(batch.rows.column("value"), target) is not None

    @pytest.mark.parametrize(("here", "documents"), DOCUMENTS, ids=lambda value: str(value)[:60])
    def test_documents(self, here, documents, monkeypatch):
        assert self.read_here(json_batch(*documents)) == here
        ours, servers = self.both(json_batch(*documents), monkeypatch=monkeypatch)
        assert ours == servers
        assert len(ours) == len(documents)

    @pytest.mark.parametrize("documents", REFUSED, ids=lambda value: str(value)[:60])
    def test_refused_documents(self, documents, monkeypatch):
        assert self.both(json_batch(*documents), monkeypatch=monkeypatch) == [InvalidRecord, InvalidRecord]

    def test_unknown_fields_are_left_out_and_known_ones_never(self, monkeypatch):
        batch = json_batch({"id": 1, "nowhere": {"txt": 1}}, {"id": 2, "more": [1]})
        assert self.read_here(batch, ignore_unknown_columns=True)
        ours, servers = self.both(batch, monkeypatch=monkeypatch, ignore_unknown_columns=True)
        assert ours == servers
        batch = json_batch({"id": 1, "nowhere": 1, "doc": {"a": 1}}, {"id": 2, "tags": ["x"]})
        monkeypatch.undo()
        self.deliver(self.sink(ignore_unknown_columns=True), batch)
        assert self.rows("id, doc, tags") == [(1, {"a": 1}, None), (2, None, ["x"])]

    def test_upserts_that_name_some_columns(self, monkeypatch):
        columns = "id int PRIMARY KEY, a int, b text DEFAULT 'b'"
        batches = [
            json_batch({"id": 1, "a": 1}, {"id": 2, "a": 2}),
            json_batch({"id": 1, "b": "x"}, {"id": 2, "b": None}),
            json_batch({"id": 1, "a": None, "b": "y"}, {"id": 3, "a": 3, "b": "z"}),
            json_batch({"id": 2, "a": 5}, {"id": 3}),
        ]
        ours, servers = self.both(*batches, columns=columns, monkeypatch=monkeypatch, upsert_mode=True)
        assert [json.loads(text) for text in ours] == [json.loads(text) for text in servers]
        assert self.rows(table=f"{self.schema}.here") == [(1, None, "y"), (2, 5, None), (3, 3, "z")]

    def test_random_documents(self, monkeypatch):
        """Fields that are there, null or not there, by chance, and texts that look like fields."""
        chance = random.Random(11)
        values = {
            "id": lambda: chance.randrange(-(2**40), 2**40),
            "double": lambda: chance.choice([1, 0.5, -1e22, 123456789.123456789, 0.1 + 0.2]),
            "price": lambda: round(chance.random() * 1000, 2),
            "txt": lambda: chance.choice(['"state": 1', '\\"state\\":', "{", "a\\", "é", ""]),
            "state": lambda: chance.choice(["x", '"id":', "new"]),
            "flag": lambda: chance.random() < 0.5,
        }
        batches = []
        for _ in range(25):
            always = {name for name in values if chance.random() < 0.7}
            documents = []
            for _ in range(chance.randrange(1, 6)):
                fields = [name for name in values if name in always or chance.random() < 0.1]
                document = {name: None if chance.random() < 0.1 else values[name]() for name in fields}
                documents.append(json.dumps(document, ensure_ascii=chance.random() < 0.5).encode())
            batches.append(json_batch(*documents))
        ours, servers = self.both(*batches, monkeypatch=monkeypatch)
        assert ours == servers
        assert len(ours) > 50
        target = self.sink(table=f"{self.schema}.here")._target
        read = [columns_of(batch.rows.column("value"), target) is not None for batch in batches]
        assert True in read and False in read

    def test_refused_rows_are_named(self):
        self.create("id int CHECK (id < 10), day date")
        documents = [{"id": 1, "day": "2026-01-01"}, {"id": 2, "day": "2026-02-30"}, {"id": 3, "day": None}]
        assert list(self.refused(self.sink(), json_batch(*documents)).rows) == [1]
        assert list(self.refused(self.sink(), json_batch({"id": 1}, {"id": 10})).rows) == [1]

    def test_documents_in_slices(self):
        self.create("id int, txt text")
        batch = json_batch(*({"id": number, "txt": "x" * number} for number in range(10)))
        rows = batch.rows.slice(3, 4)
        self.deliver(self.sink(), batch.with_rows(rows))
        assert self.rows() == [(number, "x" * number) for number in range(3, 7)]

    def test_large_batches(self):
        self.create("id int, txt text")
        texts = pa.array([b'{"id": %d, "txt": "%s"}' % (number, b"x" * (number % 300)) for number in range(20000)])
        batch = json_batch(b"{}")
        rows = pa.RecordBatch.from_arrays(
            [texts if f.name == "value" else pa.nulls(len(texts), f.type) for f in batch.rows.schema],
            schema=batch.rows.schema,
        )
        self.deliver(self.sink(), batch.with_rows(rows))
        assert self.rows("count(*), sum(length(txt))") == [(20000, sum(number % 300 for number in range(20000)))]
