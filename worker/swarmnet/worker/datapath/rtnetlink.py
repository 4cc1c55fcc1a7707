"""Links, addresses, neighbours and forwarding entries as rtnetlink messages. Numbers of linux/rtnetlink.h,
if_link.h and neighbour.h."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from ipaddress import ip_address, ip_interface, ip_network
from typing import Final

from swarmnet.worker.datapath.netlink import (
    AF_INET,
    AF_INET6,
    CREATE,
    EXCL,
    REPLACE,
    Message,
    Netlink,
    attribute,
    attributes,
    family_of,
    nested,
    number,
    string,
    text,
    u8,
    u32,
)

NEW_LINK: Final = 16
DELETE_LINK: Final = 17
GET_LINK: Final = 18
SET_LINK: Final = 19
NEW_ADDRESS: Final = 20
GET_ADDRESS: Final = 22
NEW_ROUTE: Final = 24
GET_ROUTE: Final = 26
NEW_NEIGHBOUR: Final = 28
DELETE_NEIGHBOUR: Final = 29
GET_NEIGHBOUR: Final = 30

_AF_BRIDGE: Final = 7
_UP: Final = 1

_MAC, _NAME, _MTU, _LINK, _MASTER, _PROTINFO, _LINKINFO, _NAMESPACE_FD = 1, 3, 4, 5, 10, 12, 18, 28
_KIND, _DATA = 1, 2
_BRIDGE_MULTICAST_SNOOPING = 23
_VXLAN_ID, _VXLAN_LOCAL, _VXLAN_LEARNING, _VXLAN_AGEING, _VXLAN_LIMIT = 1, 4, 7, 8, 9
_VXLAN_PROXY, _VXLAN_PORT = 11, 15
_VXLAN_LOCAL_V6, _VXLAN_CHECKSUM, _VXLAN_NO_CHECKSUM6_OUT, _VXLAN_NO_CHECKSUM6_IN = 17, 18, 19, 20
_ENTRIES_MAX: Final = 1 << 17
"""Twice the addresses of a /16, static and learned ones together."""
_VETH_PEER = 1
_PORT_LEARNING, _PORT_UNICAST_FLOOD, _PORT_LOCKED = 8, 9, 39
_NEIGHBOUR_IP, _NEIGHBOUR_MAC, _NEIGHBOUR_MASTER = 1, 2, 9
_SELF, _TO_MASTER = 0x02, 0x04
_NO_DAD = 0x02
"""The managers see to it that no address is given out twice; asking on the link would take a second."""
_SCOPE_LINK = 253
_TABLE_MAIN, _BY_BOOT, _UNICAST = 254, 3, 1
_ROUTE_TO, _ROUTE_LINK = 1, 4
_PERMANENT, _STATIC = 0x80, 0x42
"""_STATIC is NOARP and REACHABLE, a static entry to bridge and VXLAN; to a bridge, PERMANENT means itself."""

_LINK_HEADER: Final = struct.Struct("=BxHiII")
_ADDRESS_HEADER: Final = struct.Struct("=BBBBI")
_ROUTE_HEADER: Final = struct.Struct("=8BI")
_NEIGHBOUR_HEADER: Final = struct.Struct("=B3xiHBB")


@dataclass(frozen=True, slots=True)
class Link:
    """A link as the kernel describes it. `peer`: the index of a veth's other end in its namespace."""

    index: int
    name: str
    kind: str
    up: bool
    mac: str
    mtu: int
    master: int
    peer: int
    vni: int = 0
    local: str = ""
    port: int = 0
    checksum: bool = True
    learning: bool = False


@dataclass(frozen=True, slots=True)
class Address:
    index: int
    address: str


@dataclass(frozen=True, slots=True)
class Neighbour:
    """An ARP entry (`ip` and `mac`) or, of a dump of forwarding entries, a MAC at a port (`ip`: the VTEP)."""

    index: int
    ip: str
    mac: str
    master: bool
    static: bool


def raw_mac(mac: str) -> bytes:
    return bytes.fromhex(mac.replace(":", ""))


def _header(index: int = 0, *, up: bool = False, family: int = 0) -> bytes:
    return _LINK_HEADER.pack(family, 0, index, _UP if up else 0, _UP if up else 0)


def _info(kind: str, *data: bytes) -> bytes:
    return nested(_LINKINFO, text(_KIND, kind), nested(_DATA, *data))


def new_bridge(name: str, mtu: int) -> Message:
    """A bridge that is up and snoops no multicast."""
    info = _info("bridge", u8(_BRIDGE_MULTICAST_SNOOPING, 0))
    body = _header(up=True) + text(_NAME, name) + u32(_MTU, mtu) + info
    return Message(NEW_LINK, body, CREATE | EXCL)


