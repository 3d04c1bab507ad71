"""What the declaration of a Config tells: its fields by any spelling, nested models, what a connection fills."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from airflow_provider_connect.engine.config import FromConnection, spec_key


@cache
def spellings(key: str) -> tuple[str, ...]:
    """A key as it is and as the specification spells it, if it is a field's name."""
    return tuple(dict.fromkeys((key, spec_key(key), _snake(key))))


@cache
def _snake(key: str) -> str:
    """The field's name of a spelling; `serverURL` is `server_url`."""
    words: list[str] = []
    for index, char in enumerate(key):
        new = char.isupper() and (index == 0 or not key[index - 1].isupper())
        words.append(f"_{char.lower()}" if new and index else char.lower())
    return "".join(words)


@cache
def _names(model: type[BaseModel]) -> Mapping[str, str]:
    """Every accepted spelling of every field, and the field's name."""
    names = {info.alias or name: name for name, info in model.model_fields.items()}
    return {**names, **{name: name for name in model.model_fields}}


def name_of(model: type[BaseModel], key: str) -> str | None:
    """The field that `key` (camelCase or snake_case) spells; None if there is none."""
    return _names(model).get(key)


def field_named(model: type[BaseModel], key: str) -> FieldInfo | None:
    """The declaration of the field that `key` spells."""
    name = name_of(model, key)
    return model.model_fields[name] if name else None


def key_of(model: type[BaseModel], name: str) -> str:
    """The specification's spelling of a field."""
    return model.model_fields[name].alias or name


def branches(annotation: Any) -> Iterator[Any]:
    """The types that an annotation allows, without None, with what `Annotated` says about them left out."""
    if get_origin(annotation) is Annotated:
        yield from branches(get_args(annotation)[0])
    elif get_origin(annotation) in (Union, UnionType):
        for part in get_args(annotation):
            yield from branches(part)
    elif annotation is not type(None):
        yield annotation


def model_of(annotation: Any) -> type[BaseModel] | None:
    """The nested model of a field: its own, or that of the items of its list."""
    for branch in branches(annotation):
        if isinstance(branch, type) and issubclass(branch, BaseModel):
            return branch
        if get_origin(branch) in (list, tuple) and (nested := model_of(get_args(branch)[0])):
            return nested
    return None


def model_at(model: type[BaseModel] | None, where: tuple[str | int, ...]) -> type[BaseModel] | None:
    """The model of the mapping at a place within a configuration; None where there is no model."""
    for step in where:
        if model is not None and isinstance(step, str):
            info = field_named(model, step)
            model = model_of(info.annotation) if info else None
    return model


def takes(annotation: Any, *kinds: type) -> bool:
    """Whether one of the types that an annotation allows is, or is a generic of, one of `kinds`."""
    return any(branch in kinds or get_origin(branch) in kinds for branch in branches(annotation))


def mark_of(info: FieldInfo) -> FromConnection | None:
    """What part of a connection fills a field; None if none does."""
    for data in info.metadata:
        if isinstance(data, FromConnection):
            return data
    return _mark_within(info.annotation)


def _mark_within(annotation: Any) -> FromConnection | None:
    for part in get_args(annotation):
        if isinstance(part, FromConnection):
            return part
        if get_origin(part) is Annotated and (found := _mark_within(part)):
            return found
    return None


def filled_by_connection(model: type[BaseModel]) -> bool:
    """Whether a connection fills anything of this model, or of a model within."""
    for info in model.model_fields.values():
        nested = model_of(info.annotation)
        if mark_of(info) or (nested and filled_by_connection(nested)):
            return True
    return False


def extra_keys(model: type[BaseModel]) -> Iterator[str]:
    """The keys of a connection's extra that fields of this model, or of a model within, take."""
    for info in model.model_fields.values():
        if (mark := mark_of(info)) and mark.part.startswith("extra."):
            yield mark.part.removeprefix("extra.")
        elif nested := model_of(info.annotation):
            yield from extra_keys(nested)
