"""Nessie: branches, merges, ways in, and what only its catalog does."""

import base64
import http.server
import json
import threading

import pyarrow as pa
import pytest
from pydantic import ValidationError

from airflow_provider_connect.connectors.nessie import (
    NessieSink,
    NessieSinkConfig,
    NessieSource,
    NessieSourceConfig,
)
from airflow_provider_connect.engine.batch import Batch, Checkpoint, documents
from airflow_provider_connect.engine.connector import SinkContext
from airflow_provider_connect.engine.errors import Fatal, Retryable
from tests.connectors.iceberg_tables import drained, write
from tests.services.process import free_port


@pytest.fixture
def where(nessie):
    """A table of the test's own, by the fields of the configuration."""
    return {"base_url": nessie.url, "namespace": nessie.create_namespace(), "table": nessie.unique_name()}


@pytest.fixture
def branch(nessie, where):
    """A branch of the test's own."""
    name = nessie.unique_name("branch")
    nessie.create_branch(name)
    return name


def opened(where, **settings):
    sink = NessieSink(NessieSinkConfig(**{"auto_create_table": True, **where, **settings}))
    sink.open(SinkContext("flow"))
    sink.claim(["0"])
    return sink


def read(where, stored=None, **settings):
    return drained(NessieSource(NessieSourceConfig(**{**where, **settings})), stored)


def texts(rows):
    return [row["data"] for row in rows]


class TestBranches:
    def test_a_branch_is_apart_from_main(self, nessie, where, branch):
        label = f"{where['namespace']}.{where['table']}"
        write(opened(where), [b"main"], 1)
        assert nessie.rows(label, branch) == []
        write(opened(where, branch=branch), [b"branch"], 1)
        assert texts(nessie.rows(label)) == ["main"]
        assert texts(nessie.rows(label, branch)) == ["branch"]
        assert texts(read(where)[0]) == ["main"]
        assert texts(read(where, branch=branch)[0]) == ["branch"]

    def test_a_branch_goes_on_where_main_was_with_its_checkpoint(self, nessie, where):
        write(opened(where), [b"1"], 1)
        name = nessie.unique_name("with/slash and blank".replace(" ", "-"))
        sink = NessieSink(NessieSinkConfig(**where, branch=name, create_branch=True))
        sink.open(SinkContext("flow"))
        assert name in nessie.branches()
        assert sink.claim(["0"]) == {"0": 1}
        write(sink, [b"2"], 2)
        assert texts(read(where, branch=name)[0]) == ["1", "2"]
        assert texts(read(where)[0]) == ["1"]

    def test_a_branch_that_is_not_there(self, nessie, where):
        with pytest.raises(Fatal, match=r"no branch 'nowhere' in Nessie; .*`createBranch: true`"):
            opened(where, branch="nowhere")
        with pytest.raises(Fatal, match="no branch 'nowhere'"):
            NessieSource(NessieSourceConfig(**where, branch="nowhere")).check()
        assert "nowhere" not in nessie.branches()

    def test_what_a_merge_brings_is_read_once(self, nessie, where):
        """On main it is one commit, whatever was done on the branch."""
        write(opened(where), [b"1"], 1)
        _, at = read(where)
        other = nessie.unique_name("branch")
        nessie.create_branch(other)
        sink = opened(where, branch=other)
        write(sink, [b"2"], 2)
        write(sink, [b"3"], 3)
        assert read(where, at)[0] == []
        nessie.merge(other)
        rows, at = read(where, at)
        assert texts(rows) == ["2", "3"]
        assert read(where, at)[0] == []

    def test_a_merge_that_changes_rows(self, nessie, where):
        write(opened(where), [b"1"], 1)
        _, at = read(where)
        other = nessie.unique_name("branch")
        nessie.create_branch(other)
        table = nessie.table(f"{where['namespace']}.{where['table']}", other)
        table.append(pa.table({"data": ["2"]}))
        table.delete("data = '1'")
        nessie.merge(other)
        with pytest.raises(Fatal, match="changed or deleted rows"):
            read(where, at)
        assert texts(read(where, at, on_overwrite="reread")[0]) == ["2"]


