"""The Raft service on the managers' port. It can be served before this manager is part of a swarm."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Protocol, TypeAlias

import grpc.aio

from swarmnet.api.v1 import raft_pb2 as raft
from swarmnet.api.v1 import raft_pb2_grpc
from swarmnet.core.errors import InvalidArgument, PermissionDenied, Unavailable
from swarmnet.manager.identity import CallerRole, current_caller
from swarmnet.manager.raft.member import Joined, Member, end_message, member_of, to_proto

Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]


class Part(Protocol):
    """This manager's part in Raft, as far as others may ask for it."""

    async def admit(self, member: Member) -> Joined:
        """Add a member whose ports are open; returns when it counts, before that is final."""

    async def remove_member(self, node_id: str) -> None: ...


async def _whoever_has_a_certificate(node_id: str) -> None:
    del node_id


class RaftService(raft_pb2_grpc.RaftServicer):
    """Answers for `part` once there is one; UNAVAILABLE until then.

    `may_join` is asked, on the leader, before a node is added: PermissionDenied for one that is not wanted.
    """

    def __init__(self, may_join: Callable[[str], Awaitable[None]] = _whoever_has_a_certificate) -> None:
        self.part: Part | None = None
        self._may_join = may_join

    async def Join(self, request: raft.RaftJoinRequest, context: Context) -> raft.RaftJoinResponse:
        part = self._ready()
        self._check_self(request.member.node_id)
        if not request.member.address or not request.member.raft_address:
            raise InvalidArgument("a member needs its addresses", hint="Start it with --advertise-addr.")
        await self._may_join(request.member.node_id)
        joined = await part.admit(member_of(request.member))
        return raft.RaftJoinResponse(members=to_proto(joined.members), at=end_message(joined.at))

    async def Leave(self, request: raft.RaftLeaveRequest, context: Context) -> raft.RaftLeaveResponse:
        part = self._ready()
        self._check_self(request.node_id)
        await part.remove_member(request.node_id)
        return raft.RaftLeaveResponse()

    def _ready(self) -> Part:
        if self.part is None:
            raise Unavailable("this manager is not part of a swarm yet", hint="Try again in a moment.")
        return self.part

    def _calling_manager(self) -> str:
        caller = current_caller()
        if caller.role is not CallerRole.MANAGER:
            raise PermissionDenied(f"a {caller.role.value} has no part in Raft", hint="Call from a manager.")
        return caller.node_id

    def _check_self(self, node_id: str) -> None:
        if self._calling_manager() != node_id:
            raise PermissionDenied(
                "a manager joins and leaves for itself only",
                hint="To remove another one: `swarmnet node rm --force NODE`.",
            )
