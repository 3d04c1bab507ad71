"""Metrics and probes over real HTTP."""

import socket
import urllib.error
import urllib.request

import pytest
from prometheus_client.parser import text_string_to_metric_families

from airflow_provider_connect.engine.errors import Fatal
from airflow_provider_connect.engine.metrics import FlowMetrics
from airflow_provider_connect.engine.serving import Health, MetricsServer, default_host


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def get(server: MetricsServer, path: str, method: str = "GET") -> tuple[int, str, str]:
    request = urllib.request.Request(f"http://{server.host}:{server.port}{path}", method=method)
    try:
        with urllib.request.urlopen(request, timeout=5) as answer:
            return answer.status, answer.headers["Content-Type"], answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.headers["Content-Type"], error.read().decode()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def health(clock) -> Health:
    return Health(stuck_after_seconds=30, clock=clock)


@pytest.fixture
def server(health):
    metrics = FlowMetrics("orders")
    metrics.read(3, 30)
    with MetricsServer(0, metrics.text, health) as server:
        yield server


def test_metrics_are_served_in_the_text_format(server):
    status, kind, body = get(server, "/metrics?name[]=x")
    assert status == 200
    assert kind.startswith("text/plain; version=")
    samples = [sample for family in text_string_to_metric_families(body) for sample in family.samples]
    assert ("connect_records_total", {"flow": "orders", "stage": "read"}, 3.0) in [s[:3] for s in samples]


def test_a_worker_that_starts_is_alive_and_not_ready(server):
    assert get(server, "/healthz")[0] == 200
    assert get(server, "/livez")[0] == 200
    status, _, body = get(server, "/readyz")
    assert (status, body) == (503, "source or sink is not open\n")


def test_ready_follows_the_worker(server, health):
    health.ready(True)
    assert get(server, "/readyz")[0] == 200
    health.ready(False)
    assert get(server, "/readyz")[0] == 503


def test_a_lane_that_stops_ticking_is_not_alive(server, health, clock):
    health.ready(True)
    health.tick(0)
    health.tick(1)
    clock.now += 29
    health.tick(1)
    assert get(server, "/livez")[0] == 200
    clock.now += 2
    assert get(server, "/livez")[::2] == (503, "stuck: lane 0 for 31 s (limit 30 s)\n")
    assert get(server, "/readyz")[0] == 503
    assert get(server, "/healthz")[0] == 200
    health.tick(0)
    assert get(server, "/livez")[0] == 200


def test_a_lane_that_ended_is_no_longer_watched(server, health, clock):
    health.tick(0)
    health.ended(0)
    clock.now += 3600
    assert get(server, "/livez")[0] == 200


def test_a_failed_worker_says_why(server, health):
    health.ready(True)
    health.fail('table "orders" does not exist')
    assert get(server, "/livez")[::2] == (503, 'failed: table "orders" does not exist\n')
    assert get(server, "/readyz")[0] == 503
    assert get(server, "/healthz")[0] == 200


def test_an_unknown_page_names_those_there_are(server):
    status, _, body = get(server, "/admin")
    assert status == 404
    assert "/metrics" in body and "/readyz" in body


def test_head_has_no_body(server):
    assert get(server, "/metrics", "HEAD")[::2] == (200, "")


def test_other_methods_are_refused(server):
    assert get(server, "/metrics", "POST")[0] == 501


def test_metrics_that_fail_are_an_error_of_that_page_only(health):
    def broken() -> bytes:
        raise RuntimeError("boom with internals")

    with MetricsServer(0, broken, health) as server:
        status, _, body = get(server, "/metrics")
        assert status == 500
        assert "internals" not in body
        assert get(server, "/healthz")[0] == 200


def test_a_port_that_is_taken(health):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(Fatal, match=f"port {port} of 127.0.0.1 is taken.*0 for a free one"):
            MetricsServer(port, bytes, health)


@pytest.mark.parametrize("port", [-1, 65536])
def test_a_port_that_does_not_exist(health, port):
    with pytest.raises(Fatal, match=f"metrics port {port} does not exist"):
        MetricsServer(port, bytes, health)


def test_a_host_that_is_not_ours(health):
    with pytest.raises(Fatal, match=r"cannot listen on port 0 of 192\.0\.2\.1: .+"):
        MetricsServer(0, bytes, health, host="192.0.2.1")


def test_close_frees_the_port_and_is_safe_twice(health):
    server = MetricsServer(0, bytes, health)
    server.close()
    server.close()
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(f"http://127.0.0.1:{server.port}/healthz", timeout=2)
    MetricsServer(server.port, bytes, health).close()


def test_a_silent_client_blocks_neither_others_nor_the_end(health):
    with MetricsServer(0, bytes, health) as server, socket.create_connection((server.host, server.port)):
        assert get(server, "/healthz")[0] == 200


def test_listens_to_this_machine_only_unless_in_a_pod(health, monkeypatch):
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    assert default_host() == "127.0.0.1"
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    assert default_host() == "0.0.0.0"
    with MetricsServer(0, bytes, health) as server:
        assert server.host == "0.0.0.0"


def test_ipv6(health):
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("this machine has no IPv6")
    with (
        MetricsServer(0, bytes, health, host="::1") as server,
        urllib.request.urlopen(f"http://[::1]:{server.port}/healthz", timeout=5) as answer,
    ):
        assert answer.status == 200
