"""The command line: what it prints, where, and how it exits. In this process where possible, else in one of its own."""

import json
import os
import pty
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from airflow_provider_connect import __version__
from airflow_provider_connect.cli import main
from tests.flow_types import Board, Ticker, types

__all__ = ["types"]
ROOT = Path(__file__).parent.parent
# The command line with the types of these tests, in a process of its own.
WITH_TYPES = (
    "import sys, pytest; from tests.flow_types import install; install(pytest.MonkeyPatch());"
    "from airflow_provider_connect.cli import main; sys.exit(main(sys.argv[1:]))"
)


def flow(folder: Path, source: str = "{}", sink: str = "{}", more: str = "") -> str:
    path = folder / "flow.yaml"
    path.write_text(
        "apiVersion: dataflow.dataflow.io/v1\nkind: DataFlow\nmetadata: {name: f}\nspec:\n"
        f"  source: {{type: ticker, ticker: {source}}}\n"
        f"  sink: {{type: board, board: {sink}}}\n"
        f"  checkpoints: {folder}/checkpoints.db\n  retry: {{attempts: 2, firstSeconds: 0.001}}\n{more}"
    )
    return str(path)


@pytest.fixture
def shown(types: None) -> list:
    Board.shown.clear()
    return Board.shown


def test_run_prints_one_line_of_json(tmp_path: Path, shown: list, capsys: pytest.CaptureFixture):
    assert main(["run", flow(tmp_path), "--drain", "--json"]) == 0
    out = capsys.readouterr().out
    summary = json.loads(out)
    assert out.count("\n") == 1
    assert set(summary) == {"records", "bytes", "seconds", "dead_letters", "checkpoint"}
    assert (summary["records"], summary["dead_letters"], summary["checkpoint"]) == (3, 0, {"0": 3})
    assert summary["bytes"] > 0
    assert [record["value"] for record in shown] == [b"1", b"2", b"3"]


def test_run_goes_on_where_it_ended(tmp_path: Path, shown: list, capsys: pytest.CaptureFixture):
    path = flow(tmp_path)
    assert main(["run", path, "--drain", "--max-records", "2", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["records"] == 2
    assert main(["run", path, "--drain"]) == 0
    assert capsys.readouterr().out.startswith("f: 1 records in ")
    assert [record["value"] for record in shown] == [b"1", b"2", b"3"]


@pytest.mark.parametrize(
    ("fail", "code", "said"),
    [
        ("fatal", 1, "stopped: broken"),
        ("flow", 2, "no such ticks"),
        ("retryable", 3, "gave up: away"),
    ],
)
def test_exit_codes(fail: str, code: int, said: str, tmp_path: Path, shown: list, capsys: pytest.CaptureFixture):
    assert main(["run", flow(tmp_path, f"{{fail: {fail}}}"), "--drain", "--json"]) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert said in err
    assert shown == []


def test_a_wrong_flow_exits_2(tmp_path: Path, shown: list, capsys: pytest.CaptureFixture):
    path = flow(tmp_path, "{tiks: []}")
    for command in (["run", path, "--drain"], ["preview", path]):
        assert main(command) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert f"{path}:5: spec.source.ticker.tiks: unknown field; did you mean 'ticks'?" in err


def test_a_missing_connection_exits_2(tmp_path: Path, shown: list, capsys: pytest.CaptureFixture):
    assert main(["run", flow(tmp_path, sink="{titleSecretRef: {name: not-there, key: k}}")]) == 2
    assert "export AIRFLOW_CONN_NOT_THERE=" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "required: COMMAND"),
        (["rum"], "invalid choice: 'rum'"),
        (["run"], "required: FLOW.yaml"),
        (["run", "f", "--max-records", "0"], "'0' is not a whole number of at least 1"),
        (["run", "f", "--max-records", "x"], "'x' is not a whole number of at least 1"),
        (["run", "f", "--max-seconds", "-1"], "'-1' is not a number of seconds greater than 0"),
        (["run", "f", "--max-seconds", "nan"], "'nan' is not a number of seconds greater than 0"),
        (["run", "f", "--metrics-port", "70000"], "'70000' is not a port"),
        (["run", "f", "--share", "4/4"], "'4/4' is not I/N with I from 0 to N-1"),
        (["run", "f", "--share", "1"], "'1' is not I/N"),
        (["preview", "f", "-n", "0"], "'0' is not a whole number"),
        (["run", "f", "--log-level", "loud"], "invalid choice: 'loud'"),
    ],
)
def test_wrong_usage_exits_2(arguments: list, said: str, capsys: pytest.CaptureFixture):
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert said in capsys.readouterr().err


