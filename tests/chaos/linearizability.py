"""Whether what clients saw of one register could have happened one operation at a time.

Linearizable means: each operation takes effect at one instant between its call and its return, and all of
them in that order are right for a single register. One whose outcome is unknown has no return: it may take
effect at any time after its call, or never.

The method is Wing and Gong's search with Lowe's just-in-time linearization ("Testing for linearizability",
2017): go through calls and returns in time, and keep every configuration that is still possible: the value,
and which of the pending operations have taken effect. Only when an operation returns must it have done so,
and then whatever had to come before it is tried. No configuration left: not linearizable, and this return
is where it shows.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple, TypeAlias

Value: TypeAlias = str | None
"""None: the register is not there yet."""

_AROUND: Final = 12


@dataclass(frozen=True, slots=True)
class Read:
    """Gave `value`."""

    value: Value

    def after(self, state: Value) -> tuple[Value] | None:
        return (state,) if state == self.value else None


@dataclass(frozen=True, slots=True)
class Write:
    """Set `value`, whatever was there."""

    value: Value

    def after(self, _state: Value) -> tuple[Value] | None:
        return (self.value,)


@dataclass(frozen=True, slots=True)
class CompareAndSwap:
    """Set `value` where `expected` was; or, not `swapped`, found something else and changed nothing."""

    expected: Value
    value: Value
    swapped: bool = True

    def after(self, state: Value) -> tuple[Value] | None:
        if (state == self.expected) is not self.swapped:
            return None
        return (self.value if self.swapped else state,)


Action: TypeAlias = Read | Write | CompareAndSwap
"""`after` gives the state that follows, in a tuple of one; None where the action does not fit the state."""


@dataclass(frozen=True, slots=True)
class Operation:
    """What one client did to the register. Times are in seconds, of one clock; `returned` is infinite for an
    unknown outcome. One that surely had no effect is not part of a history."""

    action: Action
    called: float
    returned: float = math.inf
    client: str = ""

    @property
    def is_known(self) -> bool:
        return self.returned < math.inf


@dataclass(frozen=True, slots=True)
class Violation:
    """`operation` cannot have returned what it did, for the register could only be one of `possible` then."""

    history: Sequence[Operation]
    operation: Operation
    possible: frozenset[Value]

    def __str__(self) -> str:
        at = self.history.index(self.operation)
        shown = self.history[max(0, at - _AROUND) : at + _AROUND]
        lines = [f"{'->' if each is self.operation else '  '} {_line(each)}" for each in shown]
        states = ", ".join(sorted(map(str, self.possible)))
        return "\n".join((f"not linearizable; just before, the value could be: {states}", *lines))


def violation(history: Iterable[Operation]) -> Violation | None:
    """The first return that no order of the operations explains; None for a linearizable history."""
    operations = sorted(history, key=lambda each: each.called)
    possible: Iterable[_Configuration] = [_Configuration(None, 0, 0)]
    pending: dict[int, Operation] = {}
    for number, is_return in _events(operations):
        if not is_return:
            pending[number] = operations[number]
            continue
        before, possible = possible, _taking_effect(number, possible, pending)
        if not possible:
            states = frozenset(each.state for each in before)
            return Violation(operations, operations[number], states)
        del pending[number]
    return None


def _events(operations: Sequence[Operation]) -> Iterator[tuple[int, bool]]:
    """Calls and returns in the order of time; those at the same instant count as overlapping."""
    calls = [(each.called, False, number) for number, each in enumerate(operations)]
    returns = [(each.returned, True, number) for number, each in enumerate(operations) if each.is_known]
    for _, is_return, number in sorted(calls + returns):
        yield number, is_return


class _Configuration(NamedTuple):
    """The value, and the pending operations that have taken effect, as sets of bits by their numbers."""

    state: Value
    taken: int
    """Those that will return."""
    spent: int
    """Those whose outcome is unknown."""


class _Frontier:
    """Configurations, without those that another one makes superfluous: one with the same state that has
    spent fewer of the operations of unknown outcome can do all that this one can."""

    def __init__(self) -> None:
        self._spent: dict[tuple[Value, int], list[int]] = {}

    def add(self, new: _Configuration) -> bool:
        """False if it is superfluous."""
        known = self._spent.setdefault((new.state, new.taken), [])
        if any(each & new.spent == each for each in known):
            return False
        known[:] = [each for each in known if each & new.spent != new.spent]
        known.append(new.spent)
        return True

    def all(self) -> list[_Configuration]:
        return [
            _Configuration(state, taken, spent)
            for (state, taken), those in self._spent.items()
            for spent in those
        ]


def _taking_effect(
    number: int, possible: Iterable[_Configuration], pending: Mapping[int, Operation]
) -> list[_Configuration]:
    """Every way in which operation `number` has taken effect, others that are pending before it or not."""
    done, met, todo = _Frontier(), _Frontier(), deque(possible)
    own = 1 << number
    while todo:
        now = todo.popleft()
        if now.taken & own:
            done.add(now._replace(taken=now.taken & ~own))
            continue
        for following in _steps(now, pending):
            if met.add(following):
                todo.append(following)
    return done.all()


def _steps(now: _Configuration, pending: Mapping[int, Operation]) -> Iterator[_Configuration]:
    for number, operation in pending.items():
        bit = 1 << number
        if (now.taken | now.spent) & bit or (state := operation.action.after(now.state)) is None:
            continue
        if operation.is_known:
            yield _Configuration(state[0], now.taken | bit, now.spent)
        else:
            yield _Configuration(state[0], now.taken, now.spent | bit)


def _line(operation: Operation) -> str:
    until = f"{operation.returned:10.4f}" if operation.is_known else "         ?"
    return f"{operation.called:10.4f} to {until}  {operation.client:>8}  {operation.action}"
