"""A manager as Raft sees it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from swarmnet.api.v1 import raft_pb2 as raft
from swarmnet.manager.raft.election import LogEnd


@dataclass(frozen=True, slots=True)
class Member:
    """`node_id` is who it is, for good; the addresses (host:port) are where it was last seen: its API, and
    its Raft."""

    node_id: str
    address: str
    raft_address: str


@dataclass(frozen=True, slots=True)
class Joined:
    """What a joiner is told: who the members are, itself among them, and at which entry it became one.

    It may have been a member before, of the same node id, and have forgotten what it promised then. So it
    neither stands for election nor votes for whoever does not have that entry: those may still count on the
    member that it was.
    """

    members: tuple[Member, ...]
    at: LogEnd


def message_of(member: Member) -> raft.RaftMember:
    return raft.RaftMember(node_id=member.node_id, address=member.address, raft_address=member.raft_address)


def member_of(message: raft.RaftMember) -> Member:
    return Member(message.node_id, message.address, message.raft_address)


def end_message(end: LogEnd) -> raft.RaftLogEnd:
    return raft.RaftLogEnd(term=end.term, index=end.index)


def end_of(message: raft.RaftLogEnd) -> LogEnd:
    return LogEnd(message.term, message.index)


def to_proto(members: Iterable[Member]) -> list[raft.RaftMember]:
    return [message_of(each) for each in members]


def from_proto(members: Iterable[raft.RaftMember]) -> dict[str, Member]:
    return {each.node_id: member_of(each) for each in members}


def host_and_port(address: str) -> tuple[str, int]:
    """OSError for an address that is not known, or none."""
    host, _, port = address.rpartition(":")
    if not host or not port.isascii() or not port.isdigit():
        raise OSError(f"{address!r} is not HOST:PORT" if address else "its address is not known")
    return host.strip("[]"), int(port)
