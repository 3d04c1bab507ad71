"""Commits: data files and properties of a table in one step, and only on top of the snapshot that we have seen."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar
from weakref import WeakValueDictionary

from pyiceberg.catalog import Catalog
from pyiceberg.exceptions import (
    BadRequestError,
    CommitFailedException,
    ForbiddenError,
    NoSuchNamespaceError,
    NoSuchTableError,
    UnauthorizedError,
)
from pyiceberg.manifest import DataFile
from pyiceberg.table import Table, TableProperties
from pyiceberg.table.metadata import TableMetadata
from pyiceberg.table.update import AssertTableUUID
from pyiceberg.table.update.snapshot import _SnapshotProducer
from pyiceberg.utils.properties import property_as_bool

from airflow_provider_connect.connectors._iceberg.errors import UncertainCommit, sort_error
from airflow_provider_connect.engine.errors import Retryable

log = logging.getLogger(__name__)

ATTEMPTS = 12
_LONGEST_PAUSE = 3.0

_REFUSALS = (BadRequestError, UnauthorizedError, ForbiddenError, NoSuchTableError, NoSuchNamespaceError)
"""After which the commit has certainly not landed. After anything else its files may be those of the table."""

Properties = Mapping[str, str]
Change = Callable[[Properties], Properties]
Landed = Callable[[Properties], bool]
Producer = _SnapshotProducer[Any]


class _Turn:
    """Whose commit it is among the lanes of this process, and what the last one made of the table.

    Without it the lanes would meet in most of their commits, and every other one be made twice.
    """

    of_tables: ClassVar[WeakValueDictionary[Any, _Turn]] = WeakValueDictionary()

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.metadata: TableMetadata | None = None
        self.metadata_location = ""

    @classmethod
    def of(cls, catalog: Catalog, table: Table) -> _Turn:
        """That of the table in this catalog; a table may be in several, or on several branches."""
        place = (catalog.properties.get("uri"), catalog.properties.get("prefix"), table.name())
        return cls.of_tables.setdefault((*place, table.metadata.table_uuid), cls())


class TableCommits:
    """The table as we last saw it, and what we add to it."""

    def __init__(self, catalog: Catalog, table: Table) -> None:
        self._catalog, self.table = catalog, table
        self.seen_at = self._expired_at = time.monotonic()
        self._turn = _Turn.of(catalog, table)

    def refresh(self) -> Table:
        """Look at the table anew, also for fresh credentials of its store."""
        self.table = self._catalog.load_table(self.table.name())
        self.seen_at = time.monotonic()
        return self.table

    def append(self, files: Sequence[DataFile], change: Change, landed: Landed = lambda seen: False) -> Properties:
        """Add `files` and what `change` makes of the table's properties as one snapshot; the properties after it.

        `change` is called again, with the properties that others have left, after each conflict; it may raise. `landed`
        tells by the properties whether a commit that was refused is there nevertheless: something on the way may have
        sent it twice. Retryable if nothing of it has happened, UncertainCommit if nobody knows.
        """
        refused: Producer | None = None
        for attempt in range(ATTEMPTS):
            if attempt:
                time.sleep(random.uniform(0.2, 1.0) * min(0.05 * 2**attempt, _LONGEST_PAUSE))
            with self._turn.lock:
                if refused is None:
                    self._catch_up()
                elif landed(self.refresh().properties):
                    return self.table.properties
                else:
                    refused._clean_all_uncommitted()
                changed = change(self.table.properties)
                if any(file.spec_id != self.table.metadata.default_spec_id for file in files):
                    raise Retryable(f"the partitions of {self._name} were changed; its files are written anew")
                refused = self._commit(files, changed)
                if refused is None:
                    self._turn.metadata = self.table.metadata
                    self._turn.metadata_location = self.table.metadata_location
                    return self.table.properties
        raise UncertainCommit(f"{self._name} was changed by others in each of {ATTEMPTS} attempts to commit")

    def _catch_up(self) -> None:
        """See what another lane's commit has made of the table."""
        metadata = self._turn.metadata
        if metadata is not None and metadata.next_sequence_number() > self.table.metadata.next_sequence_number():
            table = self.table
            self.table = Table(
                table.name(), metadata, self._turn.metadata_location, table.io, self._catalog, table.config
            )

    def _commit(self, files: Sequence[DataFile], changed: Properties) -> Producer | None:
        """None if it was still the snapshot that we have seen; else what was refused."""
        table = self.table
        transaction = table.transaction()
        update = transaction.update_snapshot()
        merging = property_as_bool(
            table.properties,
            TableProperties.MANIFEST_MERGE_ENABLED,
            TableProperties.MANIFEST_MERGE_ENABLED_DEFAULT,
        )
        producer: Producer = update.merge_append() if merging else update.fast_append()
        for file in files:
            producer.append_data_file(file)
        producer.commit()  # writes the manifests
        transaction.set_properties(dict(changed))
        # Not the transaction's own commit, which after a conflict tries again and does not ask whether we are owner.
        requirements = (*transaction._requirements, AssertTableUUID(uuid=table.metadata.table_uuid))
        try:
            table._do_commit(updates=transaction._updates, requirements=requirements)
        except CommitFailedException:
            return producer
        except _REFUSALS as error:
            raise sort_error(error) from error
        except Exception as error:
            raise UncertainCommit(f"the commit to {self._name} got no clear answer: {sort_error(error)}") from error
        return None

    def expire(self, hours: float, every_seconds: float = 3600.0) -> None:
        """Forget snapshots older than `hours`, if the last time is long enough ago. A failure is only logged."""
        if time.monotonic() - self._expired_at < every_seconds:
            return
        self._expired_at = time.monotonic()
        try:
            table = self._catalog.load_table(self.table.name())
            table.maintenance.expire_snapshots().older_than(datetime.now(UTC) - timedelta(hours=hours)).commit()
            self.refresh()
        except Exception as error:
            log.warning("could not expire snapshots of %s: %s", self._name, sort_error(error))

    @property
    def _name(self) -> str:
        return ".".join(self.table.name())
