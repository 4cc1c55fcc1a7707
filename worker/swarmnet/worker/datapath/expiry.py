"""The kernel's own word that an SA wears out: it says so once, when the SA comes to its soft limit.

What that means for a network, the next report says; this only sees to it that one is made at once.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import struct
from collections.abc import Callable
from typing import Final

import structlog

from swarmnet.core.errors import NotSupportedHere
from swarmnet.worker.datapath.netlink import NETLINK_XFRM
from swarmnet.worker.datapath.xfrm import SA_INFO_BYTES, is_own

log = structlog.get_logger()

EXPIRE: Final = 0x18
"""XFRM_MSG_EXPIRE: an xfrm_usersa_info, then whether it was a hard limit."""
_GROUP: Final = 1 << 1
"""XFRMNLGRP_EXPIRE, the second one."""
_HEADER: Final = struct.Struct("=IHHII")
_LARGEST: Final = 1 << 16


class Expiries:
    """Listens in the network namespace in which it was made. `worn` is called on the loop, once for each SA.

    NotSupportedHere if the kernel has no such events.
    """

    def __init__(self, worn: Callable[[], None]) -> None:
        self._worn = worn
        self._loop: asyncio.AbstractEventLoop | None = None
        kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
        self._socket = socket.socket(socket.AF_NETLINK, kind, NETLINK_XFRM)
        try:
            self._socket.bind((0, _GROUP))
        except OSError as error:
            self._socket.close()
            raise NotSupportedHere(
                f"this kernel does not say when an SA wears out: {error.strerror}"
            ) from error

    def listen(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        loop.add_reader(self._socket.fileno(), self._read)

    def close(self) -> None:
        if self._loop is not None:
            self._loop.remove_reader(self._socket.fileno())
        self._socket.close()

    def _read(self) -> None:
        try:
            data = memoryview(self._socket.recv(_LARGEST))
        except BlockingIOError:
            return
        except OSError as error:
            if error.errno != errno.ENOBUFS:
                raise
            self._worn()  # some were lost: what they said is seen in the SAs
            return
        for spi in expired(data):
            log.warning("an SA has reached its soft limit", spi=f"{spi:#010x}")
            self._worn()


def expired(data: memoryview) -> list[int]:
    """The SPIs of our own SAs that one datagram of the kernel tells of."""
    found, at = [], 0
    while at + _HEADER.size <= len(data):
        length, kind, *_ = _HEADER.unpack_from(data, at)
        body = data[at + _HEADER.size : at + length]
        if kind == EXPIRE and len(body) > SA_INFO_BYTES and (spi := is_own(body)):
            found.append(spi)
        at += max(length + (-length % 4), _HEADER.size)
    return found
