"""Messages between managers: one TLS connection per direction and peer, at a port of its own.

Raft wants messages in order, none twice, none from before a reconnection; losing some is fine. So a
connection that breaks takes what was queued for it along, and a peer's newer connection ends its older one.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Final, Protocol

import structlog
from google.protobuf.message import DecodeError

from swarmnet.api.v1 import raft_pb2 as raft
from swarmnet.core.errors import FailedPrecondition
from swarmnet.manager.raft import codec
from swarmnet.manager.raft.connection import Connection
from swarmnet.manager.raft.guard import Message
from swarmnet.manager.raft.link import CONNECT_S, Link, batches, unreachable
from swarmnet.manager.raft.listener import Listener
from swarmnet.manager.raft.member import Member, member_of
from swarmnet.manager.raft.thread import RaftThread

log = structlog.get_logger()

_STRANGERS: Final = 64
"""Connections that have not said yet which member they are; more are closed."""


class Security(Protocol):
    """Mutual TLS among the managers of one swarm."""

    def client(self) -> ssl.SSLContext:
        """For one connection, which must check that the other end is the manager it names."""

    def server(self) -> ssl.SSLContext: ...
    def manager_of(self, certificate: bytes) -> str | None:
        """The node id of a certificate (DER) that TLS has checked, if it is a manager's of this swarm."""


class Events(Protocol):
    """What the wire tells, on its thread."""

    def received(self, node_id: str, term: int, message: Message) -> None: ...
    def paused(self) -> None:
        """What came in at once was all told: it is time to act on it."""

    def connected(self, node_id: str) -> None: ...
    def disconnected(self, node_id: str, *, refused: bool) -> None:
        """`refused`: that manager says that this one is no member."""

    def announced(self, member: Member) -> None:
        """A member says where it is now."""


