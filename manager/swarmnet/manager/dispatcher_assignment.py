"""What each worker is to have, made of the state: all of it, and nothing that it is not entitled to.

A task stays in its node's assignment until it has ended; one with a desired state above RUNNING is to be
stopped. What the node itself reported (a task's state and message) is not told back to it, so that a report
causes no new assignment.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from itertools import chain, islice
from typing import Final, cast

from swarmnet.api.v1 import dispatcher_pb2 as dispatcher
from swarmnet.api.v1 import store_pb2 as store
from swarmnet.api.v1 import types_pb2 as types
from swarmnet.core.limits import HEARTBEAT_PERIOD_S
from swarmnet.core.placement import is_on_node
from swarmnet.core.state import Event, Object, State
from swarmnet.core.timestamps import seconds
from swarmnet.manager.ca.roots import trusted_roots
from swarmnet.manager.entitlement import Holders
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
    """The state arranged by node. Good until the state changes: `note` takes the change in."""

    def __init__(self, state: State, managers: Sequence[dispatcher.ManagerAddress]) -> None:
        self._state = state
        self._managers = managers
        self._networks: dict[str, dispatcher.AssignedNetwork | None] = {}
        self._keys: dict[str, dispatcher.ScopeKeys | None] = {}
        self._arrange_nodes()

    def _arrange_nodes(self) -> None:
        self._cluster = self._state.cluster()
        self._roots = trusted_roots(self._cluster).decode() if self._cluster is not None else ""
        workers = [n for n in self._state.all(types.Node) if n.role == types.ROLE_WORKER]
        self._workers = {n.meta.id: n for n in sorted(workers, key=lambda n: n.index)}
        self._seeds = [n for n in self._workers.values() if _can_seed(n)]
        self._holders = Holders(workers, self._state.placement)
        self._networks.clear()

    def note(self, events: Iterable[Event]) -> set[str] | None:
        """What changed. Returns ids of the nodes whose assignment may be another one now; None: any."""
        found: set[str] = set()
        everybody = False
        for event in events:
            if (some := self._note(event)) is None:
                everybody = True
            else:
                found.update(some)
        if everybody:
            self._arrange_nodes()
        return None if everybody else found

    def _note(self, event: Event) -> Iterable[str] | None:
        changed = event.new if event.new is not None else event.old
        assert changed is not None, "a change without an object"
        if event.kind in (types.KeyScope, store.ScopeSecrets):
            self._keys.pop(changed.meta.id, None)
            return self._holders.of(changed.meta.id)
        if event.kind is types.Network:
            self._networks.pop(changed.meta.id, None)
            return self._holders.of(changed.meta.id)
        if event.kind is types.Task:
            return self._note_task(cast("types.Task | None", event.old), cast("types.Task | None", event.new))
        if event.kind is types.Node and event.old is not None and event.new is not None:
            old, new = cast("types.Node", event.old), cast("types.Node", event.new)
            if _as_others_see(old) == _as_others_see(new):
                if new.meta.id in self._workers:
                    self._workers[new.meta.id] = new
                return (new.meta.id,)
        return None

    def _note_task(self, old: types.Task | None, new: types.Task | None) -> Iterable[str]:
        """Its node; and where it comes or goes, those on its networks: the node may be a peer of theirs."""
        found: set[str] = set()
        places = {each.node_id for each in (old, new) if each is not None and is_on_node(each)}
        moved = (old is not None and is_on_node(old)) != (new is not None and is_on_node(new))
        for task in (old, new):
            if task is not None and (moved or len(places) > 1):
                for network_id in task.spec.networks:
                    self._networks.pop(network_id, None)
                    found.update(self._holders.of(network_id))
        return found | places

    def node(self, node_id: str) -> types.Node | None:
        return self._workers.get(node_id)

    def assignment(self, node: types.Node) -> dispatcher.Assignment:
        """All that the node is to have; its `sequence` is left to the session."""
        node_id = node.meta.id
        scopes = sorted(self._holders.held_by(node_id))
        networks = (self._network(scope, node_id) for scope in scopes)
        tasks = sorted(self._state.placement.tasks_on(node_id).values(), key=lambda task: task.meta.id)
        return dispatcher.Assignment(
            node_id=node_id,
            node_index=node.index,
            endpoint_public_key=self._cluster.endpoint_public_key if self._cluster is not None else b"",
            gossip_peers=self._gossip_peers(node),
            managers=self._managers,
            tasks=[self._task(task) for task in tasks] if not is_lost(node) else [],
            networks=[each for each in networks if each is not None],
            keys=[keys for scope in scopes if (keys := self._keys_of(scope)) is not None],
            heartbeat_period_ms=round(heartbeat_period_s(self._cluster) * 1000),
            become_manager=is_leaving_work(node) and not tasks,
            root_certificate_pem=self._roots,
        )

    def _gossip_peers(self, node: types.Node) -> list[dispatcher.GossipPeer]:
        """The next few after the node, by index and around, so that nobody is everybody's seed."""
        after = bisect_right(self._seeds, node.index, key=lambda each: each.index)
        around = islice(chain(self._seeds[after:], self._seeds[:after]), _GOSSIP_SEEDS + 1)
        others = [each for each in around if each.meta.id != node.meta.id]
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

    def _network(self, network_id: str, node_id: str) -> dispatcher.AssignedNetwork | None:
        """With the node's peers; None for what is no network."""
        if network_id not in self._networks:
            self._networks[network_id] = self._with_all_holders(network_id)
        if (shared := self._networks[network_id]) is None:
            return None
        assigned = dispatcher.AssignedNetwork()
        assigned.CopyFrom(shared)
        own = next((i for i, peer in enumerate(shared.peers) if peer.node_id == node_id), None)
        if own is not None:
            del assigned.peers[own]
        return assigned

    def _with_all_holders(self, network_id: str) -> dispatcher.AssignedNetwork | None:
        if (network := self._state.get(types.Network, network_id)) is None:
            return None
        holding = (self._workers[each] for each in self._holders.of(network_id))
        by_index = sorted(holding, key=lambda each: each.index)
        return dispatcher.AssignedNetwork(network=network, peers=map(_peer, by_index))

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


def _as_others_see(node: types.Node) -> tuple[object, ...]:
    """What a change of it means for other nodes' assignments."""
    return (
        node.role,
        node.fenced,
        node.drained_by_force,
        node.index,
        node.address,
        node.data_path_address,
        node.data_path_udp,
        node.state,
    )


def _can_seed(node: types.Node) -> bool:
    return bool(node.address) and node.state == types.NODE_STATE_READY and not node.fenced
