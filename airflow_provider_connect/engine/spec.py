"""Spec: what stands in a flow's YAML, apart from the blocks of connectors and transforms."""

from __future__ import annotations

from dataclasses import fields
from typing import Any, Literal

from pydantic import Field

from airflow_provider_connect.engine.component import Component, ErrorSink, Role
from airflow_provider_connect.engine.config import Config
from airflow_provider_connect.engine.plan import Plan
from airflow_provider_connect.engine.retry import RetryPolicy
from airflow_provider_connect.engine.secrets import SecretRef

API_VERSION = "dataflow.dataflow.io/v1"

COMPONENT_FIELDS: dict[str, Role] = {
    "source": "source",
    "sink": "sink",
    "errors": "sink",
    "transformations": "transform",
}
"""The fields of `spec` that hold components, and what these must be."""

KUBERNETES_METADATA = (
    "creationTimestamp",
    "finalizers",
    "generation",
    "managedFields",
    "ownerReferences",
    "resourceVersion",
    "uid",
)
"""What the API server adds to metadata, and `kubectl get -o yaml` brings along; ignored."""

_RETRY = RetryPolicy()
_PLAN: dict[str, Any] = {field.name: field.default for field in fields(Plan)}


class Metadata(Config):
    """Who the flow is."""

    name: str = Field(max_length=128, pattern=r"^[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?$")
    """Name of the flow: letters, digits, '-', '_' and '.'. Its stored positions belong to this name."""
    namespace: str | None = Field(default=None, max_length=63, pattern=r"^[A-Za-z0-9]([A-Za-z0-9_-]*[A-Za-z0-9])?$")
    """Tells flows of the same name apart: stored positions then belong to `namespace.name`."""
    labels: dict[str, str] = Field(default_factory=dict)
    """Labels, as in Kubernetes."""
    annotations: dict[str, str] = Field(default_factory=dict)
    """Annotations, as in Kubernetes; `description` is shown in Airflow."""


class Retry(Config):
    """What happens when a system does not answer: exponential back-off with jitter."""

    attempts: int = Field(default=_RETRY.attempts, ge=1)
    """Failures in a row, without a commit in between, after which the run gives up."""
    first_seconds: float = Field(default=_RETRY.first_seconds, ge=0)
    """Bound of the first wait; it doubles with every further failure."""
    longest_seconds: float = Field(default=_RETRY.longest_seconds, ge=0)
    """Bound of every wait."""


class Spec(Config):
    """What the flow does."""

    source: Component
    """Where records come from."""
    sink: Component
    """Where records go."""
    transformations: list[Component] = Field(default_factory=list)
    """What happens to the records in between, in this order."""
    errors: ErrorSink | None = None
    """Sink for records that a transform or the sink refuses; without it, such a record stops the flow."""
    parallelism: int = Field(default=1, ge=1, le=256)
    """Lanes within one worker, each with its own part of the source, its own sink and its own transaction."""
    retry: Retry = Field(default_factory=Retry)
    """How often, and after how long, a failed call is tried again."""
    checkpoints: str = ""
    """Where positions are kept when the sink cannot keep them: a path, sqlite:///path or postgresql://…"""
    checkpoints_secret_ref: SecretRef | None = None
    """Connection that holds `checkpoints`, when it has a password."""
    prefetch_bytes: int = Field(default=_PLAN["prefetch_bytes"], gt=0)
    """Bytes read ahead of the sink, per lane."""
    read_records: int = Field(default=_PLAN["read_records"], gt=0)
    """Records asked of the source in one read."""
    mode: Literal["drain", "continuous"] | None = None
    """drain: what is there at the start, then end. continuous: until stopped. Default: who runs it decides."""
    max_records: int | None = Field(default=None, gt=0)
    """Stop once so many records are committed."""
    max_seconds: float | None = Field(default=None, gt=0)
    """Stop after so many seconds."""
    schedule: str | None = None
    """When Airflow runs the flow: a cron expression or a preset such as @hourly or @continuous."""
    tags: list[str] = Field(default_factory=list)
    """Tags in Airflow."""
