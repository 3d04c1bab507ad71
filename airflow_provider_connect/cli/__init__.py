"""The command line `airflow-connect`: arguments, exit codes, and nothing else; each command is a module."""

from __future__ import annotations

import argparse
import gc
import importlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path

OK = 0
FAILED = 1
WRONG = 2
GAVE_UP = 3
INTERRUPTED = 130

EXIT_CODES = """\
exit codes:
  0    done; also after SIGTERM or ^C, once what was read is committed
  1    a fatal error while running
  2    the flow, its connections or the command line are wrong; nothing was read
  3    gave up after retries; starting again later may work
  130  a second ^C or SIGTERM: left at once, what was uncommitted will be read again
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code. argparse exits by itself (2) when the arguments are wrong."""
    arguments = _parser().parse_args(argv)
    gc.disable()  # imports leave no garbage, but looking for it takes a third of the start
    command = importlib.import_module(f"airflow_provider_connect.cli.{arguments.command}_command")
    try:
        code: int = command.run(arguments)
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # `airflow-connect types | head -1`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK
    except KeyboardInterrupt:
        return INTERRUPTED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="airflow-connect",
        description="Flows of records between systems, declared in YAML.",
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action=_Version)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    run = commands.add_parser(
        "run",
        help="run a flow",
        description="Run a flow until its limits, its end (--drain), SIGTERM or ^C.",
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _flow_argument(run)
    run.add_argument("--drain", action="store_true", help="end when what was there at the start has been delivered")
    run.add_argument("--max-records", type=_count, metavar="N", help="stop after N records")
    run.add_argument("--max-seconds", type=_seconds, metavar="S", help="stop after S seconds")
    run.add_argument("--metrics-port", type=_port, metavar="P", help="serve /metrics, /healthz, /livez, /readyz there")
    run.add_argument("--share", type=_share, metavar="I/N", help="take part I (from 0) of N of the source's splits")
    run.add_argument("--json", action="store_true", help="one line of JSON on stdout when done")
    _log_arguments(run)

    lint = commands.add_parser("lint", help="check flows, without touching any system")
    lint.add_argument("flows", nargs="+", type=Path, metavar="FLOW.yaml")

    preview = commands.add_parser(
        "preview",
        help="show the first records after each step",
        description="Read the first records of the source, from its beginning, and print them as JSON lines: as read, "
        "after each transform, and as the sink would get them. Writes nothing, moves no position.",
    )
    _flow_argument(preview)
    preview.add_argument("-n", dest="records", type=_count, default=5, metavar="N", help="records to read (default: 5)")
    preview.add_argument("--max-seconds", type=_seconds, default=10.0, metavar="S", help="longest wait (default: 10)")
    _log_arguments(preview)

    types = commands.add_parser("types", help="list connectors, their roles and guarantees")
    types.add_argument("--json", action="store_true", help="as JSON")

    commands.add_parser("schema", help="print the JSON Schema of a flow, for editors")

    docs = commands.add_parser("docs", help="write the reference page of each connector")
    docs.add_argument("folder", nargs="?", type=Path, default=Path("docs/connectors"), help="default: docs/connectors")
    docs.add_argument("--check", action="store_true", help="write nothing; exit 1 if a page is stale")
    return parser


class _Version(argparse.Action):
    def __init__(self, option_strings: Sequence[str], dest: str) -> None:
        super().__init__(option_strings, dest, nargs=0, help="print the version")

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from airflow_provider_connect import __version__

        print(__version__)
        parser.exit()


def _flow_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("flow", type=Path, metavar="FLOW.yaml", help="connections are read from AIRFLOW_CONN_<ID>")


def _log_arguments(parser: argparse.ArgumentParser) -> None:
    levels = ("debug", "info", "warning", "error")
    parser.add_argument("--log-level", choices=levels, help="default: info, below a progress bar warning")
    parser.add_argument("--log-format", choices=("text", "json"), default="text", help="default: text")


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"'{text}' is not a whole number of at least 1")
    return int(text)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise argparse.ArgumentTypeError(f"'{text}' is not a number of seconds greater than 0")
    return seconds


def _port(text: str) -> int:
    if not text.isdecimal() or not 0 <= int(text) <= 65535:
        raise argparse.ArgumentTypeError(f"'{text}' is not a port (0 to 65535; 0: any free one)")
    return int(text)


def _share(text: str) -> tuple[int, int]:
    index, _, count = text.partition("/")
    if not index.isdecimal() or not count.isdecimal() or int(index) >= int(count):
        raise argparse.ArgumentTypeError(f"'{text}' is not I/N with I from 0 to N-1, such as 0/4")
    return int(index), int(count)
