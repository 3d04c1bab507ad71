"""Nothing that a failed test has started goes on."""

import pytest

from tests.crash.victim import Victim


@pytest.fixture(autouse=True)
def _no_survivors():
    yield
    for victim in Victim.started:
        if victim.process.poll() is None:
            victim.kill()
    Victim.started.clear()
