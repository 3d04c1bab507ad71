"""Configuration of the PostgreSQL CDC source."""

from __future__ import annotations

import hashlib
import re
from typing import Literal

from pydantic import Field, field_validator, model_validator

from airflow_provider_connect.connectors._postgresql.config import PostgreSQLConfig
from airflow_provider_connect.connectors._postgresql.names import TableName

_SLOT = re.compile(r"[a-z0-9_]{1,63}")

Pattern = tuple[str, str | None]
"""A schema and a table, or all tables of the schema."""


class PostgreSQLCdcSourceConfig(PostgreSQLConfig):
    """Which tables to follow, from where on, and how their changes are shown.

    The account needs `REPLICATION`, `SELECT` on the tables for the snapshot, and must own the tables (and have `CREATE`
    on the database) for the publication to be made; a publication that is there already needs neither.
    """

    tables: str | list[str] = Field(default="", examples=[["public.orders", "public.customers"], "public.*"])
    """Tables to follow: `schema.table` (without a schema: `public`), or `schema.*` for all of a schema, in exact case;
    text with commas, or a list. Default: all tables of the `publication`, which must be there then."""
    slot: str | None = None
    """Replication slot: lower-case letters, digits and `_`. Made if it is missing, reused if it is there; never
    dropped, and as long as it is there the server keeps all WAL that the flow has not delivered. Default:
    `connect_` and the flow's name."""
    publication: str | None = Field(default=None, min_length=1, max_length=63)
    """Publication: made for `tables` if it is missing; if it is there, tables that it lacks are added. Default: as the
    slot."""
    snapshot: Literal["initial", "never"] = "initial"
    """`initial`: the rows that are there come first (`op: r`), then every change after them, without gap or overlap.
    `never`: only changes, from the slot's position; those before the slot was made are not seen."""
    envelope: Literal["debezium", "flat"] = "debezium"
    """`debezium`: `{before, after, source, op, ts_ms}`, op being `c`, `u`, `d`, `r` (snapshot) or `t` (truncate).
    `flat`: the row as it is now; a delete is a tombstone (no value). The key is the primary key as JSON, in both."""
    tombstones: bool = False
    """After each delete also a tombstone of its key, for compacted topics. `flat` has them always."""
    truncate: Literal["event", "ignore", "fail"] | None = None
    """What a TRUNCATE becomes: a record without key with `op: t` (`debezium` only), nothing, or an error that stops the
    flow. Default: `event`; `fail` when flat, as no tombstone can say it."""
    unavailable: Literal["omit", "placeholder"] | None = None
    """Large values that an UPDATE did not touch are not in the WAL, unless the table has REPLICA IDENTITY FULL. `omit`
    leaves the field out, so that an upsert keeps what it has; `placeholder` writes the text
    `__debezium_unavailable_value`. Default: `placeholder`; `omit` when flat. Where an UPDATE changes the key, the row
    is a new one for an upsert, which has nothing to keep: only REPLICA IDENTITY FULL has such values then."""
    numeric: Literal["number", "string"] = "number"
    """How NUMERIC is written: a JSON number with all its digits, or a string for readers that make floats of numbers.
    NaN and infinities are strings in both, of floats too."""
    heartbeat_interval: float = Field(default=10.0, gt=0)
    """Seconds after which the position moves on although nothing happened in `tables`, while others write to the
    server: else the slot would keep their WAL."""

    @field_validator("slot")
    @classmethod
    def _is_slot(cls, value: str | None) -> str | None:
        if value is not None and not _SLOT.fullmatch(value):
            raise ValueError("a slot's name is made of at most 63 lower-case letters, digits and `_`")
        return value

    @field_validator("tables")
    @classmethod
    def _are_tables(cls, value: str | list[str]) -> str | list[str]:
        _patterns(value)
        return value

    @model_validator(mode="after")
    def _fits_together(self) -> PostgreSQLCdcSourceConfig:
        if not self.patterns and self.publication is None:
            raise ValueError("nothing to follow: set `tables`, or name a `publication` that is there")
        if self.envelope == "flat" and self.truncate == "event":
            raise ValueError("truncate: event needs `envelope: debezium`; set `fail` or `ignore`")
        return self

    @property
    def patterns(self) -> tuple[Pattern, ...]:
        """What `tables` names."""
        return _patterns(self.tables)

    @property
    def on_truncate(self) -> str:
        """`truncate`, or its default."""
        return self.truncate or ("fail" if self.envelope == "flat" else "event")

    @property
    def omits_unavailable(self) -> bool:
        """Whether values that are not in the WAL are left out."""
        return (self.unavailable or ("omit" if self.envelope == "flat" else "placeholder")) == "omit"

    def slot_name(self, flow: str) -> str:
        """The slot of this flow."""
        return self.slot or default_name(flow)

    def publication_name(self, flow: str) -> str:
        """The publication of this flow."""
        return self.publication or self.slot or default_name(flow)


def default_name(flow: str) -> str:
    """`connect_` and the flow's name; with a digest where that alone could be another flow's, too."""
    plain = re.sub(r"[^a-z0-9_]", "_", flow.lower())
    name = f"connect_{plain}"
    if name == f"connect_{flow}".replace("-", "_") and "_" not in flow and len(name) <= 63:
        return name
    return f"connect_{plain[:44]}_{hashlib.sha256(flow.encode()).hexdigest()[:10]}"


def _patterns(tables: str | list[str]) -> tuple[Pattern, ...]:
    texts = [text.strip() for text in (tables.split(",") if isinstance(tables, str) else tables)]
    found: list[Pattern] = []
    for text in texts:
        if not text:
            continue
        name = TableName.parse(text)
        found.append((name.schema or "public", None if text.endswith("*") and name.table == "*" else name.table))
    return tuple(dict.fromkeys(found))
