"""Iceberg tables in Nessie, on a branch."""

from airflow_provider_connect.connectors.nessie.config import NessieConfig, NessieSinkConfig, NessieSourceConfig
from airflow_provider_connect.connectors.nessie.sink import NessieSink
from airflow_provider_connect.connectors.nessie.source import NessieSource

source = NessieSource
sink = NessieSink

__all__ = ["NessieConfig", "NessieSink", "NessieSinkConfig", "NessieSource", "NessieSourceConfig", "sink", "source"]
