"""A node's role: what it is, what it is wanted to be, and the arithmetic that protects the majority."""

from __future__ import annotations

from collections.abc import Callable, Collection

from swarmnet.api.v1 import types_pb2 as types
from swarmnet.core.errors import FailedPrecondition, InvalidArgument

_TOO_OLD = "its swarmnet-worker is too old"
ROLES = (types.ROLE_MANAGER, types.ROLE_WORKER)


def wanted_role(node: types.Node) -> types.Role.ValueType:
    """The role it has, unless the operator wishes for another one."""
    return node.desired_role or node.role


def is_leaving_work(node: types.Node) -> bool:
    """A worker that is to become a manager: it gives up its tasks first."""
    return node.role == types.ROLE_WORKER and wanted_role(node) == types.ROLE_MANAGER


def check_role(role: types.Role.ValueType) -> None:
    if role not in ROLES:
        raise InvalidArgument(f"unknown role {role}", hint="Use worker or manager.")


def check_promotable(node: types.Node) -> None:
    """FailedPrecondition unless it is a ready worker with an idle manager daemon beside it."""
    name = node.hostname
    if node.role == types.ROLE_MANAGER:
        raise FailedPrecondition(
            f"node {name} is just being demoted",
            hint="Wait until `swarmnet node ls` shows it ready as a worker, then promote it.",
        )
    if node.state != types.NODE_STATE_READY or node.fenced:
        why = f": {node.message}" if node.message else ""
        raise FailedPrecondition(
            f"node {name} is not ready and cannot become a manager{why}",
            hint=f"Bring its swarmnet-worker back first: `swarmnet node inspect --pretty {name}`.",
        )
    if not node.capabilities.manager:
        raise FailedPrecondition(
            f"node {name} cannot become a manager: {node.capabilities.manager_reason or _TOO_OLD}",
            hint="Start swarmnet-manager on that host, outside of any swarm; its worker notices within 10 s.",
        )


def check_majority(node: types.Node, left: Collection[str], reachable: Callable[[str], bool]) -> None:
    """FailedPrecondition if the managers `left` without the node could not agree on anything."""
    if not left:
        raise FailedPrecondition(
            "attempting to demote the last manager of the swarm",
            hint="Promote another node first: `swarmnet node promote NODE`.",
        )
    up, needed = sum(map(reachable, left)), len(left) // 2 + 1
    if up < needed:
        raise FailedPrecondition(
            f"demoting {node.hostname} would leave {up} of {len(left)} managers reachable, "
            f"and a swarm of {len(left)} needs {needed} to agree",
            hint="Bring the other managers back first. Those that are lost for good: "
            "`swarmnet node rm --force NODE`.",
        )
