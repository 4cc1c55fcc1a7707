"""Whom to probe next: a plan that all nodes follow without a word.

In each period every node steps by the same number along the ring of all ids; the number comes from the
period's number by the wall clock. So each member is probed exactly once a period as long as clocks and
memberships agree roughly, and by somebody else each time; where they do not agree it is a random choice, as
in SWIM.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable

from swarmnet.core.gossip.digests import mark


class Turns:
    """`me` at wall-clock time `started_s` + now - started."""

    def __init__(self, me: str, period_s: float, started_ms: int) -> None:
        self._me = me
        self._period_s = period_s
        self._started_s = started_ms / 1000
        self._since = 0.0
        self._ring: list[str] = []
        self._of: object = None

    def start(self, now: float) -> None:
        self._since = now

    def next(self, others: list[str] | Iterable[str], version: object, now: float) -> str | None:
        """One of the others; `version` is another object whenever these are others."""
        if version is not self._of:
            self._ring, self._of = sorted(others), version
        if not self._ring:
            return None
        period = int((self._started_s + now - self._since) / self._period_s)
        size = len(self._ring) + 1
        step = 1 + mark(period, size) % (size - 1)
        place = bisect_left(self._ring, self._me)
        target = (place + step) % size
        return self._ring[target - (target > place)]
