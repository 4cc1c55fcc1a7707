"""ESP in UDP (RFC 3948): the socket out of whose port the kernel takes ESP packets.

Nobody reads from it. The kernel needs no process for the packets, only that the socket exists; so the
processes that hold tasks are given it as well (`descriptor`), and traffic outlives the worker.
"""

from __future__ import annotations

import socket
from typing import Final

from swarmnet.core.limits import ESP_IN_UDP_PORT
from swarmnet.worker.datapath.netlink import family_of

_UDP_ENCAP: Final = 100
_ESP_IN_UDP: Final = 2
"""linux/udp.h."""
_SMALLEST: Final = 0
"""Receive buffer, which the kernel rounds up: what is not ESP (keepalives, junk) is for nobody."""


class Encapsulation:
    """At most one socket, at this node's data-path address."""

    def __init__(self) -> None:
        self._socket: socket.socket | None = None
        self._address = ""

    @property
    def descriptor(self) -> int:
        """-1 while there is none."""
        return self._socket.fileno() if self._socket is not None else -1

    def open(self, address: str) -> None:
        """In the calling thread's namespace; open at that address already, it stays. OSError if it cannot be.

        Beside the sockets of earlier workers' tasks, which share the port; beside nobody else's.
        """
        if self._address == address:
            return
        self.close()
        made = socket.socket(family_of(address), socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        try:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _SMALLEST)
            made.setsockopt(socket.IPPROTO_UDP, _UDP_ENCAP, _ESP_IN_UDP)
            made.bind((address, ESP_IN_UDP_PORT))
        except OSError as error:
            made.close()
            where = f"UDP port {ESP_IN_UDP_PORT} of {address}"
            raise OSError(error.errno, f"{where}: {error.strerror}") from error
        self._socket, self._address = made, address

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
        self._socket, self._address = None, ""
