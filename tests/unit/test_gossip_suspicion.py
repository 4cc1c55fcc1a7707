from __future__ import annotations

import pytest

from swarmnet.core.gossip.awareness import Awareness
from swarmnet.core.gossip.suspicion import Suspicion
from swarmnet.core.gossip.timing import Timing

TIMING = Timing()


def deadlines(members: int, accusers: str) -> list[float]:
    suspicion = Suspicion(members, TIMING, now=100.0)
    found = []
    for accuser in accusers:
        suspicion.confirm(accuser)
        found.append(round(suspicion.deadline - 100.0, 3))
    return found


def test_each_confirmation_shortens_the_wait_the_first_ones_most() -> None:
    assert deadlines(10, "abcd") == [2.4, 1.5, 0.974, 0.6]


def test_the_same_accuser_counts_once_and_more_than_needed_do_nothing() -> None:
    assert deadlines(10, "aaab") == [2.4, 2.4, 2.4, 1.5]
    suspicion = Suspicion(10, TIMING, now=0.0)
    assert [suspicion.confirm(each) for each in "abcdef"] == [True, True, True, True, False, False]


@pytest.mark.parametrize(("members", "first"), [(2, 0.6), (3, 2.4), (1000, 3.6)])
def test_the_wait_fits_the_number_of_members(members: int, first: float) -> None:
    """Of two members nobody else can confirm; a rumor needs longer among many."""
    assert deadlines(members, "a") == [first]


def test_answers_that_take_long_are_waited_for() -> None:
    awareness = Awareness(most=2)
    for _ in range(50):
        awareness.answered(0.3)
    assert awareness.patience(0.2) == pytest.approx(0.9, rel=0.01)
    awareness.add(1)
    assert awareness.patience(0.2) == pytest.approx(1.8, rel=0.01)


def test_bad_health_makes_patient_within_bounds() -> None:
    awareness = Awareness(most=2)
    assert awareness.scale(0.5) == 0.5
    for _ in range(5):
        awareness.add(1)
    assert awareness.scale(0.5) == 1.5
    for _ in range(9):
        awareness.add(-1)
    assert awareness.scale(0.5) == 0.5
