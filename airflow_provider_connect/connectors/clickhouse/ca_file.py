"""CaFile: a CA certificate as a file, for as long as a client may connect: that is when TLS libraries read it."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path


class CaFile:
    """A temporary file with the certificate; `name` is None where there is none."""

    def __init__(self, content: str | None) -> None:
        self.name: str | None = None
        if content is not None:
            handle, self.name = tempfile.mkstemp(suffix=".pem")
            with os.fdopen(handle, "w") as file:
                file.write(content)

    def close(self) -> None:
        """Remove it. Safe to call twice."""
        name, self.name = self.name, None
        if name is not None:
            Path(name).unlink()
