"""Timers as values: a late or outdated one is harmless, because whoever takes it looks at the state again."""

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


class Timers(Generic[T]):
    """Values with a deadline, taken in the order of deadlines, then of setting."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, T, bool]] = []
        self._order = count()

    def set(self, at: float, value: T, *, postponed: bool = False) -> None:
        heapq.heappush(self._heap, (at, next(self._order), value, postponed))

    def due(self, now: float) -> Due[T] | None:
        """Take the next value whose deadline is reached; None if there is none."""
        if not self._heap or self._heap[0][0] > now:
            return None
        at, _, value, postponed = heapq.heappop(self._heap)
        return Due(value, at, postponed)

    def next_deadline(self) -> float:
        return self._heap[0][0] if self._heap else inf
