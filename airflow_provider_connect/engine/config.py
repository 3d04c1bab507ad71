"""Config: the one declaration of a connector, from which come parser, lint, JSON Schema, docs and the Airflow form.

A config is a frozen pydantic model. Keys are accepted in the specification's camelCase and in snake_case; unknown keys
are refused. A field that an Airflow connection can fill says so: `Annotated[str, FromConnection("host")]`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pydantic import AliasGenerator, BaseModel, ConfigDict, Field


@dataclass(frozen=True, slots=True)
class FromConnection:
    """Marks a config field that an Airflow connection fills.

    `part` is `host`, `port`, `login`, `password`, `schema`, `uri`, or `extra.<name>` for a key of the extra JSON, which
    then becomes a field of the connection form. `label` is the form's label (default: made from the field's name).
    A connection of the type `whole_extra_of`, another provider's, fills the (mapping) field with its whole extra,
    without what other fields take.
    """

    part: str
    label: str | None = None
    whole_extra_of: str | None = None


_ACRONYMS = {"url": "URL", "id": "ID"}


def spec_key(name: str) -> str:
    """The specification's spelling of a field: `server_url` is `serverURL`, `client_id` is `clientID`."""
    head, *rest = name.split("_")
    return head + "".join(_ACRONYMS.get(word, word.capitalize()) for word in rest)


class Config(BaseModel):
    """Base of every connector's and transform's configuration. `__init__` never does I/O."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        alias_generator=AliasGenerator(alias=spec_key),
        validate_by_name=True,
        validate_by_alias=True,
        use_attribute_docstrings=True,
        hide_input_in_errors=True,
        arbitrary_types_allowed=False,
    )


class SinkConfig(Config):
    """What every sink's configuration has: when a flush is due. The first limit that is reached flushes."""

    batch_size: int = Field(default=1, ge=0)
    """Records that make a flush due; what the source has handed over by then is written with them. 0: never by size."""

    batch_flush_interval_seconds: float = Field(default=10.0, ge=0)
    """Seconds after the first unflushed record that make a flush due. 0: never by time."""

    batch_bytes: int = Field(default=32 * 1024 * 1024, gt=0)
    """Bytes that make a flush due; also the bound of what is kept to write again after a refused batch."""

    def model_post_init(self, context: Any) -> None:
        if self.batch_size == 0 and self.batch_flush_interval_seconds == 0:
            raise ValueError(
                "batchSize and batchFlushIntervalSeconds are both 0, so nothing would ever be flushed; set one of them"
            )
