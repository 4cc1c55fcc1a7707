"""Who holds which keys: a network's the nodes with a task of it, gossip's every worker. Nobody else, ever.

A node is entitled from a task's assignment until the task has really ended, so that one that is being stopped
can still answer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from swarmnet.api.v1 import types_pb2 as types
from swarmnet.core.keys import GOSSIP_SCOPE

if TYPE_CHECKING:
    from swarmnet.core.state import State


def may_gossip(node: types.Node) -> bool:
    """A fenced node is entitled to nothing."""
    return node.role == types.ROLE_WORKER and not node.fenced


def may_hold_networks(node: types.Node) -> bool:
    """Those that it has tasks of; one that was drained by force none."""
    return may_gossip(node) and not node.drained_by_force


def entitled(state: State, scope_id: str) -> frozenset[str]:
    """Ids of the nodes that hold the scope's keys now."""
    if scope_id == GOSSIP_SCOPE:
        return frozenset(node.meta.id for node in state.all(types.Node) if may_gossip(node))
    found = (state.get(types.Node, node_id) for node_id in state.placement.nodes_on(scope_id))
    return frozenset(node.meta.id for node in found if node is not None and may_hold_networks(node))


def scopes_of(state: State, node_id: str) -> frozenset[str]:
    """Ids of the scopes whose keys the node holds now."""
    node = state.get(types.Node, node_id)
    if node is None or not may_gossip(node):
        return frozenset()
    networks = state.placement.networks_on(node_id) if may_hold_networks(node) else set()
    return frozenset({GOSSIP_SCOPE} | networks)
