"""How long a suspected member has to refute: less, the more members confirm the suspicion (Lifeguard)."""

from __future__ import annotations

from math import log, log10

from swarmnet.core.gossip.timing import Timing


class Suspicion:
    """A running suspicion of one member at one incarnation.

    `evidence`: it does not answer this node either. `verdict_left` is what others have already concluded,
    None = nothing. Nobody is given up here on hearsay alone: see Swim.
    """

    __slots__ = (
        "_accusers", "_expected", "_least_s", "_most_s", "_started", "evidence", "silent", "verdict_left"
    )  # fmt: skip

    def __init__(self, members: int, timing: Timing, now: float) -> None:
        self._started = now
        self._accusers: set[str] = set()
        self._expected = max(min(timing.confirmations, members - 2), 0)
        self._least_s = timing.suspicion_s * max(2.0, log10(max(members, 1)))
        self._most_s = self._least_s * (timing.suspicion_slack if self._expected else 1.0)
        self.evidence = False
        self.silent = 0
        """Pings in a row without an answer."""
        self.verdict_left: bool | None = None

    def confirm(self, accuser: str) -> bool:
        """True if that one is new and counts, and so is worth passing on. The first one is the accuser."""
        if accuser in self._accusers or len(self._accusers) > self._expected:
            return False
        self._accusers.add(accuser)
        return True

    def answered(self) -> None:
        """It is there, as far as this node can tell."""
        self.evidence = False
        self.silent = 0

    @property
    def deadline(self) -> float:
        """From the longest wait to the shortest, logarithmic in the confirmations."""
        confirmed = max(len(self._accusers) - 1, 0)
        if not self._expected:
            return self._started + self._least_s
        done = log(confirmed + 1) / log(self._expected + 1)
        return self._started + max(self._least_s, self._most_s - done * (self._most_s - self._least_s))
