"""What an assignment means for this node: pure translations of the managers' words into the worker's."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from ipaddress import ip_interface

from swarmnet.api.v1 import dispatcher_pb2 as dispatcher
from swarmnet.api.v1 import types_pb2 as types
from swarmnet.core.datapath.desired import (
    Desired,
    DesiredNetwork,
    DesiredTask,
    Peer,
    RemoteEndpoint,
    TaskAttachment,
)
from swarmnet.core.endpoints import Endpoint
from swarmnet.core.epochs import Epoch, Epochs, Role, epochs
from swarmnet.core.errors import Internal
from swarmnet.core.keys import GOSSIP_SCOPE, EpochSecret
from swarmnet.core.secret import SecretBytes
from swarmnet.worker.datapath.report import NetworkReport, Report

_ROLES = {
    types.EPOCH_ROLE_NEXT: Role.NEXT,
    types.EPOCH_ROLE_CURRENT: Role.CURRENT,
    types.EPOCH_ROLE_PREVIOUS: Role.PREVIOUS,
}
Held = tuple[tuple[int, ...], int]
"""Epochs that can be received, and the one used to send (0 = none)."""


def keys_of(assignment: dispatcher.Assignment) -> dict[str, Epochs]:
    """The epochs of every scope that this node is entitled to. Internal when they make no sense."""
    try:
        return {each.scope: _epochs(each) for each in assignment.keys}
    except (ValueError, KeyError) as error:
        raise Internal(
            f"the managers sent keys that make no sense: {error}",
            hint="Look at `swarmnet key ls`, and at the versions of managers and workers.",
        ) from None


def _epochs(keys: dispatcher.ScopeKeys) -> Epochs:
    live = (
        Epoch(EpochSecret(keys.scope, each.number, SecretBytes(each.secret)), _ROLES[each.role])
        for each in keys.epochs
    )
    return epochs(keys.scope, live)


def is_wanted(task: types.Task) -> bool:
    """Whether the managers want it to run."""
    return task.desired_state <= types.TASK_STATE_RUNNING


def desired(
    assignment: dispatcher.Assignment,
    keys: Mapping[str, Epochs],
    own: tuple[str, bool],
    connected: Collection[str],
    heard: Callable[[str], Iterable[Endpoint]],
) -> Desired:
    """The whole data path. `own`: this node's data-path address, and whether its ESP goes in UDP.

    `connected` are the tasks, by id, that run or are to; `heard` gives the endpoints of other nodes on a
    network.
    """
    tasks = (each.task for each in assignment.tasks if each.task.meta.id in connected)
    return Desired(
        node_id=assignment.node_id,
        node_index=assignment.node_index,
        address=own[0],
        networks=tuple(_network(each, keys, heard) for each in assignment.networks),
        tasks=tuple(
            DesiredTask(
                task.meta.id,
                tuple(TaskAttachment(a.network_id, _addresses(a), a.mac) for a in task.attachments),
            )
            for task in tasks
        ),
        encap=own[1],
    )


def _network(
    assigned: dispatcher.AssignedNetwork,
    keys: Mapping[str, Epochs],
    heard: Callable[[str], Iterable[Endpoint]],
) -> DesiredNetwork:
    network = assigned.network
    return DesiredNetwork(
        id=network.meta.id,
        index=network.index,
        vni=network.vni,
        port=network.port,
        encrypted=network.encrypted,
        subnets=tuple(each.cidr for each in network.subnets),
        peers=tuple(
            Peer(each.node_id, each.node_index, each.data_path_address, each.data_path_udp)
            for each in assigned.peers
        ),
        epochs=keys.get(network.meta.id, Epochs(network.meta.id, ())),
        endpoints=tuple(RemoteEndpoint(str(e.ip), e.mac, e.node_id) for e in heard(network.meta.id)),
        mtu=network.mtu,
    )


def _addresses(attachment: types.Attachment) -> tuple[str, ...]:
    return tuple(each for each in (attachment.address, attachment.address_v6) if each)


def own_endpoints(
    assignment: dispatcher.Assignment, network_id: str, connected: Collection[str]
) -> list[tuple[Endpoint, bytes]]:
    """This node's endpoints on a network, with the managers' signatures, to be told to its peers."""
    found = []
    for task in (each.task for each in assignment.tasks if each.task.meta.id in connected):
        for each in task.attachments:
            if each.network_id == network_id:
                signed = ((each.address, each.signature), (each.address_v6, each.signature_v6))
                for address, signature in signed:
                    if address and signature:
                        ip = ip_interface(address).ip
                        endpoint = Endpoint(network_id, task.meta.id, ip, each.mac, assignment.node_id)
                        found.append((endpoint, signature))
    return found


def obstacle(task: types.Task, report: Report) -> str:
    """Why the task cannot be started now; empty when it can: its networks stand, and it is connected."""
    for each in task.attachments:
        network = report.networks.get(each.network_id)
        if network is None:
            return f"network {each.network_id} is not on this node"
        if network.error:
            return network.error
    return report.tasks.get(task.meta.id, "")


def key_report(
    keys: Iterable[str],
    encrypted: Collection[str],
    networks: Mapping[str, NetworkReport],
    gossip: Callable[[str], Held],
) -> dispatcher.KeyReport:
    """What this node really has of each scope. An encrypted network's epoch counts once both the kernel and
    gossip have it, and as sent with once both send with it."""
    report = dispatcher.KeyReport()
    for scope in sorted(keys):
        installed, sending = gossip(scope)
        network = networks.get(scope) if scope != GOSSIP_SCOPE else None
        if scope in encrypted:
            kernel = network if network is not None else NetworkReport()
            installed = tuple(each for each in installed if each in kernel.installed)
            sending = sending if sending == kernel.sending else 0
        report.scopes.add(
            scope=scope,
            installed=installed,
            sending=sending,
            error=network.error if network is not None else "",
            exhausted=network is not None and network.exhausted,
        )
    return report
