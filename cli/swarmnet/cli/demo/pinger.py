"""Pings at a steady rate, each accounted for: what `ping -i 0.005` sends, where timers are too coarse for it.

A sender that wakes up late sends all that is due, so that the mean rate holds on a slow machine too.
"""

from __future__ import annotations

import os
import select
import socket
import struct
import threading
import time
from types import TracebackType
from typing import Final, Self

from swarmnet.cli.demo.wire import checksum, inside

_ECHO_REQUEST: Final = 8
_ECHO_REPLY: Final = 0
_LAST_ANSWERS_S: Final = 2.0
_PAYLOAD: Final = bytes(56)


class Pinger:
    """Pings `address` from a network namespace, from entering the context until its end."""

    def __init__(self, namespace: str, address: str, rate_per_s: int) -> None:
        self.sent = 0
        self.answered: set[int] = set()
        self.elapsed_s = 0.0
        self._address = address
        self._rate_per_s = rate_per_s
        self._identifier = os.getpid() & 0xFFFF
        self._socket = inside(namespace, _icmp_socket)
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=each, daemon=True) for each in (self._send, self._receive)]

    @property
    def lost(self) -> int:
        return self.sent - len(self.answered)

    def __enter__(self) -> Self:
        for each in self._threads:
            each.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        for each in self._threads:
            each.join()
        self._socket.close()

    def _send(self) -> None:
        started = time.monotonic()
        while not self._stop.wait(1 / self._rate_per_s):
            due = int((time.monotonic() - started) * self._rate_per_s)
            for number in range(self.sent, due):
                self._socket.sendto(self._echo(number), (self._address, 0))
            self.sent = max(self.sent, due)
        self.elapsed_s = time.monotonic() - started

    def _echo(self, number: int) -> bytes:
        """RFC 792; the sequence number has 16 bits, its upper half is in the payload."""
        body = struct.pack("!HHI", self._identifier, number & 0xFFFF, number) + _PAYLOAD
        sum_ = checksum(struct.pack("!BBH", _ECHO_REQUEST, 0, 0) + body)
        return struct.pack("!BBH", _ECHO_REQUEST, 0, sum_) + body

    def _receive(self) -> None:
        """Until everything is answered or the last answers are overdue."""
        deadline: float | None = None
        while deadline is None or (self.lost and time.monotonic() < deadline):
            if self._stop.is_set() and not self._threads[0].is_alive() and deadline is None:
                deadline = time.monotonic() + _LAST_ANSWERS_S
            if select.select([self._socket], [], [], 0.05)[0]:
                self._take(self._socket.recv(2048))

    def _take(self, packet: bytes) -> None:
        icmp = packet[(packet[0] & 15) * 4 :]
        kind, _, _, identifier, _, number = struct.unpack_from("!BBHHHI", icmp)
        if kind == _ECHO_REPLY and identifier == self._identifier:
            self.answered.add(number)


def _icmp_socket() -> socket.socket:
    return socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
