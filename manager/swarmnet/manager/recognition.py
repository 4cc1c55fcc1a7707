"""Whether a caller is still what its certificate says: that lives for months, and roles change at once."""

from __future__ import annotations

from collections.abc import Container
from typing import Final

from swarmnet.api.v1 import types_pb2 as types
from swarmnet.core.errors import PermissionDenied, Unauthenticated
from swarmnet.core.state import State
from swarmnet.manager.identity import Caller, CallerRole
from swarmnet.manager.roles import wanted_role
from swarmnet.manager.server import AUTHORITY, DISPATCHER

_ROLES: Final = {CallerRole.MANAGER: types.ROLE_MANAGER, CallerRole.WORKER: types.ROLE_WORKER}


def check_recognized(state: State, members: Container[str], caller: Caller, service: str) -> None:
    """On the leader, with a current state. Unauthenticated for who was removed, or has another role by now.

    The dispatcher tells such a node so itself. A demoted manager may ask the authority, until its worker has
    registered: for nothing but its new role and a worker's certificate.
    """
    if caller.via and not _may_forward(state, members, caller.via):
        raise Unauthenticated(
            f"node {caller.via} is no manager of this swarm any more, and forwards no calls",
            hint="It was removed or demoted. Ask another manager.",
        )
    if (role := _ROLES.get(caller.role)) is None or service == DISPATCHER:
        return
    node = state.get(types.Node, caller.node_id)
    if node is not None and (node.role == role or (service == AUTHORITY and _is_trading_down(node))):
        return
    raise Unauthenticated(
        f"node {caller.node_id} is no longer part of this swarm"
        if node is None
        else f"node {caller.node_id} is no {caller.role.value.removeprefix('swarmnet-')} any more",
        hint="It was removed, or got another role: `swarmnet swarm leave --force` there, then join it again.",
    )


def check_may_join(state: State, node_id: str) -> None:
    """PermissionDenied unless the state wants the node as a manager: a certificate alone is not enough."""
    node = state.get(types.Node, node_id)
    if node is None or wanted_role(node) != types.ROLE_MANAGER:
        raise PermissionDenied(
            f"node {node_id} is not to be a manager of this swarm",
            hint="It was removed or demoted: `swarmnet swarm leave --force` there, then join it again.",
        )


def _may_forward(state: State, members: Container[str], node_id: str) -> bool:
    """A member of Raft; or one on its way in or out of its own will."""
    if node_id in members:
        return True
    node = state.get(types.Node, node_id)
    return node is not None and node.role == wanted_role(node) == types.ROLE_MANAGER


def _is_trading_down(node: types.Node) -> bool:
    return node.role == types.ROLE_WORKER and node.demoted