class Wire:
    """All connections of this manager's Raft. All but `open`, `close` and `check` is for its thread."""

    def __init__(self, me: Member, security: Security, refused: Counter[str]) -> None:
        self.thread = RaftThread()
        self.me = me
        self._security = security
        self._refused = refused
        self._events: Events | None = None
        self._listener: Listener | None = None
        self._open: set[Connection] = set()
        self._all_closed = asyncio.Event()
        self._all_closed.set()
        self._strangers: set[Connection] = set()
        self._managers: Mapping[str, Member] = {}
        self._sessions: dict[str, Connection] = {}
        self._links: dict[str, Link] = {}

    # On the event loop

    async def open(self, address: str) -> None:
        """Listen at host:port. Whoever connects is told to come back until there are `events`."""
        self.thread.start()
        try:
            await self.thread.call(self._listen(address))
        except OSError as error:
            await self.thread.stop()
            raise FailedPrecondition(
                f"cannot listen at {address}: {error.strerror}",
                hint="Another process may use it, or it is not an address of this host.",
            ) from error

    async def check(self, member: Member) -> None:
        """FailedPrecondition unless that manager answers at its address."""
        await self.thread.call(self._connect_once(member))

    async def close(self) -> None:
        if self.thread.running:
            await self.thread.call(self._close())
            await self.thread.stop()

    # On the thread

    def attach(self, events: Events) -> None:
        self._events = events

    def set_managers(self, managers: Mapping[str, Member]) -> None:
        """Speak with these, members and acquaintances, and with nobody else."""
        self._managers = managers
        peers = {node_id: each for node_id, each in managers.items() if node_id != self.me.node_id}
        for node_id, link in list(self._links.items()):
            if peers.get(node_id) != link.member:
                self._links.pop(node_id).close()
        for node_id, member in peers.items():
            if node_id not in self._links:
                assert self._events is not None
                self._links[node_id] = Link(member, self.me, self._security.client, self._events)
        for node_id, session in list(self._sessions.items()):
            if node_id not in managers:
                self._dismiss(session, node_id)

    def send(self, messages: Iterable[tuple[str, raft.RaftMessage]]) -> None:
        """Messages for a peer without a connection are dropped."""
        for_each: dict[str, list[raft.RaftMessage]] = {}
        for node_id, message in messages:
            for_each.setdefault(node_id, []).append(message)
        encoded: list[bytes] = []
        encoded_for: list[raft.RaftMessage] | None = None
        for node_id, mine in for_each.items():
            if (link := self._links.get(node_id)) is None or not link.connected:
                continue
            if mine != encoded_for:
                encoded, encoded_for = list(batches(mine)), mine
            link.send(encoded)

    def is_connected(self, node_id: str) -> bool:
        """From any thread."""
        link = self._links.get(node_id)
        return link is not None and link.connected

    async def _listen(self, address: str) -> None:
        self._listener = Listener(address, self, self._security.server, self._refused)

    async def _connect_once(self, member: Member) -> None:
        try:
            await Link.reach(member, self._security.client())
        except (OSError, TimeoutError) as error:
            raise unreachable(
                member.raft_address, str(error) or f"no answer within {CONNECT_S:g} s"
            ) from error

    async def _close(self) -> None:
        if self._listener is not None:
            await self._listener.close()
        links, self._links = self._links, {}
        for link in links.values():
            link.close()
        for connection in self._open:
            connection.abort("this manager is stopping")
        await asyncio.gather(*(link.ended() for link in links.values()))
        await self._all_closed.wait()

    # Incoming connections (connection.Handler)

    def opened(self, connection: Connection) -> None:
        self._open.add(connection)
        self._all_closed.clear()
        node_id = self._security.manager_of(connection.peer_certificate)
        if node_id is None:
            self._refuse(connection, "PERMISSION_DENIED", "not a manager of this swarm")
        elif len(self._strangers) >= _STRANGERS:
            self._refuse(connection, "RESOURCE_EXHAUSTED", "too many connections at once")
        else:
            connection.peer_id = node_id
            self._strangers.add(connection)

    def frame(self, connection: Connection, raw: bytes) -> None:
        node_id = connection.peer_id
        try:
            if connection in self._strangers:
                self._strangers.discard(connection)
                self._greet(connection, node_id, raft.RaftHello.FromString(raw))
            else:
                self._take(connection, node_id, raft.RaftBatch.FromString(raw))
        except (DecodeError, ValueError) as error:
            self._refused["INVALID_ARGUMENT"] += 1
            log.warning("a manager sent a malformed message", node=node_id, error=str(error))
            raise ValueError(f"malformed: {error}") from error

    def paused(self, connection: Connection) -> None:
        if self._events is not None:
            self._events.paused()

    def closed(self, connection: Connection, why: str) -> None:
        self._open.discard(connection)
        if not self._open:
            self._all_closed.set()
        self._strangers.discard(connection)
        for node_id, session in list(self._sessions.items()):
            if session is connection:
                del self._sessions[node_id]

    def _greet(self, connection: Connection, node_id: str, hello: raft.RaftHello) -> None:
        if self._events is None:
            connection.write(raft.RaftWelcome(wait=True))
            connection.end("this manager is not part of a swarm yet")
            return
        if node_id not in self._managers:
            self._dismiss(connection, node_id)
            return
        if (older := self._sessions.pop(node_id, None)) is not None:
            older.abort("a newer connection took its place")
        self._sessions[node_id] = connection
        connection.write(raft.RaftWelcome())
        if (link := self._links.get(node_id)) is not None:
            link.hurry()
        member = member_of(hello.member)
        if member.node_id == node_id and member != self._managers[node_id]:
            self._events.announced(member)

    def _take(self, connection: Connection, node_id: str, batch: raft.RaftBatch) -> None:
        """A batch counts as a whole, or not at all; only the newest connection is listened to."""
        decoded = [(message.term, codec.decode(message)) for message in batch.messages]
        if self._sessions.get(node_id) is not connection or self._events is None:
            return
        for term, message in decoded:
            self._events.received(node_id, term, message)

    def _dismiss(self, connection: Connection, node_id: str) -> None:
        self._refused["PERMISSION_DENIED"] += 1
        self._sessions.pop(node_id, None)
        connection.write(raft.RaftWelcome(refused=True))
        connection.end(f"manager {node_id} is not a member of this swarm")

    def _refuse(self, connection: Connection, reason: str, why: str) -> None:
        self._refused[reason] += 1
        connection.abort(why)
