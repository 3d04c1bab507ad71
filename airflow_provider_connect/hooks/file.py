"""FileHook: file systems from an Airflow connection."""

from __future__ import annotations

from typing import Any

from airflow_provider_connect.connectors.file.config import FileSinkConfig
from airflow_provider_connect.connectors.file.location import locate
from airflow_provider_connect.engine.errors import Fatal
from airflow_provider_connect.hooks.connector import ConnectorHook


class FileHook(ConnectorHook[FileSinkConfig]):
    """fsspec's file system of the connection's path or URL, with its storage options."""

    connector = "file"
    config_type = FileSinkConfig
    conn_type = "connect_file"
    hook_name = "Connect: Files"
    default_conn_name = "connect_file_default"

    def get_conn(self) -> Any:
        """The `fsspec.AbstractFileSystem`; `path` is where in it the connection points."""
        config = self.config()
        return locate(config.path, config.storage_options).fs

    @property
    def path(self) -> str:
        """The connection's path, without the protocol of its URL."""
        config = self.config()
        return locate(config.path, config.storage_options).path

    def check(self) -> str:
        """Look what is at the path; a folder that is not there yet is fine for a sink, but no place to read."""
        config = self.config()
        location = locate(config.path, config.storage_options)
        if not location.fs.exists(location.path):
            raise Fatal(f"there is no file or folder '{config.path}'")
        return f"{'folder' if location.fs.isdir(location.path) else 'file'} '{config.path}'"
