"""The allocator: indices, VNIs, ports and subnets of networks, indices of nodes, addresses of tasks.

Nothing is ever freed by hand: what is in use is read from the objects that use it.

Indices are part of SPIs. One that is freed comes last in turn: a node that has not heard of it yet may still
hold SAs with these SPIs. Their keys are others in any case, as keys are made of ids (core/keys.py).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from collections.abc import Set as AbstractSet
from itertools import chain

from swarmnet.api.v1 import types_pb2 as types
from swarmnet.core.endpoints import mac_of
from swarmnet.core.errors import ResourceExhausted
from swarmnet.core.limits import (
    ADDRESS_POOL,
    ENCRYPTED_PORT_FIRST,
    FIRST_VNI,
    MAX_NETWORKS,
    MAX_NODES,
    PLAIN_VXLAN_PORT,
    SUBNET_PREFIX_LENGTH,
)
from swarmnet.core.state import Transaction
from swarmnet.manager.addresses import bare, by_version, free_addresses, next_subnet
from swarmnet.manager.loop import Batch
from swarmnet.manager.tasks import is_ended, is_wanted

KINDS = (types.Task, types.Network)


def allocate_network(transaction: Transaction, network: types.Network) -> None:
    """Give a network that is about to be put its index, VNI and port, and a subnet unless it has some.

    ResourceExhausted when the cluster has no index or subnet left.
    """
    networks = transaction.all(types.Network)
    cluster = transaction.edit(transaction.cluster())
    used = {each.index for each in networks}
    network.index = cluster.last_network_index = _next_index(
        used, cluster.last_network_index, MAX_NETWORKS, "networks"
    )
    transaction.put(cluster)
    network.vni = FIRST_VNI + network.index
    network.port = ENCRYPTED_PORT_FIRST + network.index if network.encrypted else PLAIN_VXLAN_PORT
    if not network.subnets:
        pools = list(cluster.address_pools) or [ADDRESS_POOL]
        prefix_length = cluster.subnet_prefix_length or SUBNET_PREFIX_LENGTH
        underlay = [n.data_path_address for n in transaction.scan(types.Node) if n.data_path_address]
        network.subnets.append(next_subnet(pools, prefix_length, networks, underlay))


def next_node_index(transaction: Transaction) -> int:
    """The index of a node that is about to be put."""
    cluster = transaction.edit(transaction.cluster())
    used = {each.index for each in transaction.all(types.Node)}
    cluster.last_node_index = _next_index(used, cluster.last_node_index, MAX_NODES, "nodes")
    transaction.put(cluster)
    return cluster.last_node_index


def _next_index(used: AbstractSet[int], given: int, last: int, what: str) -> int:
    """The first free one after the one given out last, and after `last` from 1 on again."""
    given = given or max(used, default=0)
    for index in chain(range(given + 1, last + 1), range(1, last + 1)):
        if index not in used:
            return index
    raise ResourceExhausted(f"the swarm has {last} {what}, its limit", hint=f"Remove unused {what}.")


class _Addresses:
    """What can be given out in one pass, by network."""

    def __init__(self, tasks: Iterable[types.Task]) -> None:
        self._used: dict[str, set[str]] = defaultdict(set)
        self._stale: dict[str, set[str]] = defaultdict(set)
        self._free: dict[tuple[str, int], Iterator[str]] = {}
        for task in tasks:
            for attachment in task.attachments:
                kept = self._stale if is_ended(task) else self._used
                kept[attachment.network_id].add(bare(attachment.address))
                if attachment.address_v6:
                    kept[attachment.network_id].add(bare(attachment.address_v6))

    def take(self, network: types.Network) -> tuple[str, ...]:
        """One of each IP version that the network has, IPv4 first, with their prefix lengths; none if one of
        them is used up."""
        subnets = by_version(network.subnets)
        found = [self._next(network, version, of_version) for version, of_version in subnets]
        return tuple(each for each in found if each) if all(found) else ()

    def _next(self, network: types.Network, version: int, subnets: list[types.Subnet]) -> str:
        key = network.meta.id, version
        if key not in self._free:
            id_ = network.meta.id
            self._free[key] = free_addresses(subnets, self._used[id_], self._stale[id_])
        return next(self._free[key], "")


def plan(transaction: Transaction, now: float) -> float | None:
    """Move new tasks on to PENDING, each with an address on every network of its service."""
    del now
    tasks = transaction.scan(types.Task)
    waiting = [t for t in tasks if t.state == types.TASK_STATE_NEW and is_wanted(t)]
    if waiting:
        addresses = _Addresses(tasks)
        batch = Batch()
        for task in waiting:
            _allocate_task(transaction, task, addresses, batch)
            if batch.full:
                break
    return None


def _allocate_task(transaction: Transaction, task: types.Task, addresses: _Addresses, batch: Batch) -> None:
    """Give the task all its addresses, or a message why it cannot have them."""
    changed = transaction.edit(task)
    del changed.attachments[:]
    problem = ""
    for network_id in task.spec.networks:
        problem = problem or _attach(transaction, changed, network_id, addresses)
    if problem:
        if task.message == problem:
            return
        changed.CopyFrom(task)
    else:
        changed.state = types.TASK_STATE_PENDING
    changed.message = problem
    transaction.put(changed)
    batch.add(changed)


def _attach(transaction: Transaction, task: types.Task, network_id: str, addresses: _Addresses) -> str:
    """Add an attachment to the task; else say why there can be none."""
    network = transaction.get(types.Network, network_id)
    if network is None:
        return f"network {network_id} does not exist"
    if not (taken := addresses.take(network)):
        cidrs = ", ".join(each.cidr for each in network.subnets)
        return f"no free address on network {network.name} ({cidrs})"
    first, second = (*taken, "")[:2]
    task.attachments.add(network_id=network_id, address=first, address_v6=second, mac=mac_of(bare(first)))
    return ""
