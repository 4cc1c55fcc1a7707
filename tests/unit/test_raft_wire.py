"""Raft's connections: who gets one, what becomes of a peer's older one, and of what is no message."""

from __future__ import annotations

import asyncio
import socket
import ssl
import struct
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING

import pytest
from tests.ports import free_port
from tests.unit.raft_cluster import CLUSTER, certificate, name_of
from tests.unit.raft_peer import Peer

from swarmnet.api.v1 import raft_pb2 as raft
from swarmnet.core.errors import FailedPrecondition
from swarmnet.manager.ca.authority import Authority
from swarmnet.manager.ca.credentials import Credentials
from swarmnet.manager.identity import CallerRole
from swarmnet.manager.peer_tls import PeerSecurity
from swarmnet.manager.raft.codec import PROBE, encode
from swarmnet.manager.raft.connection import Connection
from swarmnet.manager.raft.member import Member
from swarmnet.manager.raft.wire import Wire

if TYPE_CHECKING:
    from swarmnet.manager.raft.guard import Message

ROOT = Authority.create(CLUSTER, datetime.now(UTC))
HERE, PEER, STRANGER = name_of(1), name_of(2), name_of(3)
CERTIFICATES = {node_id: certificate(ROOT, node_id) for node_id in (HERE, PEER, STRANGER)}


def member(node_id: str, port: int = 1) -> Member:
    return Member(node_id, "192.0.2.1:2377", f"127.0.0.1:{port}")


class Heard:
    """What a wire told, as (what, node, number or address)."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.told: asyncio.Queue[tuple[object, ...]] = asyncio.Queue()

    def received(self, node_id: str, term: int, message: Message) -> None:
        self._tell("probe", node_id, message["number"])

    def paused(self) -> None:
        pass

    def connected(self, node_id: str) -> None:
        self._tell("connected", node_id)

    def disconnected(self, node_id: str, *, refused: bool) -> None:
        self._tell("disconnected", node_id, refused)

    def announced(self, member: Member) -> None:
        self._tell("announced", member.node_id, member.raft_address)

    def _tell(self, *what: object) -> None:
        self._loop.call_soon_threadsafe(self.told.put_nowait, what)

    async def next(self) -> tuple[object, ...]:
        return await asyncio.wait_for(self.told.get(), 5.0)


@asynccontextmanager
async def wire_of(node_id: str, *others: Member) -> AsyncIterator[tuple[Wire, Heard]]:
    """A wire that listens; these others are members too."""
    wire = Wire(member(node_id, free_port()), PeerSecurity(lambda: CERTIFICATES[node_id]), Counter())
    heard = Heard()
    await wire.open(wire.me.raft_address)

    async def begin() -> None:
        wire.attach(heard)
        wire.set_managers({each.node_id: each for each in (wire.me, *others)})

    await wire.thread.call(begin())
    try:
        yield wire, heard
    finally:
        await wire.close()


def probe(number: int) -> raft.RaftMessage:
    return encode({"type": PROBE, "number": number}, term=1)


async def taken_in(wire: Wire, number: int) -> Peer:
    """A connection of PEER's that was welcomed, and sent a probe."""
    peer = await Peer.connect(CERTIFICATES[PEER], wire.me)
    peer.greet(member(PEER))
    assert await peer.welcome() == raft.RaftWelcome()
    peer.send(raft.RaftBatch(messages=[probe(number)]))
    return peer


async def test_messages_arrive_in_order_and_a_break_is_told_on_both_sides() -> None:
    async with wire_of(HERE, member(PEER)) as (here, heard_here), wire_of(PEER, here.me) as (peer, heard):
        assert await heard.next() == ("connected", HERE)
        assert peer.is_connected(HERE)
        peer.thread.post(partial(peer.send, [(HERE, probe(number)) for number in range(500)]))
        assert await heard_here.next() == ("announced", PEER, peer.me.raft_address)
        assert [await heard_here.next() for _ in range(500)] == [
            ("probe", PEER, number) for number in range(500)
        ]
        await here.close()
        assert await heard.next() == ("disconnected", HERE, False)


async def test_a_newer_connection_ends_the_older_one() -> None:
    async with wire_of(HERE, member(PEER)) as (here, heard):
        older = await taken_in(here, 1)
        newer = await taken_in(here, 2)
        assert [await heard.next(), await heard.next()] == [("probe", PEER, 1), ("probe", PEER, 2)]
        assert await older.welcome() is None
        newer.send(raft.RaftBatch(messages=[probe(3)]))
        assert await heard.next() == ("probe", PEER, 3)
        newer.close()


async def test_a_manager_that_is_no_member_is_told_so() -> None:
    async with wire_of(HERE) as (here, heard):
        peer = await Peer.connect(CERTIFICATES[STRANGER], here.me)
        peer.greet(member(STRANGER))
        peer.send(raft.RaftBatch(messages=[probe(1)]))
        assert await peer.welcome() == raft.RaftWelcome(refused=True)
        assert await peer.welcome() is None
        assert heard.told.empty()
        assert here._refused == {"PERMISSION_DENIED": 1}


async def test_a_member_that_was_removed_is_told_so() -> None:
    async with wire_of(HERE, member(PEER)) as (here, heard):
        peer = await taken_in(here, 1)
        assert await heard.next() == ("probe", PEER, 1)
        here.thread.post(partial(here.set_managers, {HERE: here.me}))
        assert await peer.welcome() == raft.RaftWelcome(refused=True)
        assert await peer.welcome() is None


