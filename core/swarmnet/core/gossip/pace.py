"""How fast a node tells news: at once while it is quiet, in spread rounds under load, slower when it lags.

A token bucket whose tokens come the slower, the later this node is with its own rounds: an overloaded host
says more in fewer datagrams, and the whole swarm's load falls by its own measure, without anybody's tuning.
"""

from __future__ import annotations

from swarmnet.core.gossip.randomness import Randomness
from swarmnet.core.gossip.timing import Timing


class Pace:
    """One for all scopes of a node: they share its processor."""

    def __init__(self, timing: Timing, randomness: Randomness) -> None:
        self._timing = timing
        self._randomness = randomness
        self._tokens = float(timing.burst_rounds)
        self._at = 0.0
        self.period_s = timing.round_period_s

    def ready(self, now: float) -> float:
        """When the next round may go."""
        self._refill(now)
        return now if self._tokens >= 1 else now + (1 - self._tokens) * self.period_s

    def spend(self, due: float, now: float) -> bool:
        """A round that was due then goes now; True if rounds are being spread."""
        self._refill(now)
        late = now - due
        if late > self.period_s / 2:
            self.period_s = min(self.period_s * 1.5, self._timing.slowest_round_period_s)
        else:
            self.period_s = max(self.period_s * 0.9, self._timing.round_period_s)
        self._tokens = max(self._tokens - 1, 0.0)
        return self._tokens < 1

    def spread(self, seconds: float) -> float:
        """More or less: nodes that heard of it together must not repeat it together."""
        return seconds * (0.7 + 0.6 * self._randomness.random())

    def _refill(self, now: float) -> None:
        gained = max(now - self._at, 0.0) / self.period_s
        self._tokens = min(self._tokens + gained, float(self._timing.burst_rounds))
        self._at = max(now, self._at)
