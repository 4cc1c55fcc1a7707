"""A TLS connection between two managers: whole protobuf messages, each after its length.

    length (4, little-endian) · message

What comes in is given on within the event loop's call, without a task or a queue in between: every write
comes this way several times.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import struct
from collections.abc import Callable
from typing import Final, Protocol

from google.protobuf.message import Message as Proto

MAX_FRAME_BYTES: Final = 4 * 1024 * 1024
_LENGTH: Final = struct.Struct("<I")
_SILENT_S: Final = 8
"""A host that takes nothing for so long is gone (tcp(7), TCP_USER_TIMEOUT)."""
_TCP_THIN_LINEAR_TIMEOUTS: Final = 16  # <linux/tcp.h>; Python does not name it


class Handler(Protocol):
    """Whose connection it is."""

    def opened(self, connection: Connection) -> None: ...
    def frame(self, connection: Connection, raw: bytes) -> None:
        """A whole message. ValueError ends the connection."""

    def paused(self, connection: Connection) -> None:
        """What came in at once was all given on."""

    def closed(self, connection: Connection, why: str) -> None:
        """Told once, after `opened`."""


class Connection(asyncio.Protocol):
    """Made by the event loop for each connection, once TLS has checked both certificates.

    `peer_id` is for its handler to note who is at the other end.
    """

    def __init__(self, handler: Handler) -> None:
        self.peer_id = ""
        self._handler = handler
        self._received = bytearray()
        self._why = ""
        self._transport: asyncio.Transport | None = None

    @property
    def peer_certificate(self) -> bytes:
        """DER."""
        assert self._transport is not None
        found: ssl.SSLObject = self._transport.get_extra_info("ssl_object")
        return found.getpeercert(binary_form=True) or b""

    @property
    def unsent_bytes(self) -> int:
        return 0 if self._transport is None else self._transport.get_write_buffer_size()

    def write(self, message: Proto) -> None:
        self.write_raw(message.SerializeToString())

    def write_raw(self, raw: bytes) -> None:
        """A message that is encoded already."""
        assert self._transport is not None
        self._transport.write(_LENGTH.pack(len(raw)) + raw)

    def end(self, why: str) -> None:
        """Close it after what was written; nothing more is taken in."""
        self._why = self._why or why
        if self._transport is not None:
            self._transport.close()

    def abort(self, why: str) -> None:
        """Close it at once."""
        self._why = self._why or why
        if self._transport is not None:
            self._transport.abort()

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        _outlast_loss(transport.get_extra_info("socket"))
        _notice_silence(transport.get_extra_info("socket"))
        self._handler.opened(self)

    def data_received(self, data: bytes) -> None:
        if self._why:
            return
        self._received += data
        try:
            self._take_frames(self._handler.frame)
            self._handler.paused(self)
        except ValueError as error:
            self.abort(str(error))

    def connection_lost(self, error: Exception | None) -> None:
        self._handler.closed(self, self._why or str(error or "the other end closed it"))

    def _take_frames(self, take: Callable[[Connection, bytes], None]) -> None:
        """Give on what is whole. ValueError for a length beyond the limit, and as `take`."""
        received, start = self._received, 0
        while not self._why and len(received) - start >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(received, start)
            if length > MAX_FRAME_BYTES:
                raise ValueError(f"a message of {length} bytes is above the limit of {MAX_FRAME_BYTES}")
            end = start + _LENGTH.size + length
            if len(received) < end:
                break
            raw = bytes(received[start + _LENGTH.size : end])
            start = end
            take(self, raw)
        del received[:start]


def _outlast_loss(connected: socket.socket) -> None:
    """What is lost is sent again at a steady pace, not after twice as long each time: on a bad network a
    leader would be missed although its host is there, for want of a few packets in a row.
    """
    connected.setsockopt(socket.IPPROTO_TCP, _TCP_THIN_LINEAR_TIMEOUTS, 1)


def _notice_silence(connected: socket.socket) -> None:
    connected.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _SILENT_S // 2)
    connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 1)
    connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _SILENT_S * 1000)
