"""How late the event loop is: what blocks it delays every stream, heartbeat and command of this manager."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from typing import Final

from swarmnet.manager.raft.measures import Histogram

TICK_S: Final = 0.005
REMEMBERED_S: Final = 10.0
BOUNDS_S: Final = (0.001, 0.002, 0.005, 0.01, 0.02, 0.03, 0.04, 0.05, 0.075, 0.1, 0.2, 0.5, 1.0, 5.0)


class LoopLag:
    """Asks to be woken every few milliseconds, and sees how much later it is.

    `late`: how late, of every tick. `working`: the same, but no more than the time that this process computed
    meanwhile, so without what the machine gave to others.
    """

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        cpu_clock: Callable[[], float] = time.process_time,
    ) -> None:
        self.late, self.working = Histogram(BOUNDS_S), Histogram(BOUNDS_S)
        self._clock = clock
        self._cpu_clock = cpu_clock
        self._recent: deque[tuple[float, float, float]] = deque()

    async def run(self) -> None:
        """For ever."""
        asked, cpu = self._clock(), self._cpu_clock()
        while True:
            await asyncio.sleep(TICK_S)
            now, cpu_now = self._clock(), self._cpu_clock()
            self.note(now, max(0.0, now - asked - TICK_S), cpu_now - cpu)
            asked, cpu = now, cpu_now

    def note(self, now: float, late_s: float, cpu_s: float) -> None:
        """A tick at `now` was so late, while the process computed for `cpu_s`."""
        working_s = min(late_s, cpu_s)
        self.late.observe(late_s)
        self.working.observe(working_s)
        while self._recent and self._recent[-1][1] <= late_s and self._recent[-1][2] <= working_s:
            self._recent.pop()
        self._recent.append((now, late_s, working_s))
        self._forget(now)

    def longest_s(self) -> tuple[float, float]:
        """Of the last ten seconds: (late, working)."""
        self._forget(self._clock())
        late = max((each[1] for each in self._recent), default=0.0)
        return late, max((each[2] for each in self._recent), default=0.0)

    def _forget(self, now: float) -> None:
        while self._recent and self._recent[0][0] < now - REMEMBERED_S:
            self._recent.popleft()
