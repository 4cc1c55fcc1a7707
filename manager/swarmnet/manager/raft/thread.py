"""The thread that Raft and its connections run on: an event loop of its own, which may wait for the disk."""

from __future__ import annotations

import asyncio
import math
import threading
from collections.abc import Callable, Coroutine
from typing import Any, Final, TypeVar

T = TypeVar("T")
_TURNS: Final = 10


class RaftThread:
    """Started by `start`, ended by `stop`; both are called on another event loop."""

    loop: asyncio.AbstractEventLoop

    def __init__(self) -> None:
        self._thread = threading.Thread(target=self._run, name="raft", daemon=True)

    @property
    def running(self) -> bool:
        return self._thread.is_alive()

    def start(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread.start()

    async def call(self, work: Coroutine[Any, Any, T]) -> T:
        """Have `work` done there; what it returns or raises."""
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, self.loop))

    def post(self, act: Callable[[], None]) -> None:
        """Have `act` called there, in order. From any thread; nothing once it has ended."""
        if not self.loop.is_closed():
            self.loop.call_soon_threadsafe(act)

    async def stop(self) -> None:
        if self.running:
            self.loop.call_soon_threadsafe(self.loop.stop)
            await asyncio.to_thread(self._thread.join)

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        try:
            self.loop.run_forever()
            self.loop.run_until_complete(_settle())
        finally:
            self.loop.close()


async def _settle() -> None:
    """Connections that were closed are told so by the loop, in a few turns."""
    for _ in range(_TURNS):
        await asyncio.sleep(0)


class Unpaced:
    """In the place of a Pacer where somebody else makes the steps."""

    def wake(self) -> None: ...
    def nudge(self) -> None: ...
    def run(self) -> None: ...
    def stop(self) -> None: ...


class Turn:
    """Gathers what is asked for in a turn of an event loop; hands it on at its end, for one step of Raft."""

    def __init__(self, loop: asyncio.AbstractEventLoop, hand_on: Callable[..., None]) -> None:
        self._loop = loop
        self._hand_on = hand_on
        self._acts: list[Callable[[], None]] = []

    def add(self, act: Callable[[], None]) -> None:
        if not self._acts:
            self._loop.call_soon(self._end)
        self._acts.append(act)

    def _end(self) -> None:
        acts, self._acts = self._acts, []
        self._hand_on(*acts)


class Pacer:
    """Calls `step` once for all that came in meanwhile, and again after the seconds that it returns."""

    def __init__(self, thread: RaftThread, step: Callable[[], float | None]) -> None:
        self._thread = thread
        self._step = step
        self._woken = False
        self._due_at = math.inf
        self._timer: asyncio.TimerHandle | None = None

    def wake(self) -> None:
        """There is something to do. From any thread."""
        if not self._woken:
            self._woken = True
            self._thread.post(self._run_if_woken)

    def nudge(self) -> None:
        """The same, on the thread itself: after all that came in with it."""
        if not self._woken:
            self._woken = True
            self._thread.loop.call_soon(self._run_if_woken)

    def run(self) -> None:
        """A step now, on the thread."""
        self._woken = False
        pause_s = self._step()
        self._due_at = math.inf if pause_s is None else self._thread.loop.time() + pause_s
        self._set_timer()

    def stop(self) -> None:
        """On the thread: no step any more."""
        self._step = lambda: None
        self._due_at = math.inf
        if self._timer is not None:
            self._timer.cancel()

    def _run_if_woken(self) -> None:
        if self._woken:  # or a step since then has taken everything
            self.run()

    def _set_timer(self) -> None:
        """One that goes off too early is left: setting a timer anew in every step costs more."""
        if self._timer is not None and self._due_at < self._timer.when():
            self._timer.cancel()
            self._timer = None
        if self._timer is None and self._due_at < math.inf:
            self._timer = self._thread.loop.call_at(self._due_at, self._time_is_up)

    def _time_is_up(self) -> None:
        self._timer = None
        if self._thread.loop.time() >= self._due_at:
            self.run()
        else:
            self._set_timer()
