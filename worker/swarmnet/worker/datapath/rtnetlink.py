"""Links, addresses, neighbours and forwarding entries as rtnetlink messages. Numbers of linux/rtnetlink.h,
if_link.h and neighbour.h."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface
from typing import Final

from swarmnet.worker.datapath.netlink import (
    CREATE,
    EXCL,
    REPLACE,
    Message,
    Netlink,
    attribute,
    attributes,
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
NEW_NEIGHBOUR: Final = 28
DELETE_NEIGHBOUR: Final = 29
GET_NEIGHBOUR: Final = 30

_AF_INET: Final = 2
_AF_BRIDGE: Final = 7
_UP: Final = 1

_MAC, _NAME, _MTU, _LINK, _MASTER, _PROTINFO, _LINKINFO, _NAMESPACE_FD = 1, 3, 4, 5, 10, 12, 18, 28
_KIND, _DATA = 1, 2
_BRIDGE_MULTICAST_SNOOPING = 23
_VXLAN_ID, _VXLAN_LOCAL, _VXLAN_LEARNING, _VXLAN_PROXY, _VXLAN_PORT = 1, 4, 7, 11, 15
_VETH_PEER = 1
_PORT_LEARNING, _PORT_UNICAST_FLOOD, _PORT_LOCKED = 8, 9, 39
_NEIGHBOUR_IP, _NEIGHBOUR_MAC, _NEIGHBOUR_MASTER = 1, 2, 9
_SELF, _TO_MASTER = 0x02, 0x04
_PERMANENT, _STATIC = 0x80, 0x42
"""_STATIC is NOARP and REACHABLE, a static entry to bridge and VXLAN; to a bridge, PERMANENT means itself."""

_LINK_HEADER: Final = struct.Struct("=BxHiII")
_ADDRESS_HEADER: Final = struct.Struct("=BBBBI")
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


def new_vxlan(name: str, namespace: int, *, vni: int, local: str, port: int, mtu: int) -> Message:
    """A VXLAN device in the descriptor's namespace; its UDP socket is in that of the netlink socket.

    It learns nothing, answers ARP from its neighbour table and has nowhere to flood to.
    """
    data = (
        u32(_VXLAN_ID, vni),
        attribute(_VXLAN_LOCAL, IPv4Address(local).packed),
        u8(_VXLAN_LEARNING, 0),
        u8(_VXLAN_PROXY, 1),
        attribute(_VXLAN_PORT, struct.pack("!H", port)),
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
    own = IPv4Interface(address)
    head = _ADDRESS_HEADER.pack(_AF_INET, own.network.prefixlen, 0, 0, index)
    body = head + attribute(1, own.ip.packed) + attribute(2, own.ip.packed)
    return Message(NEW_ADDRESS, body, CREATE | REPLACE)


def _neighbour(family: int, index: int, state: int, flags: int) -> bytes:
    return _NEIGHBOUR_HEADER.pack(family, index, state, flags, 0)


def new_arp(index: int, ip: str, mac: str) -> Message:
    body = _neighbour(_AF_INET, index, _PERMANENT, 0)
    body += attribute(_NEIGHBOUR_IP, IPv4Address(ip).packed) + attribute(_NEIGHBOUR_MAC, raw_mac(mac))
    return Message(NEW_NEIGHBOUR, body, CREATE | REPLACE)


def delete_arp(index: int, ip: str) -> Message:
    body = _neighbour(_AF_INET, index, 0, 0) + attribute(_NEIGHBOUR_IP, IPv4Address(ip).packed)
    return Message(DELETE_NEIGHBOUR, body)


def new_remote_mac(index: int, mac: str, vtep: str) -> Message:
    """The MAC is behind the VXLAN device, at that node: for the device and for its bridge."""
    body = _neighbour(_AF_BRIDGE, index, _STATIC, _SELF | _TO_MASTER)
    body += attribute(_NEIGHBOUR_MAC, raw_mac(mac)) + attribute(_NEIGHBOUR_IP, IPv4Address(vtep).packed)
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
    """IPv4 addresses, as CIDRs."""
    found = []
    for body in netlink.dump(GET_ADDRESS, _ADDRESS_HEADER.pack(_AF_INET, 0, 0, 0, 0)):
        _, bits, _, _, index = _ADDRESS_HEADER.unpack_from(body)
        parts = attributes(body[_ADDRESS_HEADER.size :])
        raw = bytes(parts.get(2, parts.get(1, b"")))
        found.append(Address(index, f"{IPv4Address(raw)}/{bits}"))
    return found


def list_arp(netlink: Netlink) -> list[Neighbour]:
    return _neighbours(netlink, _AF_INET)


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
                str(IPv4Address(ip)) if len(ip) == 4 else "",
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
    local = bytes(data.get(_VXLAN_LOCAL, b""))
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
        local=str(IPv4Address(local)) if len(local) == 4 else "",
        port=int.from_bytes(data.get(_VXLAN_PORT, b""), "big"),
    )
