"""Which managers' disks have room for new entries, and who leads when this one's has none.

A manager without room still votes, follows and answers reads; entries it does not take are sent to it again.
A leader has to store first, so one without room hands over, but only to a manager that has just said that it
has some: where all are full, leadership does not wander.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

import structlog

from swarmnet.core.errors import ResourceExhausted, SwarmnetError
from swarmnet.manager.raft.journal import Journal

log = structlog.get_logger()

_HEARD_S: Final = 1.0
"""What a manager said counts for some heartbeats."""
_AGAIN_S: Final = 5.0
"""A leader does not try to hand over more often."""


@dataclass(slots=True)
class Room:
    """`now`: seconds of a monotonic clock. `refusing`: the last command found no room here."""

    refusing: bool = False
    _full: dict[str, bool] = field(default_factory=dict)
    _heard_at: dict[str, float] = field(default_factory=dict)
    _hand_over_at: float = 0.0

    def heard(self, node_id: str, now: float, *, full: bool) -> None:
        self._full[node_id], self._heard_at[node_id] = full, now

    def is_full(self, node_id: str) -> bool:
        """Whether that is the last that was heard of it."""
        return self._full.get(node_id, False)

    def claim(self, journal: Journal, size_bytes: int) -> SwarmnetError | None:
        """Take the room for that many bytes of entries, or say why there is none."""
        try:
            journal.claim(size_bytes)
        except ResourceExhausted as error:
            if not self.refusing:
                log.error("no room for new entries", error=error.message)  # noqa: TRY400
            self.refusing = True
            return error
        self.refusing = False
        return None

    def successor(self, peers: Iterable[str], now: float) -> str | None:
        """Who is to lead instead of this manager; None when nobody can, or it was tried a moment ago."""
        if now < self._hand_over_at:
            return None
        able = [
            each
            for each in peers
            if not self.is_full(each) and now - self._heard_at.get(each, 0.0) <= _HEARD_S
        ]
        if not able:
            return None
        self._hand_over_at = now + _AGAIN_S
        return min(able)
