"""A cable that delivers late, out of order, twice or not at all.

netem does this in kernels that have it; this does it in any. The lab's bridge is given a second port for the
machine; while the cable is bad, the machine's own port is out of the bridge, and every frame goes from one to
the other by way of this process, in both directions.

    machine eth0 ── NAME   (frames by hand)   NAMEr ── NAMEb ── bridge
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
from dataclasses import dataclass, field
from typing import Final

from tests.chaos.commands import run

from swarmnet.cli.lab.hosts import UNDERLAY

_ETH_P_ALL: Final = 0x0003
_SOL_PACKET: Final = 263
_PACKET_VNET_HDR: Final = 15
"""Frames come and go with what the kernel knows of their checksum and segments: neither is computed yet."""
_PACKET_IGNORE_OUTGOING: Final = 23
_FRAME_BYTES: Final = 128 * 1024


@dataclass(frozen=True, slots=True)
class Quality:
    """Each frame is up to `delay_s` late, each by its own chance; `loss` and `twice` are probabilities."""

    delay_s: float = 0.0
    loss: float = 0.0
    twice: float = 0.0


@dataclass
class Cable:
    """Of the machine whose port in the lab's bridge is `port`."""

    port: str
    choose: random.Random
    _quality: Quality | None = None
    _ends: list[socket.socket] = field(default_factory=list)

    async def lay(self) -> None:
        """Make the second port. Once."""
        near, far = f"{self.port}r", f"{self.port}b"
        await run("ip", "link", "add", near, "type", "veth", "peer", "name", far)
        await run("ip", "link", "set", far, "master", UNDERLAY, "up")
        await run("ip", "link", "set", near, "up")

    async def set(self, quality: Quality | None) -> None:
        """None is a good cable."""
        before, self._quality = self._quality, quality
        if before is None and quality is not None:
            self._ends = [_end(self.port), _end(f"{self.port}r")]
            self._carry(*self._ends)
            self._carry(*reversed(self._ends))
            await run("ip", "link", "set", self.port, "nomaster")
        if before is not None and quality is None:
            await run("ip", "link", "set", self.port, "master", UNDERLAY)
            for end in self._ends:
                asyncio.get_running_loop().remove_reader(end)
                end.close()

    def _carry(self, source: socket.socket, target: socket.socket) -> None:
        asyncio.get_running_loop().add_reader(source, self._take, source, target)

    def _take(self, source: socket.socket, target: socket.socket) -> None:
        quality = self._quality or Quality()
        with contextlib.suppress(BlockingIOError):
            while True:
                frame = source.recv(_FRAME_BYTES)
                if self.choose.random() >= quality.loss:
                    self._send_later(target, frame, quality)
                if self.choose.random() < quality.twice:
                    self._send_later(target, frame, quality)

    def _send_later(self, target: socket.socket, frame: bytes, quality: Quality) -> None:
        late_s = self.choose.uniform(0, quality.delay_s)
        asyncio.get_running_loop().call_later(late_s, _send, target, frame)


def _end(port: str) -> socket.socket:
    end = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETH_P_ALL))
    end.setsockopt(_SOL_PACKET, _PACKET_VNET_HDR, 1)
    end.setsockopt(_SOL_PACKET, _PACKET_IGNORE_OUTGOING, 1)
    end.bind((port, _ETH_P_ALL))
    end.setblocking(False)
    return end


def _send(target: socket.socket, frame: bytes) -> None:
    """What cannot be sent, since the port's queue is full or the cable is good again, is lost."""
    with contextlib.suppress(OSError):
        target.send(frame)
