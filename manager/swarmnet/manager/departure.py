"""How a manager takes leave of the others: never at the cost of the swarm's majority, unless forced."""

from __future__ import annotations

import asyncio
from typing import Final

import structlog

from swarmnet.api.v1 import control_pb2, control_pb2_grpc, raft_pb2, raft_pb2_grpc
from swarmnet.core.errors import (
    FailedPrecondition,
    NoLeader,
    NotFound,
    SwarmnetError,
    Unauthenticated,
    Unavailable,
)
from swarmnet.manager.active import ActiveManager
from swarmnet.manager.admission import FORWARDED_NODE, FORWARDED_ROLE
from swarmnet.manager.identity import CallerRole
from swarmnet.manager.joining import call
from swarmnet.manager.raft.member import Member

log = structlog.get_logger()
LEAVE_S: Final = 10.0
_PAUSE_S: Final = 0.1
_WARNING: Final = "You are attempting to leave the swarm on a node that is participating as a manager."


def check_may_leave(active: ActiveManager) -> None:
    """FailedPrecondition when it is the last manager, or those that remain would have no majority."""
    others = [node_id for node_id in active.peers.members() if node_id != active.node_id]
    if not others:
        raise FailedPrecondition(
            f"{_WARNING} Removing the last manager erases all current state of the swarm.",
            hint="Use `--force` to ignore this message.",
        )
    up = sum(active.peers.reachable(node_id) for node_id in others)
    if up <= len(others) // 2:
        raise FailedPrecondition(
            f"{_WARNING} Only {up} of the {len(others)} other managers can be reached: "
            "without this one the swarm loses its majority.",
            hint="Bring the other managers back first, or use `--force` to ignore this message.",
        )


async def depart(active: ActiveManager) -> None:
    """Leave Raft, then have the node object removed. Unavailable when no leader agreed in time.

    The leader is asked; if that is this manager, it hands over first and the next one is.
    """
    deadline = asyncio.get_running_loop().time() + LEAVE_S
    failure: SwarmnetError = NoLeader()
    while asyncio.get_running_loop().time() < deadline:
        for member in active.peers.members().values():
            try:
                await _leave_at(active, member)
            except Unavailable as error:  # not the leader, or gone: ask the next
                failure = error
            else:
                return
        await asyncio.sleep(_PAUSE_S)
    raise failure


async def _leave_at(active: ActiveManager, leader: Member) -> None:
    """The operator asked for it on our own socket: the node is removed in the operator's name."""
    operator = ((FORWARDED_NODE, ""), (FORWARDED_ROLE, CallerRole.CLIENT.value))
    leaving = raft_pb2.RaftLeaveRequest(node_id=active.node_id)
    removal = control_pb2.RemoveNodeRequest(ref=active.node_id, force=True)
    async with active.peers.dial(leader) as channel:
        await call(raft_pb2_grpc.RaftStub(channel).Leave(leaving, timeout=LEAVE_S), leader.address)
        try:
            stub = control_pb2_grpc.ControlStub(channel)
            await call(stub.RemoveNode(removal, timeout=LEAVE_S, metadata=operator), leader.address)
        except (NotFound, Unauthenticated):  # the latter: demoted meanwhile
            log.info("this node was removed already", node=active.node_id)