class TestCatalog:
    def test_every_snapshot_is_found_in_the_commits_of_the_branch(self, nessie, where):
        sink = opened(where)
        write(sink, [b"1"], 1)
        _, at = read(where)
        for n in range(2, 6):
            write(sink, [str(n).encode()], n)
        assert len(nessie.table(f"{where['namespace']}.{where['table']}").metadata.snapshots) == 1
        rows, at = read(where, at)
        assert texts(rows) == ["2", "3", "4", "5"]

    def test_columns_are_added(self, nessie, where):
        """Nessie insists on a field of the request that pyiceberg does not send."""
        sink = opened(where, create_as="typed", schema_evolution="add", partition_by="bucket(2, id)")
        write(sink, {"id": [1]}, 1)
        write(sink, {"id": [2], "r": [{"a": [1.5]}]}, 2)
        rows = read(where)[0]
        assert sorted(rows, key=lambda row: row["id"]) == [{"id": 1, "r": None}, {"id": 2, "r": {"a": [1.5]}}]

    def test_a_table_without_snapshots_loses_nothing_to_two_first_writers(self, nessie, where):
        """That there is no snapshot yet is what Nessie 0.99 does not check."""
        label = f"{where['namespace']}.{where['table']}"
        nessie.catalog().create_table(label, pa.schema([("data", pa.string())]))
        config = NessieSinkConfig(**where)
        both = [NessieSink(config), NessieSink(config)]
        for sink in both:
            sink.open(SinkContext("flow"))
        for n, sink in enumerate(both):
            sink.claim([str(n)])
        for n, sink in enumerate(both):
            sink.write(Batch(documents(pa.array([str(n).encode()]), "json"), Checkpoint()))
            sink.flush()
            sink.commit(Checkpoint({str(n): 1}))
        assert sorted(texts(nessie.rows(label))) == ["0", "1"]

    def test_a_warehouse_by_name(self, nessie, where):
        write(opened(where, warehouse="warehouse"), [b"1"], 1)
        assert texts(read(where, warehouse="warehouse")[0]) == ["1"]
        with pytest.raises(Fatal, match="nothing-like-it"):
            opened(where, warehouse="nothing-like-it")

    def test_check_tells_what_is_there(self, nessie, where):
        sink = NessieSink(NessieSinkConfig(**where, auto_create_table=True, branch="new", create_branch=True))
        assert "will be created" in NessieSink(NessieSinkConfig(**where, auto_create_table=True)).check()
        assert sink.check()
        assert "new" not in nessie.branches(), "a check changes nothing"
        write(opened(where), [b"1"], 1)
        assert "1 records" in NessieSource(NessieSourceConfig(**where)).check()

    def test_a_nessie_that_is_away(self, where):
        with pytest.raises(Retryable):
            opened({**where, "base_url": f"http://127.0.0.1:{free_port()}"})


class Guard(http.server.BaseHTTPRequestHandler):
    """Lets nobody in, and keeps what it was shown."""

    shown: list[str | None]
    code = 401

    def do_GET(self):
        self.shown.append(self.headers.get("Authorization"))
        body = json.dumps({"error": {"message": "who are you", "type": "NotAuthorized", "code": self.code}}).encode()
        self.send_response(self.code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments):
        pass


@pytest.fixture(params=[401, 403])
def guard(request):
    handler = type("Handler", (Guard,), {"shown": [], "code": request.param})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", handler
        server.shutdown()


TYPED = {"auto_create_table": True, "create_as": "typed"}


class TestWaysIn:
    @pytest.mark.parametrize(
        ("given", "shown"),
        [
            ({"bearerToken": "t0ken"}, "Bearer t0ken"),
            ({"token": "t0ken"}, "Bearer t0ken"),
            (
                {"basicAuth": {"username": "me", "password": "s3cret"}},
                f"Basic {base64.b64encode(b'me:s3cret').decode()}",
            ),
        ],
        ids=["bearerToken", "token", "basicAuth"],
    )
    def test_credentials_are_shown_and_a_refusal_is_fatal(self, guard, given, shown):
        url, handler = guard
        config = NessieSinkConfig.model_validate({"baseURL": url, "namespace": "n", "table": "t", **given})
        with pytest.raises(Fatal, match=r"check the token|ask for the right") as raised:
            NessieSink(config).open(SinkContext("flow"))
        assert handler.shown == [shown]
        for secret in ("t0ken", "s3cret"):
            assert secret not in str(raised.value)
            assert secret not in repr(config)

    def test_two_ways_at_once(self):
        with pytest.raises(ValidationError, match="'bearerToken' and 'token' are two ways"):
            NessieSinkConfig(base_url="http://n", namespace="n", table="t", bearer_token="a", token="b")

    @pytest.mark.parametrize("url", ["http://n:1", "http://n:1/", "http://n:1/iceberg", "http://n:1/api/v2/"])
    def test_the_base_url_may_have_a_path(self, url):
        assert NessieSinkConfig(base_url=url, namespace="n", table="t").base_url == "http://n:1"

    def test_no_url(self):
        with pytest.raises(ValidationError, match="write https://host:19120"):
            NessieSinkConfig(base_url="nessie:19120", namespace="n", table="t")

    @pytest.mark.parametrize(
        ("settings", "problem"),
        [
            ({"partition_by": "day(at)"}, "'partitionBy' is of tables that are created"),
            ({"partition_by": "day(at)", "auto_create_table": True}, "set `createAs: typed`"),
            (
                {"partition_by": "week(at)", "auto_create_table": True, "create_as": "typed"},
                r"'week\(at\)' is not under",
            ),
            (
                {"partition_by": "bucket(id)", "auto_create_table": True, "create_as": "typed"},
                "write a column, or year",
            ),
            ({"namespace": "a..b"}, "empty level"),
        ],
    )
    def test_what_cannot_be_meant(self, settings, problem):
        with pytest.raises(ValidationError, match=problem):
            NessieSinkConfig(**{"base_url": "http://n", "namespace": "n", "table": "t", **settings})

    def test_the_defaults_of_the_specification(self):
        sink = NessieSinkConfig(base_url="http://n", namespace="n", table="t")
        assert (sink.branch, sink.batch_size, sink.batch_flush_interval_seconds) == ("main", 100, 10)
        source = NessieSourceConfig(base_url="http://n", namespace="n", table="t", warehouse="")
        assert (source.branch, source.poll_interval, source.raw_mode) == ("main", 10, False)