def new_vxlan(
    name: str, namespace: int, *, vni: int, local: str, port: int, mtu: int, checksum: bool, bound: bool
) -> Message:
    """A VXLAN device in the descriptor's namespace; its UDP socket is in that of the netlink socket.

    It answers ARP and neighbour discovery from its own table and has nowhere to flood to. `bound`: it drops
    frames whose MAC has a static entry at another node than they came from. The kernel has that only together
    with learning, which does nothing more here: its bridge sends to MACs with a static entry alone. What it
    learns is forgotten within ten seconds, and is not more than _ENTRIES_MAX entries.
    """
    data = (
        u32(_VXLAN_ID, vni),
        attribute(_VXLAN_LOCAL if family_of(local) == AF_INET else _VXLAN_LOCAL_V6, ip_address(local).packed),
        u8(_VXLAN_LEARNING, bound),
        u32(_VXLAN_AGEING, 1),
        u32(_VXLAN_LIMIT, _ENTRIES_MAX if bound else 0),
        u8(_VXLAN_PROXY, 1),
        attribute(_VXLAN_PORT, struct.pack("!H", port)),
        u8(_VXLAN_CHECKSUM, checksum),
        u8(_VXLAN_NO_CHECKSUM6_OUT, not checksum),
        u8(_VXLAN_NO_CHECKSUM6_IN, not checksum),
    )
    head = _header() + text(_NAME, name) + u32(_MTU, mtu) + u32(_NAMESPACE_FD, namespace)
    return Message(NEW_LINK, head + _info("vxlan", *data), CREATE | EXCL)


def new_veth(port: str, peer: str, *, bridge: int, mtu: int, mac: str, namespace: int) -> Message:
    """A pair: `port` up at the bridge here, `peer` in the descriptor's namespace, down until addressed."""
    other = _header() + text(_NAME, peer) + attribute(_MAC, raw_mac(mac)) + u32(_MTU, mtu)
    info = _info("veth", nested(_VETH_PEER, other + u32(_NAMESPACE_FD, namespace)))
    body = _header(up=True) + text(_NAME, port) + u32(_MTU, mtu) + u32(_MASTER, bridge) + info
    return Message(NEW_LINK, body, CREATE | EXCL)


def delete_link(index: int) -> Message:
    return Message(DELETE_LINK, _header(index))


def set_up(index: int) -> Message:
    return Message(SET_LINK, _header(index, up=True))


def set_mtu(index: int, mtu: int) -> Message:
    return Message(SET_LINK, _header(index) + u32(_MTU, mtu))


def set_master(index: int, bridge: int) -> Message:
    """Make the link a port of the bridge."""
    return Message(SET_LINK, _header(index) + u32(_MASTER, bridge))


def set_port(index: int) -> Message:
    """The port passes only frames from MACs that have a static entry there, and unicast only to such MACs.

    So nobody takes over another's MAC, and unicast frames reach nobody but their addressee.
    """
    options = (u8(_PORT_LEARNING, 0), u8(_PORT_UNICAST_FLOOD, 0), u8(_PORT_LOCKED, 1))
    return Message(SET_LINK, _header(index, family=_AF_BRIDGE) + nested(_PROTINFO, *options))


def new_address(index: int, address: str) -> Message:
    own = ip_interface(address)
    flags = _NO_DAD if own.version == 6 else 0
    head = _ADDRESS_HEADER.pack(family_of(str(own.ip)), own.network.prefixlen, flags, 0, index)
    body = head + attribute(1, own.ip.packed) + attribute(2, own.ip.packed)
    return Message(NEW_ADDRESS, body, CREATE | REPLACE)


def new_route(index: int, subnet: str) -> Message:
    """The subnet is on the link itself."""
    to = ip_network(subnet)
    family = family_of(str(to.network_address))
    head = _ROUTE_HEADER.pack(family, to.prefixlen, 0, 0, _TABLE_MAIN, _BY_BOOT, _SCOPE_LINK, _UNICAST, 0)
    body = head + attribute(_ROUTE_TO, to.network_address.packed) + u32(_ROUTE_LINK, index)
    return Message(NEW_ROUTE, body, CREATE | REPLACE)


def _neighbour(family: int, index: int, state: int, flags: int) -> bytes:
    return _NEIGHBOUR_HEADER.pack(family, index, state, flags, 0)


def new_arp(index: int, ip: str, mac: str) -> Message:
    body = _neighbour(family_of(ip), index, _PERMANENT, 0)
    body += attribute(_NEIGHBOUR_IP, ip_address(ip).packed) + attribute(_NEIGHBOUR_MAC, raw_mac(mac))
    return Message(NEW_NEIGHBOUR, body, CREATE | REPLACE)


def delete_arp(index: int, ip: str) -> Message:
    body = _neighbour(family_of(ip), index, 0, 0) + attribute(_NEIGHBOUR_IP, ip_address(ip).packed)
    return Message(DELETE_NEIGHBOUR, body)


def new_remote_mac(index: int, mac: str, vtep: str) -> Message:
    """The MAC is behind the VXLAN device, at that node: for the device and for its bridge."""
    body = _neighbour(_AF_BRIDGE, index, _STATIC, _SELF | _TO_MASTER)
    body += attribute(_NEIGHBOUR_MAC, raw_mac(mac)) + attribute(_NEIGHBOUR_IP, ip_address(vtep).packed)
    return Message(NEW_NEIGHBOUR, body, CREATE | REPLACE)


