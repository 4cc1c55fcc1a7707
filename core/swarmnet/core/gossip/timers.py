"""Timers as values: a late or outdated one is harmless, because whoever takes it looks at the state again.
Dropping one that is known to be outdated only spares its user from being woken for nothing.
"""

from __future__ import annotations

import heapq
from itertools import count
from math import inf
from typing import Generic, NamedTuple, TypeVar

T = TypeVar("T")


class Due(NamedTuple, Generic[T]):
    """`postponed`: it was due before, and was put off because this node was late."""

    value: T
    at: float
    postponed: bool


class Handle:
    """A timer that was set, to drop it by; of no use once it was taken."""

    __slots__ = ("dropped",)

    def __init__(self) -> None:
        self.dropped = False


class Timers(Generic[T]):
    """Values with a deadline, taken in the order of deadlines, then of setting."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Due[T], Handle]] = []
        self._order = count()

    def set(self, at: float, value: T, *, postponed: bool = False) -> Handle:
        handle = Handle()
        heapq.heappush(self._heap, (at, next(self._order), Due(value, at, postponed), handle))
        return handle

    def drop(self, handle: Handle) -> None:
        handle.dropped = True
        self._trim()

    def due(self, now: float) -> Due[T] | None:
        """Take the next value whose deadline is reached; None if there is none."""
        if not self._heap or self._heap[0][0] > now:
            return None
        due = heapq.heappop(self._heap)[2]
        self._trim()
        return due

    def next_deadline(self) -> float:
        return self._heap[0][0] if self._heap else inf

    def _trim(self) -> None:
        while self._heap and self._heap[0][3].dropped:
            heapq.heappop(self._heap)
