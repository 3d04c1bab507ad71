"""What a test sees of a schema registry: where it is, and schemas in and out by Confluent's API."""

import json
import urllib.request
import uuid
from dataclasses import dataclass
from typing import Any

REQUEST_SECONDS = 30.0
_CONTENT = "application/vnd.schemaregistry.v1+json"


@dataclass(frozen=True)
class SchemaRegistry:
    """A schema registry that tests may use."""

    url: str

    def unique_name(self, prefix: str = "subject") -> str:
        """A name that no other test has."""
        return f"{prefix}-{uuid.uuid4().hex[:12]}"

    def register(
        self, subject: str, schema: Any, kind: str = "AVRO", references: list[dict[str, Any]] | None = None
    ) -> int:
        """Register a schema (text, or what becomes JSON); returns its id."""
        text = schema if isinstance(schema, str) else json.dumps(schema)
        body = {"schema": text, "schemaType": kind, "references": references or []}
        return int(self.ask("POST", f"/subjects/{subject}/versions", body)["id"])

    def schema(self, schema_id: int) -> str:
        """The text of a schema."""
        return str(self.ask("GET", f"/schemas/ids/{schema_id}")["schema"])

    def subjects(self) -> list[str]:
        """All subjects."""
        return list(self.ask("GET", "/subjects"))

    def set_compatibility(self, subject: str, level: str) -> None:
        """What may change from one version of a subject to the next: BACKWARD, FULL, NONE, ..."""
        self.ask("PUT", f"/config/{subject}", {"compatibility": level})

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        """One request of the API; HTTPError if it is refused."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, {"Content-Type": _CONTENT}, method=method)
        with urllib.request.urlopen(request, timeout=REQUEST_SECONDS) as answer:
            return json.load(answer)
