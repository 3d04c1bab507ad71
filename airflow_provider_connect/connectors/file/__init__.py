"""file: files in a folder, on this machine or in any store that fsspec reaches, as source and sink.

Source: every file is a split, read in the order of names, from the position stored for it, so files may arrive in any
order and workers share them. Sink: each flush is a new file, named by its token and put in place whole, so a flush that
is repeated after a crash replaces its own file.
"""

from airflow_provider_connect.connectors.file.config import FileSinkConfig, FileSourceConfig
from airflow_provider_connect.connectors.file.sink import FileSink
from airflow_provider_connect.connectors.file.source import FileSource

__all__ = ["FileSink", "FileSinkConfig", "FileSource", "FileSourceConfig", "sink", "source"]

source = FileSource
sink = FileSink