def delete_remote_mac(index: int, mac: str) -> Message:
    body = _neighbour(_AF_BRIDGE, index, 0, _SELF | _TO_MASTER) + attribute(_NEIGHBOUR_MAC, raw_mac(mac))
    return Message(DELETE_NEIGHBOUR, body)


def new_local_mac(index: int, mac: str) -> Message:
    """The MAC is at that port of the bridge."""
    body = _neighbour(_AF_BRIDGE, index, _STATIC, _TO_MASTER) + attribute(_NEIGHBOUR_MAC, raw_mac(mac))
    return Message(NEW_NEIGHBOUR, body, CREATE | REPLACE)


def list_links(netlink: Netlink) -> dict[str, Link]:
    return {link.name: link for link in map(_link, netlink.dump(GET_LINK, _header()))}


def list_addresses(netlink: Netlink) -> list[Address]:
    """IPv4 and IPv6 addresses, as CIDRs, but for those of a link alone."""
    found = []
    for body in netlink.dump(GET_ADDRESS, _ADDRESS_HEADER.pack(0, 0, 0, 0, 0)):
        _, bits, _, scope, index = _ADDRESS_HEADER.unpack_from(body)
        parts = attributes(body[_ADDRESS_HEADER.size :])
        raw = bytes(parts.get(2, parts.get(1, b"")))
        if scope != _SCOPE_LINK:
            found.append(Address(index, f"{ip_address(raw)}/{bits}"))
    return found


def list_routes(netlink: Netlink) -> list[tuple[int, str]]:
    """(link, subnet) of the routes that `new_route` makes."""
    found = []
    for family in (AF_INET, AF_INET6):
        for body in netlink.dump(GET_ROUTE, _ROUTE_HEADER.pack(family, *bytes(7), 0)):
            _, bits, _, _, table, protocol, _, kind, _ = _ROUTE_HEADER.unpack_from(body)
            parts = attributes(body[_ROUTE_HEADER.size :])
            if (table, protocol, kind) == (_TABLE_MAIN, _BY_BOOT, _UNICAST) and _ROUTE_TO in parts:
                found.append((number(parts, _ROUTE_LINK), f"{ip_address(bytes(parts[_ROUTE_TO]))}/{bits}"))
    return found


def list_arp(netlink: Netlink) -> list[Neighbour]:
    """The entries that ARP and neighbour discovery are answered from."""
    return [*_neighbours(netlink, AF_INET), *_neighbours(netlink, AF_INET6)]


def list_macs(netlink: Netlink) -> list[Neighbour]:
    """The forwarding entries of bridges and VXLAN devices."""
    return _neighbours(netlink, _AF_BRIDGE)


def _neighbours(netlink: Netlink, family: int) -> list[Neighbour]:
    found = []
    for body in netlink.dump(GET_NEIGHBOUR, _neighbour(family, 0, 0, 0)):
        _, index, state, _, _ = _NEIGHBOUR_HEADER.unpack_from(body)
        parts = attributes(body[_NEIGHBOUR_HEADER.size :])
        ip = bytes(parts.get(_NEIGHBOUR_IP, b""))
        found.append(
            Neighbour(
                index,
                str(ip_address(ip)) if ip else "",
                bytes(parts.get(_NEIGHBOUR_MAC, b"")).hex(":"),
                _NEIGHBOUR_MASTER in parts,
                state in (_STATIC, _PERMANENT) or state == 0x40,
            )
        )
    return found


def _link(body: memoryview) -> Link:
    _, _, index, flags, _ = _LINK_HEADER.unpack_from(body)
    found = attributes(body[_LINK_HEADER.size :])
    info = attributes(found[_LINKINFO]) if _LINKINFO in found else {}
    kind = string(info, _KIND)
    data = attributes(info[_DATA]) if kind == "vxlan" and _DATA in info else {}
    local = bytes(data.get(_VXLAN_LOCAL, data.get(_VXLAN_LOCAL_V6, b"")))
    return Link(
        index=index,
        name=string(found, _NAME),
        kind=kind,
        up=bool(flags & _UP),
        mac=bytes(found.get(_MAC, b"")).hex(":"),
        mtu=number(found, _MTU),
        master=number(found, _MASTER),
        peer=number(found, _LINK),
        vni=number(data, _VXLAN_ID),
        local=str(ip_address(local)) if local else "",
        port=int.from_bytes(data.get(_VXLAN_PORT, b""), "big"),
        checksum=_checksum(data),
        learning=bool(number(data, _VXLAN_LEARNING)),
    )


def _checksum(data: dict[int, memoryview]) -> bool:
    """Whether a VXLAN device has UDP checksums, over whichever IP version it has."""
    if _VXLAN_LOCAL_V6 in data:
        return not number(data, _VXLAN_NO_CHECKSUM6_OUT)
    return bool(number(data, _VXLAN_CHECKSUM))
