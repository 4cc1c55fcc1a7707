"""How large a packet may be on the path to another host: echo requests that no router may fragment.

The other host's kernel answers (RFC 792, RFC 4443), and what a router says of its limit is not relied on:
many networks drop that (RFC 4821). So a size that is answered fits there and back.
"""

from __future__ import annotations

import asyncio
import os
import socket
import struct
from ipaddress import ip_address
from typing import Final, Self

from swarmnet.worker.datagrams import PMTUDISC_PROBE, never_fragment
from swarmnet.worker.datapath.netlink import family_of

ANSWER_S: Final = 0.5
_TRIES: Final = 3
_HEADER: Final = struct.Struct("!BBHHH")
_REQUEST: Final = {4: 8, 6: 128}
_REPLY: Final = {4: 0, 6: 129}
_IP_BYTES: Final = {4: 20, 6: 40}
_LEAST: Final = {4: 576, 6: 1280}
"""Any path carries as much (RFC 791, RFC 8200)."""


async def path_bytes(source: str, destination: str, largest: int) -> int:
    """The largest packet in bytes, of up to `largest`, that is answered; 0 if none is. Takes seconds.

    OSError without the privilege for raw sockets.
    """
    with _Echo(source, destination) as echo:
        if await echo.answered(largest):
            return largest
        fits = _LEAST[echo.version]
        if fits >= largest or not await echo.answered(fits):
            return 0
        too_large = largest
        while too_large - fits > 1:
            middle = (fits + too_large) // 2
            fits, too_large = (middle, too_large) if await echo.answered(middle) else (fits, middle)
        return fits


class _Echo:
    def __init__(self, source: str, destination: str) -> None:
        self.version = ip_address(destination).version
        self._destination = destination
        self._id = int.from_bytes(os.urandom(2), "big")
        self._number = 0
        protocol = socket.IPPROTO_ICMP if self.version == 4 else socket.IPPROTO_ICMPV6
        self._socket = socket.socket(family_of(destination), socket.SOCK_RAW, protocol)
        try:
            self._socket.setblocking(False)
            never_fragment(self._socket, PMTUDISC_PROBE)
            self._socket.bind((source, 0))
        except OSError:
            self._socket.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    async def answered(self, size: int) -> bool:
        """Whether one of a few packets of that size was."""
        for _ in range(_TRIES):
            self._number = self._number % 0xFFFF + 1
            try:
                self._socket.sendto(self._request(size), (self._destination, 0))
                async with asyncio.timeout(ANSWER_S):
                    await self._reply()
            except OSError:  # larger than the interface, no route; or a TimeoutError
                continue
            return True
        return False

    async def _reply(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            packet, (address, *_) = await loop.sock_recvfrom(self._socket, 65535)
            if address == self._destination and self._is_reply(packet):
                return

    def _request(self, size: int) -> bytes:
        body = bytes(size - _IP_BYTES[self.version] - _HEADER.size)
        head = _HEADER.pack(_REQUEST[self.version], 0, 0, self._id, self._number)
        if self.version == 6:
            return head + body  # the kernel adds the checksum
        return _HEADER.pack(_REQUEST[4], 0, _checksum(head + body), self._id, self._number) + body

    def _is_reply(self, packet: bytes) -> bool:
        start = 4 * (packet[0] & 15) if self.version == 4 and packet else 0
        if len(packet) < start + _HEADER.size:
            return False
        kind, _, _, id_, number = _HEADER.unpack_from(packet, start)
        return (kind, id_, number) == (_REPLY[self.version], self._id, self._number)


def _checksum(data: bytes) -> int:
    """RFC 1071."""
    data += bytes(len(data) % 2)
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return total ^ 0xFFFF
