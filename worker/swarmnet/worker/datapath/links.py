"""Networks and tasks as namespaces and links: built, taken away and read back.

    sn-<network>   br0; its ports: vx0, whose UDP socket is in the underlay's namespace, and t-<task> for each
    t-<task>       lo, eth0, eth1, ...: each the other end of a port

No port learns a MAC: every MAC has a static entry, at vx0 with the node behind it, or at its task's port. No
port takes ARP in that says of an address what is not so (ingress.py).
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from swarmnet.core.datapath.layout import Forward, Interface, NetworkLinks
from swarmnet.worker.datapath import rtnetlink as rt
from swarmnet.worker.datapath.ingress import arp_is_guarded, guard_arp
from swarmnet.worker.datapath.namespaces import Namespaces
from swarmnet.worker.datapath.netlink import Message, Netlink, NetlinkError

NETWORK_PREFIX: Final = "sn-"
TASK_PREFIX: Final = "t-"
BRIDGE: Final = "br0"
VXLAN: Final = "vx0"


@dataclass(frozen=True, slots=True)
class NetworkSeen:
    """A network's namespace as it was read. `links` is None unless bridge and VXLAN device are whole.

    `ports`: of each task port that is in order, the index of its other end and its MACs.
    """

    links: NetworkLinks | None
    forwards: dict[str, Forward]
    ports: dict[str, tuple[int, frozenset[str]]]


class Links:
    """All links of the data path. `underlay` is a routing socket in the underlay's namespace."""

    def __init__(self, namespaces: Namespaces, underlay: Netlink) -> None:
        self._namespaces = namespaces
        self._underlay = underlay

    def underlay_mtu(self, address: str) -> int | None:
        """MTU of the link that has the address; None if no link has it."""
        link = self._with_address(address)
        return link.mtu if link is not None else None

    def underlay_link(self, address: str) -> str:
        """The name of the link that has the address. NetlinkError if none has it."""
        link = self._with_address(address)
        if link is None:
            raise NetlinkError(errno.EADDRNOTAVAIL, f"no interface has the data-path address {address}")
        return link.name

    def _with_address(self, address: str) -> rt.Link | None:
        for each in rt.list_addresses(self._underlay):
            if each.address.partition("/")[0] == address:
                links = rt.list_links(self._underlay).values()
                return next((link for link in links if link.index == each.index), None)
        return None

    # Networks

    def build_network(self, name: str, wanted: NetworkLinks) -> None:
        """Make what is missing; a VXLAN device that is there is made anew."""
        self._namespaces.create(name)
        netlink = self._namespaces.netlink(name)
        present = rt.list_links(netlink)
        if VXLAN in present:
            netlink.execute(rt.delete_link(present[VXLAN].index))
        if BRIDGE not in present:
            netlink.execute(rt.new_bridge(BRIDGE, wanted.mtu))
        self._new_vxlan(name, wanted)
        with suppress(FileNotFoundError):  # a kernel without IPv6, or an MTU too small for it
            self._namespaces.enable_ipv6(name, [VXLAN])  # to answer neighbour discovery
        present = rt.list_links(netlink)
        vxlan, bridge = present[VXLAN].index, present[BRIDGE].index
        guard_arp(netlink, vxlan)
        netlink.execute(rt.set_master(vxlan, bridge), rt.set_port(vxlan), rt.set_up(vxlan), rt.set_up(bridge))

    def _new_vxlan(self, name: str, wanted: NetworkLinks) -> None:
        """From the underlay's namespace, which so keeps its UDP socket, straight into the network's."""
        descriptor = self._namespaces.open(name)
        try:
            self._underlay.execute(
                rt.new_vxlan(
                    VXLAN,
                    descriptor,
                    vni=wanted.vni,
                    local=wanted.local,
                    port=wanted.port,
                    mtu=wanted.mtu,
                    checksum=wanted.checksum,
                    bound=wanted.bound,
                )
            )
        finally:
            os.close(descriptor)

    def resize_network(self, name: str, mtu: int) -> None:
        indices = [self._index(name, link) for link in (VXLAN, BRIDGE)]
        self._namespaces.netlink(name).execute(*(rt.set_mtu(index, mtu) for index in indices))

    def remove_network(self, name: str) -> None:
        """The devices go first: the namespace itself may live on in a process that still has it mounted."""
        netlink = self._namespaces.netlink(name)
        present = rt.list_links(netlink)
        own = [link for link in present.values() if link.name in (VXLAN, BRIDGE) or link.kind == "veth"]
        netlink.execute(*(rt.delete_link(link.index) for link in own))
        self._namespaces.remove(name)

    def put_forwards(self, name: str, forwards: Sequence[Forward]) -> list[NetlinkError | None]:
        """One answer for each. The MAC's place comes before the answer to ARP that leads there."""
        index = self._index(name, VXLAN)
        return self._pairs(
            name,
            [
                (rt.new_remote_mac(index, each.mac, each.vtep), rt.new_arp(index, each.ip, each.mac))
                for each in forwards
            ],
        )

    def drop_forwards(self, name: str, forwards: Sequence[Forward]) -> list[NetlinkError | None]:
        """One answer for each; an entry that is gone already is no refusal."""
        index = self._index(name, VXLAN)
        answers = self._pairs(
            name,
            [(rt.delete_arp(index, each.ip), rt.delete_remote_mac(index, each.mac)) for each in forwards],
        )
        return [None if answer is not None and answer.missing else answer for answer in answers]

    def _pairs(self, name: str, pairs: Sequence[tuple[Message, Message]]) -> list[NetlinkError | None]:
        answers = self._namespaces.netlink(name).batch([message for pair in pairs for message in pair])
        return [first or second for first, second in zip(answers[::2], answers[1::2], strict=True)]

    def _index(self, name: str, link: str) -> int:
        found = rt.list_links(self._namespaces.netlink(name)).get(link)
        if found is None:
            raise NetlinkError(errno.ENODEV, f"{name} has no {link}")
        return found.index

    # Tasks

    def build_task(self, name: str, interfaces: Sequence[Interface]) -> None:
        """Make the namespace with all interfaces; the task is connected once the last one is up."""
        self._namespaces.create(name)
        netlink = self._namespaces.netlink(name)
        present = rt.list_links(netlink)
        netlink.execute(*(rt.delete_link(link.index) for link in present.values() if link.kind == "veth"))
        descriptor = self._namespaces.open(name)
        try:
            for position, interface in enumerate(interfaces):
                self._attach(name, f"eth{position}", interface, descriptor)
            ipv6 = [f"eth{at}" for at, each in enumerate(interfaces) if any(":" in a for a in each.addresses)]
            self._namespaces.enable_ipv6(name, ipv6)
            self._address(netlink, interfaces)
        finally:
            os.close(descriptor)
            self._namespaces.release(name)

    def _attach(self, task: str, peer: str, interface: Interface, namespace: int) -> None:
        netlink = self._namespaces.netlink(interface.network)
        bridge = self._index(interface.network, BRIDGE)
        netlink.execute(
            rt.new_veth(task, peer, bridge=bridge, mtu=interface.mtu, mac=interface.mac, namespace=namespace)
        )
        port = self._index(interface.network, task)
        guard_arp(netlink, port)
        netlink.execute(rt.set_port(port), rt.new_local_mac(port, interface.mac))

    @staticmethod
    def _address(netlink: Netlink, interfaces: Sequence[Interface]) -> None:
        present = rt.list_links(netlink)
        messages = [rt.set_up(present["lo"].index)]
        for position, interface in enumerate(interfaces):
            index = present[f"eth{position}"].index
            messages += [rt.new_address(index, address) for address in interface.addresses]
            messages += [rt.set_up(index), *(rt.new_route(index, subnet) for subnet in interface.routes)]
        netlink.execute(*messages)

    def resize_task(self, name: str, interfaces: Sequence[Interface]) -> None:
        """Both ends of each interface, the task's own last."""
        for interface in interfaces:
            port = self._index(interface.network, name)
            self._namespaces.netlink(interface.network).execute(rt.set_mtu(port, interface.mtu))
        present = rt.list_links(netlink := self._namespaces.netlink(name))
        netlink.execute(
            *(rt.set_mtu(present[f"eth{at}"].index, each.mtu) for at, each in enumerate(interfaces))
        )
        self._namespaces.release(name)

    def remove_task(self, name: str) -> None:
        netlink = self._namespaces.netlink(name)
        present = rt.list_links(netlink)
        netlink.execute(*(rt.delete_link(link.index) for link in present.values() if link.kind == "veth"))
        self._namespaces.remove(name)

    # What is there

    def names(self, prefix: str) -> list[str]:
        return [name for name in self._namespaces.names() if name.startswith(prefix)]

    def see_network(self, name: str) -> NetworkSeen:
        netlink = self._namespaces.netlink(name)
        present = rt.list_links(netlink)
        bridge, vxlan = present.get(BRIDGE), present.get(VXLAN)
        macs = rt.list_macs(netlink)
        whole = bridge and vxlan and bridge.up and vxlan.up and vxlan.master == bridge.index
        if not (bridge and vxlan and whole and arp_is_guarded(netlink, vxlan.index)):
            return NetworkSeen(None, {}, {})
        links = NetworkLinks(vxlan.vni, vxlan.port, vxlan.local, vxlan.mtu, vxlan.checksum, vxlan.learning)
        ports = {
            link.name: (link.peer, _macs_at(macs, link.index))
            for link in present.values()
            if link.kind == "veth" and link.up and link.master == bridge.index
            if arp_is_guarded(netlink, link.index)
        }
        return NetworkSeen(links, _forwards(macs, rt.list_arp(netlink), vxlan.index), ports)

    def see_task(self, name: str, networks: dict[str, NetworkSeen]) -> tuple[Interface, ...]:
        """The task's working interfaces in order; one that lacks anything ends the list."""
        netlink = self._namespaces.netlink(name)
        present = rt.list_links(netlink)
        addresses = _by_link((each.index, each.address) for each in rt.list_addresses(netlink))
        routes = _by_link(rt.list_routes(netlink))
        self._namespaces.release(name)
        found: list[Interface] = []
        while (link := present.get(f"eth{len(found)}")) is not None and link.up:
            network = next((key for key, seen in networks.items() if _joined(seen, name, link)), None)
            if network is None or link.index not in addresses:
                break
            subnets = tuple(sorted(routes.get(link.index, ())))
            found.append(Interface(network, tuple(addresses[link.index]), link.mac, link.mtu, subnets))
        return tuple(found)


def _by_link(pairs: Iterable[tuple[int, str]]) -> dict[int, list[str]]:
    found: dict[int, list[str]] = {}
    for index, text in pairs:
        found.setdefault(index, []).append(text)
    return found


def _joined(seen: NetworkSeen, task: str, link: rt.Link) -> bool:
    other, macs = seen.ports.get(task, (0, frozenset()))
    return other == link.index and link.mac in macs


def _macs_at(macs: Sequence[rt.Neighbour], port: int) -> frozenset[str]:
    """MACs with a static bridge entry at the port."""
    return frozenset(each.mac for each in macs if each.index == port and each.master and each.static)


def _forwards(macs: Sequence[rt.Neighbour], arp: Sequence[rt.Neighbour], vxlan: int) -> dict[str, Forward]:
    """Entries that are there in all three tables: ARP, the VXLAN device's and the bridge's."""
    vteps = {each.mac: each.ip for each in macs if each.index == vxlan and not each.master and each.ip}
    at_bridge = _macs_at(macs, vxlan)
    return {
        each.ip: Forward(each.ip, each.mac, vteps.get(each.mac, "") if each.mac in at_bridge else "")
        for each in arp
        if each.index == vxlan and each.static
    }
