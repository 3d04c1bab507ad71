"""`python -m tests.benchmarks`: see the docstring of the package."""

import argparse
import contextlib
import json
import os
import statistics
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path as File
from typing import Any

import yaml

from tests.benchmarks import latency, measure
from tests.benchmarks.paths import PATHS, KafkaToPostgreSQL, Path
from tests.benchmarks.paths_avro import AVRO_PATHS
from tests.benchmarks.paths_clickhouse import CLICKHOUSE_PATHS
from tests.benchmarks.paths_iceberg import ICEBERG_PATHS
from tests.benchmarks.paths_postgresql_cdc import POSTGRESQL_CDC_PATHS
from tests.benchmarks.paths_trino import TRINO_PATHS
from tests.services.kafka import Kafka
from tests.services.kafka_server import KafkaServer
from tests.services.postgresql import PostgreSQL
from tests.services.postgresql_server import PostgreSQLServer

MB = 1024 * 1024
PATHS.update(
    {path.name: path for path in (*ICEBERG_PATHS, *AVRO_PATHS, *TRINO_PATHS, *CLICKHOUSE_PATHS, *POSTGRESQL_CDC_PATHS)}
)
COLUMNS = ("path", "rows", "rows_per_s", "raw_rows_per_s", "ratio", "peak_rss_mb", "cpu_seconds")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description="How fast flows are.")
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--paths", default=",".join(PATHS), help=f"comma separated; of {', '.join(PATHS)}")
    parser.add_argument("--runs", type=int, default=3, help="the median of so many counts")
    parser.add_argument("--lanes", type=int, default=2, help="parallelism of our flows")
    parser.add_argument("--raw-only", action="store_true", help="only the hand-written loops")
    parser.add_argument("--latency", action="store_true", help="only first record and end-to-end latency")
    parser.add_argument("--output", type=File, default=measure.ROOT / "build" / "bench.json")
    options = parser.parse_args()
    chosen = [name for name in options.paths.split(",") if name]
    if unknown := [name for name in chosen if name not in PATHS]:
        parser.error(f"unknown paths: {', '.join(unknown)}; known: {', '.join(PATHS)}")
    with services() as (kafka, postgresql):
        results = []
        try:
            if not options.latency:
                for name in chosen:
                    path = PATHS[name](kafka, postgresql, options.rows)
                    results.append(throughput(path, options.runs, options.lanes, options.raw_only))
                print_table(results)
            if KafkaToPostgreSQL.name in chosen and not options.raw_only:
                latencies = latency.measure_all(kafka, postgresql)
                for line in latencies.lines():
                    print(line)
        except measure.RunFailed as error:
            print(f"FAILED: {error}", file=sys.stderr)
            return 1
    if results:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(json.dumps(results, indent=2) + "\n")
        print(f"written to {options.output}")
    return 0


@contextlib.contextmanager
def services() -> Iterator[tuple[Kafka, PostgreSQL]]:
    """The servers of the tests: from the environment, else started here."""
    with contextlib.ExitStack() as stack:
        dsn = os.environ.get("CONNECT_TEST_POSTGRESQL")
        bootstrap = os.environ.get("CONNECT_TEST_KAFKA")
        if not dsn:
            dsn = stack.enter_context(contextlib.closing(PostgreSQLServer())).dsn
        if not bootstrap:
            bootstrap = stack.enter_context(contextlib.closing(KafkaServer())).bootstrap_servers
        yield Kafka(bootstrap), PostgreSQL(dsn)


def throughput(path: Path, runs: int, lanes: int, raw_only: bool) -> dict[str, Any]:
    """Medians of a path."""
    limit = 120 + path.rows / 3_000
    raw: dict[tuple[str, ...], list[float]] = {variant: [] for variant in path.raw_variants}
    ours: list[measure.Run] = []
    say(f"{path.name}: making {path.rows:,} records")
    path.prepare()
    try:
        for number in range(1, runs + 1):
            for variant, rates in raw.items():
                with target_of(path) as target:
                    done = measure.run(path.raw_command(target, variant), limit)
                    path.check(target)
                rates.append(path.rows / done.summary["seconds"])
                say(f"{path.name}: run {number}: raw {' '.join(variant)}: {rates[-1]:,.0f} rows/s, {used(done)}")
            if not raw_only:
                with target_of(path) as target, flow_file(target, path.flow(target, lanes)) as file:
                    done = measure.run(measure.connect("run", str(file), "--drain", "--json"), limit)
                    path.check(target)
                ours.append(done)
                rate = path.rows / done.summary["seconds"]
                say(f"{path.name}: run {number}: ours: {rate:,.0f} rows/s, {used(done)}")
    finally:
        path.clean()
    best = max(statistics.median(rates) for rates in raw.values())
    result: dict[str, Any] = {"path": path.name, "rows": path.rows, "raw_rows_per_s": round(best)}
    if ours:
        rate = statistics.median(path.rows / run.summary["seconds"] for run in ours)
        result |= {
            "rows_per_s": round(rate),
            "ratio": round(rate / best, 3),
            "peak_rss_mb": round(statistics.median(run.peak_rss_mb for run in ours)),
            "cpu_seconds": round(statistics.median(run.cpu_seconds for run in ours), 2),
        }
    return {key: result[key] for key in COLUMNS if key in result}


@contextlib.contextmanager
def target_of(path: Path) -> Iterator[str]:
    """A new target for one run."""
    target = path.new_target()
    try:
        yield target
    finally:
        path.drop(target)


@contextlib.contextmanager
def flow_file(name: str, spec: dict[str, Any]) -> Iterator[File]:
    """A flow as a file, and its checkpoints, where the sink cannot hold them, beside it."""
    with tempfile.TemporaryDirectory() as folder:
        file = File(folder) / "flow.yaml"
        spec = {"checkpoints": str(File(folder) / "checkpoints.db"), **spec}
        flow = {"apiVersion": "dataflow.dataflow.io/v1", "kind": "DataFlow", "metadata": {"name": name}, "spec": spec}
        file.write_text(yaml.safe_dump(flow))
        yield file


def print_table(results: list[dict[str, Any]]) -> None:
    """The results, aligned."""
    shown = [[f"{row[key]:,}" if isinstance(row.get(key), (int, float)) else str(row.get(key, "-")) for key in COLUMNS]
             for row in results]  # fmt: skip
    widths = [max(map(len, column)) for column in zip(COLUMNS, *shown, strict=True)]
    for cells in [list(COLUMNS), *shown]:
        name, *figures = cells
        print("  ".join([name.ljust(widths[0]), *(f.rjust(w) for f, w in zip(figures, widths[1:], strict=True))]))


def used(run: measure.Run) -> str:
    """What a run took of the machine, which says more than its rate when others are busy on it."""
    return f"{run.cpu_seconds:.1f} s CPU, {run.peak_rss_mb:.0f} MB"


def say(text: str) -> None:
    """Progress, apart from the result."""
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
