"""Every check rejects a broken double, and a double is rejected by the checks that name its defect and no others."""

import contextlib

import pytest

from airflow_provider_connect.engine.connector import IdempotentSink, Sink, Source, TransactionalSink
from airflow_provider_connect.testing import (
    IdempotentSinkContract,
    SinkContract,
    SourceContract,
    TransactionalSinkContract,
    sink_doubles,
    source_doubles,
    transactional_doubles,
)
from airflow_provider_connect.testing.doubles import DOUBLES
from airflow_provider_connect.testing.memory import ListSource
from airflow_provider_connect.testing.memory_sinks import MemorySink

from .systems import InLists, InMemory, InSqlite

CONTRACTS = {
    Source: SourceContract,
    TransactionalSink: TransactionalSinkContract,
    IdempotentSink: IdempotentSinkContract,
    Sink: SinkContract,
}


def checks(contract):
    return {name for name in dir(contract) if name.startswith("test_")}


def joined(kind):
    """A subclass of the contract for a connector class over its reference system."""
    contract = next(contract for base, contract in CONTRACTS.items() if issubclass(kind, base))
    system = InLists if issubclass(kind, ListSource) else InMemory if issubclass(kind, MemorySink) else InSqlite
    return type(f"Joined{kind.__name__}", (system, contract), {"kind": kind, "patience_seconds": 1.5})


def rejects(contract, name, folder):
    """Whether one check fails, run as pytest would run it."""
    instance = contract()
    instance.set_up(folder)
    instance.flow, instance._opened = f"contract-{name[-30:]}", []
    try:
        getattr(instance, name)()
    except (Exception, pytest.fail.Exception):
        return True
    finally:
        for connector in instance._opened:
            with contextlib.suppress(Exception):
                connector.close()
    return False


@pytest.mark.parametrize(
    "double", DOUBLES, ids=lambda double: f"{double.kind.__module__.rpartition('.')[2]}-{double.kind.__name__}"
)
def test_a_double_is_rejected_by_exactly_the_checks_that_name_its_defect(double, tmp_path):
    contract = joined(double.kind)
    deadly = {name for name in checks(contract) if "death" in name}
    rejected = set()
    for name in sorted(checks(contract)):
        if name in deadly and double.check not in deadly:
            continue
        folder = tmp_path / name
        folder.mkdir()
        if rejects(contract, name, folder):
            rejected.add(name)
    assert rejected == double.rejected_by


@pytest.mark.parametrize("contract", CONTRACTS.values())
def test_every_check_has_a_double(contract):
    assert checks(contract) - {double.check for double in DOUBLES} == set()


def test_every_double_is_documented_and_of_this_suite():
    modules = (source_doubles, sink_doubles, transactional_doubles)
    assert {double.kind.__module__ for double in DOUBLES} == {module.__name__ for module in modules}
    assert [double.kind for double in DOUBLES if not double.kind.__dict__.get("__doc__")] == []
    assert [double.check for double in DOUBLES if double.check not in double.rejected_by] == []
