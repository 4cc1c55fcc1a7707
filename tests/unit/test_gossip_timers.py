from __future__ import annotations

from math import inf

from swarmnet.core.gossip.timers import Due, Timers


def test_they_are_due_in_the_order_of_deadlines_then_of_setting() -> None:
    timers: Timers[str] = Timers()
    for at, value in ((2.0, "c"), (1.0, "a"), (1.0, "b")):
        timers.set(at, value)
    assert timers.due(0.9) is None
    assert [timers.due(1.0), timers.due(1.0), timers.due(1.0)] == [
        Due("a", 1.0, postponed=False),
        Due("b", 1.0, postponed=False),
        None,
    ]
    assert timers.next_deadline() == 2.0


def test_a_dropped_one_wakes_nobody() -> None:
    timers: Timers[str] = Timers()
    first, second = timers.set(1.0, "a"), timers.set(2.0, "b")
    timers.set(3.0, "c")
    timers.drop(second)
    assert timers.next_deadline() == 1.0
    timers.drop(first)
    assert timers.next_deadline() == 3.0
    assert timers.due(3.0) == Due("c", 3.0, postponed=False)
    assert timers.next_deadline() == inf


def test_dropping_one_that_was_taken_changes_nothing() -> None:
    timers: Timers[str] = Timers()
    taken = timers.set(1.0, "a")
    assert timers.due(1.0) is not None
    timers.set(1.0, "b")
    timers.drop(taken)
    assert timers.due(1.0) == Due("b", 1.0, postponed=False)
