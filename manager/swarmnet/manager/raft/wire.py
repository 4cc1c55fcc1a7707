"""Messages between managers: one gRPC stream per direction and peer, over the managers' mutual TLS.

Raft wants messages in order, none twice, none from before a reconnection; losing some is fine. So a stream
that breaks takes what was queued for it along, and a peer's newer stream silences its older one.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any, Final, Protocol, TypeAlias

import grpc
import grpc.aio
import structlog

from swarmnet.api.v1 import raft_pb2 as raft
from swarmnet.api.v1 import raft_pb2_grpc
from swarmnet.core.errors import Conflict
from swarmnet.manager.raft import codec
from swarmnet.manager.raft.guard import Message
from swarmnet.manager.raft.member import Member

log = structlog.get_logger()

CONNECT_S: Final = 3.0
_RETRY_S: Final = (0.05, 1.0)
_BATCH_BYTES: Final = 2 * 1024 * 1024
"""Of one gRPC message: a message more may be added at the limit, and 4 MiB are allowed."""
_QUEUE_BYTES: Final = 256 * 1024 * 1024
"""Waiting for a peer that takes nothing; above it the stream is given up, and the peer catches up later."""

Call: TypeAlias = Any  # grpc.aio.StreamStreamCall, which is not generic at run time


class Dialer(Protocol):
    """Opens a channel to a member: mutual TLS, and the other end must prove to be that node id.

    Whoever gets the channel closes it.
    """

    def __call__(self, member: Member) -> grpc.aio.Channel: ...


class Events(Protocol):
    """What the wire tells, on the event loop."""

    def received(self, node_id: str, term: int, message: Message) -> None: ...
    def connected(self, node_id: str) -> None: ...
    def disconnected(self, node_id: str, *, refused: bool) -> None:
        """`refused`: that manager says that this one is no member."""


class Wire:
    """All streams of this manager. Event loop only."""

    def __init__(self, dial: Dialer, events: Events, own_address: Callable[[], str]) -> None:
        self._dial = dial
        self._events = events
        self._own_address = own_address
        self._links: dict[str, _Link] = {}
        self._sessions: dict[str, object] = {}

    def set_peers(self, peers: Mapping[str, Member]) -> None:
        """Keep a stream to each of these, at its address, and none to others."""
        for node_id, link in list(self._links.items()):
            if peers.get(node_id) != link.member:
                self._links.pop(node_id).close()
        for node_id, member in peers.items():
            if node_id not in self._links:
                self._links[node_id] = _Link(member, self._dial, self._events, self._own_address)

    def send(self, messages: list[tuple[str, raft.RaftMessage]]) -> None:
        """Queue messages; those for a peer without a stream are dropped."""
        for node_id, message in messages:
            if (link := self._links.get(node_id)) is not None:
                link.send(message)

    def is_connected(self, node_id: str) -> bool:
        link = self._links.get(node_id)
        return link is not None and link.connected

    async def receive(self, node_id: str, batches: AsyncIterator[raft.RaftBatch]) -> None:
        """Take in a peer's stream until it ends: a batch counts as a whole, or not at all.

        ValueError for a malformed message, even on a stream nobody listens to any more; Conflict once a newer
        stream has come.
        """
        session = self._sessions[node_id] = object()
        async for batch in batches:
            decoded = [(message.term, codec.decode(message)) for message in batch.messages]
            if self._sessions.get(node_id) is not session:
                raise Conflict(
                    f"this stream of manager {node_id} is no longer listened to",
                    hint="A newer one took its place, or this manager is stopping.",
                )
            for term, message in decoded:
                self._events.received(node_id, term, message)

    async def close(self) -> None:
        self._sessions.clear()
        links, self._links = self._links, {}
        for link in links.values():
            link.close()
        await asyncio.gather(*(link.ended() for link in links.values()))


class _Link:
    """The stream to one peer, opened again whenever it breaks."""

    def __init__(self, member: Member, dial: Dialer, events: Events, own_address: Callable[[], str]) -> None:
        self.member = member
        self.connected = False
        self._dial = dial
        self._events = events
        self._own_address = own_address
        self._queue: deque[raft.RaftMessage] = deque()
        self._queued_bytes = 0
        self._wake = asyncio.Event()
        self._call: Call | None = None
        self._refused = False
        self._told = False
        self._task = asyncio.create_task(self._run(), name=f"raft-link-{member.node_id}")

    def send(self, message: raft.RaftMessage) -> None:
        if not self.connected:
            return
        self._queue.append(message)
        self._queued_bytes += message.ByteSize()
        self._wake.set()
        if self._queued_bytes > _QUEUE_BYTES and self._call is not None:
            self._call.cancel()

    def close(self) -> None:
        self._task.cancel()
        if self.connected:
            self._down()

    async def ended(self) -> None:
        await asyncio.wait([self._task])

    async def _run(self) -> None:
        pause_s = _RETRY_S[0]
        while True:
            why = await self._stream()
            if self.connected:
                log.info("manager disconnected", node=self.member.node_id, reason=why)
                self._down()
                pause_s = _RETRY_S[0]
            else:
                self._log_failure(why)
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, _RETRY_S[1])

    def _log_failure(self, why: str) -> None:
        """Being refused is for the operator: this manager was taken out while it was away."""
        if self._refused and not self._told:
            log.warning("refused by another manager", node=self.member.node_id, reason=why)
            self._told = True
        else:
            log.debug("manager not reached", node=self.member.node_id, reason=why)

    async def _stream(self) -> str:
        """Open a stream and feed it until it breaks; says why it did."""
        channel = self._dial(self.member)
        try:
            self._call = call = raft_pb2_grpc.RaftStub(channel).Exchange()
            async with asyncio.timeout(CONNECT_S):
                await call.write(raft.RaftBatch(address=self._own_address()))
                if await call.read() is grpc.aio.EOF:
                    return self._why(await call.code(), await call.details())
            self._up()
            return await self._feed(call)
        except grpc.aio.AioRpcError as error:
            return self._why(error.code(), error.details())
        except (TimeoutError, asyncio.InvalidStateError, grpc.aio.UsageError) as error:
            return f"no answer within {CONNECT_S} s" if isinstance(error, TimeoutError) else str(error)
        finally:
            self._call = None
            await channel.close()

    async def _feed(self, call: Call) -> str:
        """Write what is queued until the peer ends the stream."""
        writer = asyncio.create_task(self._write(call))
        try:
            await call.read()
            return self._why(await call.code(), await call.details())
        finally:
            writer.cancel()
            await asyncio.wait([writer])

    def _why(self, code: grpc.StatusCode, details: str | None) -> str:
        self._refused = code is grpc.StatusCode.PERMISSION_DENIED
        return f"{code.name}: {details}"

    async def _write(self, call: Call) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._queue:
                await call.write(self._next_batch())

    def _next_batch(self) -> raft.RaftBatch:
        batch, size = raft.RaftBatch(), 0
        while self._queue and size < _BATCH_BYTES:
            message = self._queue.popleft()
            size += message.ByteSize()
            batch.messages.append(message)
        self._queued_bytes -= size
        return batch

    def _up(self) -> None:
        self.connected = True
        self._refused = self._told = False
        log.info("manager connected", node=self.member.node_id, address=self.member.address)
        self._events.connected(self.member.node_id)

    def _down(self) -> None:
        self.connected = False
        self._queue.clear()
        self._queued_bytes = 0
        self._events.disconnected(self.member.node_id, refused=self._refused)
