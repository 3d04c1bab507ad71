"""Run one server at a time and end it, with all its descendants and its files, when the owner goes away.

The owner starts this file as a program (arguments: name, process id of the owner, user to run the server as or "")
and holds the other end of its standard input. It may say, one JSON object per line, each answered by one line:

    {"do": "start", "command": [...], "log": path, "stop_signal": 2}   -> {"pid": 123}
    {"do": "poll"}                                                     -> {"exit": null or code}
    {"do": "stop", "signal": 15, "timeout": 10.0}                      -> {"exit": code}

The first line of output is {"directory": path}: a fresh folder for the server's files. End of input means that the
owner has ended, by itself or by `kill -9`. Nothing but psutil is imported beyond the standard library: quick to start.
"""

import contextlib
import ctypes
import json
import os
import pwd
import select
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

PR_SET_CHILD_SUBREAPER = 36
OWNER_CHECK_SECONDS = 1.0
GRACE_SECONDS = 5.0


class Supervisor:
    """Holds the server process and the folder that both vanish with the owner."""

    def __init__(self, directory: Path, user: str) -> None:
        self._directory = directory
        self._identity: dict[str, Any] = {}
        if user:
            account = pwd.getpwnam(user)
            self._identity = {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
            os.chown(directory, account.pw_uid, account.pw_gid)
        self._server: subprocess.Popen[bytes] | None = None
        self._stop_signal: int = signal.SIGKILL

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """Carry out one request of the owner."""
        match request["do"]:
            case "start":
                return {"pid": self.start(request)}
            case "poll":
                return {"exit": self._server.poll() if self._server else None}
            case "stop":
                return {"exit": self.stop(request["signal"], request["timeout"])}
            case unknown:
                raise ValueError(f"unknown request {unknown!r}")

    def start(self, request: dict[str, Any]) -> int:
        """Start the server in a process group of its own; its output goes to the log."""
        if self._server is not None and self._server.poll() is None:
            raise RuntimeError("the server is running already")
        self._stop_signal = request["stop_signal"]
        with Path(request["log"]).open("ab") as log:
            self._server = subprocess.Popen(
                request["command"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self._directory,
                start_new_session=True,
                **self._identity,
            )
        return self._server.pid

    def stop(self, signal_number: int, timeout: float) -> int | None:
        """Send the signal, wait, then kill whatever is left of the server and its descendants."""
        if self._server is None:
            return None
        if signal_number != signal.SIGKILL and self._server.poll() is None:
            self._server.send_signal(signal_number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._server.wait(timeout)
        kill_descendants()
        return self._server.wait()

    def clean(self) -> None:
        """End the server and remove its folder."""
        self.stop(self._stop_signal, GRACE_SECONDS)
        shutil.rmtree(self._directory, ignore_errors=True)


def kill_descendants() -> None:
    """Kill every process below this one, until none is left.

    Killing the process group would not do: PostgreSQL's backends each have a session of their own.
    """
    while descendants := [p for p in psutil.Process().children(recursive=True) if p.status() != psutil.STATUS_ZOMBIE]:
        for process in descendants:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(descendants, timeout=0.2)


def adopt_orphans() -> None:
    """Become the parent of descendants whose parent dies, so that `kill_descendants` still finds them (Linux only)."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def requests(owner: int) -> Iterator[dict[str, Any]]:
    """Yield the owner's requests until it closes the pipe or is gone.

    A child forked by the owner inherits the pipe and would keep it open, therefore the look at the parent as well.
    """
    buffer = b""
    while os.getppid() == owner:
        if not select.select([0], [], [], OWNER_CHECK_SECONDS)[0]:
            continue
        chunk = os.read(0, 65536)
        if not chunk:
            return
        *lines, buffer = (buffer + chunk).split(b"\n")
        yield from map(json.loads, lines)


def say(answer: dict[str, Any]) -> None:
    """Write one line to the owner, who may be gone by now."""
    with contextlib.suppress(BrokenPipeError):
        os.write(1, json.dumps(answer).encode() + b"\n")


def main() -> None:
    """Serve one owner."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    adopt_orphans()
    name, owner, user = sys.argv[1:]
    directory = Path(tempfile.mkdtemp(prefix=f"connect-test-{name}-"))
    supervisor = Supervisor(directory, user)
    try:
        say({"directory": str(directory)})
        for request in requests(int(owner)):
            try:
                say(supervisor.answer(request))
            except Exception as error:
                say({"error": f"{type(error).__name__}: {error}"})
    finally:
        supervisor.clean()


if __name__ == "__main__":
    main()
