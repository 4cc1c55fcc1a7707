"""Gossip on the wire: the protocol of core/gossip with a UDP socket, a TCP port and a timer around it.

Every input ends in `_transmit`: let the protocol see the time, send all it has to say, re-arm the one timer.
What comes in is junk until the protocol has opened it: it is dropped there, and counted.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import secrets
import struct
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, Final

import structlog

from swarmnet.core.endpoints import Endpoint
from swarmnet.core.epochs import Epochs
from swarmnet.core.errors import FailedPrecondition
from swarmnet.core.gossip import protocol
from swarmnet.core.gossip.events import (
    EndpointsChanged,
    Event,
    MemberChanged,
    MemberDown,
    MemberUp,
    SyncRequest,
)
from swarmnet.core.gossip.limits import (
    MAX_CONNECTIONS,
    MAX_CONNECTIONS_PER_HOST,
    MAX_SYNC_BYTES,
    SYNC_TIMEOUT_S,
)
from swarmnet.core.gossip.members import Rumor
from swarmnet.core.gossip.seal import CHALLENGE_BYTES
from swarmnet.worker.datagrams import DatagramSocket, split_address

log = structlog.get_logger()

GOODBYE_S: Final = 0.5
"""How long a leaving node still speaks: its goodbye and two repeats."""
_LENGTH: Final = struct.Struct("!I")


class Gossip:
    """One worker's gossip. `bind` and `advertise` are IP:port; `changed(network_id)` is called on the loop
    whenever that network's endpoints of other nodes have changed."""

    def __init__(self, node_id: str, bind: str, advertise: str, changed: Callable[[str], None]) -> None:
        self._bind = bind
        self._changed = changed
        self._core = protocol.Gossip(
            node_id,
            advertise,
            boot=secrets.randbits(32),
            started_ms=int(time.time() * 1000),
            randomness=random.Random(),  # noqa: S311 - it chooses whom to talk to
        )
        self._udp: DatagramSocket | None = None
        self._tcp: asyncio.Server | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._syncs: set[asyncio.Task[None]] = set()
        self._answers: set[asyncio.Task[Any]] = set()
        self._connections: Counter[str] = Counter()
        self._counters: Counter[str] = Counter()

    async def start(self) -> None:
        """FailedPrecondition if the address cannot be bound."""
        loop = asyncio.get_running_loop()
        host, port = split_address(self._bind)
        try:
            self._udp = DatagramSocket(host, port, self._counters)
            self._tcp = await asyncio.start_server(self._connection, host, port, backlog=MAX_CONNECTIONS)
        except OSError as error:
            await self.stop()
            raise FailedPrecondition(
                f"cannot listen for gossip on {self._bind}: {error.strerror or error}",
                hint="Give another address with --gossip-addr, or stop what uses this one.",
            ) from error
        loop.add_reader(self._udp, self._readable)
        self._core.start(loop.time())
        self._transmit()

    async def stop(self) -> None:
        """Fall silent without a word: to the others this is a failure, or a restart."""
        if self._timer is not None:
            self._timer.cancel()
        if self._tcp is not None:
            self._tcp.close()
        under_way = [*self._syncs, *self._answers]
        for task in under_way:
            task.cancel()
        await asyncio.gather(*under_way, return_exceptions=True)
        if self._udp is not None:
            asyncio.get_running_loop().remove_reader(self._udp)
            self._udp.close()
        self._udp = self._tcp = self._timer = None

    async def leave(self) -> None:
        """Say goodbye, then stop."""
        self._core.leave(self._now())
        self._transmit()
        await asyncio.sleep(GOODBYE_S)
        await self.stop()

    # -- what the agent says -------------------------------------------------------------------------------

    def set_epochs(self, epochs: Epochs) -> None:
        """The keys of "gossip" or of a network, whole."""
        self._core.set_epochs(epochs)
        self._transmit()

    def forget(self, scope: str) -> None:
        self._core.forget(scope)

    def set_endpoint_key(self, public_key: bytes) -> None:
        self._core.set_endpoint_key(public_key)

    def join(self, seeds: Sequence[tuple[str, str]]) -> None:
        """(node id, IP:port) of workers that may be there; they are tried until they are."""
        self._core.join(seeds)
        self._transmit()

    def set_peers(self, network_id: str, node_ids: frozenset[str]) -> None:
        """The nodes on a network, by the managers' word: only they are told of its endpoints."""
        self._core.set_peers(network_id, node_ids)
        self._transmit()

    def publish(self, network_id: str, endpoints: Sequence[tuple[Endpoint, bytes]]) -> None:
        """This node's own endpoints and their signatures, whole; also joins that network's table."""
        self._core.publish(network_id, endpoints, self._now())
        self._transmit()

    def leave_network(self, network_id: str) -> None:
        """Withdraw this node's endpoints, drop the table. Call `forget` after it: without keys it is mute."""
        self._core.leave_network(network_id, self._now())
        self._transmit()

    # -- what the agent asks -------------------------------------------------------------------------------

    def endpoints(self, network_id: str) -> tuple[Endpoint, ...]:
        """Other nodes' endpoints, verified."""
        return self._core.endpoints(network_id)

    def members(self) -> tuple[Rumor, ...]:
        """This node first."""
        return self._core.members()

    def counters(self) -> dict[str, int]:
        return self._core.counters() | dict(self._counters)

    def installed(self, scope: str) -> tuple[tuple[int, ...], int]:
        """(epochs accepted, epoch used to send or 0)."""
        return self._core.installed(scope)

    # -- the wire ------------------------------------------------------------------------------------------

    def _now(self) -> float:
        return asyncio.get_running_loop().time()

    def _transmit(self) -> None:
        if self._udp is None:
            return  # not started: it will all be said then
        self._core.tick(self._now())
        out = self._core.take()
        for most_bytes in self._udp.send(out.datagrams):
            self._core.limit_datagrams(most_bytes)
        for request in out.syncs:
            sync = asyncio.create_task(self._sync(request))
            self._syncs.add(sync)
            sync.add_done_callback(self._syncs.discard)
        self._arm(self._core.next_deadline())
        for event in dict.fromkeys(out.events):
            self._tell(event)

    def _arm(self, deadline: float) -> None:
        """The one timer; mostly it is right already."""
        if self._timer is not None:
            if self._timer.when() == deadline:
                return
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_at(deadline, self._due)

    def _due(self) -> None:
        self._timer = None
        self._transmit()

    def _tell(self, event: Event) -> None:
        match event:
            case EndpointsChanged(network_id):
                self._changed(network_id)
            case MemberUp(node_id):
                log.info("member up", node=node_id)
            case MemberChanged(node_id):
                log.info("member changed", node=node_id)
            case MemberDown(node_id, left):
                log.info("member left" if left else "member failed", node=node_id)

    def _readable(self) -> None:
        """Some of what has come, then what follows from all of it: the socket stays readable for the rest."""
        if self._udp is None:
            return
        now = self._now()
        for payload in self._udp.receive():
            self._core.receive(payload, now)
        self._transmit()

    async def _sync(self, request: SyncRequest) -> None:
        """Ask one node by TCP; the protocol is told how it went, whatever happens."""
        reply = None
        try:
            async with asyncio.timeout(SYNC_TIMEOUT_S):
                reply = await self._exchange(request)
        except (OSError, EOFError, TimeoutError) as error:
            log.debug("gossip sync failed", address=request.address, error=str(error) or type(error).__name__)
        self._core.sync_answered(request.ticket, reply, self._now())
        self._transmit()

    async def _exchange(self, request: SyncRequest) -> bytes | None:
        reader, writer = await asyncio.open_connection(*split_address(request.address))
        try:
            challenge = await reader.readexactly(CHALLENGE_BYTES)
            if (payload := self._core.sync_begun(request.ticket, challenge)) is None:
                return None
            writer.write(_LENGTH.pack(len(payload)) + payload)
            await writer.drain()
            return await _read(reader)
        finally:
            await _close(writer)

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer a push/pull. Whoever is not of the cluster gets nothing but a closed connection."""
        host = str((writer.get_extra_info("peername") or ("?",))[0])
        if (
            self._connections.total() >= MAX_CONNECTIONS
            or self._connections[host] >= MAX_CONNECTIONS_PER_HOST
        ):
            self._counters["refused_connections"] += 1
            writer.close()
            return
        self._connections[host] += 1
        task = asyncio.current_task()
        assert task is not None
        self._answers.add(task)
        try:
            async with asyncio.timeout(SYNC_TIMEOUT_S):
                await self._answer(reader, writer)
        except (OSError, EOFError, TimeoutError):
            self._counters["dropped_connections"] += 1
        except asyncio.CancelledError:
            pass  # by `stop`; asyncio's streams take it for a fault of this function
        finally:
            self._answers.discard(task)
            self._connections[host] -= 1
            if not self._connections[host]:
                del self._connections[host]
            await _close(writer)

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        challenge = secrets.token_bytes(CHALLENGE_BYTES)
        writer.write(challenge)
        request = await _read(reader)
        reply = self._core.receive_sync(request, challenge, self._now())
        self._transmit()
        if reply is not None:
            writer.write(_LENGTH.pack(len(reply)) + reply)
            await writer.drain()


async def _close(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()


async def _read(reader: asyncio.StreamReader) -> bytes:
    """One message with its length before it. EOFError for a lie about the length."""
    (length,) = _LENGTH.unpack(await reader.readexactly(_LENGTH.size))
    if length > MAX_SYNC_BYTES:
        raise EOFError("longer than any message")
    return await reader.readexactly(length)
