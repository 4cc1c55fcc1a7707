"""Who is there, as this node knows it, and which of two rumors holds."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import IntEnum

from swarmnet.core.gossip.digests import mark
from swarmnet.core.gossip.names import handle, handle_number
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
    """What somebody says of a member. `address` is IP:port; `suspected_by` is a node id, or empty.
    `boot`: 32 bits, of the process that the member is now. `meta`: what it says of itself."""

    node_id: str
    address: str
    incarnation: int
    state: State
    suspected_by: str = ""
    boot: int = 0
    meta: bytes = b""

    def said(self, state: State, *, by: str = "") -> Rumor:
        """The same member in another state."""
        return replace(self, state=state, suspected_by=by)


class Member:
    """A member other than this node. `since`: when it came into its state; `to`: for whom messages are
    sealed."""

    __slots__ = ("rumor", "since", "suspicion", "to")

    def __init__(self, rumor: Rumor, since: float) -> None:
        self.rumor = rumor
        self.since = since
        self.suspicion: Suspicion | None = None
        self.to = handle(rumor.node_id) + rumor.boot.to_bytes(4, "big")

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
        return self.rumor.state < State.DEAD


class Members:
    """All other members, the dead ones included until they are forgotten."""

    def __init__(self) -> None:
        self._members: dict[str, Member] = {}
        self.get = self._members.get
        self._there: list[Member] | None = None
        self.digest = 0
        """Of the members that are there: their ids and incarnations."""

    def __iter__(self) -> Iterator[Member]:
        return iter(self._members.values())

    def __len__(self) -> int:
        return len(self._members)

    def knows(self, node_id: str) -> bool:
        return node_id in self._members

    def put(self, rumor: Rumor, now: float) -> Member:
        """What is known of a member from now on. A suspicion that runs goes on only at the same
        incarnation."""
        member = self._members.get(rumor.node_id)
        if member is None:
            member = self._members[rumor.node_id] = Member(rumor, now)
            self._there = None
            self._count(member)
            return member
        self._count(member)
        if member.reachable != (rumor.state < State.DEAD):
            self._there = None
        if (rumor.state, rumor.incarnation) != (member.state, member.rumor.incarnation):
            member.since = now
        if rumor.state is not State.SUSPECT or rumor.incarnation != member.rumor.incarnation:
            member.suspicion = None
        if rumor.boot != member.rumor.boot:
            member.to = handle(rumor.node_id) + rumor.boot.to_bytes(4, "big")
        member.rumor = rumor
        self._count(member)
        return member

    def reachable(self) -> list[Member]:
        """Not to be changed."""
        if self._there is None:
            self._there = [member for member in self if member.reachable]
        return self._there

    def gone(self, node_id: str) -> bool:
        """Dead, left, or not known at all: what such a node once said must not go round among those that have
        forgotten it."""
        member = self._members.get(node_id)
        return member is None or not member.reachable

    def suspicion(self, node_id: str) -> Suspicion | None:
        member = self._members.get(node_id)
        return member.suspicion if member is not None else None

    def forget_gone(self, before: float) -> list[str]:
        """Drop those that are dead or left since before that time; who that was."""
        lost = [m.node_id for m in self if not m.reachable and m.since < before]
        for node_id in lost:
            del self._members[node_id]
        return lost

    def _count(self, member: Member) -> None:
        """Into the digest, or out of it again."""
        if member.reachable:
            self.digest ^= mark(handle_number(member.node_id), member.rumor.incarnation)
