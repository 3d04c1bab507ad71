"""Lint: documents of a YAML file with the line of every key, and everything wrong with them, one message each."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from types import NoneType
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from airflow_provider_connect.engine.errors import FlowError
from airflow_provider_connect.engine.models import model_at, spellings
from airflow_provider_connect.engine.registry import suggestion

Where = tuple[str | int, ...]
"""A place in a document: keys and list indexes from the top."""

_MOST_NODES = 100_000
_PHRASES = {
    "Input should": "must",
    "String should": "must",
    "List should": "must",
    " after validation": "",
    "a valid string": "text",
    "a valid integer": "a whole number",
    "a valid boolean": "true or false",
    "a valid ": "a ",
}
"""Pydantic's words, and ours."""
_KINDS = {NoneType: "nothing", str: "text", bool: "true/false", int: "a number", float: "a number", list: "a list"}


def place(where: Where) -> str:
    """`("spec", "transformations", 0, "type")` as `spec.transformations[0].type`."""
    return "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in where).lstrip(".")


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong; as text `file:line: path: message`, without what is not known."""

    message: str
    path: str = ""
    file: str = ""
    line: int | None = None

    def __str__(self) -> str:
        line = "" if self.line is None else f":{self.line}" if self.file else f"line {self.line}"
        position = self.file + line
        return ": ".join(part for part in (position, self.path, self.message) if part)


class LintError(FlowError):
    """Everything that is wrong with a flow, or with the flows of a file; `problems` has them one by one."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(map(str, self.problems)))

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.problems,)


@dataclass(frozen=True, slots=True)
class Document:
    """A document, the file it is from (empty: none), and the line of each key and list item."""

    data: Any
    file: str = ""
    lines: Mapping[Where, int] = field(default_factory=dict, repr=False)

    def problem(self, where: Where, message: str) -> Problem:
        """A problem at `where`; its line is that of the nearest place around it that the document has."""
        steps = where
        while steps and steps not in self.lines:
            steps = steps[:-1]
        return Problem(message, place(where), self.file, self.lines.get(steps))


