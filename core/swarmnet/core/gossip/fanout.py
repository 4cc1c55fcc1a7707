"""Whom a node tells news first: by a graph that all draw alike, so that nobody is left out by chance.

Node p of n, in the order of their ids, tells d*p, d*p + 1 ... d*p + d-1 (mod n): everybody has d tellers and
is reached in ceil(log_d n) hops from anywhere. Random choice would leave out e^-d of all in a round. Where
memberships do not agree it is as good as random; what is lost, or swallowed by a bad worker, the repeats
bring, which go to anybody.

Source: Imase, Itoh, "Design to Minimize Diameter on Building-Block Network" (IEEE Trans. Computers, 1981).
"""

from __future__ import annotations

from collections.abc import Sequence

from swarmnet.core.gossip.members import Member


class Fanout:
    """`me` among others."""

    def __init__(self, me: str) -> None:
        self._me = me
        self._of: Sequence[Member] = ()
        self._chosen: dict[int, Sequence[Member]] = {}

    def of(self, members: Sequence[Member], degree: int) -> Sequence[Member]:
        """The `degree` of the members that this node tells. Another list is given whenever there are
        others."""
        if members is not self._of:
            self._of, self._chosen = members, {}
        if degree not in self._chosen:
            self._chosen[degree] = self._choose(members, degree)
        return self._chosen[degree]

    def _choose(self, members: Sequence[Member], degree: int) -> Sequence[Member]:
        if len(members) <= degree:
            return members
        ring = sorted(members, key=lambda each: each.node_id)
        place = sum(each.node_id < self._me for each in ring)
        size = len(ring) + 1
        steps = (degree * place + step for step in range(degree + 1))
        others = (target - (target > place) for step in steps if (target := step % size) != place)
        return [ring[each] for each, _ in zip(others, range(degree), strict=False)]
