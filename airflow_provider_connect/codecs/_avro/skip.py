"""Skipping values one by one: where the elements of a long array begin, so that all of them can be read at once."""

from __future__ import annotations

from collections.abc import Callable

from airflow_provider_connect.codecs._avro.schema import Type

Skip = Callable[[memoryview, int], int]
"""Takes the data and where a value begins; returns where it ends. IndexError or ValueError if that is nowhere."""

_FIXED = {"null": 0, "boolean": 1, "float": 4, "double": 8}


def positions(kind: Type, data: memoryview, begin: int, end: int, count: int) -> tuple[list[int], int]:
    """Where `count` values, one after the other from `begin`, begin, and where the last one ends.

    ValueError if they do not end by `end`.
    """
    skip = _skipper(kind)
    found = []
    try:
        for _ in range(count):
            found.append(begin)
            begin = skip(data, begin)
            if begin > end:
                raise ValueError("beyond the end")
    except IndexError as error:
        raise ValueError("beyond the end") from error
    return found, begin


def _skipper(kind: Type) -> Skip:
    if kind.kind in _FIXED or kind.kind == "fixed":
        size = _FIXED.get(kind.kind, kind.size)
        return lambda data, at: at + size
    if kind.kind in ("int", "long", "enum"):
        return _number_end
    if kind.kind in ("bytes", "string"):
        return _past_bytes
    if kind.kind == "record":
        return _in_turn([_skipper(field.type) for field in kind.fields])
    if kind.kind == "union":
        return _chosen([_skipper(branch) for branch in kind.branches])
    assert kind.items is not None
    item = _skipper(kind.items)
    return _blocks(_in_turn([_past_bytes, item]) if kind.kind == "map" else item)


def _number_end(data: memoryview, at: int) -> int:
    while data[at] & 0x80:
        at += 1
    return at + 1


def _number(data: memoryview, at: int) -> tuple[int, int]:
    found = shift = 0
    while True:
        byte = data[at]
        at += 1
        found |= (byte & 0x7F) << shift
        if byte < 0x80:
            return (found >> 1) ^ -(found & 1), at
        shift += 7


def _past_bytes(data: memoryview, at: int) -> int:
    length, at = _number(data, at)
    if length < 0:
        raise ValueError("negative length")
    return at + length


def _in_turn(skips: list[Skip]) -> Skip:
    def skip(data: memoryview, at: int) -> int:
        for each in skips:
            at = each(data, at)
        return at

    return skip


def _chosen(skips: list[Skip]) -> Skip:
    def skip(data: memoryview, at: int) -> int:
        branch, at = _number(data, at)
        if branch < 0:
            raise ValueError("negative branch")
        return skips[branch](data, at)

    return skip


def _blocks(item: Skip) -> Skip:
    def skip(data: memoryview, at: int) -> int:
        while True:
            count, at = _number(data, at)
            if count == 0:
                return at
            if count < 0:
                count = -count
                at = _number_end(data, at)
            if count > len(data):
                raise ValueError("more elements than bytes")
            for _ in range(count):
                at = item(data, at)
                if at > len(data):
                    raise ValueError("beyond the end")

    return skip
