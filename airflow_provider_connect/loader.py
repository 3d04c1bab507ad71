"""Loader: a folder of flows in YAML as DAGs. A file in Airflow's DAGs folder (which must say "airflow" and "dag"):

from airflow_provider_connect.loader import load_dataflows

load_dataflows(globals(), __file__)
"""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from airflow.sdk import DAG, get_parsing_context
from airflow.sdk.exceptions import AirflowException

from airflow_provider_connect.engine.errors import FlowError
from airflow_provider_connect.engine.flow import DataFlow
from airflow_provider_connect.flow_page import flow_page
from airflow_provider_connect.operators.dataflow import DataFlowOperator

TASK_ID = "run"
START = datetime(2026, 1, 1, tzinfo=UTC)
_PATTERNS = ("*.yaml", "*.yml")
_MARK = b"dataflow"


def load_dataflows(into: MutableMapping[str, Any], folder: str | Path, **task: Any) -> None:
    """Turn every flow in the YAML files of a folder into a DAG, and put it where Airflow finds it: `globals()`.

    A DAG is named like its flow, has its `spec.schedule` and `spec.tags`, shows its description and declaration (with
    secrets masked) in the UI, and runs one flow at a time in its only task, "run". `task` goes to that
    DataFlowOperator: `retries=3, retry_delay=timedelta(minutes=1), pool="kafka"`.

    `folder` may also be a file in it: `__file__`. YAML that nowhere says "dataflow" (in any case) is not ours.
    A file that is wrong becomes an import error of that file, with line, path and remedy; the others stay DAGs.
    """
    folder = Path(folder)
    folder = folder.parent if folder.is_file() else folder
    wanted = get_parsing_context().dag_id
    found: dict[str, Path] = {}
    for path in sorted(path for pattern in _PATTERNS for path in folder.glob(pattern)):
        try:
            for flow in _flows(path):
                if flow.id in found:
                    raise FlowError(f"{path}: metadata.name: {found[flow.id].name} has a flow '{flow.id}' already")
                found[flow.id] = path
                if wanted in (None, flow.id):
                    into[f"dataflow {flow.id}"] = flow_dag(flow, path, **task)
        except FlowError as error:
            if wanted is None:
                into[f"broken {path.name}"] = BrokenFile(path, error)


def flow_dag(flow: DataFlow, path: Path | None = None, **task: Any) -> DAG:
    """The DAG of a flow, see `load_dataflows`. FlowError if Airflow does not take it, such as for its schedule."""
    try:
        dag = _dag(flow, path)
        dag.validate()  # type: ignore[no-untyped-call]
    except (AirflowException, ValueError) as error:
        where = f"{path}: " if path else ""
        raise FlowError(f"{where}Airflow refuses the schedule or the tags of flow '{flow.id}': {error}") from None
    DataFlowOperator(task_id=TASK_ID, flow=flow, dag=dag, **task)
    return dag


def _dag(flow: DataFlow, path: Path | None) -> DAG:
    return DAG(
        dag_id=flow.id,
        schedule=flow.schedule,
        # Without one, the second run of "@continuous" would have the logical date of the first, and never be made.
        start_date=START,
        catchup=False,
        max_active_runs=1,
        tags=sorted({"dataflow", *flow.tags}),
        description=flow.description or None,
        doc_md=flow_page(flow, path.name if path else ""),
    )


class BrokenFile(DAG):
    """A file that has no DAG, only an error.

    Airflow keeps one import error per Python file, and an error of the loader's file would retire all its other DAGs.
    But an error while a DAG is serialized belongs to that DAG's own file, and leaves the others alone.
    """

    def __init__(self, path: Path, error: FlowError) -> None:
        super().__init__(dag_id=f"broken.{path.name}", schedule=None)
        self._name, self._error = path.name, error

    @property
    def relative_fileloc(self) -> str | None:
        """The broken file, beside the loader's file that Airflow sets."""
        return self._relative_fileloc

    @relative_fileloc.setter
    def relative_fileloc(self, loader: str | None) -> None:
        self._relative_fileloc = str(Path(loader).with_name(self._name)) if loader else None

    @property
    def edge_info(self) -> Any:
        """What nothing but serialization asks for."""
        raise self._error.with_traceback(None) from None

    @edge_info.setter
    def edge_info(self, value: Any) -> None:
        return


def _flows(path: Path) -> Iterator[DataFlow]:
    try:
        if _MARK not in path.read_bytes().lower():
            return
    except OSError as error:
        raise FlowError(f"{path}: cannot be read: {error.strerror}") from error
    yield from DataFlow.load_all(path)
