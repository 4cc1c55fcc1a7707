"""Plaintext on the underlay: every IPv4 packet that is not ESP is looked at, for the whole run.

The kernel drops ESP before it comes here (a classic BPF program, linux/filter.h), else this would cost more
than the streams do. Each packet is seen once, where it enters the bridge.
"""

from __future__ import annotations

import ctypes
import socket
import struct
import threading
from types import TracebackType
from typing import Final, Self

from swarmnet.cli.demo.wire import Counts, inside

_ETH_P_ALL: Final = 3
_SO_RCVBUFFORCE: Final = 33
_SO_ATTACH_FILTER: Final = 26
_SOL_PACKET: Final = 263
_PACKET_STATISTICS: Final = 6
_BUFFER_BYTES: Final = 32 << 20
_SNAP_BYTES: Final = 2048
_POLL_S: Final = 0.2

_LOAD_BYTE: Final = 0x30
_LOAD_HALF: Final = 0x28
_JUMP_EQUAL: Final = 0x15
_RETURN: Final = 0x06
_PACKET_TYPE: Final = 0xFFFFF000 + 4
"""SKF_AD_OFF + SKF_AD_PKTTYPE."""
_PROGRAM: Final = (
    (_LOAD_BYTE, 0, 0, _PACKET_TYPE),
    (_JUMP_EQUAL, 5, 0, socket.PACKET_OUTGOING),
    (_LOAD_HALF, 0, 0, 12),
    (_JUMP_EQUAL, 0, 3, 0x0800),
    (_LOAD_BYTE, 0, 0, 23),
    (_JUMP_EQUAL, 1, 0, 50),
    (_RETURN, 0, 0, _SNAP_BYTES),
    (_RETURN, 0, 0, 0),
)
"""(operation, to skip if true, to skip if false, operand)."""


class Sniffer:
    """Counts from entering the context to its end, beside the underlay's bridge."""

    def __init__(self) -> None:
        self.counts = Counts()
        self._socket = inside("/proc/self/ns/net", _open)
        self._dropped = 0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._read, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done.set()
        self._thread.join()
        self._socket.close()

    def overlooked(self) -> int:
        """Packets that came too fast to be looked at, so far."""
        statistics = self._socket.getsockopt(_SOL_PACKET, _PACKET_STATISTICS, 8)
        self._dropped += struct.unpack("=II", statistics)[1]  # the kernel forgets them with each answer
        return self._dropped

    def _read(self) -> None:
        while not self._done.is_set():
            try:
                self.counts.add(self._socket.recv(_SNAP_BYTES))
            except TimeoutError:
                continue


def _open() -> socket.socket:
    made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETH_P_ALL))
    code = b"".join(struct.pack("=HBBI", *each) for each in _PROGRAM)
    buffer = ctypes.create_string_buffer(code, len(code))
    filter_ = struct.pack("@HP", len(_PROGRAM), ctypes.addressof(buffer))
    made.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, filter_)
    made.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER_BYTES)
    made.settimeout(_POLL_S)
    return made
