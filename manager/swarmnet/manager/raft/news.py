"""When a leader has something to tell its followers now, and not only at the next heartbeat."""

from __future__ import annotations

import math
from typing import Final

from swarmnet.manager.raft.guard import Position
from swarmnet.manager.raft.journal import Journal

_TELL_COMMIT_S: Final = 0.005


class News:
    """A new entry is told at once. What is committed waits for a moment: under load the next entry tells it,
    at no cost. Times are seconds of any monotonic clock."""

    def __init__(self) -> None:
        self._told_last = self._told_committed = 0
        self.due_at = math.inf

    def is_due(self, journal: Journal, now: float) -> bool:
        """Whether the tick to come is to send something."""
        return journal.last.index != self._told_last or now >= self.due_at

    def told(self, journal: Journal, position: Position) -> None:
        """It did."""
        self._told_last, self._told_committed = journal.last.index, position.commit_index
        self.due_at = math.inf

    def look(self, position: Position, now: float) -> None:
        """It did not: it may have committed something."""
        if self.due_at == math.inf and position.commit_index != self._told_committed:
            self.due_at = now + _TELL_COMMIT_S
