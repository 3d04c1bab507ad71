"""Where Nessie is, which branch, and how to get in."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, SecretStr, field_validator, model_validator

from airflow_provider_connect.connectors._iceberg.config import TableSinkConfig, TableSourceConfig
from airflow_provider_connect.connectors._iceberg.rest import CLIENT_CREDENTIALS
from airflow_provider_connect.engine.config import Config, FromConnection


class BasicAuth(Config):
    """User name and password."""

    username: Annotated[str, FromConnection("login", "User name")] = Field(min_length=1)
    """User name."""
    password: Annotated[SecretStr, FromConnection("password", "Password")]
    """Password."""


class OAuth2(Config):
    """OAuth2 client credentials; the token is fetched anew before it expires."""

    token_url: str = Field(min_length=1)
    """Token endpoint, such as `https://keycloak/realms/main/protocol/openid-connect/token`."""
    client_id: str = Field(min_length=1)
    """Id of the client."""
    client_secret: SecretStr
    """Secret of the client."""
    scope: str | None = None
    """Scope to ask for."""


class NessieConfig(Config):
    """How to reach Nessie."""

    base_url: Annotated[str, FromConnection("host", "Base URL")] = Field(
        min_length=1, examples=["https://nessie:19120"]
    )
    """Address of Nessie, such as `https://nessie:19120`; the paths of its interfaces are added."""
    branch: str = Field(default="main", min_length=1)
    """Branch to read from or write to."""
    create_branch: bool = False
    """Create the branch from the default branch (main) if it is missing."""
    warehouse: Annotated[str | None, FromConnection("extra.warehouse", "Warehouse")] = None
    """Name of the warehouse, where Nessie has several. Default (also if empty): Nessie's own default."""
    bearer_token: Annotated[SecretStr | None, FromConnection("extra.bearer_token", "Bearer token")] = None
    """Bearer token."""
    token: SecretStr | None = None
    """The same as `bearerToken`, for `tokenSecretRef`."""
    basic_auth: BasicAuth | None = None
    """User name and password."""
    oauth2: OAuth2 | None = None
    """OAuth2 client credentials."""
    properties: dict[str, SecretStr] = Field(default_factory=dict)
    """More of pyiceberg's properties, such as `s3.access-key-id` where Nessie hands out no credentials of its own."""

    @field_validator("base_url")
    @classmethod
    def _is_url(cls, value: str) -> str:
        url = value.rstrip("/")
        if not url.startswith(("http://", "https://")):
            raise ValueError(f"'{value}' is no URL; write https://host:19120")
        for path in ("/iceberg", "/api/v2", "/api/v1", "/api"):
            url = url.removesuffix(path)
        return url

    @model_validator(mode="after")
    def _one_way_in(self) -> NessieConfig:
        given = [key for key in ("bearer_token", "token", "basic_auth", "oauth2") if getattr(self, key) is not None]
        if len(given) > 1:
            named = " and ".join(f"'{type(self).model_fields[key].alias}'" for key in given)
            raise ValueError(f"{named} are two ways to authenticate; keep one")
        return self

    @property
    def catalog_properties(self) -> dict[str, Any]:
        """What pyiceberg is given, secrets readable."""
        properties: dict[str, Any] = {key: value.get_secret_value() for key, value in self.properties.items()}
        properties |= {"type": "rest", "uri": f"{self.base_url}/iceberg/"}
        token = self.bearer_token or self.token
        if token is not None:
            properties["token"] = token.get_secret_value()
        elif self.basic_auth is not None:
            basic = self.basic_auth
            properties["auth"] = {
                "type": "basic",
                "basic": {"username": basic.username, "password": basic.password.get_secret_value()},
            }
        elif self.oauth2 is not None:
            client = self.oauth2
            properties["auth"] = {
                "type": "custom",
                "impl": CLIENT_CREDENTIALS,
                "custom": {
                    "client_id": client.client_id,
                    "client_secret": client.client_secret.get_secret_value(),
                    "token_url": client.token_url,
                    "scope": client.scope,
                },
            }
        return properties


class NessieSourceConfig(NessieConfig, TableSourceConfig):
    """What to read of a table in Nessie."""


class NessieSinkConfig(NessieConfig, TableSinkConfig):
    """Which table in Nessie to write."""
