"""Netlink (RFC 3549) with the messages packed by hand: many requests in one system call, an errno for each.

All of it blocks, briefly, and belongs to the data path's own thread. Numbers are of linux/netlink.h.
"""

from __future__ import annotations

import errno as _errno
import os
import socket
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Final

AF_INET: Final = 2
AF_INET6: Final = 10
NETLINK_ROUTE: Final = 0
NETLINK_XFRM: Final = 6

REQUEST: Final = 0x1
ACK: Final = 0x4
EXCL: Final = 0x200
CREATE: Final = 0x400
REPLACE: Final = 0x100
_DUMP: Final = 0x300
_DUMP_INTERRUPTED: Final = 0x10
_ACK_TLVS: Final = 0x200

_SOL_NETLINK: Final = 270
_CAP_ACK: Final = 10
_EXT_ACK: Final = 11
_GET_STRICT_CHK: Final = 12
_TIMEOUT_S: Final = 5.0
"""The kernel answers within the call; this is for a kernel that lost an answer, not for a slow one."""

_MESSAGE_ERROR: Final = 2
_MESSAGE_DONE: Final = 3
_HEADER: Final = struct.Struct("=IHHII")
_ATTRIBUTE: Final = struct.Struct("=HH")
_EXT_ACK_TEXT: Final = 1
_NESTED: Final = 0x8000
_TYPE_MASK: Final = 0x3FFF
_MESSAGES_PER_CALL: Final = 64
"""As many acknowledgements fit well into the default receive buffer."""
_MAX_DUMPS: Final = 8


class NetlinkError(OSError):
    """The kernel's refusal: errno and, where it gives one, its own sentence. Nothing changed."""

    def __init__(self, errno: int, text: str = "") -> None:
        super().__init__(errno, text or os.strerror(errno))

    @property
    def missing(self) -> bool:
        """The object was not there: all that a deletion wants."""
        return self.errno in (_errno.ENOENT, _errno.ESRCH, _errno.ENODEV)


@dataclass(frozen=True, slots=True)
class Message:
    """One request. `body` may hold keys, so it stays out of repr."""

    type: int
    body: bytes = field(repr=False)
    flags: int = 0


def family_of(address: str) -> int:
    """AF_INET or AF_INET6, for sockets and for the kernel's messages alike."""
    return AF_INET if ip_address(address).version == 4 else AF_INET6


def attribute(kind: int, data: bytes) -> bytes:
    """One attribute, padded to 4 bytes."""
    return _ATTRIBUTE.pack(4 + len(data), kind) + data + bytes(-len(data) % 4)


def nested(kind: int, *attributes: bytes) -> bytes:
    return attribute(kind | _NESTED, b"".join(attributes))


def u8(kind: int, value: int) -> bytes:
    return attribute(kind, struct.pack("=B", value))


def u32(kind: int, value: int) -> bytes:
    return attribute(kind, struct.pack("=I", value))


def text(kind: int, value: str) -> bytes:
    return attribute(kind, value.encode() + b"\0")


def attributes(data: memoryview) -> dict[int, memoryview]:
    """The attributes of a message by type; the last of a type counts. ValueError if one runs over the end."""
    found: dict[int, memoryview] = {}
    at = 0
    while at + 4 <= len(data):
        length, kind = _ATTRIBUTE.unpack_from(data, at)
        if length < 4 or at + length > len(data):
            raise ValueError(f"a netlink attribute of {length} bytes where {len(data) - at} are left")
        found[kind & _TYPE_MASK] = data[at + 4 : at + length]
        at += length + (-length % 4)
    return found


def string(found: Mapping[int, memoryview], kind: int) -> str:
    """A zero-terminated string; empty if the attribute is missing."""
    return bytes(found.get(kind, b"")).split(b"\0")[0].decode(errors="replace")


def number(found: Mapping[int, memoryview], kind: int) -> int:
    """An unsigned number of the host's byte order; 0 if the attribute is missing."""
    return int.from_bytes(found.get(kind, b""), "little" if struct.pack("=H", 1)[0] else "big")


