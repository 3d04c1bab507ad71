"""Metrics: names, labels and values as Prometheus' own parser reads them."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from prometheus_client import REGISTRY
from prometheus_client.parser import text_string_to_metric_families

from airflow_provider_connect.engine.errors import Fatal, Fenced, FlowError, InvalidRecord, Retryable
from airflow_provider_connect.engine.metrics import ERROR_KINDS, METRICS, FlowMetrics, error_kind


def scrape(metrics: FlowMetrics) -> dict:
    return {
        (sample.name, *(value for key, value in sorted(sample.labels.items()) if key != "flow")): sample
        for family in text_string_to_metric_families(metrics.text().decode())
        for sample in family.samples
    }


def test_a_worker_starts_with_zeros_and_without_lag():
    samples = scrape(FlowMetrics("orders"))
    for stage in ("read", "committed", "dead_letter"):
        assert samples["connect_records_total", stage].value == 0
    for kind in ERROR_KINDS:
        assert samples["connect_errors_total", kind].value == 0
    assert samples["connect_batches_total",].labels == {"flow": "orders"}
    assert not [name for name, *_ in samples if name.startswith("connect_lag")]
    assert not [name for name, *_ in samples if name.startswith("connect_end_to_end")]


def test_values_add_up():
    metrics = FlowMetrics("orders")
    metrics.read(1000, 200_000)
    metrics.read(500, 100_000)
    metrics.committed(1500, 300_000, 0.2, 0.3)
    metrics.committed(0, 0, 0.004)
    metrics.dead_lettered(7)
    metrics.error("retryable")
    metrics.retried()
    metrics.set_lag(42)
    metrics.set_lag_bytes(4096)
    metrics.lanes(2)
    samples = scrape(metrics)
    assert samples["connect_records_total", "read"].value == 1500
    assert samples["connect_records_total", "committed"].value == 1500
    assert samples["connect_records_total", "dead_letter"].value == 7
    assert samples["connect_bytes_total", "read"].value == 300_000
    assert samples["connect_batches_total",].value == 2
    assert samples["connect_errors_total", "retryable"].value == 1
    assert samples["connect_errors_total", "fatal"].value == 0
    assert samples["connect_retries_total",].value == 1
    assert samples["connect_lag_records",].value == 42
    assert samples["connect_lag_bytes",].value == 4096
    assert samples["connect_lanes",].value == 2
    assert samples["connect_batch_seconds_count",].value == 2
    assert samples["connect_batch_seconds_bucket", "0.005"].value == 1
    assert samples["connect_batch_seconds_bucket", "0.25"].value == 2
    assert samples["connect_end_to_end_seconds_count",].value == 1
    assert samples["connect_end_to_end_seconds_sum",].value == pytest.approx(0.3)
    assert metrics.value("connect_records_total", stage="read") == 1500


def test_lag_disappears_when_it_is_no_longer_known():
    metrics = FlowMetrics("orders")
    metrics.set_lag(0)
    assert metrics.value("connect_lag_records") == 0
    metrics.set_lag(None)
    assert metrics.value("connect_lag_records") is None


def test_a_clock_that_is_ahead_counts_as_no_delay():
    metrics = FlowMetrics("orders")
    metrics.committed(1, 1, 0.1, -5.0)
    assert metrics.value("connect_end_to_end_seconds_sum") == 0


def test_everything_exported_is_in_the_table_and_the_reverse():
    metrics = FlowMetrics("orders")
    metrics.set_lag(1)
    metrics.set_lag_bytes(1)
    metrics.committed(1, 1, 0.1, 0.1)
    families = {
        family.name + ("_total" if family.type == "counter" else ""): family
        for family in text_string_to_metric_families(metrics.text().decode())
        if family.name.startswith("connect_")
    }
    assert {name: family.type for name, family in families.items()} == {spec.name: spec.kind for spec in METRICS}
    for spec in METRICS:
        family = families[spec.name]
        assert family.documentation == spec.help
        assert {key for sample in family.samples for key in sample.labels} - {"le"} == set(spec.labels)


def test_the_operations_page_describes_every_metric():
    page = (Path(__file__).parent.parent / "docs" / "operations.md").read_text()
    for spec in METRICS:
        assert f"| `{spec.name}` | {spec.kind} | {', '.join(spec.labels)} | {spec.help} |" in page


def test_two_workers_in_one_process_do_not_mix_and_leave_the_global_registry_alone():
    before = {family.name for family in REGISTRY.collect()}
    first, second = FlowMetrics("orders"), FlowMetrics("orders")
    first.read(1, 1)
    assert second.value("connect_records_total", stage="read") == 0
    assert {family.name for family in REGISTRY.collect()} == before


def test_no_increment_is_lost_between_threads():
    metrics = FlowMetrics("orders")

    def lane(_):
        for _ in range(2_000):
            metrics.read(1, 10)
            metrics.committed(1, 10, 0.01, 0.02)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lane, range(4)))
    assert metrics.value("connect_records_total", stage="committed") == 8_000
    assert metrics.value("connect_bytes_total", stage="read") == 80_000
    assert metrics.value("connect_batch_seconds_count") == 8_000


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (Retryable("x"), "retryable"),
        (InvalidRecord("x"), "invalid_record"),
        (Fenced("x"), "fenced"),
        (FlowError("x"), "fatal"),
        (Fatal("x"), "fatal"),
    ],
)
def test_error_kinds(error, kind):
    metrics = FlowMetrics("orders")
    metrics.error(error_kind(error))
    assert metrics.value("connect_errors_total", kind=kind) == 1


def test_an_unknown_error_kind_makes_no_new_series():
    with pytest.raises(KeyError):
        FlowMetrics("orders").error("surprise")  # type: ignore[arg-type]


def test_a_flow_name_is_quoted_in_labels():
    metrics = FlowMetrics('a"b\\c\nd')
    assert scrape(metrics)["connect_batches_total",].labels == {"flow": 'a"b\\c\nd'}


def test_created_samples_are_left_out_and_process_metrics_are_in():
    text = FlowMetrics("orders").text().decode()
    assert "_created" not in text
    assert "process_resident_memory_bytes" in text
