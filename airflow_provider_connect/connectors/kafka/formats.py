"""Formats: what the values of a topic are, as it is configured, and the codecs that follow from it."""

from __future__ import annotations

import hashlib
import logging
import ssl
from functools import cache, partial
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, SecretStr, model_validator

from airflow_provider_connect.codecs import json
from airflow_provider_connect.codecs._avro.codec import AvroReader, AvroWriter, StaticAvro, reader_type
from airflow_provider_connect.codecs._schema_registry.client import Schema, SchemaRegistry, tls_context
from airflow_provider_connect.codecs._schema_registry.codec import Reader, RegistryCodec, Subjects, Writer
from airflow_provider_connect.codecs._schema_registry.json_schema import JsonSchemaCodec, JsonSchemaWriter
from airflow_provider_connect.connectors.kafka.wrapped import Wrapped
from airflow_provider_connect.engine.codec import Codec
from airflow_provider_connect.engine.config import Config, FromConnection
from airflow_provider_connect.engine.errors import FlowError
from airflow_provider_connect.engine.pem import pem

log = logging.getLogger(__name__)

Format = Literal["json", "bytes", "avro", "protobuf", "json-schema"]
BY_REGISTRY = ("avro", "protobuf", "json-schema")
"""Formats whose schemas a registry may have."""


def _addresses(value: Any) -> Any:
    """Several nodes may be written with commas."""
    return ",".join(part.strip().rstrip("/") for part in value.split(",")) if isinstance(value, str) else value


class RegistryAccount(Config):
    """User name and password."""

    username: Annotated[str, FromConnection("extra.schema_registry_username", "Schema registry: user name")] = Field(
        min_length=1
    )
    """User name."""
    password: Annotated[SecretStr, FromConnection("extra.schema_registry_password", "Schema registry: password")]
    """Password."""


class RegistryTls(Config):
    """How an `https` registry is verified. PEM is given as content or as the path of a file."""

    ca: Annotated[str | None, FromConnection("extra.schema_registry_ca", "Schema registry: CA certificates")] = None
    """CA certificates (PEM) that the registry's certificate must come from. Default: those of the system."""
    ca_file: str | None = None
    """Path of `ca`."""
    cert_file: str | None = None
    """Path of the client's certificate (PEM), where the registry wants one."""
    key_file: str | None = None
    """Path of the private key (PEM) of `certFile`."""
    key_password: SecretStr | None = None
    """Password of an encrypted private key."""
    insecure_skip_verify: bool = False
    """Accept any certificate of the registry. Only for tests: whoever is in between can change schemas and see the
    password."""

    @model_validator(mode="after")
    def _whole(self) -> RegistryTls:
        if self.ca and self.ca_file:
            raise ValueError("'ca' and 'caFile' are two ways to say the same; keep one")
        if bool(self.cert_file) != bool(self.key_file):
            raise ValueError("a client certificate needs both 'certFile' and 'keyFile'")
        return self

    def context(self, url: str) -> ssl.SSLContext:
        """What is verified, and how."""
        if self.insecure_skip_verify:
            _warn(url)
        key_password = self.key_password.get_secret_value() if self.key_password else None
        client = (self.cert_file, self.key_file, key_password) if self.cert_file and self.key_file else None
        ca = self.ca or self.ca_file
        context: ssl.SSLContext = tls_context(pem(ca) if ca else None, client, not self.insecure_skip_verify)
        return context


class SchemaRegistryConfig(Config):
    """A schema registry that speaks Confluent's API."""

    url: Annotated[
        str, FromConnection("extra.schema_registry_url", "Schema registry: URL"), BeforeValidator(_addresses)
    ] = Field(pattern=r"^https?://[^@\s]+$", examples=["https://schema-registry:8081"])
    """Address, with the API's path where there is one; several nodes with commas between. Without user and password:
    these are in `basicAuth`."""
    basic_auth: RegistryAccount | None = None
    """Authenticate with user name and password."""
    tls: RegistryTls | None = None
    """How an `https` address is verified."""

    def client(self) -> SchemaRegistry:
        """A client of it. Fatal if the certificates cannot be used."""
        urls = self.url.split(",")
        account = self.basic_auth
        tls = (self.tls or RegistryTls()).context(self.url) if any(url.startswith("https") for url in urls) else None
        return SchemaRegistry(
            urls,
            account.username if account else None,
            account.password.get_secret_value() if account else None,
            tls,
        )