def test_version_and_help(capsys: pytest.CaptureFixture):
    for arguments, said in (
        (["--version"], __version__),
        (["--help"], "exit codes:"),
        (["run", "--help"], "exit codes:"),
    ):
        with pytest.raises(SystemExit) as caught:
            main(arguments)
        assert caught.value.code == 0
        assert said in capsys.readouterr().out


def test_lint(tmp_path: Path, types: None, capsys: pytest.CaptureFixture):
    good = flow(tmp_path)
    assert main(["lint", good]) == 0
    assert capsys.readouterr().out == ""
    bad = tmp_path / "bad.yaml"
    bad.write_text("kind: DataFlow\nspec:\n  a: 1\n")
    worse = tmp_path / "gone.yaml"
    assert main(["lint", good, str(bad), str(worse)]) == 2
    lines = capsys.readouterr().out.splitlines()
    assert f"{bad}:3: spec.a: unknown field; known: source, sink" in "\n".join(lines)
    assert lines[-1] == f"{worse}: there is no such file"


def test_types(types: None, capsys: pytest.CaptureFixture):
    assert main(["types"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "board         sink             exactly once or at least once",
        "missing       type 'missing' needs the module 'nodriver': pip install 'airflow-provider-connect[missing]'",
        "queue         source and sink  at least once",
        "ticker        source",
    ]
    assert main(["types", "--json"]) == 0
    found = {entry["type"]: entry for entry in json.loads(capsys.readouterr().out)}
    assert found["board"]["guarantees"] == ["exactly once", "at least once"]
    assert found["board"]["guarantee"] == "exactly once"
    assert found["ticker"] == {
        "type": "ticker",
        "available": True,
        "roles": ["source"],
        "replayable": False,
        "guarantee": None,
        "guarantees": [],
    }
    assert not found["missing"]["available"]
    assert "pip install" in found["missing"]["remedy"]


def test_schema(types: None, capsys: pytest.CaptureFixture):
    assert main(["schema"]) == 0
    assert json.loads(capsys.readouterr().out)["$defs"]["board.sink"]["properties"]["title"]["type"] == "string"


def test_preview_shows_each_step_and_writes_nothing(tmp_path: Path, shown: list, capsys: pytest.CaptureFixture):
    ticks = """{ticks: ['{"n": 1}', '{"n": 5}', '{"n": -1}', '{"n": 7}', '{"n": 9}']}"""
    path = flow(tmp_path, ticks, more="  transformations: [{type: keep, keep: {above: 3}}]\n")
    assert main(["preview", path, "-n", "4"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["record"]["value"] for line in lines if line["step"] == "source"] == [
        {"n": 1}, {"n": 5}, {"n": -1}, {"n": 7},
    ]  # fmt: skip
    steps = [(line["step"], line["type"], line["record"]["n"], line.get("rejected")) for line in lines[4:]]
    assert steps == [
        ("transform", "keep", -1, "negative"),
        ("transform", "keep", 5, None),
        ("transform", "keep", 7, None),
        ("sink", "board", 5, None),
        ("sink", "board", 7, None),
    ]
    assert shown == []
    assert not (tmp_path / "checkpoints.db").exists()


def test_preview_tries_again(tmp_path: Path, shown: list, capsys: pytest.CaptureFixture):
    Ticker.failed = False
    assert main(["preview", flow(tmp_path, "{fail: once}"), "-n", "1"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2
    assert Ticker.failed
    assert main(["preview", flow(tmp_path, "{fail: retryable}"), "--max-seconds", "0.1"]) == 3
    assert main(["preview", flow(tmp_path, "{fail: fatal}")]) == 1
    assert capsys.readouterr() == ("", "away\nbroken\n")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_in_good_order(number: int, tmp_path: Path):
    path = flow(tmp_path, '{ticks: ["1"], endless: true}', more="  mode: continuous\n")
    command = [sys.executable, "-c", WITH_TYPES, "run", path, "--json", "--metrics-port", "0"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        wait_for((tmp_path / "checkpoints.db").exists)
        time.sleep(1)
        process.send_signal(number)
        out, err = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == 0, err
    summary = json.loads(out)
    assert summary["records"] > 0
    assert summary["checkpoint"] == {"0": summary["records"]}


def test_metrics_port(tmp_path: Path):
    from tests.services.process import free_port

    port = free_port()
    path = flow(tmp_path, '{ticks: ["1"], endless: true}')
    command = [sys.executable, "-c", WITH_TYPES, "run", path, "--metrics-port", str(port)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        wait_for(lambda: b'flow="f"' in get(f"http://127.0.0.1:{port}/metrics"))
        process.terminate()
        out, err = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == 0, err
    assert out.startswith("f: ")


def test_a_terminal_gets_a_progress_bar(tmp_path: Path):
    path = flow(tmp_path, '{ticks: ["1"], endless: true}')
    ours, theirs = pty.openpty()
    command = [sys.executable, "-c", WITH_TYPES, "run", path, "--max-seconds", "2", "--json"]
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "120"}
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=theirs, text=True, env=environment)
    os.close(theirs)
    shown = b""
    while True:
        try:
            part = os.read(ours, 65536)
        except OSError:  # how Linux says that the other end is closed
            break
        if not part:
            break
        shown += part
    os.close(ours)
    assert process.stdout is not None
    summary = json.loads(process.stdout.read())
    assert process.wait(timeout=30) == 0
    assert summary["records"] > 0
    assert b"records" in shown
    assert b"/s" in shown
    assert b"msg=" not in shown  # logs below a bar are warnings only


def test_a_closed_pipe_is_no_error():
    command = f"{sys.executable} -m airflow_provider_connect schema | head -1; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "{\n0\n"
    assert done.stderr == ""


def test_the_start_imports_nothing_heavy():
    """Neither Airflow nor rich nor jsonschema stand between the start and the first record."""
    code = (
        "import sys; from airflow_provider_connect.cli import run_command;"
        "from airflow_provider_connect.engine import flow;"
        "print([m for m in ('airflow', 'rich', 'jsonschema', 'pandas', 'fsspec', 'sqlalchemy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def wait_for(condition, seconds: float = 30) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "gave up waiting"
        time.sleep(0.05)


def get(url: str) -> bytes:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return answer.read()
    except OSError:
        return b""


# --- on the real systems


def kafka_to_postgresql(folder: Path, kafka, postgresql, topic: str, group: str, table: str) -> str:
    path = folder / "real.yaml"
    path.write_text(
        f"""\
apiVersion: dataflow.dataflow.io/v1
kind: DataFlow
metadata: {{name: {topic}}}
spec:
  source:
    type: kafka
    kafka: {{brokers: ["{kafka.bootstrap_servers}"], topic: {topic}, consumerGroup: {group}}}
  sink:
    type: postgresql
    postgresql: {{connection: shop, table: {table}, autoCreateTable: true, batchSize: 1000}}
"""
    )
    return str(path)


def test_preview_and_run_from_kafka_to_postgresql(
    kafka, postgresql, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    topic, group, table = kafka.create_topic(2), kafka.unique_name("group"), postgresql.unique_name()
    for partition in (0, 1):
        kafka.produce(topic, [b'{"id": %d}' % number for number in range(partition, 20, 2)], partition)
    monkeypatch.setenv("AIRFLOW_CONN_SHOP", postgresql.dsn)
    path = kafka_to_postgresql(tmp_path, kafka, postgresql, topic, group, table)

    code = main(["preview", path, "-n", "3"])
    out, err = capsys.readouterr()
    assert code == 0, err
    lines = [json.loads(line) for line in out.splitlines()]
    assert [line["step"] for line in lines] == ["source"] * 3 + ["sink"] * 3
    assert all(line["record"]["topic"] == topic and "id" in line["record"]["value"] for line in lines)
    assert kafka.committed_offsets(topic, group) == {}
    assert postgresql.execute("SELECT to_regclass(%s)", table) == [(None,)]

    try:
        assert main(["run", path, "--drain", "--json"]) == 0
        summary = json.loads(capsys.readouterr().out)
        assert summary["records"] == 20
        assert len(summary["checkpoint"]) == 2
        assert postgresql.execute(f"SELECT count(*), count(DISTINCT data->>'id') FROM {table}") == [(20, 20)]
        assert main(["run", path, "--drain", "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["records"] == 0
    finally:
        postgresql.execute(f"DROP TABLE IF EXISTS {table}")
