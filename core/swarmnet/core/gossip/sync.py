"""Push/pull: two nodes show each other all that they have of one scope. Here: the tickets, and the bodies."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, TypeVar

from google.protobuf.message import Message

from swarmnet.api.v1 import gossip_pb2 as pb
from swarmnet.core.gossip.members import Rumor
from swarmnet.core.gossip.messages import of_rumor
from swarmnet.core.gossip.timing import MAX_SYNC_BYTES

M = TypeVar("M", bound=Message)
_ROOM: Final = MAX_SYNC_BYTES - 256
"""Less the seal's overhead, with some to spare."""
_MOST_AT_ONCE: Final = 4
"""Syncs under way in one scope: each may carry the whole table."""


@dataclass(frozen=True, slots=True)
class Ticket:
    """A sync that this node has asked for: of which scope, and whose reply is awaited."""

    number: int
    scope: str
    node_id: str


class Tickets:
    """The syncs under way: each is redeemed once, by a reply or by the news that there is none."""

    def __init__(self) -> None:
        self._number = 0
        self._open: dict[int, Ticket] = {}

    def issue(self, scope: str, node_id: str) -> Ticket | None:
        """None if one with that node is under way, or too many are."""
        same = [each for each in self._open.values() if each.scope == scope]
        if len(same) >= _MOST_AT_ONCE or any(each.node_id == node_id for each in same):
            return None
        self._number += 1
        ticket = self._open[self._number] = Ticket(self._number, scope, node_id)
        return ticket

    def redeem(self, number: int) -> Ticket | None:
        return self._open.pop(number, None)


def cluster_body(ticket: int, rumors: Iterable[Rumor]) -> bytes:
    body = pb.ClusterSync(ticket=ticket, rumors=fitting(map(of_rumor, rumors), _ROOM))
    return body.SerializeToString()


def network_body(ticket: int, entries: Iterable[pb.TableEntry]) -> bytes:
    return pb.NetworkSync(ticket=ticket, entries=fitting(entries, _ROOM)).SerializeToString()


def fitting(messages: Iterable[M], room: int) -> list[M]:
    """As many as there is room for, from the first on."""
    taken = []
    for message in messages:
        room -= message.ByteSize() + 5
        if room < 0:
            break
        taken.append(message)
    return taken
