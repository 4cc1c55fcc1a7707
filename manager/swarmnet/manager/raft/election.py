"""When a manager stands for election, and for whom it votes: a timer, a vote about the vote, and loyalty.

A manager that misses its leader first asks whether it would be elected (PreVote); only with a majority
behind it does it begin a term. Whoever hears a leader says no, to that and to a real vote, so that a
manager that was cut off, removed, or set back cannot depose a leader that others hear. A vote that the
leader itself asked for, to hand over, passes. (Ongaro, Consensus: Bridging Theory and Practice, 3.10, 4.2.3
and 9.6; etcd's PreVote and CheckQuorum.)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Final

_LEADER_LOST_S: Final = 0.1
_TURN_S: Final = 0.2
"""A follower whose connection to the leader broke and stays broken this long stands for election: the one
with the lowest node id first, the others each a turn later, so that they do not split the votes."""
_ASK_AGAIN_S: Final = 0.1
"""The others may not have missed the leader yet, or not all be connected."""

Uniform = Callable[[float, float], float]
"""A random number between two others."""


@dataclass(frozen=True, slots=True)
class LogEnd:
    """The last entry of a log. The later one holds all that was committed (Raft, 5.4.1)."""

    term: int
    index: int

    def holds_all_of(self, other: LogEnd) -> bool:
        return (self.term, self.index) >= (other.term, other.index)


class Election:
    """One manager's timer. Pure: times are seconds of any monotonic clock.

    `least_s` to `most_s` without a leader pass before this manager stands.
    """

    def __init__(self, least_s: float, most_s: float, uniform: Uniform, now: float) -> None:
        self._least_s = least_s
        self._most_s = most_s
        self._uniform = uniform
        self._heard_at = -math.inf
        self._stand_at = now
        self._asked_term: int | None = None
        self._granted: set[str] = set()
        self.rest(now)

    @property
    def stand_at(self) -> float:
        """When there is something to do next, unless a leader is heard before."""
        return self._stand_at

    def rest(self, now: float) -> None:
        """Wait for a whole timeout from now: there is a leader, or an election goes on."""
        self._stand_at = now + self._uniform(self._least_s, self._most_s)
        self._asked_term = None

    def heard(self, now: float) -> None:
        """The leader of this term sent something."""
        self._heard_at = now
        self.rest(now)

    def lost(self, now: float, turn: int) -> None:
        """The connection to the leader broke; `turn` others stand before this manager."""
        self._heard_at = -math.inf
        self._stand_at = min(self._stand_at, now + _LEADER_LOST_S + turn * _TURN_S)

    def hurry(self, now: float) -> None:
        """Stand at once: somebody misses the leader as well, and has less of the log."""
        self._stand_at = min(self._stand_at, now)

    def has_leader(self, now: float) -> bool:
        """Whether a leader was heard so lately that nobody else may become one."""
        return now < self._heard_at + self._least_s

    def due(self, now: float) -> bool:
        return now >= self._stand_at

    def ask(self, now: float, term: int) -> None:
        """The others are asked whether this manager, in `term` now, would be elected.

        Answers to earlier questions in that term still count.
        """
        if self._asked_term != term:
            self._asked_term, self._granted = term, set()
        self._stand_at = now + _ASK_AGAIN_S

    def granted(self, node_id: str, term: int) -> None:
        """One of them said yes to a question asked in `term`."""
        if term == self._asked_term:
            self._granted.add(node_id)

    def is_backed(self, term: int, peers: Collection[str]) -> bool:
        """Whether a majority would elect this manager, which is still in `term`."""
        return self._asked_term == term and 2 * (1 + len(self._granted.intersection(peers))) > 1 + len(peers)
