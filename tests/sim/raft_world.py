"""Time, chance and memory of a simulated cluster of managers: all of it comes from the seed."""

from __future__ import annotations

import heapq
import zlib
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from random import Random
from typing import Any, Final
from unittest.mock import patch

from pysyncobj import syncobj
from pysyncobj.node import Node

from swarmnet.manager.raft import snapshot

_TRACE_EVENTS: Final = 120
_CHUNK_BYTES: Final = 100
"""Of a snapshot on the wire: small, so that it comes in several."""


class Violation(Exception):
    """Something happened that must never happen."""


class World:
    """The clock, what will happen, and the last of what did."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.random = Random(seed)
        self.now = 1.0
        self.violation: str | None = None
        self.digest = 0
        self._coming: list[tuple[float, int, Callable[[], None]]] = []
        self._order = count()
        self._trace: deque[tuple[float, str, str]] = deque(maxlen=_TRACE_EVENTS)

    def clock(self) -> float:
        return self.now

    def at(self, when: float, act: Callable[[], None]) -> None:
        heapq.heappush(self._coming, (when, next(self._order), act))

    def after(self, delay_s: float, act: Callable[[], None]) -> None:
        self.at(self.now + delay_s, act)

    def chance(self, probability: float) -> bool:
        return self.random.random() < probability

    def note(self, who: str, what: str) -> None:
        self.digest = zlib.crc32(f"{self.now} {who} {what}".encode(), self.digest)
        self._trace.append((self.now, who, what))

    def fail(self, what: str) -> None:
        """Kept as well as raised: the library and the engine catch exceptions in places."""
        self.violation = self.violation or what
        raise Violation(what)

    def run(self, seconds: float, until: Callable[[], bool] = lambda: False) -> bool:
        """Let time pass; True as soon as `until` holds. Violation."""
        end = self.now + seconds
        while self._coming and self._coming[0][0] <= end:
            self.now, _, act = heapq.heappop(self._coming)
            act()
            if self.violation is not None:
                raise Violation(self.violation)
            if until():
                return True
        self.now = end
        return until()

    def story(self) -> str:
        """The last events, a line each."""
        return "\n".join(f"{when:9.4f}  {who:<4} {what}" for when, who, what in self._trace)


class _Files:
    """In place of `os`: the library looks for its dump itself; ours is on no disk that it knows."""

    class path:  # noqa: N801
        @staticmethod
        def isfile(dump: Any) -> bool:
            return dump.snapshots._to_install is not None


class _NoSockets:
    def poll(self, _timeout: float) -> None:
        pass


@contextmanager
def time_of(world: World) -> Iterator[None]:
    """Let pysyncobj take its time and chance from the world; names hash alike in every process."""
    with (
        patch.object(syncobj, "monotonicTime", world.clock),
        patch.object(syncobj, "random", Random(world.random.getrandbits(32))),
        patch.object(syncobj, "os", _Files),
        patch.object(syncobj, "createPoller", lambda _kind: _NoSockets()),
        patch.object(Node, "__hash__", lambda node: zlib.crc32(node.id.encode())),
        patch.object(snapshot, "CHUNK_BYTES", _CHUNK_BYTES),
    ):
        yield
