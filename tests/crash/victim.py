"""A worker in a process of its own, to be killed: `airflow-connect run` as a user starts it."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
import uuid
from functools import cache
from pathlib import Path
from typing import ClassVar

import yaml
from confluent_kafka.admin import AdminClient, ConfigResource, ResourceType

SHORT_SESSION_MS = 3_000


def write_flow(folder: Path, name: str, source: dict, sink: dict, **spec) -> Path:
    """A flow's YAML file. The partitions of a Kafka source are free soon after a member was killed."""
    settings = source.get("kafka", {})
    if settings and settings.get("groupProtocol") != "consumer":  # whose sessions are the brokers' business
        short = {"session.timeout.ms": session_milliseconds(",".join(settings["brokers"]))}
        source = {**source, "kafka": {**settings, "properties": {**short, **settings.get("properties", {})}}}
    flow = {
        "apiVersion": "dataflow.dataflow.io/v1",
        "kind": "DataFlow",
        "metadata": {"name": name},
        "spec": {"source": source, "sink": sink, **spec},
    }
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(flow))
    return path


@cache
def session_milliseconds(brokers: str) -> int:
    """The shortest session of a consumer group that makes sense on these brokers, and that they allow."""
    admin = AdminClient({"bootstrap.servers": brokers})
    broker = next(iter(admin.list_topics(timeout=30).brokers))
    asked = admin.describe_configs([ConfigResource(ResourceType.BROKER, str(broker))])
    (settings,) = (answer.result(30) for answer in asked.values())
    return max(SHORT_SESSION_MS, int(settings["group.min.session.timeout.ms"].value))


class Victim:
    """One run of a flow; `kill` is SIGKILL, `pause` and `resume` stop and continue it."""

    started: ClassVar[list[Victim]] = []
    """All of them; whoever runs the tests ends what a failed test leaves."""

    def __init__(self, flow: Path, *arguments: str) -> None:
        self._log = (flow.parent / f"{flow.stem}-{uuid.uuid4().hex[:6]}.log").open("ab")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "airflow_provider_connect", "run", str(flow), "--json", *arguments],
            stdout=subprocess.PIPE,
            stderr=self._log,
            env={**os.environ, "AIRFLOW_CONNECT_STATE": str(flow.parent / "checkpoints.db")},
        )

        self.started.append(self)

    def kill(self) -> bool:
        """Kill -9; False if it had ended by itself."""
        alive = self.process.poll() is None
        self.process.kill()
        self.process.wait()
        self._close()
        return alive

    def pause(self) -> None:
        """SIGSTOP: what a long garbage collection or a lost network looks like from outside."""
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT."""
        self.process.send_signal(signal.SIGCONT)

    def wait_until_committing(self, seconds: float = 60.0) -> Victim:
        """Wait for its first commit."""
        end = time.monotonic() + seconds
        while "msg=committed" not in self.tail():
            assert self.process.poll() is None and time.monotonic() < end, self.tail()
            time.sleep(0.05)
        return self

    def finish(self, seconds: float = 120.0) -> dict:
        """Wait for its summary; the exit code has to be 0."""
        out, _ = self.process.communicate(timeout=seconds)
        self._close()
        assert self.process.returncode == 0, self.tail()
        return json.loads(out)

    def stop(self) -> None:
        """SIGTERM, and wait for a good end."""
        self.process.terminate()
        self.finish(60)

    def tail(self) -> str:
        """The end of its log."""
        return Path(self._log.name).read_text()[-3000:]

    def _close(self) -> None:
        self._log.close()
        if self.process.stdout is not None:
            self.process.stdout.close()


def kill_repeatedly(flow: Path, feed, times: int = 20, seed: int = 1) -> int:
    """Feed, start, kill at a random moment, `times` times; then feed once more and run to the end. Returns the kills.

    Four of five are killed while they deliver, the fifth while it starts.

    `feed(round)` adds records that a run needs a while for, so that there is always something to be killed in.
    """
    chance = random.Random(seed)
    kills = 0
    for number in range(times):
        feed(number)
        victim = Victim(flow)
        if number % 5:
            victim.wait_until_committing()
            time.sleep(chance.uniform(0.0, 0.5))
        else:  # while it starts, claims and reads its first records
            time.sleep(chance.uniform(0.0, 2.0))
        kills += victim.kill()
    feed(times)
    Victim(flow, "--drain").finish()
    return kills


class Feeder:
    """Calls `feed(round)` again and again on a thread, twice a second, for as long as the block lasts."""

    def __init__(self, feed) -> None:
        self._feed = feed
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._failure: BaseException | None = None
        self.rounds = 0
        """Rounds that are complete, once the block has ended."""

    def _run(self) -> None:
        try:
            while not self._done.wait(0.5):
                self._feed(self.rounds)
                self.rounds += 1
        except BaseException as failure:
            self._failure = failure

    def __enter__(self) -> Feeder:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._done.set()
        self._thread.join()
        if self._failure is not None:
            raise self._failure
