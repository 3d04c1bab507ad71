"""RegistryCodec: framed values to columns and back, each with the schema that the registry has for its id."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

import pyarrow as pa

from airflow_provider_connect.codecs._schema_registry.client import Schema, SchemaRegistry, UnknownSchema
from airflow_provider_connect.codecs._schema_registry.columns import merged, woven
from airflow_provider_connect.codecs._schema_registry.framing import Ints, Values, frame, unframe
from airflow_provider_connect.engine.batch import documents as envelope
from airflow_provider_connect.engine.codec import Codec
from airflow_provider_connect.engine.errors import Fatal, FlowError, InvalidRecord

SubjectNames = Literal["topic", "record", "topic-record"]


class Reader(Protocol):
    """Reads the values of one schema."""

    def read(self, values: Values) -> tuple[pa.RecordBatch, dict[int, str]]:
        """One row per value, and `{index: why}` of those that cannot be read."""
        ...


class Writer(Protocol):
    """Writes columns as values of one schema."""

    kind: str

    def schema_for(self, columns: pa.Schema, earlier: str | None) -> str:
        """The text of the schema to write these columns with; `earlier`: the one the subject has."""
        ...

    def full_name(self, schema: str) -> str:
        """The name of the schema's record."""
        ...

    def write(self, columns: pa.RecordBatch, schema: str) -> pa.Array:
        """One value per row."""
        ...


@dataclass(frozen=True, slots=True)
class Subjects:
    """In which subject a schema is, and whether we may register one."""

    topic: str
    strategy: SubjectNames = "topic"
    register: bool = True

    def subject(self, record: str) -> str:
        """The subject of values whose record has this full name."""
        return {"topic": f"{self.topic}-value", "record": record, "topic-record": f"{self.topic}-{record}"}[
            self.strategy
        ]


@dataclass
class RegistryCodec(Codec):
    """Values whose frame names their schema.

    A record is decoded with the schema it was written with, whatever is beside it. Once a column was seen, all later
    batches have it, null where the record's schema lacks it; the newest schema says the order.
    """

    registry: Callable[[], SchemaRegistry]
    """Called when rows are converted for the first time."""
    encoding: str
    readers: Mapping[str, Callable[[Schema], Reader]]
    """By the registry's name of the kind: AVRO, PROTOBUF, JSON."""
    writer: Callable[[], Writer] | None = None
    subjects: Subjects | None = None
    _registry: SchemaRegistry | None = field(default=None, init=False, repr=False)
    _writer: Writer | None = field(default=None, init=False, repr=False)
    _known: dict[int, Reader] = field(default_factory=dict, init=False, repr=False)
    _columns: dict[int, pa.Schema] = field(default_factory=dict, init=False, repr=False)
    _merged: pa.Schema = field(default_factory=lambda: pa.schema([]), init=False, repr=False)
    _earlier: str | None = field(default=None, init=False, repr=False)
    _chosen: dict[pa.Schema, tuple[int, str]] = field(default_factory=dict, init=False, repr=False)

    def decode(self, documents: pa.RecordBatch) -> pa.RecordBatch:
        """One column per field; a null document (a tombstone) is a row of nulls.

        InvalidRecord: values without a frame, of an unknown schema, or that are not what their schema says.
        """
        groups, refused = unframe(Values.of(documents.column("value")))
        parts: list[tuple[Ints, pa.RecordBatch]] = []
        seen: dict[int, pa.Schema] = {}
        for schema_id, values in groups.items():
            if not len(values.rows):
                continue
            try:
                reader = self._reader(schema_id)
            except UnknownSchema as error:
                refused |= dict.fromkeys(values.rows.tolist(), str(error))
                continue
            part, wrong = reader.read(values)
            if wrong:
                told = f" (schema {schema_id})"
                refused |= {int(values.rows[index]): why + told for index, why in wrong.items()}
                continue
            if self._columns.get(schema_id) != part.schema:
                seen[schema_id] = part.schema
            parts.append((values.rows, part))
        if refused:
            first = min(refused)
            raise InvalidRecord(f"{len(refused)} values cannot be decoded, e.g. {refused[first]}", rows=refused)
        if seen:
            self._columns |= seen
            self._merged = merged(self._columns[schema_id] for schema_id in sorted(self._columns, reverse=True))
        return woven(parts, len(documents), self._merged)

    def encode(self, columns: pa.RecordBatch) -> pa.RecordBatch:
        """One framed value per row. What the columns' schema lacks is registered, if that is allowed.

        Fatal if it is not allowed, or not compatible; InvalidRecord for rows that the schema does not take.
        """
        if self.writer is None or self.subjects is None:
            raise FlowError(f"'{self.encoding}' can only be read")
        if self._writer is None:
            self._writer = self.writer()
        schema_id, schema = self._chosen.get(columns.schema) or self._choose(
            self._writer, self.subjects, columns.schema
        )
        values = self._writer.write(columns, schema)
        return envelope(frame(schema_id, values), self.encoding)

    def _reader(self, schema_id: int) -> Reader:
        reader = self._known.get(schema_id)
        if reader is None:
            schema = self._asked().schema(schema_id)
            make = self.readers.get(schema.kind)
            if make is None:
                raise UnknownSchema(
                    f"schema {schema_id} is of the kind {schema.kind}, not {' or '.join(self.readers)}; check `format`"
                )
            try:
                reader = self._known[schema_id] = make(schema)
            except FlowError as error:
                raise Fatal(f"schema {schema_id} of {self._asked()}: {error}") from error
        return reader

    def _choose(self, writer: Writer, subjects: Subjects, columns: pa.Schema) -> tuple[int, str]:
        registry = self._asked()
        draft = writer.schema_for(columns, None)
        subject = subjects.subject(writer.full_name(draft))
        if self._earlier is None:
            found = registry.latest(subject)
            if found is not None and found[1].kind != writer.kind:
                raise Fatal(
                    f"subject '{subject}' of {registry} holds {found[1].kind}, not {writer.kind}; check `format`"
                )
            self._earlier = found[1].text if found is not None and not found[1].references else None
        text = writer.schema_for(columns, self._earlier)
        schema = Schema(writer.kind, text)
        schema_id = registry.register(subject, schema) if subjects.register else registry.id_of(subject, schema)
        self._earlier = text
        self._chosen[columns] = (schema_id, text)
        return schema_id, text

    def _asked(self) -> SchemaRegistry:
        if self._registry is None:
            self._registry = self.registry()
        return self._registry
