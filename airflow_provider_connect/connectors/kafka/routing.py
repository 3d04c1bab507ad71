"""Routing: the topic and the key of each record, from its fields where the configuration says so."""

from __future__ import annotations

import re

import pyarrow as pa
import pyarrow.compute as pc

from airflow_provider_connect.connectors.kafka.config import KafkaSinkConfig
from airflow_provider_connect.connectors.kafka.fields import Fields, Text
from airflow_provider_connect.engine.errors import InvalidRecord

_NAME = r"^[A-Za-z0-9._-]{1,249}$"
_FORBIDDEN = r"^(__.*|\.|\.\.)$"
_PLACEHOLDER = re.compile(r"\{([^{}]+)\}")
_EMPTY = pa.scalar("")


class Routing:
    """Where records go. Without anything configured that looks into records, `apply` gives them back as they are."""

    def __init__(self, config: KafkaSinkConfig) -> None:
        template = f"{{{config.topic_field}}}" if config.topic_field else config.topic or ""
        parts = _PLACEHOLDER.split(template)
        self._pieces, self._topic_fields = parts[::2], parts[1::2]
        self.topic: str | None = template if not self._topic_fields else None
        """The topic, if it is the same for all records."""
        self._key_fields = config.key_fields or ([config.key_field] if config.key_field else [])
        self._one_key = bool(config.key_field)
        self._fields = Fields([*self._topic_fields, *self._key_fields])
        self.label = f"topic '{template}'" if self.topic else f"topics '{template}'"

    @property
    def by_fields(self) -> bool:
        """Whether anything depends on the records' fields, so that they have to be JSON."""
        return bool(self._fields.paths)

    @property
    def decides(self) -> tuple[str, ...]:
        """The envelope's columns that follow from fields."""
        return (*(("key",) if self._key_fields else ()), *(("topic",) if self._topic_fields else ()))

    def columns(self, names: list[str]) -> list[str]:
        """Those of these columns that the fields are in."""
        wanted = {*self._topic_fields, *self._key_fields}
        wanted |= {path.partition(".")[0] for path in wanted}
        return [name for name in names if name in wanted]

    def apply(self, rows: pa.RecordBatch) -> pa.RecordBatch:
        """Envelope rows with `key`, and `topic` where it is not the same for all, as the records' fields say.

        A tombstone has no fields: it keeps its key, and has no topic. InvalidRecord names the rows that cannot go
        anywhere.
        """
        if not self.by_fields:
            return rows
        values = rows.column("value")
        found = self._fields.read(values)
        if self._key_fields:
            keys = self._keys([found[path] for path in self._key_fields])
            if values.null_count:
                keys = pc.if_else(pc.is_valid(values), keys, rows.column("key"))
            rows = _with(rows, "key", keys)
        return rows if self.topic else _with(rows, "topic", self._topics(found, len(rows)))

    def _keys(self, fields: list[Text]) -> pa.Array:
        if self._one_key:
            return fields[0].plain.cast(pa.binary())
        parts: list[pa.Array | pa.Scalar] = []
        for number, (path, field) in enumerate(zip(self._key_fields, fields, strict=True)):
            name = path.replace("\\", "\\\\").replace('"', '\\"')
            parts += [pa.scalar(f'{"," if number else "{"}"{name}":'), field.json()]
        return pc.binary_join_element_wise(*parts, pa.scalar("}"), _EMPTY).cast(pa.binary())

    def _topics(self, found: dict[str, Text], count: int) -> pa.Array:
        parts: list[pa.Array | pa.Scalar] = [pa.scalar(self._pieces[0])]
        for path, piece in zip(self._topic_fields, self._pieces[1:], strict=True):
            parts += [found[path].plain, pa.scalar(piece)]
        names = pc.binary_join_element_wise(*parts, _EMPTY)
        refused: dict[int, str] = {}
        if names.null_count:
            fields = " or ".join(f"'{path}'" for path in self._topic_fields)
            missing = pc.indices_nonzero(pc.is_null(names)).to_pylist()
            refused |= dict.fromkeys(missing, f"no topic, for {fields} is missing or null")
        wrong = pc.or_(pc.invert(pc.match_substring_regex(names, _NAME)), pc.match_substring_regex(names, _FORBIDDEN))
        for row in pc.indices_nonzero(pc.fill_null(wrong, False)).to_pylist():
            refused[row] = f"'{names[row].as_py()[:300]}' is no name of a topic (letters, digits, '.', '_', '-')"
        if refused:
            first = min(refused)
            raise InvalidRecord(f"{len(refused)} records refused; row {first}: {refused[first]}", rows=refused)
        return names


def _with(rows: pa.RecordBatch, name: str, column: pa.Array) -> pa.RecordBatch:
    at = rows.schema.get_field_index(name)
    return rows.set_column(at, rows.schema.field(at), column)
