"""swarmnet-manager as a real process on loopback."""

from __future__ import annotations

import asyncio
import signal
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import grpc.aio
from tests.ports import free_port

from swarmnet.api.v1 import ca_pb2, ca_pb2_grpc, control_pb2, control_pb2_grpc, local_pb2, local_pb2_grpc
from swarmnet.client.client import Identity
from swarmnet.core.errors import SwarmnetError
from swarmnet.core.status import TRAILER, decode
from swarmnet.manager.ca.authority import new_key, private_pem, signing_request

T = TypeVar("T")


@dataclass
class Manager:
    """`start` waits until it answers; the ports stay the same over restarts."""

    folder: Path
    port: int = field(default_factory=free_port)
    bootstrap_port: int = field(default_factory=free_port)
    raft_port: int = field(default_factory=free_port)
    process: asyncio.subprocess.Process | None = None

    @property
    def socket(self) -> str:
        return f"unix:{self.folder}/run/manager.sock"

    @property
    def bootstrap(self) -> str:
        return f"127.0.0.1:{self.bootstrap_port}"

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def arguments(self) -> list[str]:
        return [
            f"--state-dir={self.folder}/state",
            f"--run-dir={self.folder}/run",
            f"--listen-addr={self.address}",
            f"--bootstrap-addr={self.bootstrap}",
            f"--raft-addr=127.0.0.1:{self.raft_port}",
            "--advertise-addr=127.0.0.1",
            "--metrics-addr=",
            "--log-level=info",
        ]

    async def start(self) -> None:
        with (self.folder / "log").open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "swarmnet.manager.main", *self.arguments(), stderr=log
            )
        await eventually(self.info)

    async def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Its exit status."""
        assert self.process is not None
        if self.process.returncode is None:
            self.process.send_signal(number)
        return await self.process.wait()

    async def info(self) -> local_pb2.LocalInfo:
        async with grpc.aio.insecure_channel(self.socket) as channel:
            return await local_pb2_grpc.LocalStub(channel).GetInfo(local_pb2.GetInfoRequest(), timeout=1)

    async def init(self) -> local_pb2.InitResponse:
        async with grpc.aio.insecure_channel(self.socket) as channel:
            stub = local_pb2_grpc.LocalStub(channel)
            return await answered(stub.Init(local_pb2.InitRequest(), timeout=10))

    async def join(self, token: str, *addresses: str) -> local_pb2.JoinResponse:
        request = local_pb2.JoinRequest(token=token, addresses=addresses)
        async with grpc.aio.insecure_channel(self.socket) as channel:
            return await answered(local_pb2_grpc.LocalStub(channel).Join(request, timeout=20))

    async def leave(self, *, force: bool = False) -> None:
        async with grpc.aio.insecure_channel(self.socket) as channel:
            stub = local_pb2_grpc.LocalStub(channel)
            await answered(stub.Leave(local_pb2.LeaveRequest(force=force), timeout=20))

    async def tokens(self) -> control_pb2.GetJoinTokensResponse:
        async with grpc.aio.insecure_channel(self.socket) as channel:
            stub = control_pb2_grpc.ControlStub(channel)
            return await answered(stub.GetJoinTokens(control_pb2.GetJoinTokensRequest(), timeout=10))

    async def operator(self) -> Identity:
        """A client's certificate, as `swarmnet swarm credentials` gets one."""
        key = new_key()
        request = ca_pb2.RenewCertificateRequest(csr_pem=signing_request(key).decode())
        async with grpc.aio.insecure_channel(self.socket) as channel:
            stub = ca_pb2_grpc.CertificateAuthorityStub(channel)
            answer = await answered(stub.IssueClientCertificate(request, timeout=10))
        root, certificate = answer.root_certificate_pem.encode(), answer.certificate_pem.encode()
        return Identity(root, certificate, private_pem(key))

    async def nodes(self) -> list[control_pb2.NodeView]:
        async with grpc.aio.insecure_channel(self.socket) as channel:
            stub = control_pb2_grpc.ControlStub(channel)
            return list((await answered(stub.ListNodes(control_pb2.ListNodesRequest(), timeout=10))).nodes)

    async def remove_node(self, node_id: str) -> None:
        request = control_pb2.RemoveNodeRequest(ref=node_id, force=True)
        async with grpc.aio.insecure_channel(self.socket) as channel:
            await answered(control_pb2_grpc.ControlStub(channel).RemoveNode(request, timeout=10))

    async def create_network(self, name: str) -> str:
        """Its id."""
        request = control_pb2.CreateNetworkRequest(name=name, request_id=name)
        async with grpc.aio.insecure_channel(self.socket) as channel:
            return (
                await answered(control_pb2_grpc.ControlStub(channel).CreateNetwork(request, timeout=10))
            ).id

    async def networks(self) -> set[str]:
        async with grpc.aio.insecure_channel(self.socket) as channel:
            stub = control_pb2_grpc.ControlStub(channel)
            listed = await answered(stub.ListNetworks(control_pb2.ListRequest(), timeout=10))
        return {each.name for each in listed.networks}


@asynccontextmanager
async def managers(folder: Path, count: int) -> AsyncIterator[list[Manager]]:
    """Started and outside of any swarm; killed at the end."""
    made = [Manager(folder / f"m{number}") for number in range(1, count + 1)]
    for each in made:
        each.folder.mkdir()
    try:
        await asyncio.gather(*(each.start() for each in made))
        yield made
    finally:
        for each in made:
            if each.process is not None:
                await each.stop(signal.SIGKILL)


async def answered(call: Awaitable[T]) -> T:
    """The answer, or our own error out of the trailer."""
    try:
        return await call
    except grpc.aio.AioRpcError as error:
        for key, value in error.trailing_metadata() or ():
            if key == TRAILER and isinstance(value, bytes) and (said := decode(value)) is not None:
                raise said from None
        raise


async def eventually(ask: Callable[[], Awaitable[T]], within_s: float = 15.0, pause_s: float = 0.02) -> T:
    """What `ask` returns, once it returns something true and without an error."""
    deadline = time.monotonic() + within_s
    while True:
        try:
            if (found := await ask()) or time.monotonic() > deadline:
                assert found, f"nothing within {within_s} s"
                return found
        except (grpc.aio.AioRpcError, SwarmnetError):
            if time.monotonic() > deadline:
                raise
        await asyncio.sleep(pause_s)
