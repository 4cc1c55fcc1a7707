"""A root certificate on its way to every node."""

from __future__ import annotations

from typing import Final

from swarmnet.api.v1 import control_pb2
from swarmnet.api.v1 import types_pb2 as types
from swarmnet.cli.follow import later
from swarmnet.cli.manager import Manager
from swarmnet.core.errors import Conflict

_BAR_WIDTH: Final = 50
_NAMED: Final = 10


class RootRotation:
    """Done when every node uses a certificate of the new root and believes no other one."""

    kinds = (control_pb2.OBJECT_KIND_CLUSTER, control_pb2.OBJECT_KIND_NODE)

    def __init__(self, cluster: types.Cluster) -> None:
        self._desired = _wanted(cluster)
        self._cluster = cluster
        self._nodes: dict[str, types.Node] = {}

    def load(self, manager: Manager) -> None:
        request = control_pb2.GetClusterRequest()
        self._cluster = manager.call(lambda control: control.GetCluster, request, repeatable=True).cluster
        listing = control_pb2.ListNodesRequest()
        views = manager.call(lambda control: control.ListNodes, listing, repeatable=True).nodes
        self._nodes = {view.node.meta.id: view.node for view in views}

    def absorb(self, event: control_pb2.WatchEvent) -> None:
        if event.HasField("cluster"):
            self._cluster = later(self._cluster, event.cluster)
        elif event.action == control_pb2.WatchEvent.REMOVED:
            self._nodes.pop(event.node.meta.id, None)
        else:
            self._nodes[event.node.meta.id] = later(self._nodes.get(event.node.meta.id), event.node)

    def done(self) -> bool:
        """Conflict when somebody has begun another rotation meanwhile."""
        if _wanted(self._cluster) != self._desired:
            raise Conflict(
                "another rotation of the root certificate took the place of this one",
                hint="`swarmnet swarm ca` shows how far that one is.",
            )
        rotating = self._cluster.HasField("root_rotation")
        return not rotating and all(self._moved(each) and self._trusts(each) for each in self._nodes.values())

    def lines(self, *, bars: bool) -> list[str]:
        nodes = self._nodes.values()
        lines = [
            f"desired root digest: {self._desired}",
            _line("rotated TLS certificates:", sum(map(self._moved, nodes)), len(nodes), bars=bars),
            _line("rotated CA certificates:", sum(map(self._trusts, nodes)), len(nodes), bars=bars),
        ]
        late = sorted(_named(each) for each in nodes if not self._moved(each))
        if late:
            more = f" and {len(late) - _NAMED} more" if len(late) > _NAMED else ""
            lines.append(f"  waiting for: {', '.join(late[:_NAMED])}{more}")
        return lines

    def _moved(self, node: types.Node) -> bool:
        return node.certificate_root == self._desired

    def _trusts(self, node: types.Node) -> bool:
        return list(node.trusted_roots) == [self._desired]


def _wanted(cluster: types.Cluster) -> str:
    return cluster.root_rotation.root_digest or cluster.root_digest


def _line(what: str, ready: int, count: int, *, bars: bool) -> str:
    if not bars:
        return f"  {what} {ready}/{count} nodes"
    filled = _BAR_WIDTH * ready // max(count, 1)
    return f"  {what:<26} [{'=' * filled + '>':<{_BAR_WIDTH + 1}}] {ready}/{count} nodes"


def _named(node: types.Node) -> str:
    return f"{node.hostname} (down)" if node.state == types.NODE_STATE_DOWN else node.hostname
