"""The data path as objects of the kernel: the same shape for what is wanted and for what is there.

Per network: a namespace `sn-<id>` with a bridge `br0` and a VXLAN device `vx0`. Per task: a namespace
`t-<id>` with eth0, eth1, ... and for each of them a port of the task's name at the network's bridge.

MTU (`task_mtu`): what fits into one underlay packet, so that no tunnel packet is ever fragmented.

    plain       IPv4 20 | UDP 8 | VXLAN 8 | Ethernet 14 | task's packet                        = packet + 50
    encrypted   IPv4 20 | ESP 8 | IV 8 | UDP 8 | VXLAN 8 | Ethernet 14 | task's packet | padding | 2 | ICV 16
                what is encrypted, the 2 trailer bytes included, is padded to a multiple of 4 (RFC 4303, 2.4)
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network
from typing import Final

from swarmnet.core.datapath.desired import Desired, DesiredNetwork, DesiredTask, network_name, task_name
from swarmnet.core.datapath.xfrm import Policy, PolicyId, Sa, SaId, policies, sas
from swarmnet.core.errors import FailedPrecondition

_VXLAN_BYTES: Final = 20 + 8 + 8 + 14
_ESP_OUTSIDE_BYTES: Final = 20 + 8 + 8 + 16
"""Outer IPv4 header, ESP header, IV and ICV."""
_ESP_INSIDE_BYTES: Final = 8 + 8 + 14 + 2
"""UDP, VXLAN and Ethernet headers, and ESP's pad length and next header."""
MIN_MTU: Final = 576
"""The smallest MTU that IPv4 hosts must accept whole (RFC 791)."""


@dataclass(frozen=True, slots=True)
class NetworkLinks:
    """A network's bridge and VXLAN device. `local` is the source address of its packets."""

    vni: int
    port: int
    local: str
    mtu: int


@dataclass(frozen=True, slots=True)
class Forward:
    """Where a remote endpoint is: the answer to ARP for `ip`, and the node behind `mac`."""

    ip: str
    mac: str
    vtep: str


@dataclass(frozen=True, slots=True)
class Interface:
    """One interface of a task. `network` is the namespace's name of its network."""

    network: str
    address: str
    mac: str
    mtu: int


@dataclass(slots=True)
class Layout:
    """Kernel objects by what the kernel, or their name, tells them apart by."""

    sas: dict[SaId, Sa] = field(default_factory=dict)
    policies: dict[PolicyId, Policy] = field(default_factory=dict)
    networks: dict[str, NetworkLinks] = field(default_factory=dict)
    forwards: dict[str, dict[str, Forward]] = field(default_factory=dict)
    tasks: dict[str, tuple[Interface, ...]] = field(default_factory=dict)


def task_mtu(underlay_mtu: int, *, encrypted: bool) -> int:
    """The MTU of tasks on a network, in bytes. FailedPrecondition if too little is left."""
    if encrypted:
        inside = underlay_mtu - _ESP_OUTSIDE_BYTES
        mtu = inside - inside % 4 - _ESP_INSIDE_BYTES
    else:
        mtu = underlay_mtu - _VXLAN_BYTES
    if mtu < MIN_MTU:
        raise FailedPrecondition(
            f"an underlay MTU of {underlay_mtu} bytes leaves {mtu} to tasks; {MIN_MTU} are needed",
            hint="Raise the MTU of the interface that has the data-path address.",
        )
    return mtu


def layout(desired: Desired, underlay_mtu: int) -> Layout:
    """The kernel objects that `desired` is made of. FailedPrecondition if the underlay's MTU is too small."""
    wanted = Layout()
    for network in desired.networks:
        name = network_name(network.id)
        mtu = task_mtu(underlay_mtu, encrypted=network.encrypted)
        wanted.networks[name] = NetworkLinks(network.vni, network.port, desired.address, mtu)
        wanted.forwards[name] = forwards(desired, network)
        if network.encrypted:
            wanted.sas |= {sa.id: sa for sa in sas(desired, network)}
            wanted.policies |= {policy.id: policy for policy in policies(desired, network)}
    for task in desired.tasks:
        wanted.tasks[task_name(task.task_id)] = interfaces(task, wanted.networks)
    return wanted


def interfaces(task: DesiredTask, networks: Mapping[str, NetworkLinks]) -> tuple[Interface, ...]:
    """A task's interfaces in order; one on a network not among `networks` has MTU 0 and is never built."""
    names = (network_name(each.network_id) for each in task.attachments)
    return tuple(
        Interface(name, each.address, each.mac, networks[name].mtu if name in networks else 0)
        for name, each in zip(names, task.attachments, strict=True)
    )


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
                yield each.address.partition("/")[0]
                yield each.mac
