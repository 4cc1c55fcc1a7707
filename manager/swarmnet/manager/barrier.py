"""One read barrier of Raft for all calls that wait when it begins."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable


class SharedBarrier:
    """While one is under way, calls that come in share the next one: what it promises holds for each of them,
    as it begins after they came. The load on Raft does not grow with the number of readers.
    """

    def __init__(self, ask: Callable[[], Awaitable[None]]) -> None:
        self._ask = ask
        self._running: asyncio.Task[None] | None = None
        self._next: asyncio.Task[None] | None = None

    async def passed(self) -> None:
        """Returns, or raises, what a barrier does that began after the call."""
        if self._next is None:
            self._next = asyncio.create_task(self._begin(self._running))
            self._next.add_done_callback(_look_at)
        await asyncio.shield(self._next)

    async def _begin(self, running: asyncio.Task[None] | None) -> None:
        if running is not None:
            await asyncio.wait((running,))
        self._running, self._next = self._next, None
        await self._ask()


def _look_at(done: asyncio.Task[None]) -> None:
    """Its error is that of the callers; when all have gone, nobody's."""
    if not done.cancelled():
        done.exception()
