"""What the gossip protocol gives out: messages to send, and what a user of it may want to know."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias


class Datagram(NamedTuple):
    """To be sent by UDP; may be lost."""

    address: str
    payload: bytes


@dataclass(frozen=True, slots=True)
class SyncRequest:
    """To be done by TCP: the listener's challenge belongs into `sync_begun`, which gives what to send, and
    the reply, or that there was none, into `sync_answered`."""

    ticket: int
    address: str


@dataclass(frozen=True, slots=True)
class MemberUp:
    """New, or back."""

    node_id: str


@dataclass(frozen=True, slots=True)
class MemberChanged:
    """It has another address, or says something else of itself."""

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


Event: TypeAlias = MemberUp | MemberChanged | MemberDown | EndpointsChanged


@dataclass(slots=True)
class Output:
    """All that became due since the last `take`."""

    datagrams: list[Datagram] = field(default_factory=list)
    syncs: list[SyncRequest] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
