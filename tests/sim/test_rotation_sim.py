"""Rotations under every single fault at every step, and under random ones: rotation_world.py's invariants.

A failing story names its seed: `make sim-rotation SEED=<it>` tells that one.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import structlog
from tests.sim import rotation_stories as stories

from swarmnet.core import rotation
from swarmnet.core.datapath import plan as plan_module
from swarmnet.core.datapath.plan import PutPolicy
from swarmnet.manager import keymanager
from swarmnet.worker.datapath.ledger import Ledger

TWO = stories.NAMES[:2]
SCRIPT = stories.rotation(TWO)


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """Thousands of passes have nothing to tell."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    yield
    structlog.reset_defaults()


async def test_a_rotation_without_faults_takes_the_steps_of_the_script() -> None:
    async with stories.world(TWO) as world:
        phases: list[int] = []
        for event in SCRIPT:
            await stories.happen(world, event)
            if world.scope().phase not in phases[-1:]:
                phases.append(world.scope().phase)
        assert phases == [
            rotation.STABLE,
            rotation.PREPARE,
            rotation.SWITCH,
            rotation.RETIRE,
            rotation.STABLE,
        ]
        world.check_at_rest()


@pytest.mark.parametrize("fault", list(stories.interruptions(TWO)), ids=stories.named)
async def test_a_fault_at_any_step_breaks_nothing_and_ends(fault: list[stories.Event]) -> None:
    for at in range(len(SCRIPT) + 1):
        await stories.interrupted(SCRIPT, at, fault)


async def test_a_laggard_is_waited_for_and_one_that_was_away_catches_up() -> None:
    for script in stories.LAGGARDS:
        await stories.interrupted(script, 0, [])


@pytest.mark.parametrize("name", TWO)
@pytest.mark.parametrize("then", stories.AFTER_A_KILL, ids=stories.named)
async def test_a_worker_killed_at_any_change_of_its_kernel_goes_on(
    name: str, then: list[stories.Event]
) -> None:
    for at, event in enumerate(SCRIPT):
        if event == ("deliver", name):
            for changes in range(stories.LONGEST_STEP):
                after = [(each[0], name) if len(each) > 1 else each for each in then]
                await stories.interrupted(SCRIPT, at, [("kill in", name, str(changes)), *after])


@pytest.mark.parametrize("seed", range(1, 61))
async def test_a_random_story_ends_well(seed: int) -> None:
    await stories.Story(seed).run()


def _nobody(*_: object) -> frozenset[str]:
    return frozenset()


def _nobody_sends(scope: Any, up: Any, reports: Any) -> frozenset[str]:
    return _waiting_for(scope, up, reports) if scope.phase == rotation.PREPARE else frozenset()


def _policies_first(wanted: Any, actual: Any) -> Any:
    return sorted(_secure(wanted, actual), key=lambda step: not isinstance(step, PutPolicy))


def _from_0(_: object, sas: Any) -> dict[str, int]:
    return {sa.fingerprint: 0 for sa in sas}


def _keeps_all(transaction: Any, scope: Any, create: int) -> None:
    """As keymanager._keep_secrets, but for the secrets of epochs that are over."""
    live = {epoch.number for epoch in scope.epochs}
    numbers = range(1, max(live) + 1)
    scope_of_all = type(scope)(meta=scope.meta, epochs=[{"number": number} for number in numbers])
    _keep_secrets(transaction, scope_of_all, create)


_waiting_for, _secure = rotation.waiting_for, plan_module._secure
_keep_secrets = keymanager._keep_secrets


@pytest.mark.parametrize(
    ("where", "name", "broken", "noticed"),
    [
        (rotation, "waiting_for", _nobody, "cannot receive epoch|cannot hear epoch"),
        (rotation, "waiting_for", _nobody_sends, "sends to w. with an SA that it does not have"),
        (plan_module, "_secure", _policies_first, "has no SA for what it sends"),
        (plan_module, "_outlived", lambda wanted, actual: {}, r"has SAs of epochs \[.*, .*, .*, .*\]"),
        (keymanager, "_keep_secrets", _keeps_all, "secrets of .* are kept"),
        (Ledger, "begin", _from_0, "comes twice under one key"),
    ],
    ids=[
        "switch too early",
        "retire too early",
        "policy before SA",
        "four epochs",
        "secret kept",
        "nonce again",
    ],
)
async def test_a_broken_rule_is_noticed(
    where: Any, name: str, broken: Callable[..., Any], noticed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So the checks can fail."""
    monkeypatch.setattr(where, name, broken)
    with pytest.raises(AssertionError, match=noticed):
        await _until_it_fails()


async def _until_it_fails() -> None:
    for script in stories.LAGGARDS:
        await stories.interrupted(script, 0, [])
    for seed in range(1, 400):
        await stories.Story(seed).run()
