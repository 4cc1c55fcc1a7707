"""Who may say by ARP where an address is: only its owner, at every port of a network's bridge.

A MAC of ours is 02:42 and the IPv4 address, so a program needs no table to tell a forged claim:

    pass, unless EtherType is ARP; then
    Ethernet source = ARP sender's MAC = 02:42 and ARP sender's IP address, or drop

It is classic BPF (linux/bpf_common.h) at the port's ingress (clsact of linux/pkt_sched.h), before the bridge.
That a MAC is at the port where its frames come in is the bridge's and the VXLAN device's own matter.
"""

from __future__ import annotations

import struct
from typing import Final

from swarmnet.worker.datapath.netlink import (
    CREATE,
    EXCL,
    Message,
    Netlink,
    NetlinkError,
    attribute,
    attributes,
    nested,
    text,
    u32,
)

NEW_QDISC: Final = 36
NEW_FILTER: Final = 44
GET_FILTER: Final = 46

_HEADER: Final = struct.Struct("=B3xiIII")
"""tcmsg: family, link, handle, parent, info."""
_QDISC_HANDLE: Final = 0xFFFF0000
_QDISC_PARENT: Final = 0xFFFFFFF1
_INGRESS: Final = 0xFFFFFFF2
_PRIORITY: Final = 1
_KIND, _OPTIONS = 1, 2
_OPS_COUNT, _OPS, _NAME, _FLAGS = 4, 5, 7, 8
_DIRECT: Final = 1
"""The program's answer is the verdict."""

_LOAD_HALF, _LOAD_WORD, _TO_X = 0x28, 0x20, 0x07
_EQUAL, _EQUAL_X, _RETURN = 0x15, 0x1D, 0x06
_GO_ON: Final = 0xFFFFFFFF
_DROP: Final = 2
_PROGRAM: Final = (
    (_LOAD_HALF, 0, 0, 12),
    (_EQUAL, 0, 10, 0x0806),
    (_LOAD_HALF, 0, 0, 6),
    (_EQUAL, 0, 9, 0x0242),
    (_LOAD_HALF, 0, 0, 22),
    (_EQUAL, 0, 7, 0x0242),
    (_LOAD_WORD, 0, 0, 28),
    (_TO_X, 0, 0, 0),
    (_LOAD_WORD, 0, 0, 8),
    (_EQUAL_X, 0, 3, 0),
    (_LOAD_WORD, 0, 0, 24),
    (_EQUAL_X, 0, 1, 0),
    (_RETURN, 0, 0, _GO_ON),
    (_RETURN, 0, 0, _DROP),
)
"""(operation, to skip if true, to skip if false, operand)."""
_CODE: Final = b"".join(struct.pack("=HBBI", *each) for each in _PROGRAM)


def guard_arp(netlink: Netlink, index: int) -> None:
    """Put the program at the ingress of a new link. NetlinkError, which names what the kernel has to have."""
    try:
        netlink.execute(*_messages(index))
    except NetlinkError as error:
        needs = (
            f"{error.strerror} (forged ARP cannot be kept out without the kernel's sch_ingress and cls_bpf)"
        )
        raise NetlinkError(error.errno or 0, needs) from error


def _messages(index: int) -> tuple[Message, Message]:
    options = nested(
        _OPTIONS,
        attribute(_OPS_COUNT, struct.pack("=H", len(_PROGRAM))),
        attribute(_OPS, _CODE),
        text(_NAME, "swarmnet-arp"),
        u32(_FLAGS, _DIRECT),
    )
    every_protocol = struct.unpack("=H", struct.pack("!H", 3))[0]
    info = _PRIORITY << 16 | every_protocol
    return (
        Message(
            NEW_QDISC, _HEADER.pack(0, index, _QDISC_HANDLE, _QDISC_PARENT, 0) + text(_KIND, "clsact"), CREATE
        ),
        Message(
            NEW_FILTER,
            _HEADER.pack(0, index, 0, _INGRESS, info) + text(_KIND, "bpf") + options,
            CREATE | EXCL,
        ),
    )


def arp_is_guarded(netlink: Netlink, index: int) -> bool:
    """Whether the program stands at the link's ingress."""
    return any(_is_ours(body) for body in netlink.dump(GET_FILTER, _HEADER.pack(0, index, 0, _INGRESS, 0)))


def _is_ours(body: memoryview) -> bool:
    found = attributes(body[_HEADER.size :])
    options = attributes(found[_OPTIONS]) if _OPTIONS in found else {}
    direct = bytes(options.get(_FLAGS, b"")) == struct.pack("=I", _DIRECT)
    return direct and bytes(options.get(_OPS, b"")) == _CODE
