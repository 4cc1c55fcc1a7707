"""What a worker's data path is to be: the whole of it, as plain values.

A worker's agent makes one `Desired` of its assignment, the epochs it holds and the endpoints it heard of by
gossip; `plan.py` turns it and what the kernel has into steps. Addresses are strings as people write them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from swarmnet.core.epochs import Epochs

SHORT_ID: Final = 12
"""As many characters of an id stand in the names of namespaces and links."""


@dataclass(frozen=True, slots=True)
class Peer:
    """Another node that runs tasks of the network. `address` is the source of its ESP and VXLAN packets.

    `encap`: it wants them as ESP in UDP (RFC 3948), both ways.
    """

    node_id: str
    node_index: int
    address: str
    encap: bool = False


@dataclass(frozen=True, slots=True)
class RemoteEndpoint:
    """Another node's task on the network; its signature has been verified."""

    ip: str
    mac: str
    node_id: str


@dataclass(frozen=True, slots=True)
class TaskAttachment:
    """A task's place on a network. `addresses` are CIDRs (10.0.1.3/24), at most one of each IP version.

    `mac` is that of the IPv4 address if there is one (`endpoints.mac_of`); other ARP is dropped.
    """

    network_id: str
    addresses: tuple[str, ...]
    mac: str


@dataclass(frozen=True, slots=True)
class DesiredTask:
    """A task of this node; its n-th attachment is its interface eth<n>."""

    task_id: str
    attachments: tuple[TaskAttachment, ...]


@dataclass(frozen=True, slots=True)
class DesiredNetwork:
    """A network that this node has tasks on. `port` is the UDP destination port of its VXLAN packets.

    `epochs` are those of its scope: ESP is made of them if `encrypted`, else they matter to gossip only.
    `mtu` is that of its tasks in bytes; 0: as large as the underlay allows.
    """

    id: str
    index: int
    vni: int
    port: int
    encrypted: bool
    subnets: tuple[str, ...]
    peers: tuple[Peer, ...]
    epochs: Epochs
    endpoints: tuple[RemoteEndpoint, ...] = ()
    mtu: int = 0


@dataclass(frozen=True, slots=True)
class Desired:
    """Everything. `address` is this node's data-path address on the underlay, IPv4 or IPv6 as all peers' are.

    `encap`: this node wants ESP in UDP, both ways, with every peer.
    """

    node_id: str
    node_index: int
    address: str
    networks: tuple[DesiredNetwork, ...] = ()
    tasks: tuple[DesiredTask, ...] = ()
    encap: bool = False


def needs_encap(desired: Desired, network: DesiredNetwork) -> bool:
    """Whether some of the network's packets are ESP in UDP, should it be encrypted."""
    return desired.encap or any(peer.encap for peer in network.peers)


def without_stale_peers(desired: Desired) -> Desired:
    """One peer per address: the one with the highest index, and none at our own.

    A host that left and joined again is another node at the same address, and until the managers have given
    up the old one they name both. SAs and policies go by addresses, so only one of the two can be meant.
    """
    networks = tuple(replace(each, peers=_distinct(each.peers, desired.address)) for each in desired.networks)
    return replace(desired, networks=networks)


def _distinct(peers: tuple[Peer, ...], own_address: str) -> tuple[Peer, ...]:
    newest: dict[str, Peer] = {}
    for peer in sorted(peers, key=lambda each: each.node_index):
        newest[peer.address] = peer
    newest.pop(own_address, None)
    return tuple(newest.values())


def network_name(network_id: str) -> str:
    """The name of a network's namespace on a worker."""
    return f"sn-{network_id[:SHORT_ID]}"


def task_name(task_id: str) -> str:
    """The name of a task's namespace on its worker."""
    return f"t-{task_id[:SHORT_ID]}"
