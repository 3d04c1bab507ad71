"""Run a program and learn what it used.

The program is a child of a small process of its own (this module), because the kernel counts the memory of whoever
starts a program towards the peak of the program.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


class RunFailed(Exception):
    """The program failed, or moved the wrong records."""


@dataclass(frozen=True)
class Run:
    """What a program printed as its last line, and what it used."""

    summary: dict[str, Any]
    wall_seconds: float
    cpu_seconds: float
    peak_rss_mb: float


def connect(*arguments: str) -> list[str]:
    """The command line of `airflow-connect`, also where the script is not installed."""
    return [sys.executable, "-m", "airflow_provider_connect", *arguments]


def environment() -> dict[str, str]:
    """Ours, but modules are compiled once and not at each start, as they are where a package is installed."""
    return {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}


def run(command: list[str], seconds: float) -> Run:
    """Run a program to its end. RunFailed with its errors if it fails or takes longer."""
    launcher = [sys.executable, "-m", "tests.benchmarks.measure", str(seconds), *command]
    done = subprocess.run(launcher, cwd=ROOT, env=environment(), capture_output=True, text=True, check=False)
    if done.returncode:
        raise RunFailed(f"{' '.join(command)}\n{done.stderr[-4000:]}")
    used = json.loads(done.stdout)
    summary = json.loads(used.pop("output").strip().splitlines()[-1])
    return Run(summary, **used)


def _launch(seconds: float, command: list[str]) -> int:
    with tempfile.TemporaryFile() as output:
        start = time.monotonic()
        program = subprocess.Popen(command, stdout=output)
        while True:
            pid, status, usage = os.wait4(program.pid, os.WNOHANG)
            elapsed = time.monotonic() - start
            if pid:
                break
            if elapsed > seconds:
                program.kill()
                print(f"took longer than {seconds:.0f} s", file=sys.stderr)
            time.sleep(0.01)
        program.returncode = os.waitstatus_to_exitcode(status)
        output.seek(0)
        used = {
            "output": output.read().decode(),
            "wall_seconds": elapsed,
            "cpu_seconds": usage.ru_utime + usage.ru_stime,
            "peak_rss_mb": usage.ru_maxrss / (1024 * 1024 if sys.platform == "darwin" else 1024),
        }
    print(json.dumps(used))
    return 1 if program.returncode else 0


if __name__ == "__main__":
    sys.exit(_launch(float(sys.argv[1]), sys.argv[2:]))
