"""Metrics and health of a worker over HTTP: `/metrics`, `/healthz`, `/livez`, `/readyz`."""

from __future__ import annotations

import errno
import logging
import os
import socket
import threading
import time
from collections.abc import Callable
from socketserver import ThreadingTCPServer
from types import TracebackType
from typing import Self

from airflow_provider_connect.engine.errors import Fatal

_log = logging.getLogger(__name__)
_TEXT = "text/plain; charset=utf-8"


def default_host() -> str:
    """Where to listen if nobody says: this machine only, but every interface in a Kubernetes pod.

    The kubelet's probes and Prometheus come to the pod's address, and what a pod's ports are open to is the business of
    the cluster's network policies. Kubernetes sets KUBERNETES_SERVICE_HOST in every container.
    """
    return "0.0.0.0" if os.environ.get("KUBERNETES_SERVICE_HOST") else "127.0.0.1"


class Health:
    """What a worker tells about itself; every method may be called by any thread.

    * alive: nothing failed, and every lane has ticked within the last `stuck_after_seconds`;
    * ready: alive, and source and sink of the lanes are open.
    """

    def __init__(self, stuck_after_seconds: float = 120.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._limit = stuck_after_seconds
        self._clock = clock
        self._lock = threading.Lock()
        self._ticks: dict[int, float] = {}
        self._ready = False
        self._failure: str | None = None

    def tick(self, lane: int) -> None:
        """The loop of `lane` has come round once more. A lane is watched from its first tick on."""
        with self._lock:
            self._ticks[lane] = self._clock()

    def ended(self, lane: int) -> None:
        """`lane` has ended in good order and will not tick again."""
        with self._lock:
            self._ticks.pop(lane, None)

    def ready(self, ready: bool) -> None:
        """Source and sink are open (or no longer)."""
        with self._lock:
            self._ready = ready

    def fail(self, reason: str) -> None:
        """The worker has failed for good; whoever watches should restart it. `reason` is shown to whoever asks."""
        with self._lock:
            self._failure = reason

    def why_not_alive(self) -> str | None:
        """None if alive, else the reason in one line."""
        with self._lock:
            if self._failure is not None:
                return f"failed: {self._failure}"
            now = self._clock()
            stuck = sorted((lane, now - at) for lane, at in self._ticks.items() if now - at > self._limit)
        if not stuck:
            return None
        lanes = ", ".join(f"lane {lane} for {age:.0f} s" for lane, age in stuck)
        return f"stuck: {lanes} (limit {self._limit:g} s)"

    def why_not_ready(self) -> str | None:
        """None if ready, else the reason in one line."""
        reason = self.why_not_alive()
        if reason is None and not self._ready:
            return "source or sink is not open"
        return reason


class MetricsServer:
    """A small HTTP server on threads of its own; it never blocks the worker, and its end never waits for a client.

    `/metrics` the metrics; `/healthz` 200 while the process is up; `/livez` and `/readyz` 200 or 503 by `Health`.
    It listens from `__init__` on (Fatal if it cannot); `port` 0 takes a free one. No TLS, no access control: nothing
    here is secret, but bind it to where it should be seen (`default_host`).
    """

    def __init__(self, port: int, metrics_text: Callable[[], bytes], health: Health, host: str | None = None) -> None:
        self.host = host if host is not None else default_host()
        try:
            self._server = _server(self.host, port, metrics_text, health)
        except (OSError, OverflowError) as error:
            raise Fatal(_cannot_listen(self.host, port, error)) from error
        self.port: int = self._server.server_address[1]
        """The port it listens on."""
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.1,), name=f"metrics:{self.port}", daemon=True
        )
        self._thread.start()
        _log.info("metrics and probes are served", extra={"host": self.host, "port": self.port})

    def close(self) -> None:
        """Stop listening. Safe to call twice."""
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join()
        self._server.server_close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()


class _Server(ThreadingTCPServer):  # http.server.HTTPServer would look the host's name up in DNS
    daemon_threads = True
    block_on_close = False
    allow_reuse_address = True

    def handle_error(self, request: object, client_address: object) -> None:
        _log.debug("request failed", exc_info=True)  # a client that went away is nobody's problem


class _Server6(_Server):
    address_family = socket.AF_INET6


def _server(host: str, port: int, metrics_text: Callable[[], bytes], health: Health) -> _Server:
    from http.server import BaseHTTPRequestHandler  # these two would be a good part of a worker's start

    from prometheus_client import CONTENT_TYPE_LATEST

    def metrics() -> tuple[int, str, bytes]:
        try:
            return 200, CONTENT_TYPE_LATEST, metrics_text()
        except Exception:
            _log.exception("metrics cannot be collected")
            return 500, _TEXT, b"metrics cannot be collected; see the log\n"

    def probe(reason: str | None) -> tuple[int, str, bytes]:
        return (200, _TEXT, b"ok\n") if reason is None else (503, _TEXT, f"{reason}\n".encode())

    pages: dict[str, Callable[[], tuple[int, str, bytes]]] = {
        "/metrics": metrics,
        "/healthz": lambda: probe(None),
        "/livez": lambda: probe(health.why_not_alive()),
        "/readyz": lambda: probe(health.why_not_ready()),
    }

    class Pages(BaseHTTPRequestHandler):
        timeout = 10.0  # seconds for a client to say what it wants
        server_version = "airflow-connect"
        sys_version = ""

        def do_GET(self) -> None:
            page = pages.get(self.path.partition("?")[0])
            status, kind, body = page() if page else (404, _TEXT, f"there is {', '.join(pages)}\n".encode())
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Cache-Control", "no-store")
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        do_HEAD = do_GET

        def log_message(self, format: str, *args: object) -> None:
            _log.debug(format, *args)

    return (_Server6 if ":" in host else _Server)((host, port), Pages)


def _cannot_listen(host: str, port: int, error: OSError | OverflowError) -> str:
    where = f"port {port} of {host}"
    if isinstance(error, OverflowError):
        return f"metrics port {port} does not exist; choose one from 1 to 65535, or 0 for a free one"
    if error.errno == errno.EADDRINUSE:
        return f"{where} is taken by another process; choose another metrics port, or 0 for a free one"
    if error.errno == errno.EACCES:
        return f"{where} may not be opened by this user; choose a metrics port above 1023, or 0 for a free one"
    return f"cannot listen on {where}: {error.strerror or error}"
