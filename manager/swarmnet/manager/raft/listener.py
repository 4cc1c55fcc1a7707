"""The port of Raft: takes connections in, a TLS handshake each, and only so many of them at once."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections import Counter
from collections.abc import Callable
from typing import Final

import structlog

from swarmnet.manager.raft.connection import Connection, Handler
from swarmnet.manager.raft.member import host_and_port

log = structlog.get_logger()

HANDSHAKE_S: Final = 3.0
_HANDSHAKES: Final = 64
"""At once; more are closed."""
_PAUSE_S: Final = 0.1
"""After a connection could not be taken in, for want of file descriptors say."""


class Listener:
    """Of one event loop. `refused` counts by reason whom TLS turned away."""

    def __init__(
        self, address: str, handler: Handler, context: Callable[[], ssl.SSLContext], refused: Counter[str]
    ) -> None:
        """OSError when it cannot listen there."""
        host, port = host_and_port(address)
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._socket = socket.create_server((host, port), family=family, backlog=_HANDSHAKES)
        self._socket.setblocking(False)
        self._handler = handler
        self._context = context
        self._refused = refused
        self._handshakes: set[asyncio.Task[None]] = set()
        self._unheard: set[socket.socket] = set()  # accepted, and nobody has looked at it yet
        self._closed = False
        self._loop = asyncio.get_running_loop()
        self._listen()

    async def close(self) -> None:
        self._loop.remove_reader(self._socket)
        self._closed = True
        for task in self._handshakes:
            task.cancel()
        await asyncio.gather(*self._handshakes, return_exceptions=True)
        for each in (self._socket, *self._unheard):
            each.close()

    def _listen(self) -> None:
        if not self._closed:
            self._loop.add_reader(self._socket, self._accept)

    def _accept(self) -> None:
        try:
            accepted, _ = self._socket.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return
        except OSError as error:
            log.warning("a connection could not be taken in", error=str(error))
            self._loop.remove_reader(self._socket)
            self._loop.call_later(_PAUSE_S, self._listen)
            return
        if len(self._handshakes) >= _HANDSHAKES:
            self._refused["RESOURCE_EXHAUSTED"] += 1
            accepted.close()
            return
        accepted.setblocking(False)
        self._unheard.add(accepted)
        task = self._loop.create_task(self._shake_hands(accepted))
        self._handshakes.add(task)
        task.add_done_callback(self._handshakes.discard)

    async def _shake_hands(self, accepted: socket.socket) -> None:
        self._unheard.discard(accepted)
        try:
            await self._loop.connect_accepted_socket(
                lambda: Connection(self._handler),
                accepted,
                ssl=self._context(),
                ssl_handshake_timeout=HANDSHAKE_S,
            )
        except (OSError, TimeoutError) as error:
            self._refused["UNAUTHENTICATED"] += 1
            log.debug("no TLS handshake at Raft's port", error=str(error))
