"""What every connector keeps, source or sink: the part that the contracts share."""

from __future__ import annotations

import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import pytest

from airflow_provider_connect.engine.connector import Connector
from airflow_provider_connect.engine.errors import ConnectError, Fatal


class ConnectorContract(ABC):
    """The base of the contracts; subclass one of those.

    `exempt` maps a check's name to the reason why this connector need not pass it. pytest prints it as a skip; the
    table should only ever shrink. Set-up belongs into fixtures of the subclass (`@pytest.fixture(autouse=True)`).
    `flow` is a fresh name in each check.
    """

    exempt: ClassVar[Mapping[str, str]] = {}
    flow: str

    def __init_subclass__(cls, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        unknown = sorted(name for name in cls.exempt if not hasattr(cls, name))
        if unknown:
            raise TypeError(f"{cls.__name__}.exempt names checks that do not exist: {', '.join(unknown)}")

    @abstractmethod
    def make(self) -> Connector[Any]:
        """A new connector to the system under test; the same configuration each time within one check."""

    @abstractmethod
    def make_unreachable(self) -> Connector[Any]:
        """A connector whose system does not answer: a port where nobody listens, a folder that is not there."""

    @pytest.fixture(autouse=True)
    def _contract(self, request: pytest.FixtureRequest) -> Iterator[None]:
        name = getattr(request.node, "originalname", request.node.name)
        if name in self.exempt:
            pytest.skip(f"exempt: {self.exempt[name]}")
        self.flow = f"contract-{uuid.uuid4().hex[:12]}"
        self._opened: list[Connector[Any]] = []
        yield
        for connector in self._opened:
            connector.close()

    def _until_the_end_of_the_check(self, connector: Any) -> Any:
        """Close it after the check, whatever happens."""
        self._opened.append(connector)
        return connector

    def test_every_config_field_is_documented(self) -> None:
        fields = type(self.make().config).model_fields
        bare = [name for name, field in fields.items() if not (field.description or "").strip()]
        assert not bare, f"fields without a docstring under them: {bare}"
        assert self.make().config_type is type(self.make().config)

    def test_making_one_does_no_io(self) -> None:
        began = time.monotonic()
        connector = self.make_unreachable()
        assert time.monotonic() - began < 0.5, "the constructor took so long that it must have waited for something"
        connector.close()

    def test_check_answers_in_one_line(self) -> None:
        answer = self.make().check()
        assert isinstance(answer, str) and answer.strip() and "\n" not in answer, repr(answer)

    def test_check_can_be_repeated(self) -> None:
        connector = self.make()
        connector.check()
        connector.check()
        connector.close()

    def test_check_of_an_unreachable_system_says_what_is_wrong(self) -> None:
        connector = self.make_unreachable()
        began = time.monotonic()
        with pytest.raises(Exception) as raised:
            connector.check()
        assert time.monotonic() - began < 20, "check() gives up within a few seconds"
        error = connector.classify(raised.value)
        assert isinstance(error, ConnectError), f"classify returned {error!r}"
        assert len(str(error)) > 10, f"'{error}' does not tell what is wrong"

    def test_close_is_safe_twice_and_without_open(self) -> None:
        connector = self.make()
        connector.close()
        connector.close()

    def test_an_unknown_error_is_fatal(self) -> None:
        connector = self.make()
        assert type(connector.classify(RuntimeError("nobody knows this one"))) is Fatal
        known = ConnectError("ours")
        assert connector.classify(known) is known, "errors of this package pass through classify unchanged"
