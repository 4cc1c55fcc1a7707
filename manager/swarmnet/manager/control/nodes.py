"""Nodes: the managers as Raft sees them now, the workers as the dispatcher last saw them."""

from __future__ import annotations

from swarmnet.api.v1 import control_pb2 as control
from swarmnet.api.v1 import types_pb2 as types
from swarmnet.core.errors import FailedPrecondition, InvalidArgument
from swarmnet.core.ids import check_name
from swarmnet.core.state import Transaction
from swarmnet.manager.control import lookup
from swarmnet.manager.control.locking import lock_word
from swarmnet.manager.control.surroundings import Noun
from swarmnet.manager.keymanager import rekey_without
from swarmnet.manager.roles import check_majority, check_promotable, check_role, wanted_role


class NodeNoun(Noun):
    async def ListNodes(
        self, request: control.ListNodesRequest, context: object
    ) -> control.ListNodesResponse:
        state = self._store.state
        nodes = [lookup.node(state, ref) for ref in request.names] or state.all(types.Node)
        return control.ListNodesResponse(nodes=map(self._node_view, nodes))

    async def GetNode(self, request: control.GetRequest, context: object) -> control.NodeView:
        return self._node_view(lookup.node(self._store.state, request.ref))

    def _node_view(self, node: types.Node) -> control.NodeView:
        view = control.NodeView(node=node)
        if node.role == types.ROLE_MANAGER:
            managers = self._here.managers
            reachable = managers.reachable(node.meta.id)
            leads = managers.leader_id() == node.meta.id
            view.manager_status = "Leader" if leads else "Reachable" if reachable else "Unreachable"
            view.node.state = types.NODE_STATE_READY if leads or reachable else types.NODE_STATE_DOWN
            view.self = node.meta.id == self._here.node_id
            if (cluster := self._store.state.cluster()) is not None:
                view.lock = lock_word(cluster, node)
        return view

    async def UpdateNode(self, request: control.UpdateNodeRequest, context: object) -> control.NodeView:
        for key in request.labels:
            check_name(key, "label")
        if request.availability not in types.Availability.values():
            raise InvalidArgument(
                f"unknown availability {request.availability}", hint="Use active, pause or drain."
            )
        if request.HasField("role"):
            check_role(request.role)
        if request.force and request.availability != types.AVAILABILITY_DRAIN:
            raise InvalidArgument(
                "force goes with draining only",
                hint="Use `swarmnet node update --availability drain --force NODE`.",
            )

        def decide(transaction: Transaction) -> types.Node:
            node = transaction.edit(lookup.node(transaction, request.ref))
            if request.HasField("availability"):
                node.availability = request.availability
                _force(transaction, node, force=request.force)
            if request.HasField("role") and request.role != wanted_role(node):
                self._check_change(transaction, node)
                node.desired_role = request.role
            for key in request.remove_labels:
                node.labels.pop(key, None)
            node.labels.update(request.labels)
            transaction.put(node)
            return node

        return self._node_view(await self._store.transact(decide))

    async def RemoveNode(
        self, request: control.RemoveNodeRequest, context: object
    ) -> control.RemoveNodeResponse:
        """A dead manager still counts in Raft's majority: with force it is taken out of there first."""
        node = lookup.node(self._store.state, request.ref)
        if self._here.managers.is_member(node.meta.id):
            self._check_manager_removable(node, force=request.force)
            await self._here.managers.remove(node.meta.id)

        def decide(transaction: Transaction) -> control.RemoveNodeResponse:
            found = lookup.node(transaction, node.meta.id)
            _check_down(found, force=request.force)
            rekey_without(transaction, found.meta.id, "node removed")
            transaction.remove(found)
            return control.RemoveNodeResponse(id=found.meta.id)

        return await self._store.transact(decide)

    def _check_change(self, transaction: Transaction, node: types.Node) -> None:
        """FailedPrecondition unless the node can have the other role than it is wanted to have now."""
        if wanted_role(node) == types.ROLE_WORKER:
            check_promotable(node)
        elif node.role == types.ROLE_MANAGER:
            # All nodes become preconditions: of two demotions at once, the second counts without the first.
            staying = {n.meta.id for n in transaction.all(types.Node) if wanted_role(n) == types.ROLE_MANAGER}
            left = (staying & self._here.managers.members().keys()) - {node.meta.id}
            check_majority(node, left, self._here.managers.reachable)

    def _check_manager_removable(self, node: types.Node, *, force: bool) -> None:
        if not force or self._here.managers.reachable(node.meta.id):
            raise FailedPrecondition(
                f"node {node.meta.id} is a cluster manager and is a member of the raft cluster",
                hint="Run `swarmnet swarm leave` on it first. If it is lost for good: "
                f"`swarmnet node rm --force {node.meta.id}`.",
            )


def _force(transaction: Transaction, node: types.Node, *, force: bool) -> None:
    """Being drained by force lasts for as long as the node is drained, however often that is said."""
    if force:
        rekey_without(transaction, node.meta.id, "node drained by force", stays=True)
    drained = node.availability == types.AVAILABILITY_DRAIN
    node.drained_by_force = drained and (force or node.drained_by_force)


def _check_down(node: types.Node, *, force: bool) -> None:
    if node.role == types.ROLE_WORKER and node.state != types.NODE_STATE_DOWN and not force:
        raise FailedPrecondition(
            f"node {node.meta.id} is not down and can't be removed",
            hint="Run `swarmnet swarm leave` on it first, or use `swarmnet node rm --force`.",
        )
