"""A lab of three managers and three workers for the tests of one module, in the kernel that they run in."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.e2e.labs import Swarm, running


@pytest.fixture(scope="module")
def swarm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Swarm]:
    with running(tmp_path_factory.mktemp("logs"), "--host", "attacker") as lab:
        yield Swarm(lab)
