"""Anti-replay: which counters of one sender were seen, by a sliding window (RFC 4303, appendix A2)."""

from __future__ import annotations

from typing import Final

WINDOW: Final = 1024
"""How far behind the highest counter a late message may be."""


class ReplayWindow:
    """Remembers the last WINDOW counters. Counters start at 1.

    `fresh` only asks, so that it can stand before an expensive check; `accept` remembers, and belongs after
    the message has proved genuine: else a forger could use up counters that are still to come.
    """

    __slots__ = ("_highest", "_seen")

    def __init__(self) -> None:
        self._highest = 0
        self._seen = 0  # bit i: the counter highest - i was seen

    def fresh(self, counter: int) -> bool:
        """True if the counter is neither seen nor too old to tell."""
        behind = self._highest - counter
        return counter > 0 and (behind < 0 or (behind < WINDOW and not self._seen >> behind & 1))

    def accept(self, counter: int) -> bool:
        """Remember the counter; False, with nothing changed, if it is not fresh."""
        ahead = counter - self._highest
        if ahead > 0:
            kept = self._seen << ahead & (1 << WINDOW) - 1 if ahead < WINDOW else 0
            self._seen, self._highest = kept | 1, counter
        elif self.fresh(counter):
            self._seen |= 1 << -ahead
        else:
            return False
        return True

    def beyond(self, counter: int) -> bool:
        """Whether something was seen so far above `counter` that it is too old to tell."""
        return self._highest - counter >= WINDOW
