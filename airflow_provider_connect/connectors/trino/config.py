"""Configuration of the Trino source and sink."""

from __future__ import annotations

from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, field_validator, model_validator

from airflow_provider_connect.connectors.trino.access import Keycloak, Tls
from airflow_provider_connect.connectors.trino.names import column_list
from airflow_provider_connect.connectors.trino.tokens import Basic, Bearer, Credentials, KeycloakTokens
from airflow_provider_connect.engine.config import Config, FromConnection, SinkConfig


class TrinoConfig(Config):
    """Where Trino is, and who we are there."""

    server_url: Annotated[str, FromConnection("host", "Server URL")] = Field(examples=["https://trino:8443"])
    """URL of the coordinator. Without `http://` or `https://` it is `https://`."""
    port: Annotated[int | None, FromConnection("port", "Port")] = Field(default=None, ge=1, le=65535)
    """Port, where `serverURL` does not name one."""
    catalog: Annotated[str, FromConnection("extra.catalog", "Catalog")] = Field(min_length=1, examples=["hive"])
    """Catalog."""
    schema_name: Annotated[str, FromConnection("schema", "Schema")] = Field(
        alias="schema", min_length=1, examples=["default"]
    )
    """Schema."""
    user: str | None = None
    """User to run as, where that is not who we authenticate as. Without authentication: `airflow-connect`."""
    username: Annotated[str | None, FromConnection("login", "User name")] = None
    """User name for password authentication; by HTTPS only. Beside `keycloak`: for its password grant."""
    password: Annotated[SecretStr | None, FromConnection("password", "Password")] = None
    """Password of `username`."""
    token: Annotated[SecretStr | None, FromConnection("extra.token", "JWT")] = None
    """A JWT to authenticate with."""
    keycloak: Keycloak | None = None
    """Authenticate with tokens of Keycloak, or of another OAuth2 server that has the same paths."""
    tls: Tls | None = None
    """Certificates, where those of the system will not do. They are always verified, unless this says otherwise."""
    session_properties: dict[str, str | int | bool] = Field(default_factory=dict)
    """Session properties for every statement, such as `query_priority` or `iceberg.target_max_file_size`."""

    @field_validator("server_url")
    @classmethod
    def _is_url(cls, value: str) -> str:
        text = value.strip().rstrip("/")
        url = text if "://" in text else f"https://{text}"
        parts = urlsplit(url)
        try:
            valid = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
        except ValueError:
            valid = False
        if not valid or parts.query or parts.fragment:
            raise ValueError("must be the URL of a coordinator, such as https://trino:8443")
        if parts.username is not None or parts.password is not None:
            raise ValueError("must not hold a user name or password; set `username` and `password`")
        return url

    @model_validator(mode="after")
    def _one_way_in(self) -> TrinoConfig:
        by_password = self.password is not None and self.keycloak is None
        ways = [
            name
            for name, given in (
                ("password", by_password),
                ("token", self.token is not None),
                ("keycloak", self.keycloak is not None),
            )
            if given
        ]
        if len(ways) > 1:
            raise ValueError(f"{' and '.join(f'`{way}`' for way in ways)} are two ways to say who we are; keep one")
        if self.password is not None and self.username is None:
            raise ValueError("`password` needs `username`")
        if by_password and self.url.startswith("http:"):
            raise ValueError("a password is only sent by HTTPS: begin `serverURL` with https://")
        keycloak = self.keycloak
        if keycloak and not keycloak.token and not keycloak.client_secret and not self._keycloak_account:
            raise ValueError("keycloak: needs `clientSecret`, or `username` and `password`")
        return self

    @property
    def url(self) -> str:
        """The coordinator's URL with its port."""
        parts = urlsplit(self.server_url)
        if self.port is None or parts.port is not None:
            return self.server_url
        host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
        return f"{parts.scheme}://{host}:{self.port}{parts.path}"

    @property
    def _keycloak_account(self) -> tuple[str, str] | None:
        assert self.keycloak is not None
        for name, password in (
            (self.keycloak.username, self.keycloak.password),
            (self.username, self.password),
        ):
            if name is not None and password is not None:
                return name, password.get_secret_value()
        return None

    def credentials(self) -> Credentials:
        """What goes into the header of requests. No I/O yet."""
        if self.keycloak is not None:
            if self.keycloak.token is not None:
                return Bearer(self.keycloak.token.get_secret_value())
            return KeycloakTokens(self.keycloak, self.tls, self._keycloak_account)
        if self.token is not None:
            return Bearer(self.token.get_secret_value())
        if self.username is not None and self.password is not None:
            return Basic(self.username, self.password.get_secret_value())
        return Credentials()

    @property
    def run_as(self) -> str | None:
        """The user that requests name; None where the server is to take it from our credentials."""
        if self.user is None and self.password is None and self.keycloak is None:
            return self.username
        return self.user


