"""What the tests of Iceberg share: a catalog in a folder, and workers of one lane over it."""

from pathlib import Path

import pyarrow as pa
from pyiceberg.catalog import load_catalog

from airflow_provider_connect.connectors.iceberg import (
    IcebergSink,
    IcebergSinkConfig,
    IcebergSource,
    IcebergSourceConfig,
)
from airflow_provider_connect.engine.batch import Batch, Checkpoint, documents
from airflow_provider_connect.engine.connector import SinkContext
from airflow_provider_connect.engine.errors import EndOfInput
from airflow_provider_connect.testing.source import RecordedContext


class Tables:
    """A SQL catalog in a folder, with the namespace `shop`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.settings = {
            "catalog": "sql",
            "uri": f"sqlite:///{folder}/catalog.db",
            "warehouse": f"file://{folder}/warehouse",
            "namespace": "shop",
            "table": "t",
        }
        self.catalog = load_catalog(
            "default", type="sql", uri=self.settings["uri"], warehouse=self.settings["warehouse"]
        )
        self.catalog.create_namespace("shop")

    def create(self, schema, **properties):
        """The table `shop.t`."""
        return self.catalog.create_table("shop.t", schema, **properties)

    @property
    def table(self):
        """The table as it is now."""
        return self.catalog.load_table("shop.t")

    def rows(self):
        """Its rows."""
        return self.table.scan().to_arrow().to_pylist()

    def data_files(self):
        """All data files that exist, whether a snapshot names them or not."""
        return sorted(self.folder.glob("warehouse/shop/t/data/**/*.parquet"))

    def named_files(self):
        """The data files that the current snapshot names."""
        return sorted(Path(task.file.file_path.removeprefix("file://")) for task in self.table.scan().plan_files())

    def sink(self, flow="flow", **settings):
        """An open sink that owns split 0."""
        sink = IcebergSink(IcebergSinkConfig(**{**self.settings, **settings}))
        sink.open(SinkContext(flow))
        sink.claim(["0"])
        return sink

    def source(self, **settings):
        """A source, not open."""
        return IcebergSource(IcebergSourceConfig(**{**self.settings, "poll_interval": 0.05, **settings}))

    def drained(self, stored=None, source=None, **settings):
        """The rows from a checkpoint to the end, and the checkpoint there."""
        return drained(source or self.source(**settings), stored)


def drained(source, stored=None):
    """The rows from a checkpoint to the end, and the checkpoint there."""
    rows, checkpoint = [], Checkpoint(stored or {})
    source.open(RecordedContext("flow", "columns", stored=stored, drain=True))
    try:
        while True:
            batch = source.read(1000, 0.1)
            if batch is not None:
                rows += batch.rows.to_pylist()
                checkpoint = checkpoint.advance(batch.checkpoint)
    except EndOfInput:
        return rows, checkpoint
    finally:
        source.close()


def write(sink, rows, position):
    """Rows (columns as a dict or a table, or documents as bytes) and their checkpoint."""
    if isinstance(rows, list):
        batch = documents(pa.array(rows, pa.binary()), "json")
    else:
        table = rows if isinstance(rows, pa.Table) else pa.table(rows)
        (batch,) = table.combine_chunks().to_batches()
    sink.write(Batch(batch, Checkpoint({"0": position})))
    sink.flush()
    sink.commit(Checkpoint({"0": position}))
