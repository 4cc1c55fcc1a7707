"""The gossip's UDP socket: many datagrams in one go, none of them ever in fragments."""

from __future__ import annotations

import errno
import socket
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import Final

from swarmnet.core.gossip.events import Datagram
from swarmnet.core.gossip.limits import MAX_BATCH_DATAGRAMS, MAX_DATAGRAM_BYTES, RECEIVE_BUFFER_BYTES

# linux/in.h and linux/in6.h; the socket module does not have them.
_IP_MTU_DISCOVER: Final = 10
_IP_MTU: Final = 14
_IPV6_MTU_DISCOVER: Final = 23
_IPV6_MTU: Final = 24
PMTUDISC_DO: Final = 2
PMTUDISC_PROBE: Final = 3
_HEADER_BYTES: Final = {socket.AF_INET: 20 + 8, socket.AF_INET6: 40 + 8}


class DatagramSocket:
    """Bound to host and port; OSError if that cannot be. What the kernel refuses to send is counted: to the
    protocol it is lost."""

    def __init__(self, host: str, port: int, counters: Counter[str]) -> None:
        self._counters = counters
        self._family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._socket = socket.socket(self._family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)
            never_fragment(self._socket, PMTUDISC_DO)
            self._socket.bind((host, port))
        except OSError:
            self._socket.close()
            raise

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        self._socket.close()

    def receive(self) -> Iterator[bytes]:
        """What has come, at most MAX_BATCH_DATAGRAMS. A longer one than any member sends is dropped."""
        for _ in range(MAX_BATCH_DATAGRAMS):
            try:
                payload = self._socket.recv(MAX_DATAGRAM_BYTES + 1)
            except BlockingIOError:
                return
            except OSError:
                self._counters["send_errors"] += 1  # nobody listens where an earlier one went
                continue
            if len(payload) > MAX_DATAGRAM_BYTES:
                self._counters["dropped_oversized"] += 1
            else:
                yield payload

    def send(self, datagrams: Iterable[Datagram]) -> list[int]:
        """How long a datagram may be on the paths for which one of these is too long."""
        sendto, most_bytes = self._socket.sendto, []
        for address, payload in datagrams:
            try:
                sendto(payload, split_address(address))
            except OSError as error:
                self._counters["send_errors"] += 1
                if error.errno == errno.EMSGSIZE and (fits := self._path_bytes(address)) is not None:
                    most_bytes.append(fits)
        return most_bytes

    def _path_bytes(self, address: str) -> int | None:
        with socket.socket(self._family, socket.SOCK_DGRAM) as probe:
            try:
                never_fragment(probe, PMTUDISC_DO)
                probe.connect(split_address(address))
                level, option = (
                    (socket.IPPROTO_IPV6, _IPV6_MTU)
                    if self._family == socket.AF_INET6
                    else (socket.IPPROTO_IP, _IP_MTU)
                )
                return probe.getsockopt(level, option) - _HEADER_BYTES[self._family]
            except OSError:
                self._counters["send_errors"] += 1
                return None


def never_fragment(sock: socket.socket, how: int) -> None:
    """PMTUDISC_DO heeds what the kernel knows of the path; PMTUDISC_PROBE only the interface (ip(7))."""
    if sock.family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_MTU_DISCOVER, how)
    else:
        sock.setsockopt(socket.IPPROTO_IP, _IP_MTU_DISCOVER, how)


@lru_cache(65_536)
def split_address(address: str) -> tuple[str, int]:
    """("10.0.0.1", 7946) of 10.0.0.1:7946, ("fd00::1", 7946) of [fd00::1]:7946."""
    host, _, port = address.rpartition(":")
    return host.removeprefix("[").removesuffix("]"), int(port)
