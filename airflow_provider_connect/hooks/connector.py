"""ConnectorHook: what the hooks of all connectors have in common."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar, Generic, TypeVar

from airflow.sdk import BaseHook
from pydantic import ValidationError

from airflow_provider_connect.engine.config import Config
from airflow_provider_connect.engine.errors import FlowError
from airflow_provider_connect.engine.lint import Where, explain, place
from airflow_provider_connect.engine.secrets import fill, read_block
from airflow_provider_connect.hooks.lookup import airflow_lookup

C = TypeVar("C", bound=Config)


class ConnectorHook(BaseHook, Generic[C]):
    """An Airflow connection of a connector's type.

    A subclass names its `connector` (a type of the registry), which gives the connection form; the `config_type` that a
    connection fills; and how to check and to connect.
    """

    connector: ClassVar[str]
    config_type: type[C]
    relabeling: ClassVar[dict[str, str]] = {}
    """Labels of parts of the connection that no field of the configuration names by itself."""

    conn_type: str
    hook_name: str
    default_conn_name: str
    conn_name_attr = "conn_id"

    def __init__(self, conn_id: str | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.conn_id = conn_id or self.default_conn_name

    def config(self, **fields: Any) -> C:
        """The connector's configuration as this connection fills it; `fields` are for what no connection holds.

        FlowError (MissingConnection) says what is missing or wrong.
        """
        problems: list[str] = []

        def note(where: Where, message: str) -> None:
            problems.append(f"{place(where)}: {message}")

        block = read_block({"connection": self.conn_id, **fields}, self.config_type, note)
        values = fill(block, self.config_type, airflow_lookup, note)
        if not problems:
            try:
                return self.config_type.model_validate(values)
            except ValidationError as error:
                for where, message, _ in explain(error, self.config_type, values):
                    note(where, message)
        raise FlowError(f"connection '{self.conn_id}': {'; '.join(problems)}")

    @abstractmethod
    def check(self) -> str:
        """Connect, look whether we get in, disconnect; one line on what answered. Raises what went wrong."""

    def test_connection(self) -> tuple[bool, str]:
        """For the test button of the connection form: whether it works, and what answered or what is wrong."""
        try:
            return True, self.check()
        except Exception as error:
            return False, str(error) or type(error).__name__
