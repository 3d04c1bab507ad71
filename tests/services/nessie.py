"""What a test sees of Nessie: where it is, tables of its own, branches, and rows in and out."""

import contextlib
import uuid
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import requests
from pyiceberg.catalog import load_catalog
from pyiceberg.catalog.rest import RestCatalog
from pyiceberg.exceptions import NamespaceAlreadyExistsError, NoSuchTableError
from pyiceberg.table import Table

REQUEST_SECONDS = 30.0


@dataclass(frozen=True)
class Nessie:
    """A Nessie that tests may use."""

    url: str

    def unique_name(self, prefix: str = "t") -> str:
        """A name for a table, namespace or branch that no other test has."""
        return f"{prefix}_{uuid.uuid4().hex[:12]}"

    def catalog(self, branch: str = "main") -> RestCatalog:
        """The Iceberg catalog of a branch."""
        catalog = load_catalog("nessie", type="rest", uri=f"{self.url}/iceberg/{quote(branch, safe='')}")
        assert isinstance(catalog, RestCatalog)
        return catalog

    def create_namespace(self, name: str = "tests", branch: str = "main") -> str:
        """Have the namespace there; its name."""
        with contextlib.suppress(NamespaceAlreadyExistsError):
            self.catalog(branch).create_namespace(name)
        return name

    def table(self, name: str, branch: str = "main") -> Table:
        """A table, as it is now."""
        return self.catalog(branch).load_table(name)

    def rows(self, name: str, branch: str = "main") -> list[dict[str, Any]]:
        """All rows of a table; none if it is missing."""
        try:
            return self.table(name, branch).scan().to_arrow().to_pylist()
        except NoSuchTableError:
            return []

    def branches(self) -> set[str]:
        """The names of all branches."""
        return {reference["name"] for reference in self._api("GET", "")["references"]}

    def create_branch(self, name: str, source: str = "main") -> None:
        """Create a branch."""
        self._api("POST", "", self._api("GET", f"/{source}")["reference"], name=name, type="BRANCH")

    def merge(self, source: str, target: str = "main") -> None:
        """Merge a branch into another."""
        at = self._api("GET", f"/{source}")["reference"]["hash"]
        onto = self._api("GET", f"/{target}")["reference"]["hash"]
        self._api("POST", f"/{target}@{onto}/history/merge", {"fromRefName": source, "fromHash": at})

    def _api(self, method: str, path: str, body: Any = None, **query: str) -> Any:
        answer = requests.request(
            method, f"{self.url}/api/v2/trees{path}", json=body, params=query, timeout=REQUEST_SECONDS
        )
        answer.raise_for_status()
        return answer.json()