class Netlink:
    """One netlink socket, bound to the network namespace in which it was made. Not for several threads."""

    def __init__(self, protocol: int) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol)
        self._sequence = 0
        try:
            self._socket.bind((0, 0))
            self._socket.settimeout(_TIMEOUT_S)
            self._socket.setsockopt(_SOL_NETLINK, _CAP_ACK, 1)  # a refused SA comes back without its key
            self._socket.setsockopt(_SOL_NETLINK, _EXT_ACK, 1)
            if protocol == NETLINK_ROUTE:
                self._socket.setsockopt(_SOL_NETLINK, _GET_STRICT_CHK, 1)
        except OSError:
            self._socket.close()
            raise

    def close(self) -> None:
        self._socket.close()

    def batch(self, messages: Sequence[Message]) -> list[NetlinkError | None]:
        """Execute in order; each answer is None or the refusal. A refused message stops no other."""
        answers: list[NetlinkError | None] = []
        for start in range(0, len(messages), _MESSAGES_PER_CALL):
            answers += self._call(messages[start : start + _MESSAGES_PER_CALL])
        return answers

    def execute(self, *messages: Message) -> None:
        """All of them, in order. The first refusal is raised after all were tried."""
        for answer in self.batch(messages):
            if answer is not None:
                raise answer

    def dump(self, kind: int, body: bytes) -> list[memoryview]:
        """The bodies of all objects of a kind. A dump that changes interrupted is taken again."""
        for _ in range(_MAX_DUMPS):
            found = self._dump(kind, body)
            if found is not None:
                return found
        raise NetlinkError(_errno.EBUSY, "the kernel's tables changed during each of several dumps")

    def _call(self, messages: Sequence[Message]) -> list[NetlinkError | None]:
        first = self._sequence + 1
        out = bytearray()
        for each in messages:
            self._sequence += 1
            out += _HEADER.pack(16 + len(each.body), each.type, REQUEST | ACK | each.flags, self._sequence, 0)
            out += each.body + bytes(-len(each.body) % 4)
        self._socket.send(out)
        answers: dict[int, NetlinkError | None] = {}
        while len(answers) < len(messages):
            for kind, flags, sequence, body in self._receive():
                if kind == _MESSAGE_ERROR and sequence >= first:
                    answers[sequence] = _refusal(flags, body)
        return [answers[first + position] for position in range(len(messages))]

    def _dump(self, kind: int, body: bytes) -> list[memoryview] | None:
        self._sequence += 1
        header = _HEADER.pack(16 + len(body), kind, REQUEST | _DUMP, self._sequence, 0)
        self._socket.send(header + body)
        found: list[memoryview] = []
        interrupted = False
        while True:
            for answer, flags, sequence, payload in self._receive():
                if sequence != self._sequence:
                    continue
                interrupted = interrupted or bool(flags & _DUMP_INTERRUPTED)
                if answer == _MESSAGE_ERROR:
                    raise _refusal(flags, payload) or NetlinkError(
                        _errno.EIO, "a dump was acknowledged, not answered"
                    )
                if answer == _MESSAGE_DONE:
                    return None if interrupted else found
                found.append(payload)

    def _receive(self) -> Iterator[tuple[int, int, int, memoryview]]:
        """(type, flags, sequence, body) of each message of one datagram."""
        data = memoryview(self._socket.recv(1 << 16))
        at = 0
        while at + 16 <= len(data):
            length, kind, flags, sequence, _ = _HEADER.unpack_from(data, at)
            yield kind, flags, sequence, data[at + 16 : at + length]
            at += length + (-length % 4)


def _refusal(flags: int, body: memoryview) -> NetlinkError | None:
    code = -struct.unpack_from("=i", body)[0]
    if code == 0:
        return None
    found = attributes(body[20:]) if flags & _ACK_TLVS else {}
    return NetlinkError(code, string(found, _EXT_ACK_TEXT))
