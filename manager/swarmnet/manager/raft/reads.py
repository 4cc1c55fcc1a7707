"""Linearizable reads without writing (Raft's ReadIndex): ask a majority whether this manager still leads.

One round of probes answers all readers that wait when it starts. What it promises holds once the state
machine has applied all that was committed when the round began.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field

Reader = Callable[[bool], None]
"""Told once: whether what the state says is now no older than the question."""


@dataclass(slots=True)
class _Round:
    term: int
    commit_index: int
    readers: list[Reader]
    replied: set[str] = field(default_factory=set)


class Reads:
    """The readers of one manager. Pure: what to send and whom to answer is returned."""

    def __init__(self) -> None:
        self._waiting: list[Reader] = []
        self._rounds: dict[int, _Round] = {}
        self._number = 0

    @property
    def idle(self) -> bool:
        """Whether nobody waits."""
        return not self._waiting and not self._rounds

    def ask(self, reader: Reader) -> None:
        self._waiting.append(reader)

    def start(self, term: int, commit_index: int) -> int | None:
        """The number of a new round to send probes for; None when nobody waits.

        Only for a leader that committed an entry of its term: it cannot know before what is committed.
        """
        if not self._waiting:
            return None
        self._number += 1
        self._rounds[self._number] = _Round(term, commit_index, self._waiting)
        self._waiting = []
        return self._number

    def pending(self) -> list[int]:
        """Rounds that wait for replies: a probe may be lost, or meet a member yet to learn of the term."""
        return list(self._rounds)

    def replied(self, node_id: str, term: int, number: int) -> bool:
        """A member answered a probe, in `term`. Whether a round still waits for that."""
        found = self._rounds.get(number)
        if found is None or found.term != term:
            return False
        found.replied.add(node_id)
        return True

    def answered(self, term: int, applied_index: int, peers: Collection[str]) -> list[Reader]:
        """The readers who may go on; each is returned once."""
        done: list[Reader] = []
        for number, each in list(self._rounds.items()):
            majority = 2 * (1 + len(each.replied.intersection(peers))) > 1 + len(peers)
            if each.term == term and majority and applied_index >= each.commit_index:
                done += self._rounds.pop(number).readers
        return done

    def refused(self, term: int | None) -> list[Reader]:
        """The readers that cannot be answered any more: all if `term` is None, else those of other terms."""
        gone: list[Reader] = []
        if term is None:
            gone, self._waiting = self._waiting, []
        for number, each in list(self._rounds.items()):
            if each.term != term:
                gone += self._rounds.pop(number).readers
        return gone