def read_documents(text: str, file: str = "") -> list[Document]:
    """The documents of a YAML text, empty ones left out. LintError for what YAML, or JSON's model of data, refuses."""
    loader = _Loader(text)
    documents = []
    try:
        while loader.check_node():
            node = loader.get_node()
            problems = [Problem(message, place(where), file, line) for where, line, message in _unfit(node, (), set())]
            if problems:
                raise LintError(problems)
            data = loader.construct_document(node)
            if data is not None:
                lines = dict(_lines(node, ()))
                documents.append(Document(data, file, {(): node.start_mark.line + 1, **lines}))
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else None
        raise LintError([Problem(f"not valid YAML: {error.problem or error.context}", "", file, line)]) from None
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise LintError([Problem(f"not valid YAML: {str(error).splitlines()[0]}", "", file)]) from None
    finally:
        loader.dispose()
    if not documents:
        raise LintError([Problem("is empty; a flow begins with `apiVersion:` and `kind: DataFlow`", "", file)])
    return documents


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """Safe, and without timestamps: as in Kubernetes, `2026-01-01` is text."""

    yaml_implicit_resolvers = {  # noqa: RUF012
        first: [(tag, expression) for tag, expression in resolvers if not tag.endswith(":timestamp")]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


_PLAIN_TAGS = {f"tag:yaml.org,2002:{name}" for name in ("map", "seq", "str", "int", "float", "bool", "null")}


def _unfit(
    node: Any, where: Where, around: set[int], count: list[int] | None = None
) -> Iterator[tuple[Where, int, str]]:
    """What YAML allows and a flow does not: keys that are doubled or no text, tags, aliases that never end."""
    count = [0] if count is None else count
    count[0] += 1
    line = node.start_mark.line + 1
    if id(node) in around or count[0] > _MOST_NODES:
        recursive = id(node) in around
        yield where, line, "an alias of what it is in" if recursive else f"more than {_MOST_NODES} values (aliases?)"
        return
    if node.tag not in _PLAIN_TAGS:
        yield (
            where,
            line,
            f"the tag '{node.tag.replace('tag:yaml.org,2002:', '!!')}' is not supported; write plain YAML",
        )
        return
    if isinstance(node, yaml.ScalarNode):
        return
    around = around | {id(node)}
    if isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            yield from _unfit(item, (*where, index), around, count)
            if count[0] > _MOST_NODES:
                return
        return
    seen: dict[str, int] = {}
    for key, value in node.value:
        here = key.start_mark.line + 1
        if key.tag == "tag:yaml.org,2002:merge":
            yield from _unfit(value, (*where, "<<"), around, count)
            continue
        if key.tag != "tag:yaml.org,2002:str":
            yield where, here, f"the key {getattr(key, 'value', '')!r} is no text; put it in quotes"
            continue
        if key.value in seen:
            yield (*where, key.value), here, f"duplicate key; it is in line {seen[key.value]} already"
        seen.setdefault(key.value, here)
        yield from _unfit(value, (*where, key.value), around, count)
        if count[0] > _MOST_NODES:
            return


def _lines(node: Any, where: Where) -> Iterator[tuple[Where, int]]:
    """The line of each key and item; after construction, so that merged mappings are part of their target."""
    if isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            yield (*where, index), item.start_mark.line + 1
            yield from _lines(item, (*where, index))
    elif isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            yield (*where, key.value), key.start_mark.line + 1
            yield from _lines(value, (*where, key.value))


def kind_of(value: Any) -> str:
    """What a value is, in words, without the value."""
    if isinstance(value, float) and not math.isfinite(value):
        return "not a finite number"
    return _KINDS.get(type(value), "a mapping")


def explain(
    error: ValidationError, model: type[BaseModel], data: Any, extra_keys: Iterable[str] = ()
) -> list[tuple[Where, str, str]]:
    """Pydantic's errors as (place in `data`, message, pydantic's kind of error); one per place.

    `extra_keys` are keys that are fine at the top although the model does not have them. No value is quoted.
    """
    found: dict[Where, tuple[list[str], str]] = {}
    for detail in error.errors(include_url=False, include_context=True, include_input=False):
        where = _located(detail["loc"], data, missing=detail["type"] == "missing")
        message = _message(detail, where, model, data, tuple(extra_keys))
        messages, _ = found.setdefault(where, ([], detail["type"]))
        if message not in messages:
            messages.append(message)
    return [(where, " or ".join(messages), kind) for where, (messages, kind) in found.items()]


def _located(loc: tuple[str | int, ...], data: Any, missing: bool) -> Where:
    """The place in the document: in its own spelling, without the names pydantic gives to branches of a union."""
    where: list[str | int] = []
    for index, step in enumerate(loc):
        if isinstance(data, Mapping):
            spelled = next((name for name in spellings(str(step)) if name in data), None)
            if spelled is not None:
                where.append(spelled)
                data = data[spelled]
            elif missing and index == len(loc) - 1:
                where.append(str(step))
        elif isinstance(data, list) and isinstance(step, int) and step < len(data):
            where.append(step)
            data = data[step]
    return tuple(where)


def _message(detail: Any, where: Where, model: type[BaseModel], data: Any, extra_keys: tuple[str, ...]) -> str:
    kind, text = detail["type"], str(detail["msg"])
    if kind == "missing":
        return "required, but missing"
    if kind == "extra_forbidden":
        owner = model_at(model, where[:-1])
        known = [info.alias or name for name, info in owner.model_fields.items()] if owner else []
        if len(where) == 1:
            known.extend(extra_keys)
        return f"unknown field{suggestion(str(where[-1]), known)}"
    if kind in ("value_error", "assertion_error"):
        return text.partition(", ")[2] or text
    for step in where:
        data = data[step]
    for phrase, ours in _PHRASES.items():
        text = text.replace(phrase, ours)
    if kind in (
        "string_type",
        "int_type",
        "float_type",
        "bool_type",
        "list_type",
        "dict_type",
        "model_type",
        "tuple_type",
    ):
        text = text.partition(" or instance of")[0].partition(" or an instance of")[0]
        text = {"model_type": "must be a mapping", "dict_type": "must be a mapping"}.get(kind, text)
        text += f", but is {kind_of(data)}"
        if kind == "string_type" and isinstance(data, bool | int | float):
            text += "; put it in quotes"
    return text[:1].lower() + text[1:]
