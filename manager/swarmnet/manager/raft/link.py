"""The connection to one peer, opened again whenever it breaks."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from typing import Final, Protocol

import structlog
from google.protobuf.message import DecodeError

from swarmnet.api.v1 import raft_pb2 as raft
from swarmnet.core.errors import FailedPrecondition
from swarmnet.manager.raft.connection import Connection
from swarmnet.manager.raft.member import Member, host_and_port, message_of

log = structlog.get_logger()

CONNECT_S: Final = 3.0
_RETRY_S: Final = (0.05, 1.0)
_BATCH_BYTES: Final = 2 * 1024 * 1024
"""Of one frame: a message more may be added at the limit."""
_UNSENT_BYTES: Final = 256 * 1024 * 1024
"""For a peer that takes nothing; above it the connection is given up, and the peer catches up later."""
_NOT_BELIEVED: Final = "certificate verify failed"
"""How Python's ssl says that the other end has a certificate of a root unknown here."""


def unreachable(address: str, why: str) -> FailedPrecondition:
    """The error for a joiner that is not there: it would count in majorities and be missing in them."""
    return FailedPrecondition(
        f"the leading manager cannot reach the new one at {address}: {why}",
        hint="Give it an address that other managers reach (--advertise-addr), and open its ports.",
    )


class LinkEvents(Protocol):
    """What a link tells."""

    def connected(self, node_id: str) -> None: ...
    def disconnected(self, node_id: str, *, refused: bool) -> None: ...


class Link:
    """For messages from this manager to `member`. `connected` once that one has said welcome."""

    def __init__(
        self, member: Member, me: Member, context: Callable[[], ssl.SSLContext], events: LinkEvents
    ) -> None:
        self.member = member
        self.connected = False
        self._me = me
        self._context = context
        self._events = events
        self._connection: Connection | None = None
        self._answered: asyncio.Future[None] | None = None
        self._ended: asyncio.Future[str] | None = None
        self._refused = self._told = False
        self._seen = asyncio.Event()
        self._task = asyncio.get_running_loop().create_task(self._run(), name=f"raft-link-{member.node_id}")

    @staticmethod
    async def reach(member: Member, context: ssl.SSLContext) -> None:
        """OSError or TimeoutError unless it answers there, and is who it is."""
        connection = await _connect(member, context, _Silent())
        connection.abort("reached")

    def send(self, frames: Iterable[bytes]) -> None:
        """Messages in `batches`."""
        if not self.connected or self._connection is None:
            return
        for each in frames:
            self._connection.write_raw(each)
        if self._connection.unsent_bytes > _UNSENT_BYTES:
            self._connection.abort("it takes nothing")

    def hurry(self) -> None:
        """That manager has just connected to this one: it is there, and knows it."""
        self._seen.set()

    def close(self) -> None:
        self._task.cancel()
        if self._connection is not None:
            self._connection.abort("closed here")
        if self.connected:
            self._down()

    async def ended(self) -> None:
        await asyncio.wait([self._task])
        if self._ended is not None and self._connection is not None:
            await self._ended

    # connection.Handler

    def opened(self, connection: Connection) -> None:
        self._connection = connection
        connection.write(raft.RaftHello(member=message_of(self._me)))

    def frame(self, connection: Connection, raw: bytes) -> None:
        try:
            welcome = raft.RaftWelcome.FromString(raw)
        except DecodeError as error:
            raise ValueError("it talks nonsense") from error
        self._refused = welcome.refused
        if welcome.refused or welcome.wait:
            connection.end("it says this manager is no member" if welcome.refused else "it is not ready")
        elif self._answered is not None and not self._answered.done():
            self._answered.set_result(None)

    def paused(self, connection: Connection) -> None: ...

    def closed(self, connection: Connection, why: str) -> None:
        self._connection = None
        if self._ended is not None and not self._ended.done():
            self._ended.set_result(why)

    # Inside

    async def _run(self) -> None:
        pause_s = _RETRY_S[0]
        while True:
            why = await self._once()
            if self.connected:
                log.info("manager disconnected", node=self.member.node_id, reason=why)
                self._down()
                pause_s = _RETRY_S[0]
            else:
                self._log_failure(why)
            await self._pause(pause_s)
            pause_s = min(pause_s * 2, _RETRY_S[1])

    async def _pause(self, pause_s: float) -> None:
        self._seen.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(pause_s):
                await self._seen.wait()

    async def _once(self) -> str:
        """Connect, and wait until it breaks; says why it did."""
        loop = asyncio.get_running_loop()
        self._answered, self._ended = loop.create_future(), loop.create_future()
        self._refused = False
        try:
            connection = await _connect(self.member, self._context(), self)
        except (OSError, TimeoutError) as error:
            return str(error) or f"no answer within {CONNECT_S} s"
        await asyncio.wait(
            (self._answered, self._ended), timeout=CONNECT_S, return_when=asyncio.FIRST_COMPLETED
        )
        if self._answered.done():
            self._up()
        elif not self._ended.done():
            connection.abort(f"no answer within {CONNECT_S} s")
        return await asyncio.shield(self._ended)

    def _log_failure(self, why: str) -> None:
        """Being refused is for the operator: this manager was taken out while it was away."""
        if (self._refused or _NOT_BELIEVED in why) and not self._told:
            log.warning("refused by another manager", node=self.member.node_id, reason=why)
            self._told = True
        else:
            log.debug("manager not reached", node=self.member.node_id, reason=why)

    def _up(self) -> None:
        self.connected, self._told = True, False
        log.info("manager connected", node=self.member.node_id, address=self.member.raft_address)
        self._events.connected(self.member.node_id)

    def _down(self) -> None:
        self.connected = False
        self._events.disconnected(self.member.node_id, refused=self._refused)


class _Silent:
    """A connection that is only tried."""

    def opened(self, connection: Connection) -> None: ...
    def frame(self, connection: Connection, raw: bytes) -> None: ...
    def paused(self, connection: Connection) -> None: ...
    def closed(self, connection: Connection, why: str) -> None: ...


async def _connect(member: Member, context: ssl.SSLContext, handler: Link | _Silent) -> Connection:
    host, port = host_and_port(member.raft_address)
    async with asyncio.timeout(CONNECT_S):
        _, connection = await asyncio.get_running_loop().create_connection(
            lambda: Connection(handler), host, port, ssl=context, server_hostname=member.node_id
        )
    return connection


def batches(messages: Sequence[raft.RaftMessage]) -> Iterator[bytes]:
    """The messages, in order, in encoded RaftBatches for `Link.send`."""
    batch, size = raft.RaftBatch(), 0
    for message in messages:
        batch.messages.append(message)
        size += message.ByteSize()
        if size >= _BATCH_BYTES:
            yield batch.SerializeToString()
            batch, size = raft.RaftBatch(), 0
    if batch.messages:
        yield batch.SerializeToString()
