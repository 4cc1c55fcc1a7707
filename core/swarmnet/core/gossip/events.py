"""What the gossip protocol gives out: messages to send, and what a user of it may want to know."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeAlias


@dataclass(frozen=True, slots=True)
class Datagram:
    """To be sent by UDP; may be lost."""

    address: str
    payload: bytes


@dataclass(frozen=True, slots=True)
class SyncRequest:
    """To be sent by TCP; the reply, or that there was none, belongs into `sync_answered(ticket, ...)`."""

    ticket: int
    address: str
    payload: bytes


@dataclass(frozen=True, slots=True)
class MemberUp:
    """New, or back."""

    node_id: str


@dataclass(frozen=True, slots=True)
class MemberDown:
    """Failed, or left by its own word."""

    node_id: str
    left: bool


@dataclass(frozen=True, slots=True)
class EndpointsChanged:
    """`endpoints(network_id)` is another one now."""

    network_id: str


Event: TypeAlias = MemberUp | MemberDown | EndpointsChanged


@dataclass(slots=True)
class Output:
    """All that became due since the last `take`."""

    datagrams: list[Datagram] = field(default_factory=list)
    syncs: list[SyncRequest] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
