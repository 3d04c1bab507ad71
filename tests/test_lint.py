"""Lint: every wrong document gets a clear message with file, line and path; right ones get none."""

# ruff: noqa: E501 - the messages stand here as they are printed

from pathlib import Path
from textwrap import dedent, indent

import pytest
import yaml

from airflow_provider_connect.engine.errors import FlowError
from airflow_provider_connect.engine.flow import DataFlow
from airflow_provider_connect.engine.lint import LintError, read_documents
from tests.flow_types import types

__all__ = ["types"]
pytestmark = pytest.mark.usefixtures("types")

HEAD = "apiVersion: dataflow.dataflow.io/v1\nkind: DataFlow\nmetadata: {name: orders}\nspec:\n"
QUEUE = "{type: queue, queue: {brokers: [a], topic: t}}"
BOARD = "{type: board, board: {}}"


def problems(text: str, tmp_path: Path) -> list[str]:
    path = tmp_path / "orders.yaml"
    path.write_text(text)
    with pytest.raises(FlowError) as caught:
        DataFlow.load_all(path)
    return [line.replace(str(path), "orders.yaml") for line in str(caught.value).splitlines()]


def spec(text: str) -> str:
    return HEAD + indent(dedent(text).strip(), "  ") + "\n"


def test_a_right_flow_has_no_problems():
    flow = DataFlow.load(spec(f"source: {QUEUE}\nsink: {BOARD}"))
    assert flow.name == "orders"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            f"source: {QUEUE}\nsink:\n  type: board\n  board:\n    titel: x\n",
            ["orders.yaml:9: spec.sink.board.titel: unknown field; did you mean 'title'?"],
        ),
        (
            f"source: {QUEUE}\nsink:\n  type: board\n  config:\n    batch_sise: 3\n",
            ["orders.yaml:9: spec.sink.config.batch_sise: unknown field; did you mean 'batchSize'?"],
        ),
        (
            f"source:\n  type: queue\n  queue: {{topic: t}}\nsink: {BOARD}",
            ["orders.yaml:7: spec.source.queue.brokers: required, but missing"],
        ),
        (
            f"source:\n  type: queue\n  queue:\n    brokers: []\n    topic: T\n    retries: -1\n    wait: 0\nsink: {BOARD}",
            [
                "orders.yaml:8: spec.source.queue.brokers: must have at least 1 item, not 0",
                "orders.yaml:9: spec.source.queue.topic: must match pattern '^[a-z.-]+$'",
                "orders.yaml:10: spec.source.queue.retries: must be greater than or equal to 0",
                "orders.yaml:11: spec.source.queue.wait: must be greater than 0",
            ],
        ),
        (
            f"source:\n  type: queue\n  queue:\n    brokers: [a, 1]\n    topic: 12\n    retries: '1'\n"
            f"    rawMode: 1\n    sasl: x\n    properties: []\n    server_url: []\nsink: {BOARD}",
            [
                "orders.yaml:8: spec.source.queue.brokers[1]: must be text, but is a number; put it in quotes",
                "orders.yaml:9: spec.source.queue.topic: must be text, but is a number; put it in quotes",
                "orders.yaml:10: spec.source.queue.retries: must be a whole number, but is text",
                "orders.yaml:11: spec.source.queue.rawMode: must be true or false, but is a number",
                "orders.yaml:12: spec.source.queue.sasl: must be a mapping, but is text",
                "orders.yaml:13: spec.source.queue.properties: must be a mapping, but is a list",
                "orders.yaml:14: spec.source.queue.server_url: must be text, but is a list",
            ],
        ),
        (
            f"source:\n  type: queue\n  queue:\n    brokers: [a]\n    topic: t\n    sasl: {{username: u, mechanism: x}}\n"
            f"    routes:\n    - to: a\n    - {{toe: b}}\nsink: {BOARD}",
            [
                "orders.yaml:10: spec.source.queue.sasl.password: required, but missing",
                "orders.yaml:10: spec.source.queue.sasl.mechanism: must be 'plain' or 'digest'",
                "orders.yaml:13: spec.source.queue.routes[1].to: required, but missing",
                "orders.yaml:13: spec.source.queue.routes[1].toe: unknown field; did you mean 'to'?",
            ],
        ),
        (
            f"source:\n  type: queue\n  queue: {{brokers: [a], topic: t, table: x, query: y}}\nsink: {BOARD}",
            ["orders.yaml:7: spec.source.queue: 'table' and 'query' exclude each other; keep one"],
        ),
        (
            f"source:\n  type: queue\n  queue: {{brokers: [a], topic: t, rawMode: true, raw_mode: false}}\nsink: {BOARD}",
            ["orders.yaml:7: spec.source.queue.raw_mode: given twice: 'rawMode' and 'raw_mode' are the same field"],
        ),
        (
            f"source:\n  type: queu\nsink: {BOARD}",
            [
                "orders.yaml:6: spec.source.type: unknown connector type 'queu'; did you mean 'queue'? "
                "(known: board, missing, queue, ticker)"
            ],
        ),
        (
            f"source:\n  type: trino\n  trino: {{}}\nsink: {BOARD}",
            ["orders.yaml:6: spec.source.type: unknown connector type 'trino'; known: board, missing, queue, ticker"],
        ),
        (f"source:\n  type: board\nsink: {BOARD}", ["orders.yaml:6: spec.source.type: connector 'board' is no source"]),
        (
            f"source: {QUEUE}\nsink:\n  type: ticker\n",
            ["orders.yaml:7: spec.sink.type: connector 'ticker' is no sink"],
        ),
        (
            f"source: {QUEUE}\nsink: {BOARD}\nerrors:\n  type: ticker\n",
            ["orders.yaml:8: spec.errors.type: connector 'ticker' is no sink"],
        ),
        (
            f"source: {QUEUE}\nsink: {BOARD}\nerrors:\n  type: board\n  ackPolicy: sometimes\n",
            [
                "orders.yaml:9: spec.errors.ackPolicy: must be one of afterWrite, never, afterMainSinkSuccess, "
                "but is 'sometimes'"
            ],
        ),
        (
            f"source:\n  type: missing\nsink: {BOARD}",
            [
                "orders.yaml:6: spec.source.type: type 'missing' needs the module 'nodriver': "
                "pip install 'airflow-provider-connect[missing]'"
            ],
        ),
        (
            f"source:\n  type: queue\n  queue: {{}}\n  config: {{}}\nsink: {BOARD}",
            ["orders.yaml:8: spec.source.config: 'queue' and 'config' are two ways to write the same block; keep one"],
        ),
        (
            f"source:\n  type: ticker\n  board: {{}}\n  tickr: {{}}\nsink: {BOARD}",
            [
                "orders.yaml:7: spec.source.board: a block for another type: the type is 'ticker', so its block is 'ticker:'",
                "orders.yaml:8: spec.source.tickr: unknown field; did you mean 'ticker'?",
            ],
        ),
        (f"source:\n  type: ticker\n  ticker: 3\nsink: {BOARD}",
         ["orders.yaml:7: spec.source.ticker: must be a mapping of the source's fields, but is a number"]),
        (f"source:\n  type: ticker\n  ticker: {{ticks: [odd]}}\nsink: {BOARD}",
         ["orders.yaml:7: spec.source.ticker: odd ticks need another clock"]),
        (f"source: ticker\nsink: {BOARD}",
         ["orders.yaml:5: spec.source: must be a mapping with a `type`, but is text"]),
        (f"source:\n  ticker: {{}}\nsink: {BOARD}",
         ["orders.yaml:5: spec.source.type: required, but missing; known: board, missing, queue, ticker"]),
        (f"source:\n  type: 3\nsink: {BOARD}",
         ["orders.yaml:6: spec.source.type: must be the name of a source, but is a number; "
          "known: board, missing, queue, ticker"]),
        (f"sorce: {QUEUE}\nsink: {BOARD}",
         ["orders.yaml:4: spec.source: required, but missing", "orders.yaml:5: spec.sorce: unknown field; did you mean 'source'?"]),
        (f"source: {QUEUE}\nsink: {BOARD}\nparallelism: 0\nmode: drian\nretry: {{attempts: none, atempts: 1}}\ntags: x",
         ["orders.yaml:7: spec.parallelism: must be greater than or equal to 1",
          "orders.yaml:8: spec.mode: must be 'drain' or 'continuous'",
          "orders.yaml:9: spec.retry.attempts: must be a whole number, but is text",
          "orders.yaml:9: spec.retry.atempts: unknown field; did you mean 'attempts'?",
          "orders.yaml:10: spec.tags: must be a list, but is text"]),
        (f"source: {QUEUE}\nsink: {BOARD}\ntransformations:\n- type: keep\n  keep: {{abov: 3}}\n- type: kep",
         ["orders.yaml:9: spec.transformations[0].keep.above: required, but missing",
          "orders.yaml:9: spec.transformations[0].keep.abov: unknown field; did you mean 'above'?",
          "orders.yaml:10: spec.transformations[1].type: unknown transform type 'kep'; did you mean 'keep'? (known: keep)"]),
        (f"source: {QUEUE}\nsink: {BOARD}\ntransformations: {{type: keep}}",
         ["orders.yaml:7: spec.transformations: must be a list, but is a mapping"]),
        (f"source: {QUEUE}\nsink:\n  type: board\n  board: {{batchSize: 0, batchFlushIntervalSeconds: 0}}",
         ["orders.yaml:8: spec.sink.board: batchSize and batchFlushIntervalSeconds are both 0, so nothing would ever be "
          "flushed; set one of them"]),
        (f"source:\n  type: ticker\n  ticker: {{connection: x}}\nsink: {BOARD}",
         ["orders.yaml:7: spec.source.ticker.connection: this type takes nothing from a connection; "
          "name the values by `<field>SecretRef`"]),
        (f"source:\n  type: queue\n  queue: {{topic: t, connection: 3}}\nsink: {BOARD}",
         ["orders.yaml:7: spec.source.queue.connection: must be the id of an Airflow connection, but is a number",
          "orders.yaml:7: spec.source.queue.brokers: required, but missing"]),
        (f"source:\n  type: queue\n  queue: {{topic: t, connection: a, connectionId: b}}\nsink: {BOARD}",
         ["orders.yaml:7: spec.source.queue.connectionId: given twice: 'connection' and 'connectionId' are the same"]),
        (f"source:\n  type: queue\n  queue: {{conection: a, topic: t}}\nsink: {BOARD}",
         ["orders.yaml:7: spec.source.queue.brokers: required, but missing",
          "orders.yaml:7: spec.source.queue.conection: unknown field; did you mean 'connection'?"]),
        (f"source:\n  type: queue\n  queue:\n    brokers: [a]\n    topicSecretRef: {{name: s, kye: k}}\n"
         f"    topikSecretRef: {{name: s, key: k}}\n    clientIDSecretRef: secret\nsink: {BOARD}",
         ["orders.yaml:7: spec.source.queue.topic: required, but missing",
          "orders.yaml:9: spec.source.queue.topicSecretRef.key: required, but missing",
          "orders.yaml:9: spec.source.queue.topicSecretRef.kye: unknown field; did you mean 'key'?",
          "orders.yaml:10: spec.source.queue.topikSecretRef: unknown field; did you mean 'topicSecretRef'?",
          "orders.yaml:11: spec.source.queue.clientIDSecretRef: must be a mapping of name and key, but is text"]),
    ],
)  # fmt: skip
def test_problems(text: str, expected: list[str], tmp_path: Path):
    assert problems(spec(text), tmp_path) == expected


