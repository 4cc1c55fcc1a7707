"""How often something may be tried: a token bucket per address, so that nobody can keep the bootstrap port
busy alone; and a pause between attempts at a secret."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from swarmnet.core.errors import ResourceExhausted

RATE_PER_S: Final = 50.0
"""Sustained calls a second from one address: a host that joins makes two."""
BURST: Final = 200.0
ATTEMPT_PAUSE_S: Final = 1.0
_ADDRESSES: Final = 10_000
"""Buckets kept; the longest unused one is forgotten first."""


class RateLimiter:
    """Call it with an address; ResourceExhausted when that address calls too often."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def __call__(self, address: str) -> None:
        now = self._clock()
        left, since = self._buckets.pop(address, (BURST, now))
        left = min(BURST, left + (now - since) * RATE_PER_S)
        self._buckets[address] = (max(left - 1, 0.0), now)
        if len(self._buckets) > _ADDRESSES:
            self._buckets.popitem(last=False)
        if left < 1:
            raise ResourceExhausted(
                f"too many bootstrap calls from {address}", hint="Wait a second and try again."
            )


class Attempts:
    """At a secret: after one that failed a pause, whoever makes the next."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._next_at = 0.0

    def check(self) -> None:
        """ResourceExhausted for one that follows a failed one too soon."""
        if self._clock() < self._next_at:
            raise ResourceExhausted("too many attempts", hint="Wait a second and try again.")

    def failed(self) -> None:
        self._next_at = self._clock() + ATTEMPT_PAUSE_S