class SchemaConfig(Config):
    """Where the schemas of the values are."""

    schema_registry: SchemaRegistryConfig | None = None
    """The schema registry that has the schemas of the values."""
    avro_schema: str | None = None
    """Avro: the schema (JSON). Without `schemaRegistry` the values are bare data of this schema."""
    avro_schema_file: str | None = None
    """Path of `avroSchema`."""

    @model_validator(mode="after")
    def _one_schema(self) -> SchemaConfig:
        if self.avro_schema and self.avro_schema_file:
            raise ValueError("'avroSchema' and 'avroSchemaFile' are two ways to say the same; keep one")
        return self

    def schema_text(self) -> str | None:
        """The schema that is given, read from its file if it is there. FlowError if it cannot be read."""
        if self.avro_schema_file is None:
            return self.avro_schema
        try:
            return Path(self.avro_schema_file).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise FlowError(f"avroSchemaFile: '{self.avro_schema_file}' cannot be read: {error}") from error

    def _needs_a_schema(self, format_: str) -> None:
        if format_ == "avro" and not (self.schema_registry or self.avro_schema or self.avro_schema_file):
            raise ValueError("format 'avro' needs 'schemaRegistry', or else 'avroSchema' or 'avroSchemaFile'")
        if format_ in ("protobuf", "json-schema") and not self.schema_registry:
            raise ValueError(f"format '{format_}' needs 'schemaRegistry'")
        if format_ != "avro" and (self.avro_schema or self.avro_schema_file):
            raise ValueError(f"'avroSchema' is for format 'avro', but format is '{format_}'; drop one of them")

    def _encoding(self, format_: str) -> str:
        """The name of the encoding: the same for two topics only if the bytes mean the same in both."""
        if format_ == "avro" and self.schema_registry is None:
            text = self.avro_schema
            own = hashlib.sha256(text.encode()).hexdigest()[:12] if text else str(self.avro_schema_file)
            return f"avro@{own}"
        return f"{format_}@{self.schema_registry.url}" if self.schema_registry and format_ in BY_REGISTRY else format_


class ReadFormat(SchemaConfig):
    """What is read."""

    format: Format = "json"
    """What the values are: one JSON document each, `avro` by the schema registry or of one schema, `protobuf` or
    `json-schema` by the schema registry, or `bytes` that are passed on as they are."""
    raw_mode: bool = False
    """Wrap each value as `{"value": <value>, "_metadata": {offset, partition, timestamp, key, topic}}`, the timestamp
    in milliseconds. Not for `bytes`."""
    validate_documents: bool = False
    """`json-schema`: set records aside that are not what their schema says. Slow: each is looked at by itself."""

    @model_validator(mode="after")
    def _readable(self) -> ReadFormat:
        self._needs_a_schema(self.format)
        if self.validate_documents and self.format != "json-schema":
            raise ValueError(f"validateDocuments is for format 'json-schema', but format is '{self.format}'")
        if self.raw_mode and self.format == "bytes":
            raise ValueError("rawMode wraps values, but format is 'bytes'; drop one of them")
        return self

    @property
    def encoding(self) -> str:
        """The name of the encoding that the source gives."""
        name = self._encoding(self.format)
        return f"{name}+raw" if self.raw_mode and name != "json" else name

    def check_registry(self) -> str:
        """Ask the registry, where it is needed; "" or what to add to a line on what answered."""
        return _asked(self.format, self.schema_registry)

    @property
    def wraps_text(self) -> bool:
        """Whether `rawMode` is done by putting text around the values; others are decoded first."""
        return self.raw_mode and self.format == "json"

    def codec(self) -> Codec | None:
        """The codec of `encoding`, if it needs this configuration."""
        inner: Codec | None = None
        if self.format == "avro" and self.schema_registry is None:
            inner = StaticAvro(lambda: self.schema_text() or "", self._encoding(self.format))
        elif self.format in BY_REGISTRY and self.schema_registry is not None:
            inner = self._by_registry(self.schema_registry)
        return Wrapped(inner) if inner is not None and self.raw_mode else inner

    def _by_registry(self, registry: SchemaRegistryConfig) -> Codec:
        if self.format == "json-schema":
            return JsonSchemaCodec(registry.client, json.codec(), self.encoding, validate=self.validate_documents)
        if self.format == "protobuf":
            return RegistryCodec(registry.client, self.encoding, {"PROTOBUF": protobuf().ProtobufReader})
        return RegistryCodec(registry.client, self.encoding, {"AVRO": self._avro_reader})

    def _avro_reader(self, schema: Schema) -> Reader:
        return AvroReader(schema, reader_type(self.schema_text()))


