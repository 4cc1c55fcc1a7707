"""Who is there, as this node knows it, and which of two rumors holds."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import IntEnum

from swarmnet.core.gossip.suspicion import Suspicion


class State(IntEnum):
    """In the order in which they override each other at the same incarnation."""

    ALIVE = 1
    SUSPECT = 2
    DEAD = 3
    LEFT = 4


GONE = (State.DEAD, State.LEFT)


@dataclass(frozen=True, slots=True)
class Rumor:
    """What somebody says of a member. `address` is IP:port; `suspected_by` is a node id, or empty."""

    node_id: str
    address: str
    incarnation: int
    state: State
    suspected_by: str = ""

    def overrides(self, other: Rumor) -> bool:
        return (self.incarnation, self.state) > (other.incarnation, other.state)

    def said(self, state: State, *, by: str = "") -> Rumor:
        """The same member in another state."""
        return replace(self, state=state, suspected_by=by)


@dataclass(slots=True)
class Member:
    """A member other than this node. `since`: when it came into its state."""

    rumor: Rumor
    since: float
    suspicion: Suspicion | None = None

    @property
    def node_id(self) -> str:
        return self.rumor.node_id

    @property
    def address(self) -> str:
        return self.rumor.address

    @property
    def state(self) -> State:
        return self.rumor.state

    @property
    def reachable(self) -> bool:
        """Alive, or not yet given up."""
        return self.state not in GONE


class Members:
    """All other members, the dead ones included until they are forgotten."""

    def __init__(self) -> None:
        self._members: dict[str, Member] = {}

    def __iter__(self) -> Iterator[Member]:
        return iter(self._members.values())

    def __len__(self) -> int:
        return len(self._members)

    def get(self, node_id: str) -> Member | None:
        return self._members.get(node_id)

    def add(self, rumor: Rumor, now: float) -> Member:
        member = self._members[rumor.node_id] = Member(rumor, now)
        return member

    def reachable(self) -> list[Member]:
        return [member for member in self if member.reachable]

    def gone(self, node_id: str) -> bool:
        """Known to be dead or left; an unknown node is not."""
        member = self._members.get(node_id)
        return member is not None and not member.reachable

    def forget_gone(self, before: float) -> None:
        """Drop those that are dead or left since before that time."""
        for node_id in [m.node_id for m in self if not m.reachable and m.since < before]:
            del self._members[node_id]
