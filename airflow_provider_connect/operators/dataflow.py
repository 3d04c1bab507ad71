"""DataFlowOperator: a flow as a task."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from airflow.sdk import Asset, BaseOperator
from airflow.sdk.exceptions import AirflowException, AirflowFailException

from airflow_provider_connect.engine.checkpoints import CheckpointStore
from airflow_provider_connect.engine.connector import Share, TransactionalSink
from airflow_provider_connect.engine.errors import ConnectError, Fenced, FlowError
from airflow_provider_connect.engine.flow import DataFlow
from airflow_provider_connect.engine.plan import Limits, Mode, Plan, Progress, Summary
from airflow_provider_connect.engine.worker import Worker
from airflow_provider_connect.hooks.lookup import airflow_lookup
from airflow_provider_connect.state import AssetStore

PROGRESS_SECONDS = 5.0
LEAVE_SECONDS = 30.0


class DataFlowOperator(BaseOperator):
    """Runs a flow in the task, and returns its summary: records, bytes, seconds, dead_letters and checkpoint.

    :param flow: path of a YAML file (relative: to the DAG's file; templated), a mapping as in YAML, or a DataFlow.
    :param mode: "drain" (what is there at the start, then end) or "continuous" (until a limit or a stop); default: what
        the flow says, else "drain".
    :param max_records: stop once so many records are committed (templated); default: what the flow says.
    :param max_seconds: stop after so many seconds (templated); default: what the flow says.
    :param share: the part of the source's splits this task takes: `{"index": 0, "count": 4}`. For mapped tasks:
        `DataFlowOperator.partial(task_id=…, flow=…).expand(share=shares(4))`.
    :param outlets: as for any operator; default: one asset, named like the flow. Checkpoints of a sink that cannot hold
        them are kept in the state of the first one, unless the flow has `spec.checkpoints`. A mapped task has only the
        outlets given to `partial`.

    Templates: every text within a flow is rendered by itself, in the task, after the YAML is parsed; so YAML stays
    YAML, and `topic: orders-{{ ds_nodash }}` needs quotes only where YAML wants them. A number can only be a template
    in a mapping, where text may stand for numbers. Airflow's UI never shows a rendered flow, which may hold passwords.

    Errors: a flow that is wrong (also: a missing connection) and being replaced by a newer worker fail the task at
    once; a retry could not help, or would fight back. Everything else is tried again as the task's `retries` say, after
    the flow's own `retry` is used up; the next try goes on where the last commit was.

    A kill, a worker's SIGTERM or `execution_timeout` flushes, commits and leaves. What then is not committed within
    Airflow's grace period (5 s for a task marked failed) is delivered by the next run.
    """

    template_fields: Sequence[str] = ("flow", "max_records", "max_seconds")
    template_ext: Sequence[str] = ()
    ui_color = "#cfe8fc"

    def __init__(
        self,
        *,
        flow: str | Path | Mapping[str, Any] | DataFlow,
        mode: Mode | None = None,
        max_records: int | str | None = None,
        max_seconds: float | str | None = None,
        share: Share | Mapping[str, int] | None = None,
        **kwargs: Any,
    ) -> None:
        # The tasks of a mapped operator are made in the worker, too late to tell Airflow of an asset.
        if "outlets" not in kwargs and not kwargs.get("_airflow_from_mapped"):
            kwargs["outlets"] = [Asset(name=name)] if (name := _name_of(flow)) else []
        super().__init__(**kwargs)
        self.flow: Any = str(flow) if isinstance(flow, str | Path) else InlineFlow(flow)
        self.mode = mode
        self.max_records = max_records
        self.max_seconds = max_seconds
        self.share = share
        self._worker: Worker | None = None
        self._killed = False

    def execute(self, context: Any) -> dict[str, Any]:
        """Run the flow; see the class."""
        try:
            flow = self._rendered(context)
            plan = flow.plan(airflow_lookup)
            worker = Worker(plan, self._limits(flow), on_progress=self._note_progress, store=self._store(plan, context))
            summary = self._run(worker)
        except (FlowError, Fenced) as error:
            raise AirflowFailException(str(error)) from error
        except ConnectError as error:
            raise AirflowException(str(error)) from error
        result = summary.as_dict()
        self.log.info("flow=%s %s", plan.flow, _figures(summary.records, summary.dead_letters, summary.seconds))
        if self._killed:
            raise AirflowException(
                f"flow '{plan.flow}' was stopped from outside after {summary.records} records, all of them committed; "
                "the next run goes on from there"
            )
        for asset in self.outlets:
            if isinstance(asset, Asset):
                context["outlet_events"][asset].extra = {key: result[key] for key in ("records", "dead_letters")}
        return result

    def on_kill(self) -> None:
        """Stop reading, flush, commit and leave. Also called in a signal handler: it only sets flags."""
        self._killed = True
        if self._worker is not None:
            self._worker.stop()

    _progress: Progress | None = None

    def _note_progress(self, progress: Progress) -> None:
        self._progress = progress

    def _run(self, worker: Worker) -> Summary:
        """Run the worker beside this thread, which stays free for signals, time-outs and the log."""
        self._worker = worker
        if self._killed:
            worker.stop()
        outcome: list[Summary | BaseException] = []
        ended = threading.Event()  # not `join`: interrupted by a signal, it takes a living thread for dead

        def run() -> None:
            try:
                outcome.append(worker.run())
            except BaseException as error:
                outcome.append(error)
            finally:
                ended.set()

        threading.Thread(target=run, name="flow", daemon=True).start()
        try:
            told = Progress(0, 0, 0, 0.0)
            while not ended.wait(0.2):
                told = self._tell(told)
        except BaseException:  # execution_timeout, an interrupt
            worker.stop()
            ended.wait(LEAVE_SECONDS)
            raise
        (result,) = outcome
        if isinstance(result, BaseException):
            raise result
        return result

    def _tell(self, told: Progress) -> Progress:
        now = self._progress
        if now is None or now.seconds - told.seconds < PROGRESS_SECONDS or now.records == told.records:
            return told
        rate = (now.records - told.records) / (now.seconds - told.seconds)
        lag = "" if now.lag is None else f" lag={now.lag}"
        self.log.info("%s records_per_second=%.0f%s", _figures(now.records, now.dead_letters, now.seconds), rate, lag)
        return now

    def _rendered(self, context: Any) -> DataFlow:
        def render(text: str) -> str:
            return str(self.render_template(text, context)) if "{{" in text or "{%" in text else text

        if isinstance(self.flow, InlineFlow):
            content = self.flow.content
            if isinstance(content, DataFlow):
                return content.rendered(render)
            return DataFlow.load(self.render_template(content, context))
        path = Path(self.flow)
        if not path.is_absolute() and self.has_dag():  # type: ignore[no-untyped-call]
            path = Path(self.dag.fileloc).parent / path
        return DataFlow.load(path).rendered(render)

    def _limits(self, flow: DataFlow) -> Limits:
        given: dict[str, Any] = {
            "mode": self.mode,
            "max_records": _number("max_records", self.max_records, int),
            "max_seconds": _number("max_seconds", self.max_seconds, float),
            "share": _share(self.share),
        }
        if self.mode not in (None, "drain", "continuous"):
            raise FlowError(f"mode: must be 'drain' or 'continuous', but is '{self.mode}'")
        return dataclasses.replace(flow.limits("drain"), **{k: v for k, v in given.items() if v is not None})

    def _store(self, plan: Plan, context: Any) -> CheckpointStore | None:
        """Where checkpoints go if not into the sink: None leaves it to the flow's own `checkpoints`."""
        if plan.checkpoints or isinstance(plan.sink(), TransactionalSink):
            return None
        for asset in self.outlets:
            if isinstance(asset, Asset):
                return AssetStore(context["asset_state_store"][asset])
        raise FlowError(
            f"the sink of flow '{plan.flow}' keeps no checkpoints, and the task has no outlet whose state could; "
            f"give the task outlets=[Asset('{plan.flow}')], or the flow `spec.checkpoints`"
        )


class InlineFlow:
    """A flow that is part of the DAG. As text, which is what Airflow's UI shows, it is only its name."""

    def __init__(self, content: Mapping[str, Any] | DataFlow) -> None:
        self.content = content

    def __str__(self) -> str:
        return f"DataFlow {_name_of(self.content) or 'without a name'}"

    __repr__ = __str__


def shares(count: int) -> list[dict[str, int]]:
    """The shares of `count` tasks that deal the splits of a source out among themselves, for `expand(share=…)`."""
    return [{"index": index, "count": count} for index in range(count)]


def _name_of(flow: str | Path | Mapping[str, Any] | DataFlow) -> str | None:
    if isinstance(flow, DataFlow):
        return flow.id
    if isinstance(flow, Mapping):
        metadata = flow.get("metadata")
        name = metadata.get("name") if isinstance(metadata, Mapping) else None
        return name if isinstance(name, str) and name else None
    return None if "{" in str(flow) else Path(flow).stem


def _number(name: str, value: Any, kind: type[int] | type[float]) -> int | float | None:
    """A limit; text is what a template leaves, and nothing is what an empty one means."""
    if value is None or (isinstance(value, str) and value.strip() in ("", "None")):
        return None
    try:
        number = kind(value)
    except (TypeError, ValueError):
        number = 0
    if number <= 0:
        raise FlowError(f"{name}: must be a number above 0, but is '{value}'")
    return number


def _share(share: Share | Mapping[str, int] | None) -> Share | None:
    if share is None or isinstance(share, Share):
        return share
    index, count = share.get("index"), share.get("count")
    if set(share) != {"index", "count"} or not isinstance(index, int) or not isinstance(count, int):
        raise FlowError(f"share: must be {{'index': …, 'count': …}}, but is {dict(share)}")
    if not 0 <= index < count:
        raise FlowError(f"share: index must be from 0 to {count - 1}, but is {index}")
    return Share(index, count)


def _figures(records: int, dead_letters: int, seconds: float) -> str:
    refused = f" dead_letters={dead_letters}" if dead_letters else ""
    return f"records={records}{refused} seconds={seconds:.1f}"