@pytest.mark.parametrize(
    "block",
    [
        "{topic: t, connection: somewhere}",
        "{topic: t, connectionId: somewhere}",
        "{topic: t, connection: somewhere, sasl: {}}",
        "{brokers: 'a,b', topicSecretRef: {name: s, key: topic}}",
        "{brokers_secret_ref: {name: s, key: k, namespace: n}, topic: t, sasl: {usernameSecretRef: {name: s, key: u}, "
        "passwordSecretRef: {name: s, key: p}}}",
        "{brokers: [a], topic: t, tableSecretRef: {name: s, key: t}, query: q, table: x}",
        "{brokers: [a], topic: t, properties: {xSecretRef: {name: s, key: x}}}",
        "{brokers: [a], topic: t, routes: [{toSecretRef: {name: s, key: to}}]}",
    ],
)
def test_what_a_connection_holds_is_not_missing(block: str):
    DataFlow.load(spec(f"source: {{type: queue, queue: {block}}}\nsink: {BOARD}"))


def test_what_no_connection_can_fill_is_missing_beside_one(tmp_path: Path):
    text = spec(f"source: {{type: queue, queue: {{connection: c}}}}\nsink: {BOARD}")
    assert problems(text, tmp_path) == ["orders.yaml:5: spec.source.queue.topic: required, but missing"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "orders.yaml: is empty; a flow begins with `apiVersion:` and `kind: DataFlow`"),
        ("---\n# nothing\n---\n", "orders.yaml: is empty; a flow begins with `apiVersion:` and `kind: DataFlow`"),
        ("- a\n- b\n", "orders.yaml:1: a flow must be a mapping, but this is a list"),
        ("orders\n", "orders.yaml:1: a flow must be a mapping, but this is text"),
        ("a: [\n", "orders.yaml:2: not valid YAML: did not find expected node content"),
        ("a: b: c\n", "orders.yaml:1: not valid YAML: mapping values are not allowed in this context"),
        ("a: 1\n\tb: 2\n", "orders.yaml:2: not valid YAML: found a tab character that violates indentation"),
        ("a: *b\n", "orders.yaml:1: not valid YAML: found undefined alias"),
        ("a: &a [*a]\n", "orders.yaml:1: a[0]: an alias of what it is in"),
        ("a: 1\nb: 2\na: 3\n", "orders.yaml:3: a: duplicate key; it is in line 1 already"),
        ("a:\n  b: 1\n  b: 1\n", "orders.yaml:3: a.b: duplicate key; it is in line 2 already"),
        ("a:\n  on: 1\n", "orders.yaml:2: a: the key 'on' is no text; put it in quotes"),
        ("a: !!binary aGk=\n", "orders.yaml:1: a: the tag '!!binary' is not supported; write plain YAML"),
        (
            "a: !!python/object:os.x {}\n",
            "orders.yaml:1: a: the tag '!!python/object:os.x' is not supported; write plain YAML",
        ),
        (
            "kind: Deployment\n",
            "orders.yaml:1: kind: 'Deployment' is neither a flow nor a Secret; known: DataFlow, Secret",
        ),
        (
            "kind: Dataflow\n",
            "orders.yaml:1: kind: 'Dataflow' is neither a flow nor a Secret; did you mean 'DataFlow'?",
        ),
        ("kind: Secret\nmetadata: {name: s}\n", "orders.yaml:1: no flow in this file; a flow has `kind: DataFlow`"),
        ("kind: Secret\n", "orders.yaml:1: metadata.name: required, but missing: the name of the Secret"),
        (
            "kind: Secret\nmetadata: {name: s}\ndata:\n  a: '%%%'\n",
            "orders.yaml:4: data.a: must be text in base64; text as it is belongs under `stringData`",
        ),
        (
            "kind: Secret\nmetadata: {name: s}\nstringData:\n  a: 1\n",
            "orders.yaml:4: stringData.a: must be text, but is a number; put it in quotes",
        ),
    ],
)
def test_files_that_are_no_flow(text: str, expected: str, tmp_path: Path):
    assert problems(text, tmp_path) == [expected]


