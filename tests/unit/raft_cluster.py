"""Managers' Raft over real mutual TLS on loopback, in one process: certificates, nodes that restart."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

import grpc.aio
from tests.ports import free_port

from swarmnet.api.v1 import raft_pb2, raft_pb2_grpc
from swarmnet.core.errors import NotLeader
from swarmnet.core.secret import SecretBytes
from swarmnet.manager.admission import nodes_door
from swarmnet.manager.ca.authority import Authority, Subject, new_key, private_pem, signing_request
from swarmnet.manager.ca.credentials import Credentials
from swarmnet.manager.guard import Guard
from swarmnet.manager.identity import CallerRole
from swarmnet.manager.peer_tls import PeerSecurity
from swarmnet.manager.raft.member import Joined, Member, end_of, from_proto, to_proto
from swarmnet.manager.raft.node import RaftNode, RaftService, Tuning, Wire
from swarmnet.manager.tls import SERVER_OPTIONS, node_channel, nodes_server

T = TypeVar("T")
CLUSTER = "c" * 25
KEK = SecretBytes(b"k" * 32)
DEADLINE_S = 10.0


def name_of(number: int) -> str:
    """A node id."""
    return f"m{number}".ljust(25, "0")


def certificate(root: Authority, node_id: str, role: CallerRole = CallerRole.MANAGER) -> Credentials:
    key = new_key()
    issued = root.issue(signing_request(key), Subject(node_id, role, CLUSTER), datetime.now(UTC))
    return Credentials(issued, private_pem(key), root.root_pem)


class Lines:
    """A state machine: the commands, in order, without what follows a zero byte: padding for the log.
    `poison` cannot be applied."""

    def __init__(self) -> None:
        self.lines: list[bytes] = []
        self.restored = 0

    def apply(self, index: int, command: bytes) -> object:
        if command == b"poison":
            raise ValueError("poison")
        self.lines.append(command.partition(b"\0")[0])
        return index

    def freeze(self) -> Callable[[], bytes]:
        frozen = list(self.lines)
        return lambda: b"\n".join(frozen)

    def restore(self, snapshot: bytes) -> None:
        self.lines = snapshot.split(b"\n") if snapshot else []
        self.restored += 1


@dataclass
class Manager:
    """One manager: its certificate and directory stay over `stop` and `start`."""

    node_id: str
    credentials: Credentials
    directory: Path
    port: int = field(default_factory=free_port)
    raft_port: int = field(default_factory=free_port)
    tuning: Tuning = field(default_factory=Tuning)
    machine: Lines = field(default_factory=Lines)
    service: RaftService = field(default_factory=RaftService)
    server: grpc.aio.Server | None = None
    wire: Wire | None = None
    running: RaftNode | None = None
    refused: Counter[str] = field(default_factory=Counter)
    told: Callable[[bool], None] = field(default=lambda _leads: None)

    @property
    def node(self) -> RaftNode:
        assert self.running is not None
        return self.running

    @property
    def member(self) -> Member:
        return Member(self.node_id, f"127.0.0.1:{self.port}", f"127.0.0.1:{self.raft_port}")

    def channel(self, member: Member) -> grpc.aio.Channel:
        return node_channel(self.credentials, member.address, member.node_id)

    async def serve(self) -> None:
        """Open the ports; Raft may come later."""
        self.server = grpc.aio.server(interceptors=[Guard(nodes_door(CLUSTER))], options=SERVER_OPTIONS)
        raft_pb2_grpc.add_RaftServicer_to_server(self.service, self.server)
        self.server.add_secure_port(self.member.address, nodes_server(lambda: self.credentials))
        await self.server.start()
        self.wire = Wire(self.member, PeerSecurity(lambda: self.credentials), self.refused)
        await self.wire.open(self.member.raft_address)

    async def start(self, *, bootstrap: bool = False, join: Joined | None = None) -> None:
        if self.server is None:
            await self.serve()
        assert self.wire is not None
        self.machine = Lines()
        self.running = await RaftNode.start(
            wire=self.wire,
            directory=self.directory,
            kek=KEK,
            machine=self.machine,
            dial=self.channel,
            found=bootstrap,
            join=join,
            on_leadership=self.told,
            servicer=self.service,
            tuning=self.tuning,
        )

    async def stop(self) -> None:
        if self.running is not None:
            await self.running.stop()
            self.running = None
        elif self.wire is not None:
            await self.wire.close()
        if self.server is not None:
            await self.server.stop(None)
            self.server = None

    async def join(self, other: Manager) -> None:
        """Become a member by asking `other`, the leader."""
        if self.server is None:
            await self.serve()
        async with self.channel(other.member) as channel:
            request = raft_pb2.RaftJoinRequest(member=to_proto([self.member])[0])
            answer = await raft_pb2_grpc.RaftStub(channel).Join(request)
        members = tuple(from_proto(answer.members).values())
        await self.start(join=Joined(members, end_of(answer.at)))


@dataclass
class Cluster:
    root: Authority
    folder: Path
    tuning: Tuning
    managers: list[Manager] = field(default_factory=list)

    def new(self) -> Manager:
        node_id = name_of(len(self.managers) + 1)
        made = Manager(node_id, certificate(self.root, node_id), self.folder / node_id, tuning=self.tuning)
        self.managers.append(made)
        return made

    def leaders(self) -> list[Manager]:
        return [each for each in self.managers if each.running is not None and each.running.is_leader]

    async def leader(self) -> Manager:
        """The one leader, once there is one."""
        await until(lambda: len(self.leaders()) == 1)
        return self.leaders()[0]

    async def put(self, command: bytes) -> object:
        """Propose, by whoever leads, or comes to lead."""

        async def propose() -> object:
            return await (await self.leader()).node.propose(command)

        return await eventually(propose, NotLeader)

    async def grow(self, size: int) -> Manager:
        """Found a cluster and let others join until it has `size` managers; returns the leader."""
        first = self.new()
        await first.start(bootstrap=True)
        leader = await self.leader()
        while len(self.managers) < size:
            await self.new().join(leader)
        await until(lambda: all(len(each.node.members) == size for each in self.managers))
        return leader


@asynccontextmanager
async def cluster(folder: Path, size: int = 0, tuning: Tuning | None = None) -> AsyncIterator[Cluster]:
    made = Cluster(Authority.create(CLUSTER, datetime.now(UTC)), folder, tuning or Tuning())
    try:
        if size:
            await made.grow(size)
        yield made
    finally:
        await asyncio.gather(*(each.stop() for each in made.managers))


async def until(condition: Callable[[], bool], deadline_s: float = DEADLINE_S) -> None:
    """Wait until it holds. TimeoutError."""

    async def check() -> None:
        if not condition():
            raise TimeoutError

    await eventually(check, TimeoutError, deadline_s)


async def eventually(
    act: Callable[[], Awaitable[T]], error: type[Exception], deadline_s: float = DEADLINE_S
) -> T:
    """What `act` returns once it no longer raises `error`. TimeoutError."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + deadline_s
    while True:
        try:
            return await act()
        except error:
            if loop.time() > deadline:
                raise
        await asyncio.sleep(0.005)
