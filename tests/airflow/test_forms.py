"""The connection form that is made from a configuration."""

from typing import Annotated, Literal

import jsonschema
import pytest
from pydantic import Field, SecretStr

from airflow_provider_connect.engine import registry
from airflow_provider_connect.engine.config import Config, FromConnection
from airflow_provider_connect.engine.models import mark_of, model_of
from airflow_provider_connect.forms import STANDARD_FIELDS, connection_form, form_fields


class Login(Config):
    user: Annotated[str | None, FromConnection("login", "User name")] = None
    """Who we are."""

    password: Annotated[SecretStr | None, FromConnection("password")] = None
    """The user's password."""

    client_secret: Annotated[SecretStr, FromConnection("extra.client_secret")] | None = None
    """A secret whose marker is inside of its union."""


class Source(Config):
    brokers: Annotated[list[str], FromConnection("host", "Bootstrap servers")] = Field(examples=["b1:9092,b2:9092"])
    """Where to connect
    first."""

    topic: str
    """Not part of a connection."""

    retries: Annotated[int, FromConnection("extra.retries")] = Field(default=3, ge=0, le=10)
    """How often."""

    protocol: Annotated[Literal["PLAINTEXT", "SSL"] | None, FromConnection("extra.protocol")] = None
    """How to talk."""

    verify: Annotated[bool, FromConnection("extra.verify")] = True
    """Whether to look at certificates."""

    options: Annotated[dict[str, str], FromConnection("extra.options")] = Field(default_factory=dict)
    """Anything else."""

    auth: Login | None = None
    """Who we are, if we must say so."""


class Sink(Config):
    brokers: Annotated[list[str], FromConnection("host")]
    """The same part of the connection."""

    mode: Annotated[str, FromConnection("extra.mode")] = "fast"
    """Only the sink has this."""


def form() -> dict:
    return connection_form([Source, Sink])


def test_standard_fields_are_relabelled_and_the_unused_ones_hidden():
    behaviour = form()["ui-field-behaviour"]
    assert behaviour["relabeling"] == {"host": "Bootstrap servers", "login": "User name", "password": "Password"}
    assert behaviour["hidden-fields"] == ["port", "schema"]
    assert behaviour["placeholders"] == {"host": "b1:9092,b2:9092"}


def test_extra_fields_of_all_configurations_are_in_the_form():
    fields = form()["conn-fields"]
    assert set(fields) == {"retries", "protocol", "verify", "options", "client_secret", "mode"}
    assert fields["mode"] == {
        "label": "Mode",
        "description": "Only the sink has this. Default: fast.",
        "schema": {"type": ["string", "null"]},
    }


@pytest.mark.parametrize(
    ("name", "schema"),
    [
        ("retries", {"type": ["integer", "null"], "minimum": 0, "maximum": 10}),
        ("protocol", {"type": ["string", "null"], "enum": ["PLAINTEXT", "SSL"]}),
        ("verify", {"type": ["boolean", "null"], "default": True}),
        ("options", {"type": ["object", "null"]}),
        ("client_secret", {"type": ["string", "null"], "format": "password"}),
    ],
)
def test_the_schema_of_a_field(name, schema):
    assert form()["conn-fields"][name]["schema"] == schema


def test_descriptions_are_one_line():
    host = next(field for field in form_fields(Source) if field.part == "host")
    assert host.description == "Where to connect first."


def test_a_uri_needs_every_standard_field():
    class Dsn(Config):
        connection_string: Annotated[SecretStr, FromConnection("uri")]
        """Where to connect."""

    assert connection_form([Dsn])["ui-field-behaviour"]["hidden-fields"] == []
    assert connection_form([Dsn])["conn-fields"] == {}


def test_two_meanings_of_one_part_are_refused():
    class Other(Config):
        brokers: Annotated[int, FromConnection("host")]
        """Something else."""

    with pytest.raises(ValueError, match=r"Other: 'host' of the connection is .*; give the fields the same type"):
        connection_form([Source, Other])


def configurations():
    """Every configuration of every registered connector."""
    modules = [registry.module("connectors", name) for name in registry.names("connectors")]
    roles = [getattr(module, role, None) for module in modules for role in ("source", "sink")]
    return [connector.config_type for connector in roles if connector]


def marked_fields(model):
    """Every field with a marker, nested ones too, found without the code under test."""
    for name, field in model.model_fields.items():
        if marker := mark_of(field):
            yield f"{model.__name__}.{name}", marker.part, "Secret" in str(field.annotation)
        elif nested := model_of(field.annotation):
            yield from marked_fields(nested)


def test_every_secret_of_every_connector_is_masked():
    secrets = 0
    for config in [Source, *configurations()]:
        shown = {field.part: field for field in form_fields(config)}
        for name, part, secret in marked_fields(config):
            assert shown[part].secret == secret, name
            if secret:
                secrets += 1
                assert part in ("password", "uri") or part.startswith("extra."), f"Airflow shows '{part}' ({name})"
    assert secrets >= 2


def test_every_form_is_valid_for_airflow():
    for config in [Source, *configurations()]:
        form = connection_form([config])
        assert set(form["ui-field-behaviour"]["hidden-fields"]) <= set(STANDARD_FIELDS)
        for name, field in form["conn-fields"].items():
            assert field["label"], name
            assert field["description"], name
            jsonschema.Draft7Validator.check_schema(field["schema"])