def test_a_thousand_laughs_are_refused(tmp_path: Path):
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 9)]
    (found,) = problems("\n".join(lines), tmp_path)
    assert "more than 100000 values (aliases?)" in found


def test_missing_head(tmp_path: Path):
    assert problems("spec: {}\n", tmp_path) == [
        "orders.yaml:1: apiVersion: required, but missing",
        "orders.yaml:1: kind: required, but missing",
        "orders.yaml:1: metadata: required, but missing",
        "orders.yaml:1: spec.source: required, but missing",
        "orders.yaml:1: spec.sink: required, but missing",
    ]


@pytest.mark.parametrize("name", ["", "a b", "-a", "a/b", "a" * 129, "ä"])
def test_names(name: str, tmp_path: Path):
    text = spec(f"source: {QUEUE}\nsink: {BOARD}").replace("orders}", f'"{name}"}}')
    (found,) = problems(text, tmp_path)
    assert found.startswith("orders.yaml:3: metadata.name: must ")


def test_all_documents_of_a_file_are_judged(tmp_path: Path):
    one = spec(f"source: {QUEUE}\nsink: {{type: boart}}")
    two = spec(f"source: {QUEUE}\nsink: {BOARD}\nx: 1").replace("orders", "other")
    found = problems(one + "---\n" + two, tmp_path)
    assert [line.split(": ")[0] for line in found] == ["orders.yaml:6", "orders.yaml:14"]


