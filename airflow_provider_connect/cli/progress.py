"""The progress bar of a running flow on a terminal: records, rate, lag."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from airflow_provider_connect.engine.plan import Progress


@contextmanager
def show_progress(name: str, *, enabled: bool) -> Iterator[Callable[[Progress], None] | None]:
    """What a Worker takes as `on_progress`; None where there is no terminal. The bar goes to standard error."""
    if not enabled:
        yield None
        return
    bar = _Bar(name)
    try:
        yield bar.show
    finally:
        bar.close()


class _Bar:
    """Made at the first progress: rich takes longer to import than the first records take to arrive."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._bar: Any = None
        self._task: Any = None

    def show(self, progress: Progress) -> None:
        if self._bar is None:
            self._start()
        rate = progress.records / progress.seconds if progress.seconds else 0.0
        total = None if progress.lag is None else progress.records + progress.lag
        self._bar.update(
            self._task,
            completed=progress.records,
            total=total,
            rate=f"{rate:,.0f}/s",
            lag="" if progress.lag is None else f"lag {progress.lag:,}",
            letters=f"{progress.dead_letters:,} dead letters" if progress.dead_letters else "",
        )

    def close(self) -> None:
        if self._bar is not None:
            self._bar.stop()

    def _start(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
        from rich.progress import Progress as RichProgress

        self._bar = RichProgress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TextColumn("{task.completed:,.0f} records"),
            TextColumn("{task.fields[rate]}"),
            TextColumn("{task.fields[lag]}"),
            TextColumn("{task.fields[letters]}", style="red"),
            TimeElapsedColumn(),
            console=Console(stderr=True),
        )
        self._task = self._bar.add_task(self._name, total=None, rate="", lag="", letters="")
        self._bar.start()
