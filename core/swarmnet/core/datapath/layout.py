"""The data path as objects of the kernel: the same shape for what is wanted and for what is there.

Per network: a namespace `sn-<id>` with a bridge `br0` and a VXLAN device `vx0`. Per task: a namespace
`t-<id>` with eth0, eth1, ... and for each of them a port of the task's name at the network's bridge.

MTU (`task_mtu`): what fits into one underlay packet, so that no tunnel packet is ever fragmented.

    plain       IP 20 | UDP 8 | VXLAN 8 | Ethernet 14 | task's packet                        = packet + 50
    encrypted   IP 20 | ESP 8 | IV 8 | UDP 8 | VXLAN 8 | Ethernet 14 | task's packet | padding | 2 | ICV 16
                what is encrypted, the 2 trailer bytes included, is padded to a multiple of 4 (RFC 4303, 2.4)

On an IPv6 underlay IP has 40 bytes. ESP in UDP (RFC 3948) puts 8 bytes of UDP before ESP.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_interface, ip_network
from typing import Final

from swarmnet.core.datapath.desired import (
    Desired,
    DesiredNetwork,
    DesiredTask,
    needs_encap,
    network_name,
    task_name,
)
from swarmnet.core.datapath.xfrm import Policy, PolicyId, Sa, SaId, policies, sas
from swarmnet.core.errors import FailedPrecondition
from swarmnet.core.limits import MIN_TASK_MTU

_IP_BYTES: Final = {4: 20, 6: 40}
_VXLAN_BYTES: Final = 8 + 8 + 14
_ESP_OUTSIDE_BYTES: Final = 8 + 8 + 16
"""ESP header, IV and ICV."""
_ESP_INSIDE_BYTES: Final = 8 + 8 + 14 + 2
"""UDP, VXLAN and Ethernet headers, and ESP's pad length and next header."""
_ESP_IN_UDP_BYTES: Final = 8


@dataclass(frozen=True, slots=True)
class NetworkLinks:
    """A network's bridge and VXLAN device. `local` is the source address of its packets.

    Without a `checksum` its UDP checksums are zero: ESP authenticates more than they cover, and they would
    not survive address translation on the way. `bound`: frames count only from the node that has their MAC.
    ESP proves which node that is; on a plain network anybody can write its address.
    """

    vni: int
    port: int
    local: str
    mtu: int
    checksum: bool = True
    bound: bool = False


@dataclass(frozen=True, slots=True)
class Forward:
    """Where a remote endpoint is: the answer to ARP for `ip`, and the node behind `mac`."""

    ip: str
    mac: str
    vtep: str


@dataclass(frozen=True, slots=True)
class Interface:
    """One interface of a task. `network` is the namespace's name of its network.

    `routes`: the network's other subnets, which are on the link as well.
    """

    network: str
    addresses: tuple[str, ...]
    mac: str
    mtu: int
    routes: tuple[str, ...] = ()


@dataclass(slots=True)
class Layout:
    """Kernel objects by what the kernel, or their name, tells them apart by."""

    sas: dict[SaId, Sa] = field(default_factory=dict)
    policies: dict[PolicyId, Policy] = field(default_factory=dict)
    networks: dict[str, NetworkLinks] = field(default_factory=dict)
    forwards: dict[str, dict[str, Forward]] = field(default_factory=dict)
    tasks: dict[str, tuple[Interface, ...]] = field(default_factory=dict)


def task_mtu(underlay_mtu: int, *, encrypted: bool, ip_version: int = 4, encap: bool = False) -> int:
    """The largest MTU of tasks on a network, in bytes. FailedPrecondition if too little is left."""
    inside = underlay_mtu - _IP_BYTES[ip_version]
    if encrypted:
        inside -= _ESP_OUTSIDE_BYTES + _ESP_IN_UDP_BYTES * encap
        mtu = inside - inside % 4 - _ESP_INSIDE_BYTES
    else:
        mtu = inside - _VXLAN_BYTES
    if mtu < MIN_TASK_MTU:
        raise FailedPrecondition(
            f"an underlay MTU of {underlay_mtu} bytes leaves {mtu} to tasks; {MIN_TASK_MTU} are needed",
            hint="Raise the MTU of the interface that has the data-path address.",
        )
    return mtu


def network_mtu(desired: Desired, network: DesiredNetwork, underlay_mtu: int) -> int:
    """The MTU of the network's tasks on this node. FailedPrecondition if what was asked for does not fit."""
    encap = needs_encap(desired, network)
    version = ip_address(desired.address).version
    largest = task_mtu(underlay_mtu, encrypted=network.encrypted, ip_version=version, encap=encap)
    if network.mtu > largest:
        raise FailedPrecondition(
            f"the network's MTU of {network.mtu} bytes does not fit: an underlay MTU of {underlay_mtu} "
            f"leaves {largest} to tasks",
            hint="Raise the MTU of the interface that has the data-path address, or create the network anew "
            f"with --opt mtu={largest} or less.",
        )
    return network.mtu or largest


def layout(desired: Desired, underlay_mtu: int) -> Layout:
    """The kernel objects that `desired` is made of. FailedPrecondition if the underlay's MTU is too small."""
    wanted = Layout()
    for network in desired.networks:
        name = network_name(network.id)
        mtu = network_mtu(desired, network, underlay_mtu)
        wanted.networks[name] = NetworkLinks(
            network.vni,
            network.port,
            desired.address,
            mtu,
            checksum=not network.encrypted,
            bound=network.encrypted,
        )
        wanted.forwards[name] = forwards(desired, network)
        if network.encrypted:
            wanted.sas |= {sa.id: sa for sa in sas(desired, network)}
            wanted.policies |= {policy.id: policy for policy in policies(desired, network)}
    for task in desired.tasks:
        wanted.tasks[task_name(task.task_id)] = interfaces(task, desired.networks, wanted.networks)
    return wanted


def interfaces(
    task: DesiredTask, networks: Iterable[DesiredNetwork], links: Mapping[str, NetworkLinks]
) -> tuple[Interface, ...]:
    """A task's interfaces in order; one on a network not among `networks` has MTU 0 and is never built."""
    subnets = {each.id: each.subnets for each in networks}
    found = []
    for each in task.attachments:
        name = network_name(each.network_id)
        own = {str(ip_interface(address).network) for address in each.addresses}
        routes = tuple(sorted(set(subnets.get(each.network_id, ())) - own))
        mtu = links[name].mtu if name in links else 0
        found.append(Interface(name, each.addresses, each.mac, mtu, routes))
    return tuple(found)


def forwards(desired: Desired, network: DesiredNetwork) -> dict[str, Forward]:
    """One entry per remote endpoint, by IP.

    Left out: endpoints of nodes that are no peers (they hold no key), addresses outside the network, and
    whatever claims the IP or MAC of one of our own tasks.
    """
    vteps = {peer.node_id: peer.address for peer in network.peers}
    subnets = [ip_network(subnet) for subnet in network.subnets]
    ours = frozenset(_own_addresses(desired.tasks, network.id))
    return {
        end.ip: Forward(end.ip, end.mac, vteps[end.node_id])
        for end in sorted(network.endpoints, key=lambda each: (each.ip, each.node_id))
        if end.node_id in vteps
        and not ours & {end.ip, end.mac}
        and any(ip_address(end.ip) in subnet for subnet in subnets)
    }


def _own_addresses(tasks: Iterable[DesiredTask], network_id: str) -> Iterable[str]:
    for task in tasks:
        for each in task.attachments:
            if each.network_id == network_id:
                yield from (address.partition("/")[0] for address in each.addresses)
                yield each.mac
