"""The checker finds what is wrong, each kind of it, and nothing in what is right."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from itertools import chain, combinations, permutations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.chaos.linearizability import CompareAndSwap, Operation, Read, Value, Write, violation


def history(text: str) -> list[Operation]:
    """One operation each: what, and from when till when ("?": its outcome is unknown).

    w1 writes 1, r1 reads 1, c1>2 swaps 1 for 2, c1!2 found something else than 1; "-" is not there.
    """
    words = text.split()
    return [_operation(what, when) for what, when in zip(words[::2], words[1::2], strict=True)]


def _operation(what: str, when: str) -> Operation:
    called, _, returned = when.partition("-")
    until = math.inf if returned == "?" else float(returned)
    kind, rest = what[0], what[1:]
    if kind == "c":
        sign = ">" if ">" in rest else "!"
        expected, _, value = rest.partition(sign)
        return Operation(CompareAndSwap(_value(expected), value, sign == ">"), float(called), until)
    return Operation((Read if kind == "r" else Write)(_value(rest)), float(called), until)


def _value(text: str) -> Value:
    return None if text == "-" else text


RIGHT = {
    "nothing happened": "",
    "read before there is anything": "r- 0-1",
    "read what was written": "w1 0-1 r1 2-3",
    "overlapping read sees the old value": "w1 0-1 w2 2-5 r1 3-4",
    "overlapping read sees the new value": "w1 0-1 w2 2-5 r2 3-4",
    "two overlapping reads, old then new": "w1 0-1 w2 2-9 r1 3-4 r2 5-6",
    "overlapping writes in either order": "w1 0-3 w2 1-4 r1 5-6",
    "an unknown write never happened": "w1 0-1 w2 2-? r1 3-4 r1 9-10",
    "an unknown write happened late": "w1 0-1 w2 2-? r1 3-4 r2 9-10",
    "two unknown writes, one after the other": "w1 0-? w2 0-? r1 3-4 r2 5-6",
    "swap": "w1 0-1 c1>2 2-3 r2 4-5",
    "swap from nothing": "c->1 0-1 r1 2-3",
    "refused swap": "w1 0-1 c5!2 2-3 r1 4-5",
    "one of two overlapping swaps": "w1 0-1 c1>2 2-5 c1!3 2-5 r2 6-7",
    "a swap refused because of an unknown write": "w1 0-1 w2 2-? c1!3 4-5 r2 6-7",
    "an unknown swap happened": "w1 0-1 c1>2 2-? r1 3-4 r2 5-6",
    "an unknown swap did not fit any more": "w1 0-1 c1>2 2-? w3 3-4 r3 5-6 r3 7-8",
    "the same value written twice": "w1 0-1 w2 2-3 w1 4-5 r1 6-7",
    "touching at one instant is overlapping": "w1 0-1 w2 2-3 r1 3-4",
}

WRONG = {
    "stale read": "w1 0-1 w2 2-3 r1 4-5",
    "stale read of what was there before anything": "w1 0-1 r- 2-3",
    "stale read, two writes old": "w1 0-1 w2 2-3 w3 4-5 r1 6-7",
    "stale read after a swap": "w1 0-1 c1>2 2-3 r1 4-5",
    "stale read after another client saw the new value": "w1 0-1 w2 2-9 r2 3-4 r1 5-6",
    "stale read by a deposed leader, the new one wrote": "w1 0-1 w2 2-3 w3 2-3 r1 4-5",
    "stale read proves a refused swap wrong": "w1 0-1 c1!2 2-3 r1 4-5",
    "lost write": "w1 0-1 w2 2-3 r1 4-5 r1 6-7",
    "lost first write": "w1 0-1 r- 2-3 r- 4-5",
    "lost write, and a swap on the one before": "w1 0-1 w2 2-3 c1>3 4-5",
    "lost swap": "w1 0-1 c1>2 2-3 r1 4-5 c1>3 6-7",
    "lost write of two that overlapped": "w1 0-1 w2 2-5 w3 2-5 r1 6-7",
    "all lost": "w1 0-1 w2 2-3 w3 4-5 r- 6-7",
    "lost after it was read": "w1 0-1 w2 2-? r2 3-4 r1 5-6",
    "applied twice, over a later write": "w1 0-1 w2 2-3 r2 4-5 r1 6-7",
    "applied twice, an unknown write": "w1 0-? r1 2-3 w2 4-5 r2 6-7 r1 8-9",
    "applied twice, a swap": "c->1 0-1 c1>2 2-3 w3 4-5 r2 6-7",
    "applied twice, an unknown swap": "w1 0-1 c1>2 2-? r2 3-4 w1 5-6 r1 7-8 r2 9-10 r1 11-12",
    "value never written": "w1 0-1 r9 2-3",
    "value of another register": "r7 0-1",
    "value of a write that surely failed": "w1 0-1 w3 2-3 r2 4-5",
    "value of a swap that was refused": "w1 0-1 c5!2 2-3 r2 4-5",
    "value that was written only later": "w1 0-1 r2 2-3 w2 4-5",
    "value of a swap that could not fit": "w1 0-1 c9>2 2-? r2 3-4",
    "swapped on another value": "w1 0-1 c2>3 2-3",
    "swapped on a value that was overwritten": "w1 0-1 w2 2-3 c1>3 4-5 r3 6-7",
    "swapped on nothing though there was something": "w1 0-1 c->2 2-3",
    "swapped twice on one value": "w1 0-1 c1>2 2-3 c1>3 4-5",
    "swapped twice on one value, overlapping": "w1 0-1 c1>2 2-5 c1>3 2-5",
    "created twice": "c->1 0-3 c->2 0-3",
    "swap refused on the very value": "w1 0-1 c1!2 2-3",
    "creation refused though there was nothing": "c-!1 0-1",
    "swap refused, and yet applied": "w1 0-1 c1!2 2-3 r2 4-5",
    "reads go backwards": "w1 0-1 w2 2-9 r2 3-4 r1 5-6 r2 7-8",
    "reads go backwards to before the first write": "w1 0-9 r1 2-3 r- 4-5",
    "reads go to and fro": "w1 0-9 w2 0-9 r1 2-3 r2 4-5 r1 6-7",
    "reads disagree about the order of two writes": "w1 0-1 w2 2-3 w3 2-3 r2 4-5 r3 6-7",
    "read from the future": "r1 0-1 w1 2-3",
    "gone again": "w1 0-1 r1 2-3 r- 4-5",
    "write took effect before it was called": "w1 0-1 r2 2-3 w2 4-? r1 6-7",
    "two unknown writes cannot explain three changes": "w1 0-? w2 0-? r1 3-4 r2 5-6 r1 7-8",
}


@pytest.mark.parametrize("text", RIGHT.values(), ids=RIGHT)
def test_right(text: str) -> None:
    assert violation(history(text)) is None


@pytest.mark.parametrize("text", WRONG.values(), ids=WRONG)
def test_wrong(text: str) -> None:
    assert violation(history(text)) is not None


def test_there_are_enough_kinds_of_wrong() -> None:
    assert len(set(WRONG.values())) == len(WRONG) >= 30


def test_a_violation_is_told_with_what_was_possible_and_what_was_around() -> None:
    found = violation(history("w1 0-1 w2 2-3 r1 4-5"))
    assert found is not None
    assert found.possible == {"2"}
    assert "could be: 2" in str(found)
    assert any(line.startswith("->") and "Read(value='1')" in line for line in str(found).splitlines())


# Against every order there is

VALUES = st.sampled_from([None, "1", "2"])
ACTIONS = st.one_of(
    st.builds(Read, VALUES),
    st.builds(Write, VALUES),
    st.builds(CompareAndSwap, VALUES, VALUES, st.booleans()),
)


@st.composite
def small_histories(draw: st.DrawFn) -> list[Operation]:
    made = []
    for _ in range(draw(st.integers(1, 5))):
        called = draw(st.integers(0, 8))
        length = draw(st.one_of(st.integers(0, 6), st.just(math.inf)))
        made.append(Operation(draw(ACTIONS), called, called + length))
    return made


@settings(max_examples=1000, deadline=None)
@given(small_histories())
def test_it_agrees_with_trying_every_order(operations: list[Operation]) -> None:
    assert (violation(operations) is None) is some_order_explains(operations)


def some_order_explains(operations: Sequence[Operation]) -> bool:
    known = [each for each in operations if each.is_known]
    unknown = [each for each in operations if not each.is_known]
    subsets = chain.from_iterable(combinations(unknown, size) for size in range(len(unknown) + 1))
    return any(explains(order) for happened in subsets for order in permutations([*known, *happened]))


def explains(order: Sequence[Operation]) -> bool:
    """Whether it respects who was first, and fits a register."""
    for at, each in enumerate(order):
        if any(later.returned < each.called for later in order[at:]):
            return False
    state: Value = None
    for each in order:
        if (following := each.action.after(state)) is None:
            return False
        state = following[0]
    return True


# Histories as long as those of a chaos run


def made_history(seed: int, clients: int = 5, length: int = 300) -> list[Operation]:
    """Linearizable, since made in the order of its instants: each value is written once, some outcomes
    stay unknown."""
    choose = random.Random(seed)
    made: list[Operation] = []
    free_at, state, instant = [0.0] * clients, None, 0.0
    for number in range(length):
        client = min(range(clients), key=free_at.__getitem__)
        called = free_at[client] + choose.uniform(0, 0.2)
        instant = max(instant, called) + choose.uniform(0, 0.3)
        returned = free_at[client] = instant + choose.uniform(0, 1)
        action, state, known = _some_action(choose, state, str(number))
        made.append(Operation(action, called, returned if known else math.inf, f"c{client}"))
    return made


def _some_action(
    choose: random.Random, state: Value, fresh: str
) -> tuple[Read | Write | CompareAndSwap, Value, bool]:
    """What is done to `state`, what it is then, and whether the outcome is known."""
    known = choose.random() > 0.05
    match choose.choice("rrwwc"):
        case "r":
            return Read(state), state, True
        case "w":
            happens = known or choose.random() < 0.5
            return Write(fresh), fresh if happens else state, known
        case _:
            expected = state if choose.random() < 0.6 else "other"
            fits = expected == state
            return CompareAndSwap(expected, fresh, fits or not known), fresh if fits else state, known


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32))
def test_a_long_linearizable_history_passes(seed: int) -> None:
    assert violation(made_history(seed)) is None


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32), st.data())
def test_a_stale_read_is_found_wherever_it_is_in_a_long_history(seed: int, data: st.DataObject) -> None:
    operations = made_history(seed)
    acknowledged = [each for each in operations if isinstance(each.action, Write) and each.is_known]
    first, *_, last = sorted(acknowledged, key=lambda each: each.returned)
    overwriting = next(each for each in acknowledged if each.called > first.returned)
    at = data.draw(st.floats(overwriting.returned + 0.001, last.returned + 10))
    stale = Operation(Read(first.action.value), at, at + 0.5, "stale")
    found = violation([*operations, stale])
    assert found is not None


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32), st.data())
def test_a_lost_write_is_found_in_a_long_history(seed: int, data: st.DataObject) -> None:
    """An acknowledged write in a quiet moment; right after it the register has what it had before."""
    operations = made_history(seed)
    end = max(each.returned for each in operations if each.is_known)
    before = data.draw(st.sampled_from([each for each in operations if isinstance(each.action, Write)]))
    lost = Operation(Write("lost"), end + 1, end + 2, "loser")
    after = Operation(Read(before.action.value if before.is_known else None), end + 3, end + 4, "reader")
    assert violation([*operations, lost]) is None
    assert violation([*operations, lost, after]) is not None
