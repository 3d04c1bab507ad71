"""Limits: what a topic refuses, found before anything is produced: a transaction cannot take one record back."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace

import pyarrow as pa
import pyarrow.compute as pc

from airflow_provider_connect.engine.errors import InvalidRecord

_OVERHEAD_BYTES = 256
"""At most what a request's and a record's own fields need beside key, value and headers."""
_HEADER_BYTES = 10
_DEFAULT_BYTES = 1_000_000
_NEVER = 2**63 - 1


@dataclass(frozen=True, slots=True)
class TopicLimits:
    """What a topic takes. `message_bytes`: the largest request; time bounds in milliseconds around now."""

    message_bytes: int = _DEFAULT_BYTES
    needs_key: bool = False
    before_ms: int = _NEVER
    after_ms: int = _NEVER

    @classmethod
    def of(cls, settings: Mapping[str, str]) -> TopicLimits:
        """From the topic's configuration, as far as it is known."""
        own_time = settings.get("message.timestamp.type", "CreateTime") == "CreateTime"
        return cls(
            message_bytes=int(settings.get("max.message.bytes") or _DEFAULT_BYTES),
            needs_key="compact" in settings.get("cleanup.policy", ""),
            before_ms=int(settings.get("message.timestamp.before.max.ms") or _NEVER) if own_time else _NEVER,
            after_ms=int(settings.get("message.timestamp.after.max.ms") or _NEVER) if own_time else _NEVER,
        )

    def at_most(self, message_bytes: int) -> TopicLimits:
        """The same, with no larger requests than this."""
        return replace(self, message_bytes=min(self.message_bytes, message_bytes))

    def check(self, rows: pa.RecordBatch) -> None:
        """InvalidRecord with the rows that the topic would refuse."""
        refused: dict[int, str] = {}
        keys, values, headers = rows.column("key"), rows.column("value"), rows.column("headers")
        most = self.message_bytes - _OVERHEAD_BYTES
        if rows.nbytes > most:  # else no single record can be too large
            sizes = pc.add(_lengths(keys), _lengths(values))
            if headers.null_count < len(headers):
                sizes = pc.add(sizes, _header_bytes(headers))
            for row in _where(pc.greater(sizes, most)):
                refused[row] = f"{sizes[row].as_py()} bytes; topic takes {most} (max.message.bytes)"
        if self.needs_key and keys.null_count:
            for row in _where(pc.is_null(keys)):
                refused[row] = "no key, but the topic is compacted (cleanup.policy)"
        refused |= self._untimely(rows.column("timestamp"))
        if refused:
            first = min(refused)
            raise InvalidRecord(f"{len(refused)} records refused; row {first}: {refused[first]}", rows=refused)

    def _untimely(self, timestamps: pa.Array) -> dict[int, str]:
        if timestamps.null_count == len(timestamps):
            return {}
        milliseconds = timestamps.cast(pa.timestamp("ms", tz="UTC"), safe=False).view(pa.int64())
        now = int(time.time() * 1000)
        oldest = now - self.before_ms
        newest = min(_NEVER, now + self.after_ms)
        span = pc.min_max(milliseconds).as_py()
        if span["min"] >= oldest and span["max"] <= newest:
            return {}
        outside = pc.or_(pc.less(milliseconds, oldest), pc.greater(milliseconds, newest))
        why = "its timestamp is outside of what the topic takes (message.timestamp.before.max.ms, …after.max.ms)"
        return dict.fromkeys(_where(outside), why)


def _lengths(column: pa.Array) -> pa.Array:
    return pc.fill_null(pc.binary_length(column), 0).cast(pa.int64())


def _header_bytes(headers: pa.Array) -> pa.Array:
    """Bytes of the headers of each row."""
    return pa.array([
        sum(len(h["key"].encode()) + len(h["value"] or b"") + _HEADER_BYTES for h in row or ())
        for row in headers.to_pylist()
    ], pa.int64())  # fmt: skip


def _where(condition: pa.Array) -> list[int]:
    rows: list[int] = pc.indices_nonzero(pc.fill_null(condition, False)).to_pylist()
    return rows
