"""A node's guess at its own health (Lifeguard): who misses many answers is perhaps itself the slow one."""

from __future__ import annotations


class Awareness:
    """0 is healthy. Timeouts are multiplied by 1 + score, so that a slow node accuses others later."""

    def __init__(self, most: int) -> None:
        self._most = most
        self.score = 0
        self._answer_s = 0.0

    def add(self, change: int) -> None:
        self.score = min(max(self.score + change, 0), self._most)

    def answered(self, seconds: float) -> None:
        """So long took an answer. Smoothed as TCP does it (RFC 6298)."""
        self._answer_s += (seconds - self._answer_s) / 8

    def patience(self, seconds: float) -> float:
        """How long to wait for an answer: that long, or what answers take here, scaled."""
        return self.scale(max(seconds, 3 * self._answer_s))

    def scale(self, seconds: float) -> float:
        return seconds * (1 + self.score)
