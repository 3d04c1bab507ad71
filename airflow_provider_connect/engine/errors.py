"""What can go wrong, sorted by what to do about it.

    ConnectError
     ├─ Retryable         the same call may succeed later: the worker undoes the batch, waits and tries again
     ├─ InvalidRecord     the target refuses these rows: the worker isolates them and sends them to the `errors:` sink
     └─ Fatal             a person must act: the worker stops, nothing of the open batch is committed
         ├─ FlowError     the flow's declaration is wrong; raised before anything is read
         └─ Fenced        a newer worker of the flow owns a split; what is uncommitted here must be thrown away

Connectors raise these, or let `Connector.classify` sort what their driver raises; an error nobody knows is Fatal.
Only the worker acts on them. `EndOfInput` is not an error: it is how a source says that nothing more will come.
"""

from __future__ import annotations

from collections.abc import Mapping


class ConnectError(Exception):
    """Base of every error this package raises on purpose."""


class Retryable(ConnectError):
    """The same call may succeed later. `retry_after` (seconds), where the system named one, overrides the back-off."""

    def __init__(self, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class InvalidRecord(ConnectError):
    """The target, a transform or a codec refuses rows of the batch.

    `rows` maps the index of each refused row in the batch to the reason; None means that the rows are not known,
    and the worker finds them by halving the batch.
    """

    def __init__(self, message: str, *, rows: Mapping[int, str] | None = None) -> None:
        super().__init__(message)
        self.rows = dict(rows) if rows is not None else None


class Fatal(ConnectError):
    """A person must act: wrong credentials, a missing table, a bug. Also the verdict on every unknown error."""


class FlowError(Fatal):
    """The flow's declaration cannot work. The message names the field and the remedy."""


class Fenced(Fatal):
    """A newer worker of the same flow has taken over these splits; nothing uncommitted of ours may be written."""

    def __init__(self, message: str, *, splits: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.splits = splits


class EndOfInput(Exception):
    """Raised by `Source.read`: all that was asked for has been delivered, no record will follow."""
