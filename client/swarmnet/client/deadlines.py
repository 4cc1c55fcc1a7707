"""One timer for many deadlines: each call has one, and nearly none is ever over."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)


class Deadlines(Generic[K]):
    """Tells of each key once its time is over, unless it was discarded. Event loop only."""

    def __init__(self, over: Callable[[K], None]) -> None:
        self._over = over
        self._loop = asyncio.get_running_loop()
        self._ends_at: dict[K, float] = {}
        self._timer: asyncio.TimerHandle | None = None

    def add(self, key: K, seconds: float) -> None:
        """From now."""
        ends_at = self._loop.time() + seconds
        self._ends_at[key] = ends_at
        if self._timer is None or ends_at < self._timer.when():
            self._arm(ends_at)

    def discard(self, key: K) -> None:
        """The timer may still go off for it: that is cheaper than to look for the next one each time."""
        self._ends_at.pop(key, None)

    def close(self) -> None:
        self._ends_at.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _arm(self, at: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_at(at, self._look)

    def _look(self) -> None:
        self._timer = None
        now = self._loop.time()
        for key in [key for key, ends_at in self._ends_at.items() if ends_at <= now]:
            del self._ends_at[key]
            self._over(key)
        if self._ends_at and self._timer is None:
            self._arm(min(self._ends_at.values()))