class WriteFormat(SchemaConfig):
    """What is written."""

    format: Literal["json", "avro", "protobuf", "json-schema"] = "json"
    """What the values become: one JSON document each (bytes are passed on as they are), `avro` by the schema registry
    or of one schema, `protobuf` or `json-schema` by the schema registry. What comes from Kafka in the same format, of
    the same registry, passes as it is."""
    subject_names: Literal["topic", "record", "topic-record"] = "topic"
    """The subject of the registry that the schema belongs to: `<topic>-value`, `<record>`, or `<topic>-<record>`."""
    auto_register: bool = True
    """Register the schema where the subject does not have it, if the subject's rule of compatibility allows it: one
    that follows from the columns, all of them optional. Without, the subject must have the schema already."""
    record_name: str | None = Field(default=None, pattern=r"^[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*$")
    """Full name of the record in a schema that follows from the columns. Default: the topic's name."""

    @model_validator(mode="after")
    def _writable(self) -> WriteFormat:
        self._needs_a_schema(self.format)
        return self

    @property
    def encoding(self) -> str:
        """The name of the encoding that the sink makes."""
        name = self._encoding(self.format)
        given = self.avro_schema or self.avro_schema_file
        if self.schema_registry and given:  # what has another schema must not pass
            return f"{name}#{hashlib.sha256(given.encode()).hexdigest()[:12]}"
        return name

    def check_registry(self) -> str:
        """Ask the registry, where it is needed; "" or what to add to a line on what answered."""
        return _asked(self.format, self.schema_registry)

    def codec(self, topic: str) -> Codec | None:
        """The codec of `encoding`, if it needs this configuration."""
        if self.format == "avro" and self.schema_registry is None:
            return StaticAvro(lambda: self.schema_text() or "", self.encoding)
        if self.format in BY_REGISTRY and self.schema_registry is not None:
            writer = partial(self._writer, self.record_name or topic)
            subjects = Subjects(topic, self.subject_names, self.auto_register)
            return RegistryCodec(self.schema_registry.client, self.encoding, {}, writer, subjects)
        return None

    def _writer(self, name: str) -> Writer:
        if self.format == "json-schema":
            return JsonSchemaWriter(name, json.codec())
        if self.format == "protobuf":
            writer: Writer = protobuf().ProtobufWriter(name, json.codec())
            return writer
        return AvroWriter(name, self.schema_text())


def _asked(format_: str, registry: SchemaRegistryConfig | None) -> str:
    return f"; {registry.client().check()}" if registry is not None and format_ in BY_REGISTRY else ""


def protobuf() -> Any:
    """The codec of Protobuf. FlowError if its package is not installed."""
    try:
        from airflow_provider_connect.codecs._protobuf import codec
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("google"):
            raise FlowError(
                "format 'protobuf' needs the module 'google.protobuf': "
                "pip install 'airflow-provider-connect[schema-registry]'"
            ) from error
        raise
    return codec


@cache
def _warn(url: str) -> None:
    """Once per process and registry."""
    log.warning(
        "`schemaRegistry.tls.insecureSkipVerify` is on: the certificate of %s is not verified, so whoever is in "
        "between can change schemas and see the password",
        url,
    )
