"""What each worker is to have, made of the state: all of it, and nothing that it is not entitled to.

A task stays in its node's assignment until it has ended; one with a desired state above RUNNING is to be
stopped. What the node itself reported (a task's state and message) is not told back to it, so that a report
causes no new assignment.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Final

from swarmnet.api.v1 import dispatcher_pb2 as dispatcher
from swarmnet.api.v1 import store_pb2 as store
from swarmnet.api.v1 import types_pb2 as types
from swarmnet.core.limits import HEARTBEAT_PERIOD_S
from swarmnet.core.placement import is_on_node
from swarmnet.core.state import Object, State
from swarmnet.core.timestamps import seconds
from swarmnet.manager.ca.roots import trusted_roots
from swarmnet.manager.entitlement import holders
from swarmnet.manager.roles import is_leaving_work
from swarmnet.manager.tasks import is_lost

KINDS: Final[tuple[type[Object], ...]] = (
    types.Cluster,
    types.Node,
    types.Network,
    types.Service,
    types.Task,
    types.KeyScope,
    store.ScopeSecrets,
)
_GOSSIP_SEEDS: Final = 5


def heartbeat_period_s(cluster: types.Cluster | None) -> float:
    return (seconds(cluster.heartbeat_period) if cluster is not None else 0) or HEARTBEAT_PERIOD_S


class Picture:
    """The state at one moment, arranged by node. Good until the state changes."""

    def __init__(self, state: State, managers: Sequence[dispatcher.ManagerAddress]) -> None:
        self._state = state
        self._managers = managers
        self._cluster = state.cluster()
        self._roots = trusted_roots(self._cluster).decode() if self._cluster is not None else ""
        workers = [n for n in state.all(types.Node) if n.role == types.ROLE_WORKER]
        self._workers = {n.meta.id: n for n in sorted(workers, key=lambda n: n.index)}
        self._seeds = [n for n in self._workers.values() if _can_seed(n)]
        self._holders = holders(workers, state.all(types.Task))
        self._peers: dict[str, list[dispatcher.NetworkPeer]] = {}
        self._keys: dict[str, dispatcher.ScopeKeys | None] = {}
        self._tasks: dict[str, list[types.Task]] = defaultdict(list)
        for task in state.all(types.Task):
            if is_on_node(task):
                self._tasks[task.node_id].append(task)

    def node(self, node_id: str) -> types.Node | None:
        return self._workers.get(node_id)

    def assignment(self, node: types.Node) -> dispatcher.Assignment:
        """All that the node is to have; its `sequence` is left to the session."""
        node_id = node.meta.id
        scopes = sorted(scope for scope, nodes in self._holders.items() if node_id in nodes)
        networks = [n for scope in scopes if (n := self._state.get(types.Network, scope)) is not None]
        tasks = sorted(self._tasks[node_id], key=lambda task: task.meta.id)
        return dispatcher.Assignment(
            node_id=node_id,
            node_index=node.index,
            endpoint_public_key=self._cluster.endpoint_public_key if self._cluster is not None else b"",
            gossip_peers=self._gossip_peers(node),
            managers=self._managers,
            tasks=[self._task(task) for task in tasks] if not is_lost(node) else [],
            networks=[self._network(network, node_id) for network in networks],
            keys=[keys for scope in scopes if (keys := self._keys_of(scope)) is not None],
            heartbeat_period_ms=round(heartbeat_period_s(self._cluster) * 1000),
            become_manager=is_leaving_work(node) and not tasks,
            root_certificate_pem=self._roots,
        )

    def _gossip_peers(self, node: types.Node) -> list[dispatcher.GossipPeer]:
        """The next few after the node, by index and around, so that nobody is everybody's seed."""
        others = [each for each in self._seeds if each.meta.id != node.meta.id]
        others.sort(key=lambda each: (each.index < node.index, each.index))
        return [
            dispatcher.GossipPeer(node_id=each.meta.id, address=each.address)
            for each in others[:_GOSSIP_SEEDS]
        ]

    def _task(self, task: types.Task) -> dispatcher.AssignedTask:
        service = self._state.get(types.Service, task.service_id)
        assigned = dispatcher.AssignedTask(
            task=task, service_name=service.spec.name if service is not None else task.spec.name
        )
        assigned.task.state = types.TASK_STATE_ASSIGNED
        for reported in ("message", "exit_code", "state_at"):
            assigned.task.ClearField(reported)
        for stamped in ("version", "updated_at"):
            assigned.task.meta.ClearField(stamped)
        return assigned

    def _network(self, network: types.Network, node_id: str) -> dispatcher.AssignedNetwork:
        if network.meta.id not in self._peers:
            holding = (self._workers[each] for each in self._holders[network.meta.id])
            by_index = sorted(holding, key=lambda each: each.index)
            self._peers[network.meta.id] = [_peer(each) for each in by_index]
        others = (each for each in self._peers[network.meta.id] if each.node_id != node_id)
        return dispatcher.AssignedNetwork(network=network, peers=others)

    def _keys_of(self, scope_id: str) -> dispatcher.ScopeKeys | None:
        if scope_id not in self._keys:
            self._keys[scope_id] = self._make_keys(scope_id)
        return self._keys[scope_id]

    def _make_keys(self, scope_id: str) -> dispatcher.ScopeKeys | None:
        scope = self._state.get(types.KeyScope, scope_id)
        secrets = self._state.get(store.ScopeSecrets, scope_id)
        if scope is None or secrets is None:
            return None
        return dispatcher.ScopeKeys(
            scope=scope_id,
            epochs=[
                dispatcher.EpochKey(
                    number=epoch.number, role=epoch.role, secret=secrets.secrets[epoch.number]
                )
                for epoch in scope.epochs
            ],
        )


def _peer(node: types.Node) -> dispatcher.NetworkPeer:
    return dispatcher.NetworkPeer(
        node_id=node.meta.id,
        node_index=node.index,
        data_path_address=node.data_path_address,
        data_path_udp=node.data_path_udp,
    )


def _can_seed(node: types.Node) -> bool:
    return bool(node.address) and node.state == types.NODE_STATE_READY and not node.fenced
