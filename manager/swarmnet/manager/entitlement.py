"""Who holds which keys: a network's the nodes with a task of it, gossip's every worker. Nobody else, ever."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping

from swarmnet.api.v1 import types_pb2 as types
from swarmnet.core.keys import GOSSIP_SCOPE
from swarmnet.core.placement import is_on_node
from swarmnet.core.state import State


def holders(nodes: Iterable[types.Node], tasks: Iterable[types.Task]) -> Mapping[str, frozenset[str]]:
    """Scope id -> ids of the nodes entitled to its keys, for every scope that anybody is entitled to.

    A node is entitled from a task's assignment until the task has really ended, so that one that is being
    stopped can still answer. A fenced node is entitled to nothing, one that was drained by force to no
    network's keys.
    """
    nodes = list(nodes)
    workers = {n.meta.id for n in nodes if n.role == types.ROLE_WORKER and not n.fenced}
    found: dict[str, set[str]] = defaultdict(set)
    found[GOSSIP_SCOPE] = workers
    trusted = workers - {n.meta.id for n in nodes if n.drained_by_force}
    for task in tasks:
        if is_on_node(task) and task.node_id in trusted:
            for network_id in task.spec.networks:
                found[network_id].add(task.node_id)
    return {scope: frozenset(ids) for scope, ids in found.items()}


def entitled(state: State, scope_id: str) -> frozenset[str]:
    """Ids of the nodes that hold the scope's keys now."""
    found = holders(state.all(types.Node), state.all(types.Task))
    return found.get(scope_id, frozenset())


def up(nodes: Iterable[types.Node]) -> frozenset[str]:
    """Ids of the nodes whose acknowledgement counts: all but those that are down."""
    return frozenset(n.meta.id for n in nodes if n.state != types.NODE_STATE_DOWN)
