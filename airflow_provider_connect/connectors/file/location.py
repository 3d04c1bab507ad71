"""Location: a path or URL on the file system that serves it, and what its errors mean."""

from __future__ import annotations

import errno
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import PurePosixPath
from typing import Any

import fsspec
import fsspec.core
import pyarrow as pa

from airflow_provider_connect.connectors.file.config import COMPRESSIONS
from airflow_provider_connect.engine.errors import ConnectError, Fatal, FlowError, Retryable

_PATTERN = re.compile(r"[*?\[]")
_PASSING = {
    errno.EAGAIN, errno.EBUSY, errno.EDQUOT, errno.EHOSTUNREACH, errno.EINTR, errno.EIO, errno.EMFILE,
    errno.ENETUNREACH, errno.ENFILE, errno.ENOSPC, errno.ESTALE, errno.ETIMEDOUT,
}  # fmt: skip


@dataclass(frozen=True)
class Location:
    """A place in a file system. `path` is without protocol; `shown` is what the user wrote."""

    fs: Any
    path: str
    shown: str

    @property
    def local(self) -> bool:
        """Whether it is a path of this machine."""
        return isinstance(self.fs, fsspec.get_filesystem_class("file"))

    @cached_property
    def root(self) -> str:
        """The folder that names of files are relative to: the one before the first pattern, or the file's own."""
        parts = PurePosixPath(self.path).parts
        fixed = next((at for at, part in enumerate(parts) if _PATTERN.search(part)), None)
        if fixed is None:
            return self.path if self.fs.isdir(self.path) else str(PurePosixPath(self.path).parent)
        return str(PurePosixPath(*parts[:fixed])) if fixed else ""

    def sizes(self) -> dict[str, int]:
        """The files there are now, by name relative to `root`, in the order of names; FlowError if nothing is there.

        A pattern may match nothing; a folder or file must exist.
        """
        self.fs.invalidate_cache()
        if _PATTERN.search(self.path):
            found = self.fs.glob(self.path, detail=True).values()
        else:
            try:
                found = self.fs.ls(self.path, detail=True)
            except FileNotFoundError:
                raise FlowError(f"path: there is no file or folder '{self.shown}'; create it or correct path") from None
        root = self.root
        names = {_relative(entry["name"], root): entry for entry in found if entry["type"] == "file"}
        return {name: int(names[name]["size"] or 0) for name in sorted(names) if name and not _hidden(name)}

    def full(self, name: str) -> str:
        """The path of a file of this name."""
        return f"{self.root.rstrip('/')}/{name}" if self.root else name

    def open(self, name: str) -> pa.NativeFile:
        """The bytes of a file, unpacked if its suffix says that they are packed."""
        raw = self.fs.open(self.full(name), "rb")
        return pa.input_stream(raw, compression=compression(name))


def locate(path: str, options: dict[str, Any]) -> Location:
    """The location of a path or URL. FlowError if its protocol is unknown or its driver is not installed."""
    try:
        fs, plain = fsspec.core.url_to_fs(path, **options)
    except (ImportError, ValueError) as error:
        protocol = path.partition("://")[0]
        raise FlowError(f"path: no way to reach '{protocol}://': {error}") from error
    return Location(fs, plain, path)


def compression(name: str) -> str | None:
    """How a file of this name is packed."""
    return COMPRESSIONS.get(PurePosixPath(name).suffix)


def classify(error: Exception) -> ConnectError:
    """What a file system's error means: those that pass by themselves are Retryable."""
    if isinstance(error, ConnectError):
        return error
    if isinstance(error, (TimeoutError, ConnectionError)) or (isinstance(error, OSError) and error.errno in _PASSING):
        return Retryable(f"{type(error).__name__}: {error}")
    return Fatal(f"{type(error).__name__}: {error}")


def _relative(path: str, root: str) -> str:
    return path.removeprefix(root).lstrip("/") if root else path


def _hidden(name: str) -> bool:
    return name.endswith(".tmp") or any(part.startswith((".", "_")) for part in PurePosixPath(name).parts)
