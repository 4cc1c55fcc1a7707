"""A manager's three servers on loopback with a swarm made up behind them, and certificates of all kinds."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import AbstractContextManager, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc.aio
from tests.ports import free_port

from swarmnet.api.v1 import control_pb2, dispatcher_pb2, local_pb2, local_pb2_grpc
from swarmnet.api.v1 import types_pb2 as types
from swarmnet.client.pipe import Pipe
from swarmnet.core.errors import NotFound, SwarmnetError, Unauthenticated
from swarmnet.core.limits import MAX_MESSAGE_BYTES
from swarmnet.core.secret import SecretBytes
from swarmnet.core.status import TRAILER, decode
from swarmnet.manager.admission import claimed
from swarmnet.manager.bootstrap import BootstrapService, Issuer
from swarmnet.manager.ca.authority import Authority, Subject, new_key, private_pem, signing_request
from swarmnet.manager.ca.credentials import Credentials
from swarmnet.manager.identity import Caller, CallerRole, current_caller
from swarmnet.manager.local import LocalService
from swarmnet.manager.open_streams import OpenStreams
from swarmnet.manager.pipeline import Pipelines
from swarmnet.manager.rpcs import Rpc
from swarmnet.manager.server import (
    AUTHORITY,
    BOOTSTRAP,
    CONTROL,
    DISPATCHER,
    make_bootstrap_server,
    make_nodes_server,
    make_socket_server,
)
from swarmnet.manager.store import Store

CLUSTER, MANAGER, WORKER, CLIENT = "c" * 25, "m" * 25, "w" * 25, "k" * 25
ROOT = Authority.create(CLUSTER, datetime.now(UTC))


def certificate(
    role: CallerRole,
    node_id: str,
    *,
    root: Authority = ROOT,
    cluster_id: str = CLUSTER,
    age: timedelta = timedelta(0),
) -> Credentials:
    """Issued `age` ago."""
    key = new_key()
    issued_at = datetime.now(UTC) - age
    issued = root.issue(signing_request(key), Subject(node_id, role, cluster_id), issued_at)
    return Credentials(issued, private_pem(key), root.root_pem)


AS_MANAGER = certificate(CallerRole.MANAGER, MANAGER)
AS_WORKER = certificate(CallerRole.WORKER, WORKER)
AS_CLIENT = certificate(CallerRole.CLIENT, CLIENT)


class Answers:
    """Stands for every service: tells who called, or fails as it is told."""

    def __init__(self) -> None:
        self.callers: list[Caller] = []
        self.failures: list[Exception] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.begun: list[str] = []
        """The configs asked for: answered once the gate is open."""
        self.dropped: list[str] = []
        self.request_ids: list[str] = []

    def _heard(self) -> None:
        self.callers.append(current_caller())
        if self.failures:
            raise self.failures.pop(0)

    async def GetCluster(self, request: Any, context: Any) -> control_pb2.GetClusterResponse:
        self._heard()
        return control_pb2.GetClusterResponse(leader_id=self.callers[-1].node_id)

    async def GetNetwork(self, request: control_pb2.GetRequest, context: Any) -> types.Network:
        raise NotFound(f"network {request.ref} not found", hint="Look at the list.")

    async def GetConfig(self, request: control_pb2.GetRequest, context: Any) -> types.Config:
        self._heard()
        await self._pass(request.ref)
        return types.Config(name=request.ref)

    async def UpdateConfig(
        self, request: control_pb2.UpdateConfigRequest, context: Any
    ) -> control_pb2.UpdateConfigResponse:
        self._heard()
        self.request_ids.append(request.request_id)
        await self._pass(request.ref)
        return control_pb2.UpdateConfigResponse(id=request.ref, version=len(self.begun))

    async def RemoveConfig(self, request: control_pb2.GetRequest, context: Any) -> control_pb2.RemoveResponse:
        self._heard()
        await self._pass(request.ref)
        return control_pb2.RemoveResponse(id=request.ref)

    async def _pass(self, ref: str) -> None:
        self.begun.append(ref)
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            self.dropped.append(ref)
            raise

    async def ListConfigs(self, request: Any, context: Any) -> control_pb2.ListConfigsResponse:
        return control_pb2.ListConfigsResponse(configs=[types.Config(data=bytes(MAX_MESSAGE_BYTES))])

    async def RenewCertificate(self, request: Any, context: Any) -> Any:
        raise NotImplementedError

    async def Watch(self, request: Any, context: Any) -> AsyncGenerator[control_pb2.WatchEvent, None]:
        self._heard()
        await context.send_initial_metadata(())
        yield control_pb2.WatchEvent(network=types.Network(name="first"))
        yield control_pb2.WatchEvent(network=types.Network(name="second"))

    async def Session(
        self, requests: AsyncIterator[dispatcher_pb2.WorkerMessage], context: Any
    ) -> AsyncGenerator[dispatcher_pb2.ManagerMessage, None]:
        self._heard()
        async for each in requests:
            said = each.hello.hostname
            yield dispatcher_pb2.ManagerMessage(removed=dispatcher_pb2.Removed(reason=said))


@dataclass
class MadeUpSwarm:
    """Leads unless `channel` goes to one that does."""

    answers: Answers = field(default_factory=Answers)
    leading: bool = True
    channel: grpc.aio.Channel | None = None
    refused: Counter[str] = field(default_factory=Counter)
    noted: list[tuple[str, Caller | None]] = field(default_factory=list)
    """Refusals that were raised here: the reason, and who asked."""
    pipelines: Pipelines = field(default_factory=Pipelines)
    unrecognized: SwarmnetError | None = None
    _pipe: tuple[grpc.aio.Channel, Pipe] | None = None
    unknown: set[str] = field(default_factory=set)
    """Nodes that are not of the swarm any more."""
    streams: OpenStreams = field(init=False)

    def __post_init__(self) -> None:
        self.streams = OpenStreams(self.check_known)

    def servicer(self, service: str) -> object:
        if service == BOOTSTRAP:
            store = Store()
            return BootstrapService(store, Issuer(store, list), lambda: ROOT.root_pem)
        assert service in {CONTROL, DISPATCHER, AUTHORITY}
        return self.answers

    def leads(self) -> bool:
        return self.leading

    def leader_channel(self) -> grpc.aio.Channel | None:
        return self.channel

    def leader_pipe(self) -> Pipe:
        assert self.channel is not None
        if self._pipe is None or self._pipe[0] is not self.channel or self._pipe[1].ended is not None:
            self._pipe = (self.channel, Pipe(self.channel))
        return self._pipe[1]

    def note(self, error: SwarmnetError, context: Any) -> None:
        self.noted.append((error.reason, claimed(context)))

    async def admit_leading(self, rpc: Rpc) -> None:
        if self.unrecognized is not None:
            raise self.unrecognized

    def check_known(self, caller: Caller, service: str) -> None:
        if {caller.node_id, caller.via} & self.unknown:
            raise Unauthenticated(f"{caller.node_id} is unknown to {service}")

    def serving(self, service: str) -> AbstractContextManager[None]:
        return self.streams.serving(service)


class NoDaemon:
    """Only tells who asks."""

    def info(self) -> local_pb2.LocalInfo:
        return local_pb2.LocalInfo(state=current_caller().role.value)

    async def init(self, request: local_pb2.InitRequest) -> local_pb2.InitResponse:
        raise NotImplementedError

    async def restore(self, key: SecretBytes, raw: bytes) -> local_pb2.RestoreResponse:
        raise NotImplementedError

    async def join(self, request: local_pb2.JoinRequest) -> local_pb2.JoinResponse:
        raise NotImplementedError

    async def leave(self, *, force: bool) -> None:
        raise NotImplementedError

    async def unlock(self, unlock_key: SecretBytes) -> None:
        raise NotImplementedError

    def prepare_take_over(self) -> local_pb2.PrepareTakeOverResponse:
        raise NotImplementedError

    async def take_over(self, request: local_pb2.TakeOverRequest) -> None:
        raise NotImplementedError


@dataclass(frozen=True)
class Doors:
    """Addresses to dial."""

    nodes: str
    bootstrap: str
    socket: str


@asynccontextmanager
async def open_doors(
    swarm: MadeUpSwarm, folder: Path, mine: Callable[[], Credentials] = lambda: AS_MANAGER
) -> AsyncIterator[Doors]:
    nodes, bootstrap = (f"127.0.0.1:{free_port()}" for _ in range(2))
    path = folder / "manager.sock"
    servers = [
        await make_nodes_server(
            nodes,
            CLUSTER,
            mine,
            lambda: swarm,
            refused=swarm.refused,
            pipelines=swarm.pipelines,
            note=swarm.note,
        ),
        await make_bootstrap_server(bootstrap, mine, lambda: swarm, swarm.refused, note=swarm.note),
        await make_socket_server(path, lambda: swarm, swarm.pipelines),
    ]
    local_pb2_grpc.add_LocalServicer_to_server(LocalService(NoDaemon()), servers[2])
    for server in servers:
        await server.start()
    try:
        yield Doors(nodes, bootstrap, f"unix:{path}")
    finally:
        for server in servers:
            await server.stop(None)


def said(error: grpc.aio.AioRpcError) -> SwarmnetError | None:
    """Our own error in the trailer."""
    for key, value in error.trailing_metadata() or ():
        if key == TRAILER and isinstance(value, bytes):
            return decode(value)
    return None
