"""Configuration of the file source and sink."""

from __future__ import annotations

import json
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal

import pyarrow as pa
from pydantic import Field, field_validator, model_validator

from airflow_provider_connect.engine.config import Config, FromConnection, SinkConfig

Format = Literal["ndjson", "csv", "parquet"]

_SUFFIXES: dict[str, Format] = {
    ".ndjson": "ndjson", ".jsonl": "ndjson", ".json": "ndjson", ".csv": "csv", ".tsv": "csv", ".parquet": "parquet",
}  # fmt: skip
COMPRESSIONS = {".gz": "gzip", ".zst": "zstd", ".bz2": "bz2", ".lz4": "lz4"}
"""Compression by the last suffix of a file's name."""


class Csv(Config):
    """How CSV files are written."""

    delimiter: str | None = Field(default=None, min_length=1, max_length=1)
    """The character between fields. Default: a comma, or a tab if the path ends in `.tsv`."""

    header: bool = True
    """Whether the first line of each file holds the names of the columns."""

    column_names: list[str] | None = None
    """Names of the columns where the files have no header. Default: f0, f1, ..."""

    column_types: dict[str, str] = Field(default_factory=dict)
    """Types by column, as Arrow names them (`int64`, `string`, `date32`, `timestamp[us]`). Default: told from the first
    megabyte of each file, where a later value of another type then stops the flow."""

    @field_validator("column_types")
    @classmethod
    def _known(cls, types: dict[str, str]) -> dict[str, str]:
        for column, name in types.items():
            try:
                pa.type_for_alias(name)
            except ValueError:
                raise ValueError(
                    f"'{name}' of column '{column}' is no Arrow type; e.g. int64, string, date32"
                ) from None
        return types

    @model_validator(mode="after")
    def _names_or_header(self) -> Csv:
        if self.header and self.column_names is not None:
            raise ValueError("columnNames are for files without a header; set header: false or leave them out")
        return self

    @property
    def types(self) -> dict[str, pa.DataType]:
        """Arrow's types by column."""
        return {column: pa.type_for_alias(name) for column, name in self.column_types.items()}


class _Place(Config):
    storage_options: Annotated[dict[str, Any], FromConnection("extra.storage_options", "Storage options")] = Field(
        default_factory=dict, repr=False
    )
    """Options of the store's fsspec driver, as a mapping or JSON text: `key`, `secret`, `endpoint_url`, ... for S3."""

    @field_validator("storage_options", mode="before")
    @classmethod
    def _parsed(cls, options: Any) -> Any:
        if not isinstance(options, str):
            return options
        try:
            return json.loads(options or "{}")
        except ValueError:
            raise ValueError("is text, but no JSON; write a mapping") from None


class FileSourceConfig(_Place):
    """Which files to read, and how."""

    path: Annotated[str, FromConnection("host", "Path or URL")] = Field(min_length=1)
    """A file, a folder (its own files, not those of folders in it), or a pattern (`in/*.csv`, `in/**/*.json`): local,
    or the URL of a store (`s3://bucket/in/`). Names that start with `.` or `_` or end in `.tmp` are passed over."""

    format: Format | None = Field(default=None, examples=["ndjson"])
    """`ndjson`, `csv` or `parquet`. Default: told from the path's suffix. Files that end in `.gz`, `.zst`, `.bz2` or
    `.lz4` are unpacked."""

    csv: Csv = Field(default_factory=Csv)
    """How CSV files are written."""

    poll_interval: float = Field(default=5.0, gt=0)
    """Seconds between two looks for new files."""

    raw_mode: bool = False
    """Wrap each record as `{"value": <record>, "_metadata": {"file": ..., "offset" or "row": ...}}`."""

    @model_validator(mode="after")
    def _has_format(self) -> FileSourceConfig:
        _format_of(self.path, self.format)
        return self

    @property
    def kind(self) -> Format:
        """The format, given or told from the path."""
        return _format_of(self.path, self.format)

    @property
    def delimiter(self) -> str:
        """The character between CSV fields, given or told from the path."""
        return self.csv.delimiter or ("\t" if ".tsv" in PurePosixPath(self.path).suffixes else ",")


class FileSinkConfig(_Place, SinkConfig):
    """Where files go, and what is in them."""

    path: Annotated[str, FromConnection("host", "Path or URL")] = Field(min_length=1)
    """The folder for the files, local or as the URL of a store (`s3://bucket/out`). A local one is made if missing."""

    format: Format = "ndjson"
    """`ndjson`, `csv` or `parquet`."""

    compression: Literal["none", "gzip", "zstd", "snappy"] | None = None
    """How files are compressed; `snappy` is for Parquet. Default: `zstd` for Parquet, else `none`."""

    prefix: str = Field(default="part-", pattern=r"^[A-Za-z0-9][A-Za-z0-9._=-]{0,39}$")
    """What file names begin with. Flows that write to one folder need different ones to be told apart."""

    batch_size: int = Field(default=0, ge=0)
    """Records that make a file due. 0: never by number, only by time and bytes."""

    @model_validator(mode="after")
    def _compression_fits(self) -> FileSinkConfig:
        if self.compression == "snappy" and self.format != "parquet":
            raise ValueError(f"compression snappy is for format parquet; {self.format} takes none, gzip or zstd")
        return self

    @property
    def codec(self) -> str | None:
        """Arrow's name of the compression; None for none."""
        chosen = self.compression or ("zstd" if self.format == "parquet" else "none")
        return None if chosen == "none" else chosen

    @property
    def suffix(self) -> str:
        """What file names end in."""
        packed = {"gzip": ".gz", "zstd": ".zst"}.get(self.codec or "", "")
        return f".{self.format}" + ("" if self.format == "parquet" else packed)


def _format_of(path: str, given: Format | None) -> Format:
    if given:
        return given
    suffixes = [suffix.rstrip("*?") for suffix in PurePosixPath(path).suffixes]
    while suffixes and suffixes[-1] in COMPRESSIONS:
        suffixes.pop()
    if not suffixes or suffixes[-1] not in _SUFFIXES:
        raise ValueError("the path does not tell what the files hold; set format to ndjson, csv or parquet")
    return _SUFFIXES[suffixes[-1]]
