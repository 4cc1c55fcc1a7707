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
        self._told = (0, 0)
        self.due_at = math.inf

    def is_due(self, journal: Journal, position: Position, now: float) -> bool:
        last, committed = self._told
        if journal.last.index != last:
            return True
        if position.commit_index == committed:
            self.due_at = math.inf
        elif self.due_at == math.inf:
            self.due_at = now + _TELL_COMMIT_S
        return now >= self.due_at

    def told(self, journal: Journal, position: Position) -> None:
        self._told = (journal.last.index, position.commit_index)
