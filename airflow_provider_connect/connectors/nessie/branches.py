"""Branches of Nessie: its own interface beside that of the Iceberg catalog."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import requests
from pyiceberg.catalog import Catalog
from pyiceberg.catalog.rest import RestCatalog
from pyiceberg.exceptions import CommitFailedException

from airflow_provider_connect.connectors._iceberg.rest import open_catalog
from airflow_provider_connect.connectors.nessie.config import NessieConfig
from airflow_provider_connect.engine.errors import Fatal

_PAGE = 250


@dataclass(frozen=True, slots=True)
class TableState:
    """What a table was after a commit to the branch."""

    content_id: str
    snapshot_id: int
    metadata_location: str


def open_branch(config: NessieConfig, *, quickly: bool = False) -> Catalog:
    """The Iceberg catalog of the configured branch, created if that is asked for. Fatal if it is missing.

    `quickly`: give up after a few seconds, and create nothing: it is that of the default branch then.
    """
    catalog = _open(config, config.branch, quickly)
    try:
        branch = Branch(catalog, config)
        if not branch.exists():
            if config.create_branch and quickly:
                default = branch.default()["name"]
                catalog.close()
                return _open(config, default, quickly)
            if not config.create_branch:
                raise Fatal(
                    f"there is no branch '{config.branch}' in Nessie; create it, check `branch`, or set "
                    "`createBranch: true`"
                )
            branch.create()
    except BaseException:
        catalog.close()
        raise
    return catalog


def make_first_snapshot(config: NessieConfig, identifier: tuple[str, ...]) -> None:
    """Give a table without snapshots an empty one, unless somebody else does.

    "The table has no snapshot yet" is a requirement that Nessie 0.99 does not check, so of two first commits the second
    one would put the first one's rows aside. A commit to a hash of the branch is refused if the table has changed
    since.
    """
    while True:
        with _open(config, config.branch) as catalog:
            at = Branch(catalog, config).hash()
        with _open(config, f"{config.branch}@{at}") as catalog:
            table = catalog.load_table(identifier)
            if table.current_snapshot() is not None:
                return
            transaction = table.transaction()
            transaction.update_snapshot().fast_append().commit()
            try:
                table._do_commit(updates=transaction._updates, requirements=transaction._requirements)
            except CommitFailedException:
                continue
            return


def _open(config: NessieConfig, reference: str, quickly: bool = False) -> Catalog:
    where = quote(reference, safe="") + (f"%7C{quote(config.warehouse, safe='')}" if config.warehouse else "")
    properties = config.catalog_properties
    return open_catalog("nessie", {**properties, "uri": f"{properties['uri']}{where}"}, quickly=quickly)


class Branch:
    """A branch, by the session of its catalog."""

    def __init__(self, catalog: Catalog, config: NessieConfig) -> None:
        assert isinstance(catalog, RestCatalog)
        self._session, self._name = catalog._session, config.branch
        self._trees = f"{config.base_url}/api/v2/trees"

    def exists(self) -> bool:
        """Whether it is there."""
        answer = self._session.get(f"{self._trees}/{quote(self._name, safe='')}")
        if answer.status_code == requests.codes.not_found:
            return False
        answer.raise_for_status()
        kind = answer.json()["reference"]["type"]
        if kind != "BRANCH":
            raise Fatal(f"'{self._name}' is no branch of Nessie but a {kind.lower()}; check `branch`")
        return True

    def default(self) -> dict[str, str]:
        """Nessie's default branch: `{type, name, hash}`."""
        answer = self._session.get(f"{self._trees}/-")
        answer.raise_for_status()
        found: dict[str, str] = answer.json()["reference"]
        return found

    def hash(self) -> str:
        """Of its newest commit."""
        answer = self._session.get(f"{self._trees}/{quote(self._name, safe='')}")
        answer.raise_for_status()
        return str(answer.json()["reference"]["hash"])

    def create(self) -> None:
        """Create it from the default branch. That somebody else did it meanwhile is fine."""
        query = {"name": self._name, "type": "BRANCH"}
        answer = self._session.post(self._trees, params=query, json=self.default())
        if answer.status_code != requests.codes.conflict:
            answer.raise_for_status()

    def states(self, identifier: tuple[str, ...]) -> Iterator[TableState]:
        """What the table was after each commit that changed it, the newest first."""
        elements = ",".join("'" + name.replace("\\", "\\\\").replace("'", "\\'") + "'" for name in identifier)
        query: dict[str, Any] = {
            "fetch": "ALL",
            "max-records": _PAGE,
            "filter": f"operations.exists(op, op.type == 'PUT' && op.keyElements == [{elements}])",
        }
        while True:
            answer = self._session.get(f"{self._trees}/{quote(self._name, safe='')}/history", params=query)
            answer.raise_for_status()
            page = answer.json()
            for entry in page["logEntries"]:
                for operation in entry.get("operations") or []:
                    content = operation.get("content") or {}
                    if operation["key"]["elements"] == list(identifier) and "snapshotId" in content:
                        yield TableState(content["id"], content["snapshotId"], content["metadataLocation"])
            if not page.get("hasMore"):
                return
            query["page-token"] = page["token"]
