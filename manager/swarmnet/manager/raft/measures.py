"""What Raft measures of itself. The engine's thread writes, any thread reads: plain numbers, no locks.

A reader may see one observation counted in one number and not yet in another; the next time it has both.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

BOUNDS_S: Final = (0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
"""Upper bounds of the buckets: from a fast disk's sync to the time that a proposal is waited for."""


class Histogram:
    """Durations in seconds. `counts`: per bucket, the last one for what is above all bounds."""

    __slots__ = ("bounds_s", "counts", "sum_s")

    def __init__(self, bounds_s: Sequence[float] = BOUNDS_S) -> None:
        self.bounds_s = tuple(bounds_s)
        self.counts = [0] * (len(bounds_s) + 1)
        self.sum_s = 0.0

    def observe(self, duration_s: float) -> None:
        self.counts[bisect_left(self.bounds_s, duration_s)] += 1
        self.sum_s += duration_s


@dataclass(slots=True)
class Measures:
    """Since this manager's start.

    `commits`: from a proposal at this manager, leading, until it was applied here. `syncs`: sealing, writing
    and syncing what the journal gathered. `elections`: how often this manager stood. `failed`: proposals
    that were refused or came to nothing.
    """

    commits: Histogram = field(default_factory=Histogram)
    syncs: Histogram = field(default_factory=Histogram)
    elections: int = 0
    leader_changes: int = 0
    failed: int = 0
