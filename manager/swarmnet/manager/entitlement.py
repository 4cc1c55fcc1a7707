"""Who holds which keys, for loops that look at every scope at once. The rule is core/entitlement.py's."""

from __future__ import annotations

from collections.abc import Iterable

from swarmnet.api.v1 import types_pb2 as types
from swarmnet.core.entitlement import entitled, may_gossip, may_hold_networks
from swarmnet.core.keys import GOSSIP_SCOPE
from swarmnet.core.placement import Placement

__all__ = ["Holders", "entitled", "up"]


class Holders:
    """Ids of the nodes that are entitled to each scope's keys, among `nodes`."""

    def __init__(self, nodes: Iterable[types.Node], placement: Placement) -> None:
        nodes = list(nodes)
        self._gossip = frozenset(n.meta.id for n in nodes if may_gossip(n))
        self._networks = frozenset(n.meta.id for n in nodes if may_hold_networks(n))
        self._placement = placement

    def of(self, scope_id: str) -> frozenset[str]:
        if scope_id == GOSSIP_SCOPE:
            return self._gossip
        return self._networks.intersection(self._placement.nodes_on(scope_id))

    def held_by(self, node_id: str) -> set[str]:
        """Ids of the scopes whose keys the node holds."""
        held = {GOSSIP_SCOPE} if node_id in self._gossip else set()
        return held | (self._placement.networks_on(node_id) if node_id in self._networks else set())


def up(nodes: Iterable[types.Node]) -> frozenset[str]:
    """Ids of the nodes whose acknowledgement counts: all but those that are down."""
    return frozenset(n.meta.id for n in nodes if n.state != types.NODE_STATE_DOWN)
