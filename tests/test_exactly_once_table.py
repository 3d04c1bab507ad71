"""`docs/exactly-once.md` names the tests that prove each case: they are all there."""

import importlib
import re
from pathlib import Path

import pytest

PAGE = Path(__file__).parent.parent / "docs" / "exactly-once.md"
CASES = {
    int(cells[0]): cells
    for line in PAGE.read_text().splitlines()
    if (cells := [cell.strip() for cell in line.strip("|").split("|")])[0].isdigit()
}
TEST = re.compile(r"`(tests/[\w/]+)\.py::([\w:]+)`")


def test_every_case_is_told_once():
    assert list(CASES) == list(range(1, 26))
    numbers = re.findall(r"^\| (\d+) \|", PAGE.read_text(), re.MULTILINE)
    assert len(numbers) == len(CASES)


@pytest.mark.parametrize("number", CASES)
def test_what_proves_a_case_exists(number):
    _, wrong, cure, proofs = CASES[number]
    assert wrong
    found = TEST.findall(proofs)
    assert TEST.sub("", proofs).strip() == "", "something that is no test"
    assert found or "not yet: no such connector" in cure
    for module, name in found:
        *owners, function = name.split("::")
        assert function.startswith("test_") and all(owner.startswith("Test") for owner in owners), name
        place = importlib.import_module(module.replace("/", "."))
        for part in (*owners, function):
            assert hasattr(place, part), f"{module}.py::{name}"
            place = getattr(place, part)
        assert callable(place)


@pytest.mark.parametrize(
    "path", sorted((Path(__file__).parent / "cases").glob("test_*.py")), ids=lambda path: path.stem
)
def test_every_test_of_a_case_is_named(path):
    named = {
        name for cells in CASES.values() for module, name in TEST.findall(cells[3]) if Path(module).name == path.stem
    }
    assert set(re.findall(r"^def (test_\w+)", path.read_text(), re.MULTILINE)) == named
