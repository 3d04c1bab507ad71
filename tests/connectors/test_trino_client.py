"""The client's errors, and what it makes of answers that a healthy Trino does not give."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from airflow_provider_connect.connectors.trino import TrinoSourceConfig
from airflow_provider_connect.connectors.trino.client import Client
from airflow_provider_connect.connectors.trino.errors import MissingTable, statement_error
from airflow_provider_connect.engine.errors import Fatal, InvalidRecord, Retryable


class Proxy:
    """A server that answers as it is told: one list of `(status, headers, body)` after another, the last for ever."""

    def __init__(self):
        self.answers, self.requests = [], []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def answer(self):
                self.rfile.read(int(self.headers.get("Content-Length", 0)))
                outer.requests.append((self.command, self.path, dict(self.headers)))
                answers = outer.answers
                status, headers, body = answers.pop(0) if len(answers) > 1 else answers[0]
                data = body if isinstance(body, bytes) else json.dumps(body).encode()
                self.send_response(status)
                for name, value in {**headers, "Content-Length": str(len(data))}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(data)

            do_GET = do_POST = do_DELETE = answer

            def log_message(self, *_):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self):
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def proxy():
    found = Proxy()
    yield found
    found.close()


@pytest.fixture
def client(proxy):
    with Client(TrinoSourceConfig(server_url=proxy.url, catalog="c", schema="s", table="t", token="a.b.c")) as client:
        yield client


def done(rows=None):
    columns = [{"name": "x", "type": "bigint", "typeSignature": {"rawType": "bigint", "arguments": []}}]
    return {"id": "q", "columns": columns, "data": rows or [], "stats": {}}


def more(proxy, path="/v1/statement/executing/q/1"):
    return {"id": "q", "nextUri": f"{proxy.url}{path}", "stats": {}}


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_a_server_that_is_busy_is_retryable_and_a_statement_is_sent_once(proxy, client, status):
    proxy.answers = [(status, {"Retry-After": "7"}, b"busy")]
    with pytest.raises(Retryable, match=f"HTTP {status}") as raised:
        client.run("INSERT")
    assert raised.value.retry_after == 7
    assert [method for method, *_ in proxy.requests] == ["POST"]


def test_the_state_of_a_statement_is_asked_again(proxy, client):
    proxy.answers = [
        (200, {}, more(proxy)),
        (503, {}, b""),
        (502, {}, b"<html>"),
        (200, {}, done([[1]])),
    ]
    assert client.run("SELECT 1") == [[1]]
    assert [method for method, *_ in proxy.requests] == ["POST", "GET", "GET", "GET"]


def test_a_statement_that_is_not_known_any_more_is_retryable(proxy, client):
    proxy.answers = [(200, {}, more(proxy)), (404, {}, b"gone")]
    with pytest.raises(Retryable, match="not known there any more"):
        client.run("SELECT 1")


def test_an_empty_answer_is_retryable(proxy, client):
    proxy.answers = [(200, {}, b"")]
    with pytest.raises(Retryable, match="empty answer"):
        client.run("SELECT 1")


@pytest.mark.parametrize("body", [b"<html>Welcome</html>", b"[]"])
def test_what_is_no_answer_of_trino_is_fatal(proxy, client, body):
    proxy.answers = [(200, {}, body)]
    with pytest.raises(Fatal, match="check `serverURL`"):
        client.run("SELECT 1")


def test_redirects_are_not_followed(proxy, client):
    proxy.answers = [(307, {"Location": "https://elsewhere/v1/statement"}, b"")]
    with pytest.raises(Fatal, match="redirects to https://elsewhere"):
        client.run("SELECT 1")


def test_credentials_go_nowhere_else(proxy, client):
    other = Proxy()
    other.answers = [(200, {}, done())]
    proxy.answers = [(200, {}, more(other)), (204, {}, b"")]
    with pytest.raises(Fatal, match="no credentials are sent"):
        client.run("SELECT 1")
    assert other.requests == []
    other.close()


def test_the_token_is_in_no_error(proxy, client):
    proxy.answers = [(401, {}, b"Unauthorized")]
    with pytest.raises(Fatal) as raised:
        client.run("SELECT 1")
    assert "a.b.c" not in str(raised.value)
    assert proxy.requests[0][2]["Authorization"] == "Bearer a.b.c"


@pytest.mark.parametrize(
    ("kind", "name", "wanted"),
    [
        ("INSUFFICIENT_RESOURCES", "QUERY_QUEUE_FULL", Retryable),
        ("INSUFFICIENT_RESOURCES", "EXCEEDED_TIME_LIMIT", Retryable),
        ("INTERNAL_ERROR", "GENERIC_INTERNAL_ERROR", Retryable),
        ("INTERNAL_ERROR", "NO_NODES_AVAILABLE", Retryable),
        ("EXTERNAL", "ICEBERG_COMMIT_ERROR", Retryable),
        ("EXTERNAL", "HIVE_METASTORE_ERROR", Retryable),
        ("USER_ERROR", "USER_CANCELED", Retryable),
        ("USER_ERROR", "ABANDONED_QUERY", Retryable),
        ("USER_ERROR", "SYNTAX_ERROR", Fatal),
        ("USER_ERROR", "TABLE_NOT_FOUND", MissingTable),
        ("USER_ERROR", "PERMISSION_DENIED", Fatal),
        ("USER_ERROR", "QUERY_TEXT_TOO_LARGE", Fatal),
        ("USER_ERROR", "A_NAME_OF_TOMORROW", Fatal),
        ("USER_ERROR", "INVALID_CAST_ARGUMENT", InvalidRecord),
        ("USER_ERROR", "NUMERIC_VALUE_OUT_OF_RANGE", InvalidRecord),
        ("USER_ERROR", "CONSTRAINT_VIOLATION", InvalidRecord),
        ("EXTERNAL", "JDBC_NON_TRANSIENT_ERROR", InvalidRecord),
    ],
)
def test_errors_of_statements(kind, name, wanted):
    found = statement_error({"errorType": kind, "errorName": name, "message": "what\n went   wrong"})
    assert type(found) is wanted
    assert str(found).startswith(f"what went wrong ({name})")
