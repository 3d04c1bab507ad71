"""DataFlow: a flow as users declare it, in YAML or in Python, and the Plan it becomes.

    flow = DataFlow.load("orders.yaml")     # LintError lists everything that is wrong, with lines
    Worker(flow.plan()).run()               # connections from AIRFLOW_CONN_<ID>, or from any other lookup

The same in Python, with the blocks of the YAML or with the connectors' Config objects:

    flow = dataflow(
        "orders",
        source=("kafka", {"brokers": ["localhost:9092"], "topic": "orders"}),
        sink=("postgresql", {"connection": "warehouse", "table": "orders", "batchSize": 10_000}),
    )
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

from pydantic import PrivateAttr, ValidationError

from airflow_provider_connect.engine.component import (
    Component,
    ErrorSink,
    Role,
    check_component,
    component_of,
    connection_ids,
    read_component,
    read_error_sink,
    resolve_component,
)
from airflow_provider_connect.engine.config import Config
from airflow_provider_connect.engine.connections import Connection, ConnectionLookup, environment_lookup
from airflow_provider_connect.engine.errors import FlowError
from airflow_provider_connect.engine.lint import Document, LintError, Problem, Where, explain, kind_of, read_documents
from airflow_provider_connect.engine.logs import mask_secrets_of
from airflow_provider_connect.engine.manifests import flow_documents, manifest_lookup
from airflow_provider_connect.engine.plan import Limits, Mode, Plan
from airflow_provider_connect.engine.retry import RetryPolicy
from airflow_provider_connect.engine.spec import API_VERSION, COMPONENT_FIELDS, KUBERNETES_METADATA, Metadata, Spec

ComponentLike = Component | Config | tuple[str, Mapping[str, Any]] | Mapping[str, Any]
"""What `dataflow()` takes: `("kafka", {...})`, a Config object, `{"type": "kafka", "kafka": {...}}`, or a Component."""

_PLACEHOLDER = Component(type="-", config={})


class DataFlow(Config):
    """A flow: source, transformations, sink, and how to run them."""

    api_version: Literal["dataflow.dataflow.io/v1"]
    """Version of this format."""
    kind: Literal["DataFlow"]
    """Always DataFlow."""
    metadata: Metadata
    """Name, namespace, labels and annotations."""
    spec: Spec
    """Source, transformations, sink and settings of the run."""

    _document: Document = PrivateAttr(default_factory=lambda: Document(None))
    _secrets: dict[str, Connection] = PrivateAttr(default_factory=dict)

    @classmethod
    def load(cls, flow: str | Path | Mapping[str, Any] | DataFlow) -> DataFlow:
        """The one flow in a file, a YAML text (a `str` with a line break), or a mapping. LintError if it is wrong.

        Touches no system and needs no connection. Only in files and texts a value must have the very type of the
        schema; a mapping made in Python may have text for numbers, as templates leave it.
        """
        if isinstance(flow, DataFlow):
            return flow
        if isinstance(flow, Mapping):
            return _read(Document(_plain(flow)), strict=False)
        flows = cls.load_all(flow)
        if len(flows) != 1:
            names = ", ".join(f"'{each.name}'" for each in flows)
            raise FlowError(
                f"{flows[0]._document.file or 'the text'} holds {len(flows)} flows ({names}); one is wanted"
            )
        return flows[0]

    @classmethod
    def load_all(cls, path: str | Path) -> list[DataFlow]:
        """Every flow of a file (or YAML text) of several documents, with the Secrets beside them.

        LintError with all problems of all documents.
        """
        text, file = _text_of(path)
        documents, secrets = flow_documents(read_documents(text, file))
        flows: list[DataFlow] = []
        problems: list[Problem] = []
        for document in documents:
            try:
                found = _read(document, strict=True)
            except LintError as error:
                problems.extend(error.problems)
                continue
            found._secrets.update(secrets)
            flows.append(found)
        for index, found in enumerate(flows):
            if found.id in [other.id for other in flows[:index]]:
                where: Where = ("metadata", "name")
                problems.append(found._document.problem(where, f"there are two flows '{found.id}' in this file"))
        if problems:
            raise LintError(problems)
        return flows

    @property
    def name(self) -> str:
        """`metadata.name`."""
        return self.metadata.name

    @property
    def id(self) -> str:
        """What stored positions belong to: `name`, or `namespace.name`."""
        return f"{self.metadata.namespace}.{self.name}" if self.metadata.namespace else self.name

    @property
    def description(self) -> str:
        """The annotation `description`."""
        return self.metadata.annotations.get("description", "")

    @property
    def schedule(self) -> str | None:
        """`spec.schedule`."""
        return self.spec.schedule

    @property
    def tags(self) -> tuple[str, ...]:
        """`spec.tags`."""
        return tuple(self.spec.tags)

    def limits(self, mode: Mode | None = None) -> Limits:
        """When a run ends by itself, as the flow says; `mode` is for flows that leave it open, else "continuous"."""
        spec = self.spec
        return Limits(spec.mode or mode or "continuous", max_records=spec.max_records, max_seconds=spec.max_seconds)

    def connection_ids(self) -> tuple[str, ...]:
        """The connections that the flow refers to, as in YAML, each once."""
        found = [name for _, role, part in self._components() for name in connection_ids(part, role)]
        if self.spec.checkpoints_secret_ref:
            found.append(self.spec.checkpoints_secret_ref.conn_id)
        return tuple(dict.fromkeys(found))

    def plan(self, lookup: ConnectionLookup = environment_lookup) -> Plan:
        """What a worker needs, every connection looked up (once each). LintError with all that is missing or wrong."""
        problems: list[Problem] = []
        look = manifest_lookup(lookup, self._secrets)
        resolved = []
        for where, role, component in self._components():
            report = _reporter(self._document, where, problems)
            if found := resolve_component(component, role, look, report):
                cls, config = found
                mask_secrets_of(config)
                try:
                    resolved.append((role, cls.choose(config) if role == "sink" else cls, config))
                except FlowError as error:
                    report((), str(error))
        checkpoints = self.spec.checkpoints
        if ref := self.spec.checkpoints_secret_ref:
            try:
                checkpoints = str(look(ref.conn_id).get(ref.key))
            except FlowError as error:
                problems.append(self._document.problem(("spec", "checkpointsSecretRef"), str(error)))
        if problems:
            raise LintError(problems)
        (_, source, source_config), (_, sink, sink_config), *others = resolved
        steps = [(cls, config) for role, cls, config in others if role == "transform"]
        errors = [partial(cls, config) for role, cls, config in others if role == "sink"]
        retry = self.spec.retry
        return Plan(
            flow=self.id,
            source=partial(source, source_config),
            sink=partial(sink, sink_config),
            transforms=partial(_made, steps),
            sink_type=self.spec.sink.type,
            errors=errors[0] if errors else None,
            passes_dead_letters=self.spec.errors is None or self.spec.errors.ack_policy == "afterWrite",
            parallelism=self.spec.parallelism,
            retry=RetryPolicy(retry.attempts, retry.first_seconds, retry.longest_seconds),
            checkpoints=checkpoints,
            prefetch_bytes=self.spec.prefetch_bytes,
            read_records=self.spec.read_records,
        )

    def rendered(self, render: Callable[[str], str]) -> DataFlow:
        """The same flow, each of its texts replaced by what `render` makes of it; text may then stand for numbers.

        LintError, with the lines of the file, if what comes out is wrong.
        """
        data = _each_text(self.as_dict(), render)
        flow = _read(Document(data, self._document.file, self._document.lines), strict=False)
        flow._secrets.update(self._secrets)
        return flow

    def as_dict(self) -> dict[str, Any]:
        """As in YAML. Values of Config objects, also secret ones, are in clear; so keep it off logs."""
        shown = self.model_dump(by_alias=True, exclude_unset=True, exclude={"spec": set(COMPONENT_FIELDS)})
        spec = shown["spec"]
        for field in ("source", "sink", "errors"):
            if (component := getattr(self.spec, field)) is not None:
                spec[field] = component.plain()
        if self.spec.transformations:
            spec["transformations"] = [component.plain() for component in self.spec.transformations]
        return shown

    def _components(self) -> list[tuple[Where, Role, Component]]:
        """Source first, sink second; then errors and transformations, where there are any."""
        spec = self.spec
        found: list[tuple[Where, Role, Component]] = [
            (("spec", "source"), "source", spec.source),
            (("spec", "sink"), "sink", spec.sink),
        ]
        if spec.errors is not None:
            found.append((("spec", "errors"), "sink", spec.errors))
        for index, component in enumerate(spec.transformations):
            found.append((("spec", "transformations", index), "transform", component))
        return found


def dataflow(
    name: str,
    *,
    source: ComponentLike,
    sink: ComponentLike,
    transformations: Sequence[ComponentLike] = (),
    errors: ComponentLike | None = None,
    namespace: str | None = None,
    description: str = "",
    **settings: Any,
) -> DataFlow:
    """A flow made in Python.

    `source`, `sink`, `errors` and each of `transformations` is one of

    * `("kafka", {...})`: a type and its block as in YAML; `connection` and SecretRefs work, keys may be snake_case;
    * a connector's Config object, such as `PostgresqlSinkConfig(table="orders", ...)`, checked by your type checker;
    * `{"type": "kafka", "kafka": {...}}`: exactly what stands in YAML.

    `settings` are the other fields of `spec` (`parallelism=4`, `schedule="@hourly"`, `retry={"attempts": 3}`, ...).
    LintError if something is wrong; no system is touched.
    """
    metadata: dict[str, Any] = {"name": name}
    if namespace is not None:
        metadata["namespace"] = namespace
    if description:
        metadata["annotations"] = {"description": description}
    spec: dict[str, Any] = {**settings, "source": _component(source), "sink": _component(sink)}
    if errors is not None:
        spec["errors"] = _component(errors)
    if transformations:
        spec["transformations"] = [_component(each) for each in transformations]
    data = {"apiVersion": API_VERSION, "kind": "DataFlow", "metadata": metadata, "spec": spec}
    return _read(Document(_plain(data)), strict=False)


def _component(like: ComponentLike) -> Any:
    if isinstance(like, Config):
        return component_of(like)
    if isinstance(like, tuple):
        name, block = like
        return {"type": name, name: block}
    return like


def _made(steps: Iterable[tuple[Any, Config]]) -> list[Any]:
    return [cls(config) for cls, config in steps]


def _read(document: Document, strict: bool) -> DataFlow:
    """A flow from its document; LintError with everything that shows without a connection."""
    problems: list[Problem] = []
    data = document.data
    if not isinstance(data, Mapping):
        raise LintError([document.problem((), f"a flow must be a mapping, but this is {kind_of(data)}")])
    outer: dict[str, Any] = {**data}
    outer.pop("status", None)  # what a cluster reports
    if isinstance(metadata := outer.get("metadata"), Mapping):
        outer["metadata"] = {key: value for key, value in metadata.items() if key not in KUBERNETES_METADATA}
    if isinstance(spec := outer.get("spec"), Mapping):
        outer["spec"] = _with_components(spec, document, problems, strict)
    try:
        flow = DataFlow.model_validate(outer, strict=strict)
    except ValidationError as error:
        for where, message, _ in explain(error, DataFlow, outer):
            problems.append(document.problem(where, message))
    if problems:
        order = {id(problem): index for index, problem in enumerate(problems)}
        raise LintError(sorted(problems, key=lambda problem: (problem.line or 0, order[id(problem)])))
    flow._document = Document(None, document.file, document.lines)
    return flow


def _with_components(
    spec: Mapping[str, Any], document: Document, problems: list[Problem], strict: bool
) -> dict[str, Any]:
    """The spec with Component objects, placeholders for wrong ones, so that the rest can be judged too."""

    def checked(raw: Any, role: Role, *where: str | int) -> Component:
        report = _reporter(document, ("spec", *where), problems)
        errors = where == ("errors",)
        component = read_error_sink(raw, report) if errors else read_component(raw, role, report)
        if component is None:
            return ErrorSink(type="-", config={}) if errors else _PLACEHOLDER
        check_component(component, role, report, strict)
        return component

    read: dict[str, Any] = {**spec}
    for field, role in COMPONENT_FIELDS.items():
        raw = spec.get(field)
        if raw is not None and field != "transformations":
            read[field] = checked(raw, role, field)
        elif isinstance(raw, list):
            read[field] = [checked(each, role, field, index) for index, each in enumerate(raw)]
    return read


def _reporter(document: Document, where: Where, problems: list[Problem]) -> Any:
    return lambda inner, message: problems.append(document.problem((*where, *inner), message))


def _plain(value: Any) -> Any:
    """Mappings and sequences of any kind as those of a document; Components stay."""
    if isinstance(value, Component | Config):
        return component_of(value) if isinstance(value, Config) else value
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    return [_plain(inner) for inner in value] if isinstance(value, list | tuple) else value


def _each_text(value: Any, render: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return render(value)
    if isinstance(value, Mapping):
        return {key: _each_text(inner, render) for key, inner in value.items()}
    return [_each_text(inner, render) for inner in value] if isinstance(value, list | tuple) else value


def _text_of(path: str | Path) -> tuple[str, str]:
    if isinstance(path, str) and "\n" in path:
        return path, ""
    path = Path(path)
    try:
        return path.read_text(encoding="utf-8"), str(path)
    except FileNotFoundError:
        raise FlowError(f"{path}: there is no such file") from None
    except OSError as error:
        raise FlowError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError:
        raise FlowError(f"{path}: is not UTF-8 text") from None
