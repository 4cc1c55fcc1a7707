"""A manager as Raft sees it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from swarmnet.api.v1 import raft_pb2 as raft


@dataclass(frozen=True, slots=True)
class Member:
    """`node_id` is who it is, for good; `address` (host:port of its API) is where it was last seen."""

    node_id: str
    address: str


def to_proto(members: Iterable[Member]) -> list[raft.RaftMember]:
    return [raft.RaftMember(node_id=each.node_id, address=each.address) for each in members]


def from_proto(members: Iterable[raft.RaftMember]) -> dict[str, Member]:
    return {each.node_id: Member(each.node_id, each.address) for each in members}


Members = Mapping[str, Member]
"""By node id, this node among them."""
