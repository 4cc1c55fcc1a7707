"""Injects faults, several at a time, and heals each of them a while later."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tests.chaos.faults import Fault, Make
from tests.chaos.machine import Machine


@dataclass(frozen=True, slots=True)
class Storm:
    """At most `together` faults at a time, each `shortest_s` to `longest_s` long, one after `pause_s` on
    average."""

    lasts_s: float
    together: int
    shortest_s: float
    longest_s: float
    pause_s: float


def some_storm(choose: random.Random) -> Storm:
    """From a few long faults to many short ones."""
    longest_s = choose.choice([0.3, 0.6, 1.5, 4.0])
    return Storm(
        lasts_s=choose.uniform(6.0, 10.0),
        together=choose.choice([1, 1, 1, 2, 2, 3, 5]),
        shortest_s=0.03,
        longest_s=longest_s,
        pause_s=choose.choice([0.03, 0.1, 0.3]),
    )


class Nemesis:
    """`happened` counts the faults by kind, each once it is over."""

    def __init__(self, choose: random.Random, machines: Sequence[Machine], kinds: Mapping[Make, int]) -> None:
        self.happened: Counter[str] = Counter()
        self._choose = choose
        self._machines = machines
        self._kinds = kinds
        self._calm = asyncio.Event()
        self._active: dict[Fault, asyncio.Task[None]] = {}

    async def rage(self, storm: Storm) -> None:
        loop = asyncio.get_running_loop()
        until = loop.time() + storm.lasts_s
        while loop.time() < until:
            if len(self._active) < storm.together and (fault := self._some_fault()) is not None:
                await fault.inject()
                lasts_s = self._lasts_s(storm)
                self._active[fault] = asyncio.create_task(self._heal_after(fault, lasts_s))
            await asyncio.sleep(self._choose.expovariate(1 / storm.pause_s))

    async def heal(self) -> None:
        """End all faults now."""
        self._calm.set()
        await asyncio.gather(*self._active.values())
        self._calm.clear()

    def _some_fault(self) -> Fault | None:
        make = self._choose.choices(list(self._kinds), weights=list(self._kinds.values()))[0]
        return make(self._choose, self._machines)

    def _lasts_s(self, storm: Storm) -> float:
        """Short ones are more frequent: spread evenly over the orders of magnitude."""
        ratio = storm.longest_s / storm.shortest_s
        return storm.shortest_s * float(ratio ** self._choose.random())

    async def _heal_after(self, fault: Fault, lasts_s: float) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._calm.wait(), lasts_s)
        if await fault.heal():
            self.happened[fault.kind] += 1
        del self._active[fault]