async def test_whoever_comes_too_early_is_told_to_come_back() -> None:
    wire = Wire(member(HERE, free_port()), PeerSecurity(lambda: CERTIFICATES[HERE]), Counter())
    await wire.open(wire.me.raft_address)
    peer = await Peer.connect(CERTIFICATES[PEER], wire.me)
    peer.greet(member(PEER))
    assert await peer.welcome() == raft.RaftWelcome(wait=True)
    assert await peer.welcome() is None
    await wire.close()


def tls12() -> ssl.SSLContext:
    context = PeerSecurity(lambda: CERTIFICATES[PEER]).client()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    return context


def without_certificate() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cadata=ROOT.root_pem.decode())
    return context


def of_another_swarm() -> Credentials:
    other = Authority.create("d" * 25, datetime.now(UTC))
    found = certificate(other, PEER)
    return Credentials(found.certificate_pem, found.key, ROOT.root_pem)


@pytest.mark.parametrize(
    ("credentials", "context"),
    [
        (certificate(ROOT, name_of(4), CallerRole.WORKER), None),
        (certificate(ROOT, name_of(5), CallerRole.CLIENT), None),
        (of_another_swarm(), None),
        (CERTIFICATES[PEER], tls12()),
        (CERTIFICATES[PEER], without_certificate()),
    ],
    ids=("worker", "client", "another swarm", "TLS 1.2", "no certificate"),
)
async def test_others_get_nothing(credentials: Credentials, context: ssl.SSLContext | None) -> None:
    async with wire_of(HERE, member(PEER)) as (here, heard):
        try:
            peer = await Peer.connect(credentials, here.me, context)
            peer.greet(member(PEER))
            assert await peer.welcome() is None
        except OSError as error:
            assert isinstance(error, (ssl.SSLError, ConnectionError))  # noqa: PT017  both ways are a refusal
        assert heard.told.empty()
        (await taken_in(here, 1)).close()


@pytest.mark.parametrize(
    "raw",
    [
        struct.pack("<I", 2**32 - 1) + b"x",
        struct.pack("<I", 3) + b"\xff\xff\xff",
        struct.pack("<I", 4) + raft.RaftBatch(messages=[raft.RaftMessage(term=9)]).SerializeToString(),
    ],
    ids=("too long", "no protobuf", "no body"),
)
async def test_what_is_no_message_ends_the_connection(raw: bytes) -> None:
    async with wire_of(HERE, member(PEER)) as (here, heard):
        peer = await taken_in(here, 1)
        assert await heard.next() == ("probe", PEER, 1)
        peer.write(raw)
        peer.send(raft.RaftBatch(messages=[probe(2)]))
        assert await peer.welcome() is None
        assert heard.told.empty()


async def test_a_joiner_is_checked_at_its_address_and_by_its_name() -> None:
    async with wire_of(HERE) as (here, _), wire_of(PEER) as (peer, _):
        await here.check(peer.me)
        for wrong in (
            member(PEER, free_port()),
            Member(STRANGER, "", peer.me.raft_address),
            Member(PEER, "", ""),
        ):
            with pytest.raises(FailedPrecondition, match="cannot reach"):
                await here.check(wrong)


async def test_a_port_in_use_is_an_error_that_names_it() -> None:
    async with wire_of(HERE) as (here, _):
        second = Wire(here.me, PeerSecurity(lambda: CERTIFICATES[HERE]), Counter())
        with pytest.raises(FailedPrecondition, match=here.me.raft_address):
            await second.open(here.me.raft_address)


async def test_a_renewed_certificate_is_used_from_the_next_connection_on() -> None:
    given = [certificate(ROOT, HERE), certificate(ROOT, HERE)]
    wire = Wire(member(HERE, free_port()), PeerSecurity(lambda: given[0]), Counter())
    await wire.open(wire.me.raft_address)
    seen = []
    for _ in range(2):
        peer = await Peer.connect(CERTIFICATES[PEER], wire.me)
        found = peer.writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        seen.append(ssl.DER_cert_to_PEM_cert(found).split())
        peer.close()
        del given[0:1]
        given = given or [CERTIFICATES[HERE]]
    assert seen[0] != seen[1]
    await wire.close()


class _Deaf:
    def opened(self, connection: Connection) -> None: ...
    def frame(self, connection: Connection, raw: bytes) -> None: ...
    def paused(self, connection: Connection) -> None: ...
    def closed(self, connection: Connection, why: str) -> None: ...


async def test_what_is_lost_is_sent_again_at_a_steady_pace() -> None:
    """Both ends; tcp_thin_linear_timeouts of the kernel's ip-sysctl.rst."""
    loop = asyncio.get_running_loop()
    accepted: asyncio.Future[socket.socket] = loop.create_future()

    class Accepted(_Deaf):
        def opened(self, connection: Connection) -> None:
            assert connection._transport is not None
            accepted.set_result(connection._transport.get_extra_info("socket"))

    server = await loop.create_server(lambda: Connection(Accepted()), "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        transport, connection = await loop.create_connection(lambda: Connection(_Deaf()), "127.0.0.1", port)
        for each in (transport.get_extra_info("socket"), await accepted):
            assert each.getsockopt(socket.IPPROTO_TCP, 16) == 1
        connection.abort("done")
