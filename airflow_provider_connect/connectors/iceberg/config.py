"""Which catalog, and how to get in."""

from __future__ import annotations

from typing import Annotated, Any, Literal
from urllib.parse import unquote, urlsplit, urlunsplit

from pydantic import Field, SecretStr, field_validator, model_validator

from airflow_provider_connect.connectors._iceberg.config import TableConfig, TableSinkConfig, TableSourceConfig
from airflow_provider_connect.engine.config import Config, FromConnection

_CONNECTION = "iceberg://"
_OWN = {"type": "catalog", "uri": "uri", "warehouse": "warehouse", "token": "token", "credential": "credential"}


class IcebergConfig(Config):
    """How to reach the catalog."""

    catalog: Annotated[
        Literal["rest", "sql", "glue", "hive", "dynamodb", "bigquery"], FromConnection("extra.catalog", "Catalog type")
    ] = "rest"
    """What kind of catalog it is."""
    uri: Annotated[SecretStr | None, FromConnection("uri")] = Field(default=None, examples=["https://catalog:8181"])
    """Where the catalog is: `https://catalog:8181` (REST), `postgresql+psycopg://…` or `sqlite:///…` (SQL, with the
    password in it), `thrift://metastore:9083` (Hive). Glue and DynamoDB need none."""
    warehouse: Annotated[str | None, FromConnection("extra.warehouse", "Warehouse")] = None
    """Warehouse of the catalog, or the location that new tables go to, such as `s3://bucket/path`."""
    token: Annotated[SecretStr | None, FromConnection("password", "Bearer token")] = None
    """Bearer token for a REST catalog."""
    credential: Annotated[SecretStr | None, FromConnection("extra.client_secret", "OAuth2 client (id:secret)")] = None
    """`client-id:client-secret` for OAuth2 with a REST catalog; see also `oauth2-server-uri` and `scope` among the
    properties."""
    properties: dict[str, SecretStr] = Field(default_factory=dict)
    """More of pyiceberg's properties, such as `s3.endpoint`, `s3.access-key-id`, `s3.secret-access-key`,
    `glue.region`, `oauth2-server-uri`."""
    catalog_name: str = Field(default="default", min_length=1)
    """Name of the catalog; SQL catalogs keep the tables of several names apart."""

    @field_validator("uri", mode="before")
    @classmethod
    def _of_connection(cls, value: Any) -> Any:
        """What an Airflow connection is put together to: `iceberg://` before the catalog's own URI, extra behind it."""
        text = value.get_secret_value() if isinstance(value, SecretStr) else value
        if not isinstance(text, str) or not text.startswith(_CONNECTION):
            return value
        parts = urlsplit(text.removeprefix(_CONNECTION))
        # The password of a catalog that is asked over HTTP is its token, which does not belong into the address.
        if parts.scheme in ("http", "https"):
            return f"{parts.scheme}://{unquote(parts.netloc.rpartition('@')[2])}{parts.path.rstrip('/')}"
        return urlunsplit((parts.scheme, parts.netloc, unquote(parts.path) if parts.path != "/" else "", "", ""))

    @field_validator("properties", mode="before")
    @classmethod
    def _texts(cls, value: Any) -> Any:
        """Numbers and truth values may be written as such."""
        if not isinstance(value, dict):
            return value
        return {
            k: (str(v).lower() if isinstance(v, bool) else str(v)) if isinstance(v, int) else v
            for k, v in value.items()
        }

    @model_validator(mode="after")
    def _complete(self) -> IcebergConfig:
        for name, field in _OWN.items():
            if name in self.properties:
                raise ValueError(f"'properties.{name}' cannot be set: use `{field}`")
        if self.uri is None and self.catalog in ("rest", "sql", "hive"):
            raise ValueError(f"a {self.catalog} catalog needs `uri`: where it is")
        return self

    @property
    def catalog_properties(self) -> dict[str, str]:
        """What pyiceberg is given, secrets readable."""
        properties = {key: value.get_secret_value() for key, value in self.properties.items()}
        properties["type"] = self.catalog
        for name, value in (("uri", self.uri), ("token", self.token), ("credential", self.credential)):
            if value is not None and (name == "uri" or self.catalog == "rest"):
                properties[name] = value.get_secret_value()
        if self.warehouse is not None:
            properties["warehouse"] = self.warehouse
        return properties


class IcebergSourceConfig(IcebergConfig, TableSourceConfig):
    """What to read of an Iceberg table."""


class IcebergSinkConfig(IcebergConfig, TableSinkConfig):
    """Which Iceberg table to write."""


__all__ = ["IcebergConfig", "IcebergSinkConfig", "IcebergSourceConfig", "TableConfig"]
