"""Death at every line: run some work again and again in child processes, each dying one executed line later.

    for death in deaths(work, [connector_module]):
        assert rows_and_checkpoint_are_both_old_or_both_new(), death

`work(attempt)` is called in a forked child with attempt = 1, 2, ...; the child leaves by `os._exit(9)` just before the
attempt-th line executed in the given files, in whatever thread, so nothing is closed, flushed or rolled back by Python.
The iteration ends with the first child that survives. A fork costs about 3 ms.

Drivers with threads of their own (librdkafka, gRPC) must not be in use in a process that forks. For them give `work` as
`"module:function"`: one fresh interpreter imports it and does the forking; the function is called with the attempt and
`arguments` as keywords. Connections must be opened by the work itself.

Limits: only lines of Python count. What a C driver does within one line, or the server between two packets, needs a
proxy that cuts the connection.
"""

from __future__ import annotations

import gc
import importlib
import itertools
import json
import os
import select
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from types import CodeType, FrameType, ModuleType
from typing import Any

Work = Callable[[int], object]
"""What is to die: called with the number of the attempt, 1 for the first."""

Module = ModuleType | str | Path
"""A module, or the path of its source file."""

_DIED, _FAILED = 9, 1


@dataclass(frozen=True, slots=True)
class Death:
    """A child died just before it executed this line, its `attempt`-th in the watched files."""

    attempt: int
    file: str
    line: int
    function: str

    def __str__(self) -> str:
        return f"died before {Path(self.file).name}:{self.line} in {self.function} (executed line {self.attempt})"


def crash_at(
    attempt: int, modules: Iterable[ModuleType | str | Path], work: Work, *, seconds: float = 60
) -> Death | None:
    """Run `work(attempt)` in a fork that dies before its `attempt`-th line in `modules`; None if it survived.

    AssertionError with the child's traceback if the work raised instead, TimeoutError if it took longer than `seconds`.
    """
    files = _files(modules)
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        _run_and_die(attempt, files, work, writer)
    os.close(writer)
    try:
        said = _read_all(reader, seconds)
    except TimeoutError:
        os.kill(child, signal.SIGKILL)
        raise TimeoutError(f"attempt {attempt} took longer than {seconds} seconds") from None
    finally:
        os.close(reader)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status == _DIED and said:
        return Death(attempt, **json.loads(said))
    if status != 0:
        raise AssertionError(f"the work failed in attempt {attempt} (exit {status}):\n{said.decode()}")
    return None


def deaths(
    work: Work | str,
    modules: Iterable[Module],
    *,
    arguments: Mapping[str, Any] | None = None,
    seconds: float = 60,
) -> Iterator[Death]:
    """Die at line 1, 2, 3, ... of `modules` while `work` runs, until it survives; yields after each death.

    `work` as `"module:function"` runs out of a fresh interpreter, with `arguments` (JSON) as keywords.
    """
    files = _files(modules)
    if isinstance(work, str):
        yield from _deaths_elsewhere(work, files, dict(arguments or {}), seconds)
        return
    for attempt in itertools.count(1):
        death = crash_at(attempt, files, work, seconds=seconds)
        if death is None:
            return
        yield death


def _files(modules: Iterable[Module]) -> list[str]:
    found = []
    for module in modules:
        name = module.__file__ if isinstance(module, ModuleType) else str(module)
        if name is None or not Path(name).is_file():
            raise ValueError(f"{module!r} has no source file to die in")
        found.append(name)
    return found


def _read_all(reader: int, seconds: float) -> bytes:
    """What the child writes until it is gone. A grandchild may hold the pipe open, so silence is bounded."""
    chunks: list[bytes] = []
    poll = select.poll()  # `select` takes no descriptor beyond 1,023, and a test session may have more
    poll.register(reader, select.POLLIN)
    while poll.poll(seconds * 1000):
        chunk = os.read(reader, 65536)
        if not chunk:
            return b"".join(chunks)
        chunks.append(chunk)
    raise TimeoutError


def _run_and_die(attempt: int, files: Collection[str], work: Work, writer: int) -> None:
    """Never returns. The parent's objects are left alone: nothing here may close a connection that is theirs."""
    status = 0
    try:
        gc.disable()
        _die_before(attempt, frozenset(files), writer)
        work(attempt)
    except BaseException:
        status = _FAILED
        with suppress(BaseException):
            sys.settrace(None)
            os.write(writer, traceback.format_exc().encode())
    finally:
        os._exit(status)


def _die_before(attempt: int, files: frozenset[str], writer: int) -> None:
    """From now on, in every thread: leave the process before the `attempt`-th line of `files`."""
    executed = itertools.count(1)  # next() on it is atomic

    def line(code: CodeType, number: int) -> None:
        if next(executed) == attempt:
            where = {"file": code.co_filename, "line": number, "function": code.co_qualname}
            os.write(writer, json.dumps(where).encode())
            os._exit(_DIED)

    if sys.version_info >= (3, 12):
        monitoring = sys.monitoring

        def monitored(code: CodeType, number: int) -> Any:
            if code.co_filename not in files:
                return monitoring.DISABLE
            return line(code, number)

        tool = next(number for number in range(6) if monitoring.get_tool(number) is None)
        monitoring.use_tool_id(tool, "death at every line")
        monitoring.register_callback(tool, monitoring.events.LINE, monitored)
        monitoring.set_events(tool, monitoring.events.LINE)
    else:

        def traced(frame: FrameType, event: str, argument: Any) -> Any:
            if frame.f_code.co_filename not in files:
                return None
            if event == "line":
                line(frame.f_code, frame.f_lineno)
            return traced

        threading.settrace(traced)
        sys.settrace(traced)


def _deaths_elsewhere(work: str, files: list[str], arguments: dict[str, Any], seconds: float) -> Iterator[Death]:
    """One fresh interpreter that has imported the work forks a child per attempt and reports by lines of JSON."""
    order = json.dumps({"work": work, "files": files, "arguments": arguments, "seconds": seconds, "path": sys.path})
    with subprocess.Popen(
        [sys.executable, "-m", __name__, order], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as server:
        assert server.stdin is not None and server.stdout is not None
        try:
            for attempt in itertools.count(1):
                server.stdin.write(f"{attempt}\n")
                server.stdin.flush()
                answer = next((text for text in server.stdout if text.startswith("{")), None)
                if answer is None:
                    raise AssertionError(f"the interpreter that runs {work} ended unasked (exit {server.wait()})")
                said = json.loads(answer)
                if "error" in said:
                    raise AssertionError(said["error"])
                if "death" not in said:
                    return
                yield Death(**said["death"])
        finally:
            server.stdin.close()


def _serve(order: Mapping[str, Any]) -> None:
    sys.path[:] = order["path"]
    module, _, function = order["work"].partition(":")
    work = getattr(importlib.import_module(module), function)
    for text in sys.stdin:
        answer: dict[str, Any] = {}
        try:
            death = crash_at(
                int(text), order["files"], lambda n: work(n, **order["arguments"]), seconds=order["seconds"]
            )
            if death is not None:
                answer["death"] = asdict(death)
        except (AssertionError, TimeoutError) as error:
            answer["error"] = str(error)
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    _serve(json.loads(sys.argv[1]))
