"""postgresql-cdc: follows the changes of tables by logical replication, from a snapshot on, exactly once."""

from airflow_provider_connect.connectors.postgresql_cdc.config import PostgreSQLCdcSourceConfig
from airflow_provider_connect.connectors.postgresql_cdc.source import PostgreSQLCdcSource

source = PostgreSQLCdcSource

__all__ = ["PostgreSQLCdcSource", "PostgreSQLCdcSourceConfig", "source"]
