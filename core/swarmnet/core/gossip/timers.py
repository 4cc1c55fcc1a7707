"""Timers as values: a late or outdated one is harmless, because whoever takes it looks at the state again."""

from __future__ import annotations

import heapq
from itertools import count
from math import inf
from typing import Generic, TypeVar

T = TypeVar("T")


class Timers(Generic[T]):
    """Values with a deadline, taken in the order of deadlines, then of setting."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, T]] = []
        self._order = count()

    def set(self, at: float, value: T) -> None:
        heapq.heappush(self._heap, (at, next(self._order), value))

    def due(self, now: float) -> T | None:
        """Take the next value whose deadline is reached; None if there is none."""
        return heapq.heappop(self._heap)[2] if self._heap and self._heap[0][0] <= now else None

    def next_deadline(self) -> float:
        return self._heap[0][0] if self._heap else inf
