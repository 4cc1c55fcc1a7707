"""Syncs by TCP: two nodes find out what one of them lacks. Here: the tickets of those under way, and the
bodies."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from swarmnet.api.v1 import gossip_pb2 as pb
from swarmnet.core.gossip.limits import MAX_SYNC_BYTES, MAX_SYNCS_PER_SCOPE
from swarmnet.core.gossip.members import Rumor
from swarmnet.core.gossip.messages import of_rumor

_ROOM: Final = MAX_SYNC_BYTES - 256
"""Less the seal's overhead, with some to spare."""


@dataclass(slots=True)
class Ticket:
    """A sync that this node has asked for: of which scope, and whose reply is awaited. `body` is what the
    second request of a sync says; the first one's is made when it is begun."""

    number: int
    scope: str
    node_id: str
    body: bytes | None = None
    challenge: bytes = b""


class Tickets:
    """The syncs under way: each is redeemed once, by a reply or by the news that there is none."""

    def __init__(self) -> None:
        self._number = 0
        self._open: dict[int, Ticket] = {}

    def __len__(self) -> int:
        return len(self._open)

    def issue(self, scope: str, node_id: str) -> Ticket | None:
        """None if one with that node is under way, or too many are."""
        if self.under_way(scope) >= MAX_SYNCS_PER_SCOPE or (scope, node_id) in (
            (each.scope, each.node_id) for each in self._open.values()
        ):
            return None
        self._number += 1
        ticket = self._open[self._number] = Ticket(self._number, scope, node_id)
        return ticket

    def under_way(self, scope: str) -> int:
        return sum(each.scope == scope for each in self._open.values())

    def get(self, number: int) -> Ticket | None:
        return self._open.get(number)

    def redeem(self, number: int) -> Ticket | None:
        return self._open.pop(number, None)


def cluster_body(ticket: int, digest: int, rumors: Iterable[Rumor]) -> bytes:
    body = pb.ClusterSync(ticket=ticket, members=digest)
    room = _ROOM
    for message in map(of_rumor, rumors):
        room -= len(message) + 5
        if room < 0:
            break
        body.rumors.append(message)
    return body.SerializeToString()


def network_body(ticket: int, vector: pb.Vector | None, frames: Iterable[bytes] = ()) -> bytes:
    """`frames` as in datagrams, as many as there is room for."""
    head = pb.NetworkSync(ticket=ticket, vector=vector).SerializeToString()
    return head + fitting(frames, len(head))


def fitting(frames: Iterable[bytes], taken: int = 0) -> bytes:
    """As many as there is room for beside `taken` bytes, from the first on."""
    parts, room = [], _ROOM - taken
    for frame in frames:
        room -= len(frame)
        if room < 0:
            break
        parts.append(frame)
    return b"".join(parts)
