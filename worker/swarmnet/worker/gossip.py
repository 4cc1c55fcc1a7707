"""Gossip on the wire: the protocol of core/gossip with a UDP socket, a TCP port and a timer around it.

Every input ends in `_transmit`: let the protocol see the time, send all it has to say, re-arm the one timer.
What comes in is junk until the protocol has opened it: it is dropped there, and counted.
"""

from __future__ import annotations

import asyncio
import random
import secrets
import struct
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Final

import structlog

from swarmnet.core.endpoints import Endpoint
from swarmnet.core.epochs import Epochs
from swarmnet.core.errors import FailedPrecondition
from swarmnet.core.gossip import protocol
from swarmnet.core.gossip.events import EndpointsChanged, Event, MemberDown, MemberUp, SyncRequest
from swarmnet.core.gossip.members import Rumor
from swarmnet.core.gossip.timing import MAX_DATAGRAM_BYTES, MAX_SYNC_BYTES

log = structlog.get_logger()

SYNC_TIMEOUT_S: Final = 5.0
"""For a whole push/pull, connecting included: a silent or slow stranger holds a connection no longer."""
MAX_CONNECTIONS: Final = 16
MAX_CONNECTIONS_PER_HOST: Final = 4
"""So that one host cannot take all of them, nor their memory (MAX_SYNC_BYTES each)."""
GOODBYE_S: Final = 0.5
"""How long a leaving node still speaks: two rounds of gossip."""
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
        self._udp: asyncio.DatagramTransport | None = None
        self._tcp: asyncio.Server | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._syncs: set[asyncio.Task[None]] = set()
        self._connections: Counter[str] = Counter()
        self._counters: Counter[str] = Counter()

    async def start(self) -> None:
        """FailedPrecondition if the address cannot be bound."""
        loop = asyncio.get_running_loop()
        host, port = split_address(self._bind)
        try:
            self._udp, _ = await loop.create_datagram_endpoint(
                lambda: _Datagrams(self._datagram, self._count), local_addr=(host, port)
            )
            self._tcp = await asyncio.start_server(self._connection, host, port, backlog=MAX_CONNECTIONS)
        except OSError as error:
            await self.stop()
            raise FailedPrecondition(
                f"cannot listen for gossip on {self._bind}: {error.strerror or error}",
                hint="Give another address with --gossip-addr, or stop what uses this one.",
            ) from error
        self._core.start(loop.time())
        self._transmit()

    async def stop(self) -> None:
        """Fall silent without a word: to the others this is a failure, or a restart."""
        if self._timer is not None:
            self._timer.cancel()
        for sync in tuple(self._syncs):
            sync.cancel()
        await asyncio.gather(*self._syncs, return_exceptions=True)
        if self._tcp is not None:
            self._tcp.close()
        if self._udp is not None:
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

    def _count(self, what: str) -> None:
        self._counters[what] += 1

    def _transmit(self) -> None:
        if self._udp is None:
            return  # not started: it will all be said then
        self._core.tick(self._now())
        out = self._core.take()
        for datagram in out.datagrams:
            self._udp.sendto(datagram.payload, split_address(datagram.address))
        for request in out.syncs:
            sync = asyncio.create_task(self._sync(request))
            self._syncs.add(sync)
            sync.add_done_callback(self._syncs.discard)
        if self._timer is not None:
            self._timer.cancel()
        loop = asyncio.get_running_loop()
        self._timer = loop.call_at(self._core.next_deadline(), self._transmit)
        for event in dict.fromkeys(out.events):
            self._tell(event)

    def _tell(self, event: Event) -> None:
        match event:
            case EndpointsChanged(network_id):
                self._changed(network_id)
            case MemberUp(node_id):
                log.info("member up", node=node_id)
            case MemberDown(node_id, left):
                log.info("member left" if left else "member failed", node=node_id)

    def _datagram(self, payload: bytes, source: str) -> None:
        if len(payload) > MAX_DATAGRAM_BYTES:
            self._count("dropped_oversized")
            return
        self._core.receive(payload, source, self._now())
        self._transmit()

    async def _sync(self, request: SyncRequest) -> None:
        """Ask one node for a push/pull; the protocol is told how it went, whatever happens."""
        reply = None
        try:
            async with asyncio.timeout(SYNC_TIMEOUT_S):
                reply = await _exchange(request)
        except (OSError, EOFError, TimeoutError) as error:
            log.debug("gossip sync failed", address=request.address, error=str(error) or type(error).__name__)
        self._core.sync_answered(request.ticket, reply, self._now())
        self._transmit()

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer a push/pull. Whoever is not of the cluster gets nothing but a closed connection."""
        host = str((writer.get_extra_info("peername") or ("?",))[0])
        if (
            self._connections.total() >= MAX_CONNECTIONS
            or self._connections[host] >= MAX_CONNECTIONS_PER_HOST
        ):
            self._count("refused_connections")
            writer.close()
            return
        self._connections[host] += 1
        try:
            async with asyncio.timeout(SYNC_TIMEOUT_S):
                await self._answer(reader, writer)
        except (OSError, EOFError, TimeoutError):
            self._count("dropped_connections")
        finally:
            self._connections[host] -= 1
            if not self._connections[host]:
                del self._connections[host]
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = await _read(reader)
        reply = self._core.receive_sync(request, self._now())
        self._transmit()
        if reply is not None:
            writer.write(_LENGTH.pack(len(reply)) + reply)
            await writer.drain()


class _Datagrams(asyncio.DatagramProtocol):
    def __init__(self, received: Callable[[bytes, str], None], count: Callable[[str], None]) -> None:
        self._received = received
        self._count = count

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self._received(data, join_address(addr[0], addr[1]))

    def error_received(self, exc: Exception) -> None:
        """Nobody listens there, or no route: the protocol finds out by the missing answer."""
        self._count("send_errors")


def split_address(address: str) -> tuple[str, int]:
    """("10.0.0.1", 7946) of 10.0.0.1:7946, ("fd00::1", 7946) of [fd00::1]:7946."""
    host, _, port = address.rpartition(":")
    return host.removeprefix("[").removesuffix("]"), int(port)


def join_address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


async def _exchange(request: SyncRequest) -> bytes:
    reader, writer = await asyncio.open_connection(*split_address(request.address))
    try:
        writer.write(_LENGTH.pack(len(request.payload)) + request.payload)
        await writer.drain()
        return await _read(reader)
    finally:
        writer.close()


async def _read(reader: asyncio.StreamReader) -> bytes:
    """One message with its length before it. EOFError for a lie about the length."""
    (length,) = _LENGTH.unpack(await reader.readexactly(_LENGTH.size))
    if length > MAX_SYNC_BYTES:
        raise EOFError("longer than any message")
    return await reader.readexactly(length)
