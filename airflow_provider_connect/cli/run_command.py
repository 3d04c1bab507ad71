"""`airflow-connect run`: a worker in this process, ended by signals in good order."""

from __future__ import annotations

import argparse
import gc
import json
import logging
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from types import FrameType

from airflow_provider_connect.cli import FAILED, GAVE_UP, INTERRUPTED, OK, WRONG
from airflow_provider_connect.cli.progress import show_progress
from airflow_provider_connect.engine.connector import Share
from airflow_provider_connect.engine.errors import ConnectError, FlowError, Retryable
from airflow_provider_connect.engine.flow import DataFlow
from airflow_provider_connect.engine.logs import configure, redact
from airflow_provider_connect.engine.plan import Limits, Summary
from airflow_provider_connect.engine.worker import Worker

log = logging.getLogger(__name__)


def run(arguments: argparse.Namespace) -> int:
    """Run the flow; see `cli.EXIT_CODES`."""
    bar = sys.stderr.isatty()
    configure(arguments.log_format, (arguments.log_level or ("warning" if bar else "info")).upper())
    try:
        flow = DataFlow.load(arguments.flow)
        with show_progress(flow.name, enabled=bar) as on_progress:
            worker = Worker(
                flow.plan(),
                _limits(flow, arguments),
                on_progress=on_progress,
                metrics_port=arguments.metrics_port,
            )
            gc.freeze()  # all that is imported stays
            gc.enable()
            with _stopped_by_signals(worker):
                summary = worker.run()
    except FlowError as error:
        print(redact(str(error)), file=sys.stderr)
        return WRONG
    except Retryable as error:
        log.error("gave up: %s", error)
        return GAVE_UP
    except ConnectError as error:
        log.error("stopped: %s", error)
        return FAILED
    print(json.dumps(summary.as_dict()) if arguments.json else _line(flow.name, summary))
    return OK


def _limits(flow: DataFlow, arguments: argparse.Namespace) -> Limits:
    """The flow's own limits, overridden by the arguments."""
    limits = flow.limits()
    if arguments.drain:
        limits = replace(limits, mode="drain")
    if arguments.max_records is not None:
        limits = replace(limits, max_records=arguments.max_records)
    if arguments.max_seconds is not None:
        limits = replace(limits, max_seconds=arguments.max_seconds)
    if arguments.share is not None:
        limits = replace(limits, share=Share(*arguments.share))
    return limits


@contextmanager
def _stopped_by_signals(worker: Worker) -> Iterator[None]:
    """The first SIGTERM or SIGINT stops the worker in good order, the second leaves at once."""
    received = 0

    def stop(number: int, frame: FrameType | None) -> None:
        nonlocal received
        received += 1
        if received > 1:
            os._exit(INTERRUPTED)
        worker.stop()

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _line(name: str, summary: Summary) -> str:
    rate = summary.records / summary.seconds if summary.seconds else 0.0
    letters = f", {summary.dead_letters:,} dead letters" if summary.dead_letters else ""
    return f"{name}: {summary.records:,} records{letters} in {summary.seconds:.1f} s ({rate:,.0f} records/s)"