class TrinoSourceConfig(TrinoConfig):
    """What to read, and how new rows are found."""

    table: str | None = Field(default=None, min_length=1, examples=["source_table"])
    """Table or view to read. Beside `query` it only names the rows."""
    query: str | None = None
    """SELECT to read instead of the table."""
    poll_interval: float = Field(default=5.0, gt=0)
    """Seconds from one look for new rows to the next."""
    raw_mode: bool = False
    """Wrap each row: `{"value": row, "_metadata": {"catalog": …, "schema": …, "table": …, "id": …}}`."""
    cursor: str | list[str] = ""
    """Column(s) that only grow from row to row, such as `updated_at`; new rows are those beyond the last ones read.
    Without a cursor all rows are delivered again at every poll. Values must not be NULL; a row that becomes visible
    after rows with greater values have been read is not seen."""
    tie_break: str | list[str] = ""
    """Column(s) that tell rows with equal `cursor` apart, so that none is lost or repeated; the same as `cursor` where
    that is unique."""
    page_rows: int = Field(default=1_000_000, gt=0)
    """Rows that one statement asks for at most, where there is a `cursor`: the server sorts no more than these."""

    @field_validator("query")
    @classmethod
    def _is_one_select(cls, value: str | None) -> str | None:
        if value is None:
            return None
        text = value.strip().rstrip(";").rstrip()
        if not text:
            raise ValueError("the query is empty")
        return text

    @model_validator(mode="after")
    def _has_something_to_read(self) -> TrinoSourceConfig:
        if self.table is None and self.query is None:
            raise ValueError("nothing to read: set `table` or `query`")
        if self.tie_break_columns and not self.cursor_columns:
            raise ValueError("tieBreak without cursor: set `cursor` to the column(s) that new rows are found by")
        if self.cursor_columns and not self.tie_break_columns:
            raise ValueError(
                f"rows with equal {', '.join(self.cursor_columns)} could be lost or repeated: set `tieBreak` to the"
                " column(s) that identify a row (the same as `cursor` if that is unique)"
            )
        return self

    @property
    def cursor_columns(self) -> tuple[str, ...]:
        """The configured cursor columns; empty if there are none."""
        return column_list(self.cursor)

    @property
    def tie_break_columns(self) -> tuple[str, ...]:
        """The configured tie-break columns; empty if there are none."""
        return column_list(self.tie_break)


class TrinoSinkConfig(TrinoConfig, SinkConfig):
    """Where rows go, and how they meet the ones that are there."""

    table: str = Field(min_length=1, examples=["target_table"])
    """Table to write. If its only column is `data`, of type varchar or json, whole documents go there; else fields go
    to the columns of their names."""
    auto_create_table: bool | Literal["json", "typed"] = False
    """Create the table if it is missing. true or `json`: with one column, `data varchar`, for whole documents.
    `typed`: with a column for each field of the first rows that are written."""
    upsert_mode: bool = False
    """Replace rows that have the same `conflictKey` instead of adding to them; the last one of a key wins. Needs a
    catalog with MERGE (Iceberg, Delta Lake, …)."""
    conflict_key: str | list[str] = ""
    """Column(s) that identify a row in `upsertMode`, or field(s) of the document."""
    idempotent: bool = False
    """Write each row effectively once, also when a flush is repeated after a crash: rows carry the token of their flush
    in the columns `connect_token varchar` and `connect_row bigint`, which the table needs (`autoCreateTable` makes
    them), and a statement leaves out what is there. Iceberg tables only."""
    ignore_unknown_columns: bool = False
    """Leave out fields that the table has no column for; else such records are refused."""
    query_timeout_seconds: int = Field(default=600, ge=0)
    """Seconds after which the server gives a statement up, waiting in its queue included. 0: no limit of ours."""
    max_statement_length: int = Field(default=1_000_000, ge=10_000)
    """Characters of a statement that the server takes: its setting `query.max-length`. Larger is quicker; the
    server keeps the texts of its latest statements for a while (`query.max-history`), and needs the memory for it."""

    @model_validator(mode="after")
    def _fits_together(self) -> TrinoSinkConfig:
        if self.conflict_columns and not self.upsert_mode:
            raise ValueError("conflictKey has no effect without `upsertMode: true`")
        if self.upsert_mode and not self.conflict_columns:
            raise ValueError("upsertMode needs `conflictKey`: the column(s) or field(s) that identify a row")
        if self.upsert_mode and self.idempotent:
            raise ValueError("upsertMode replaces what is repeated, so `idempotent` has no use beside it; remove one")
        return self

    @field_validator("auto_create_table", mode="before")
    @classmethod
    def _true_is_json(cls, value: Any) -> Any:
        return "json" if value is True else value

    @property
    def conflict_columns(self) -> tuple[str, ...]:
        """The configured conflict key, as it is written; empty if there is none."""
        names = self.conflict_key.split(",") if isinstance(self.conflict_key, str) else self.conflict_key
        return tuple(dict.fromkeys(stripped for name in names if (stripped := name.strip())))
