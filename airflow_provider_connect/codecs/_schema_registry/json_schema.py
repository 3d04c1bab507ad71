"""JSON Schema by a registry: framed JSON documents, which the schema may validate but need not."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from airflow_provider_connect.codecs._schema_registry.client import Schema, SchemaRegistry, UnknownSchema
from airflow_provider_connect.codecs._schema_registry.framing import HEADER, Values, unframe
from airflow_provider_connect.engine.codec import Codec
from airflow_provider_connect.engine.errors import Fatal, FlowError, InvalidRecord

_DRAFT = "http://json-schema.org/draft-07/schema#"
Validator = Callable[[Any], str | None]


@dataclass
class JsonSchemaCodec(Codec):
    """Takes the frames off, and lets a codec for JSON read the documents."""

    registry: Callable[[], SchemaRegistry]
    """Called when documents are validated for the first time."""
    documents: Codec
    """Reads JSON documents."""
    encoding: str
    validate: bool = False
    """Whether a document must be what its schema says. Costs a look at each document by Python."""
    _registry: SchemaRegistry | None = field(default=None, init=False, repr=False)
    _validators: dict[int, Validator] = field(default_factory=dict, init=False, repr=False)

    def decode(self, rows: pa.RecordBatch) -> pa.RecordBatch:
        """As the codec for JSON reads them. InvalidRecord: values without a frame, no JSON, or not valid."""
        values = Values.of(rows.column("value"))
        groups, refused = unframe(values)
        if self.validate:
            for schema_id, group in groups.items():
                refused |= self._invalid(schema_id, group)
        if refused:
            first = min(refused)
            raise InvalidRecord(f"{len(refused)} values cannot be decoded, e.g. {refused[first]}", rows=refused)
        bare = Values(values.data, values.rows, values.starts + HEADER, values.ends).array()
        if len(bare) < len(rows):  # tombstones stay null
            there = rows.column("value").is_valid().to_numpy(zero_copy_only=False)
            bare = bare.take(pa.array(there.cumsum() - 1, mask=~there))
        columns = [bare if name == "value" else rows.column(name) for name in rows.schema.names]
        return self.documents.decode(pa.RecordBatch.from_arrays(columns, schema=rows.schema))

    def encode(self, columns: pa.RecordBatch) -> pa.RecordBatch:
        """Columns are written with `JsonSchemaWriter`."""
        raise FlowError(f"'{self.encoding}' can only be read here")

    def _invalid(self, schema_id: int, values: Values) -> dict[int, str]:
        if not len(values.rows):
            return {}
        try:
            validator = self._validator(schema_id)
        except UnknownSchema as error:
            return dict.fromkeys(values.rows.tolist(), str(error))
        found = {}
        for row, text in zip(values.rows.tolist(), values.array().to_pylist(), strict=True):
            try:
                why = validator(json.loads(text))
            except (ValueError, RecursionError):
                continue  # no JSON: whoever reads the documents says what is wrong with it
            if why is not None:
                found[row] = f"{why} (schema {schema_id})"
        return found

    def _validator(self, schema_id: int) -> Validator:
        found = self._validators.get(schema_id)
        if found is None:
            if self._registry is None:
                self._registry = self.registry()
            schema = self._registry.schema(schema_id)
            if schema.kind != "JSON":
                raise UnknownSchema(f"schema {schema_id} is of the kind {schema.kind}, not JSON; check `format`")
            found = self._validators[schema_id] = _validator(schema)
        return found


class JsonSchemaWriter:
    """Writes columns as JSON documents, with a schema that follows from the columns."""

    kind = "JSON"

    def __init__(self, name: str, documents: Codec) -> None:
        self._name, self._documents = name, documents

    def schema_for(self, columns: pa.Schema, earlier: str | None) -> str:
        """The schema of these columns; with those that `earlier` has and they lack. It takes no other properties."""
        made: dict[str, Any] = {"$schema": _DRAFT, "title": self._name, "type": "object", "properties": {}}
        for column in columns:
            made["properties"][column.name] = _optional(_type(column))
        made["additionalProperties"] = False
        if earlier is None:
            return json.dumps(made)
        known = json.loads(earlier)
        properties = known.get("properties") if isinstance(known, dict) else None
        if not isinstance(properties, dict):
            raise Fatal(
                "the subject's newest JSON schema describes no object with `properties`; write to another subject"
            )
        fresh = {name: told for name, told in made["properties"].items() if name not in properties}
        if not fresh:
            return earlier
        return json.dumps({**known, "properties": {**properties, **fresh}})

    def full_name(self, schema: str) -> str:
        """The schema's title."""
        return str(json.loads(schema).get("title") or self._name)

    def write(self, columns: pa.RecordBatch, schema: str) -> pa.Array:
        """One document per row, with every column in it, nulls too."""
        return self._documents.encode(columns).column("value")


def _validator(schema: Schema) -> Validator:
    try:
        import jsonschema  # type: ignore[import-untyped]
        from jsonschema.validators import validator_for  # type: ignore[import-untyped]
        from referencing import Registry, Resource
        from referencing.jsonschema import DRAFT7
    except ModuleNotFoundError as error:
        raise FlowError(
            f"validateDocuments needs the module '{error.name}': "
            "pip install 'airflow-provider-connect[schema-registry]'"
        ) from error

    described = json.loads(schema.text)
    cls = validator_for(described, default=jsonschema.Draft7Validator)
    others = [
        (name, Resource.from_contents(json.loads(text), default_specification=DRAFT7))
        for name, text in schema.references
    ]
    try:
        cls.check_schema(described)
    except jsonschema.SchemaError as error:
        raise Fatal(f"the JSON schema '{schema.text[:100]}' is wrong: {error.message}") from error
    checker = cls(described, registry=Registry().with_resources(others))

    def validate(document: Any) -> str | None:
        error = jsonschema.exceptions.best_match(checker.iter_errors(document))
        return None if error is None else f"{error.json_path}: {error.message}"

    return validate


def _type(column: pa.Field) -> dict[str, Any]:
    """The JSON that a column becomes."""
    kind, types = column.type, pa.types
    if types.is_dictionary(kind):
        return _type(column.with_type(kind.value_type))
    if column.metadata and b"json" in column.metadata:
        return {}
    if types.is_boolean(kind):
        return {"type": "boolean"}
    if types.is_integer(kind) or types.is_duration(kind):
        return {"type": "integer"}
    if types.is_floating(kind) or types.is_decimal(kind):
        return {"type": "number"}
    if types.is_struct(kind):
        return {"type": "object", "properties": {inner.name: _optional(_type(inner)) for inner in kind}}
    if types.is_map(kind):
        return {"type": "object", "additionalProperties": _optional(_type(kind.item_field))}
    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        return {"type": "array", "items": _optional(_type(kind.value_field))}
    if types.is_null(kind):
        return {}
    return {"type": "string"}


def _optional(told: dict[str, Any]) -> dict[str, Any]:
    return {"oneOf": [{"type": "null"}, told]} if told else {}
