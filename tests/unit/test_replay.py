from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarmnet.core.replay import WINDOW, ReplayWindow


def test_each_counter_is_accepted_once_in_any_order() -> None:
    window = ReplayWindow()
    assert [window.accept(counter) for counter in (3, 1, 2, 3, 1, 2)] == [
        True,
        True,
        True,
        False,
        False,
        False,
    ]


@pytest.mark.parametrize(("behind", "accepted"), [(WINDOW - 1, True), (WINDOW, False)])
def test_what_is_too_old_to_tell_is_refused(behind: int, accepted: bool) -> None:
    window = ReplayWindow()
    window.accept(5000)
    assert window.accept(5000 - behind) is accepted


def test_asking_changes_nothing() -> None:
    window = ReplayWindow()
    assert window.fresh(7)
    assert window.fresh(7)
    assert not window.fresh(0)


def test_a_jump_beyond_the_window_forgets_what_is_too_old_anyway() -> None:
    window = ReplayWindow()
    window.accept(1)
    assert window.accept(1 << 63)
    assert not window.accept(1)
    assert window.accept((1 << 63) - 1)


def test_a_counter_is_far_behind_once_it_would_be_too_old() -> None:
    window = ReplayWindow()
    window.accept(5000)
    assert not window.beyond(5000 - WINDOW + 1)
    assert window.beyond(5000 - WINDOW)


@given(st.lists(st.integers(1, 3 * WINDOW)))
def test_it_agrees_with_a_set_that_remembers_everything(counters: list[int]) -> None:
    window, seen, highest = ReplayWindow(), set[int](), 0
    for counter in counters:
        expected = counter not in seen and highest - counter < WINDOW
        assert window.accept(counter) is expected
        seen.add(counter)
        highest = max(highest, counter)