def test_two_flows_of_one_name(tmp_path: Path):
    one = spec(f"source: {QUEUE}\nsink: {BOARD}")
    assert problems(one + "---\n" + one, tmp_path) == [
        "orders.yaml:10: metadata.name: there are two flows 'orders' in this file"
    ]


def test_files_that_cannot_be_read(tmp_path: Path):
    with pytest.raises(FlowError, match=r"nowhere\.yaml: there is no such file"):
        DataFlow.load(tmp_path / "nowhere.yaml")
    with pytest.raises(FlowError, match="cannot be read: Is a directory"):
        DataFlow.load(tmp_path)
    (tmp_path / "latin.yaml").write_bytes("name: Käse".encode("latin-1"))
    with pytest.raises(FlowError, match="is not UTF-8 text"):
        DataFlow.load(tmp_path / "latin.yaml")


def test_no_value_is_quoted(tmp_path: Path):
    text = spec(
        f"source: {{type: queue, queue: {{brokers: [a], topic: t, sasl: {{username: hush-1, password: [hush-2], "
        f"mechanism: hush-3}}, retries: hush-4, wait: hush-5}}}}\nsink: {BOARD}"
    )
    found = problems(text, tmp_path)
    assert len(found) == 4
    assert "hush" not in "".join(found)


def test_lint_error_survives_pickling():
    import pickle

    with pytest.raises(LintError) as caught:
        DataFlow.load(spec("source: {type: nope}"))
    again = pickle.loads(pickle.dumps(caught.value))
    assert again.problems == caught.value.problems
    assert str(again) == str(caught.value)


def test_lines_of_merged_and_aliased_mappings():
    (document,) = read_documents("base: &base\n  a: 1\n  b: 2\nother:\n  <<: *base\n  b: 3\n")
    assert document.data == {"base": {"a": 1, "b": 2}, "other": {"a": 1, "b": 3}}
    assert document.lines["other", "a"] == 2
    assert document.lines["other", "b"] == 6


def test_dates_are_text():
    (document,) = read_documents("a: 2026-01-02\nb: 2026-01-02 03:04:05\n")
    assert document.data == {"a": "2026-01-02", "b": "2026-01-02 03:04:05"}
    assert yaml.safe_load("a: 2026-01-02")["a"] != "2026-01-02"  # what is left out, and only for us
