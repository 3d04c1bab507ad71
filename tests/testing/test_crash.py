"""Death at every line: deterministic, in every thread, by fork and out of a fresh interpreter."""

import os
import threading
import time
from pathlib import Path

import pytest

from airflow_provider_connect.testing.crash import crash_at, deaths


def three_lines(path):
    with Path(path).open("a") as file:
        print("a", file=file, flush=True)
        print("b", file=file, flush=True)


def append(attempt, path):
    three_lines(path)


def in_a_thread(path):
    thread = threading.Thread(target=three_lines, args=(path,))
    thread.start()
    thread.join()


def fails(attempt):
    raise RuntimeError("no such thing")


def test_it_dies_before_every_line_and_then_survives(tmp_path):
    path = tmp_path / "out"
    seen = []
    for death in deaths(lambda attempt: three_lines(path), [__file__]):
        seen.append((death.function.rpartition(".")[2], path.read_text() if path.exists() else ""))
        path.unlink(missing_ok=True)
    functions, found = zip(*seen, strict=True)
    assert set(functions) == {"<lambda>", "three_lines"}
    assert list(found) == sorted(found)
    assert set(found) == {"", "a\n", "a\nb\n"}
    assert path.read_text() == "a\nb\n"


def test_a_death_names_the_line(tmp_path):
    death = crash_at(2, [__file__], lambda attempt: three_lines(tmp_path / "out"))
    assert (death.attempt, death.function) == (2, "three_lines")
    assert Path(__file__).read_text().splitlines()[death.line - 1].strip().startswith("with Path")
    assert f"test_crash.py:{death.line}" in str(death)


def test_it_dies_in_threads_too(tmp_path):
    path = tmp_path / "out"
    functions = {death.function for death in deaths(lambda attempt: in_a_thread(path), [__file__])}
    assert {"in_a_thread", "three_lines"} <= functions


def test_other_files_do_not_count(tmp_path):
    assert crash_at(1, [os.__file__], lambda attempt: three_lines(tmp_path / "out")) is None


def test_a_failure_of_the_work_is_no_death():
    with pytest.raises(AssertionError, match="no such thing"):
        crash_at(1000, [__file__], fails)


def test_a_hanging_child_is_killed():
    began = time.monotonic()
    with pytest.raises(TimeoutError, match="attempt 1000"):
        crash_at(1000, [__file__], lambda attempt: time.sleep(30), seconds=0.3)
    assert time.monotonic() - began < 5


def test_a_file_that_is_not_there_is_an_error():
    with pytest.raises(ValueError, match="no source file"):
        crash_at(1, ["gone.py"], fails)


def test_a_fresh_interpreter_dies_at_the_same_lines(tmp_path):
    path = tmp_path / "out"
    here = [death.line for death in deaths(lambda attempt: append(attempt, path), [__file__])]
    there = [death.line for death in deaths(f"{__name__}:append", [__file__], arguments={"path": str(path)})]
    assert there == here[1:]  # the lambda's own line
    with pytest.raises(AssertionError, match="no such thing"):
        list(deaths(f"{__name__}:fails", [os.__file__]))
