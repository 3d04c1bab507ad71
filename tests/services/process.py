"""The owner's side of a supervised server process."""

import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.services import supervisor

HOST = "127.0.0.1"
# Below the range from which systems take the ports of outgoing connections: nobody takes it while a server restarts.
PORTS = range(20_000, 32_000)


class Unavailable(Exception):
    """A service can neither be reached nor be started here."""


class ServerFailed(Exception):
    """A server that should be running is not."""


def free_port() -> int:
    """Choose a TCP port on which nobody listens."""
    for port in random.sample(PORTS, 100):
        with socket.socket() as probe:
            try:
                probe.bind((HOST, port))
            except OSError:
                continue
            return port
    raise Unavailable(f"no free port between {PORTS.start} and {PORTS.stop}")


class ServerProcess:
    """A server which ends, and whose files vanish, when this process ends in whatever way."""

    def __init__(self, name: str, user: str | None = None, environment: Mapping[str, str] | None = None) -> None:
        self.name = name
        self._log_start = 0
        self._supervisor = subprocess.Popen(
            [sys.executable, supervisor.__file__, name, str(os.getpid()), user or ""],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, **(environment or {})},
            start_new_session=True,  # ^C is for pytest; the supervisor follows when pytest has ended
        )
        self.directory = Path(self._read_answer()["directory"])
        self.log = self.directory / "server.log"

    def run(self, command: Sequence[str | Path], timeout: float = 60) -> None:
        """Run a program that prepares the server's files, to its end."""
        self.start(command)
        deadline = time.monotonic() + timeout
        while (code := self.exit_code()) is None:
            if time.monotonic() > deadline:
                self.stop(signal.SIGKILL)
                raise ServerFailed(f"{self.name}: {command[0]} takes longer than {timeout} s\n{self.log_tail()}")
            time.sleep(0.02)
        if code != 0:
            raise ServerFailed(f"{self.name}: {command[0]} ended with exit code {code}\n{self.log_tail()}")

    def start(self, command: Sequence[str | Path], stop_signal: signal.Signals = signal.SIGKILL) -> int:
        """Start the server; the signal is what ends it when its owner vanishes. Returns its process id."""
        self._log_start = self.log.stat().st_size if self.log.exists() else 0
        request = {"do": "start", "command": [str(part) for part in command], "log": str(self.log)}
        return int(self._ask({**request, "stop_signal": int(stop_signal)})["pid"])

    def exit_code(self) -> int | None:
        """None while the server runs (or when it was never started)."""
        code = self._ask({"do": "poll"})["exit"]
        return None if code is None else int(code)

    def wait_until(self, ready: Callable[[], bool], timeout: float) -> None:
        """Wait for a condition that the server brings about; fail at once if the server ends instead."""
        deadline = time.monotonic() + timeout
        while not ready():
            code = self.exit_code()
            if code is not None:
                raise ServerFailed(f"{self.name} ended with exit code {code}\n{self.log_tail()}")
            if time.monotonic() > deadline:
                raise ServerFailed(f"{self.name} is not ready after {timeout} s\n{self.log_tail()}")
            time.sleep(0.05)

    def has_logged(self, text: str) -> bool:
        """Whether the text is in what the server has written since its latest start."""
        with self.log.open("rb") as log:
            log.seek(self._log_start)
            return text.encode() in log.read()

    def log_tail(self, lines: int = 30) -> str:
        """The end of the server's log, for error messages."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:]) if self.log.exists() else ""

    def stop(self, stop_signal: signal.Signals, timeout: float = 30) -> None:
        """Stop the server with a signal; what is left of it after the timeout is killed. Its files stay."""
        self._ask({"do": "stop", "signal": int(stop_signal), "timeout": timeout})

    def close(self) -> None:
        """End the server and remove its files."""
        if self._supervisor.stdin is not None:
            self._supervisor.stdin.close()
        self._supervisor.wait()
        if self._supervisor.stdout is not None:
            self._supervisor.stdout.close()

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        assert self._supervisor.stdin is not None
        self._supervisor.stdin.write(json.dumps(request).encode() + b"\n")
        self._supervisor.stdin.flush()
        answer = self._read_answer()
        if "error" in answer:
            raise ServerFailed(f"{self.name}: {answer['error']}\n{self.log_tail()}")
        return answer

    def _read_answer(self) -> dict[str, Any]:
        assert self._supervisor.stdout is not None
        line = self._supervisor.stdout.readline()
        if not line:
            raise ServerFailed(f"the supervisor of {self.name} has ended")
        answer: dict[str, Any] = json.loads(line)
        return answer
