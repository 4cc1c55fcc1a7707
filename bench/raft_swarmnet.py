"""Three swarmnet-managers on loopback as they are installed, and a client with an operator's certificate."""

from __future__ import annotations

import signal
from pathlib import Path

import grpc.aio
from bench.raft_load import KEYS, MEMBERS
from tests.e2e.manager_process import Manager, eventually

from swarmnet.api.v1 import ca_pb2, ca_pb2_grpc, control_pb2, control_pb2_grpc
from swarmnet.client.client import Client, Identity
from swarmnet.manager.ca.authority import new_key, private_pem, signing_request
from swarmnet.manager.ca.credentials import Credentials
from swarmnet.manager.tls import node_channel


class SwarmnetClient:
    """As programs do it: all calls over one stream."""

    def __init__(self, credentials: Credentials, address: str) -> None:
        identity = Identity(credentials.root_pem, credentials.certificate_pem, credentials.key)
        self._swarm = Client([address], identity)

    async def write(self, key: int, value: str, timeout_s: float | None = None) -> None:
        request = control_pb2.UpdateConfigRequest(ref=_name(key), labels={"value": value})
        await self._swarm.UpdateConfig(request, timeout_s)

    async def read(self, key: int) -> str:
        return (await self._swarm.GetConfig(control_pb2.GetRequest(ref=_name(key)))).labels["value"]

    async def close(self) -> None:
        await self._swarm.close()


class UnaryClient:
    """As gRPC's own stubs do it: each call by itself."""

    def __init__(self, credentials: Credentials, address: str) -> None:
        self._channel = node_channel(credentials, address)
        self._control = control_pb2_grpc.ControlStub(self._channel)

    async def write(self, key: int, value: str, timeout_s: float | None = None) -> None:
        request = control_pb2.UpdateConfigRequest(ref=_name(key), labels={"value": value})
        await self._control.UpdateConfig(request, timeout=timeout_s)

    async def read(self, key: int) -> str:
        return (await self._control.GetConfig(control_pb2.GetRequest(ref=_name(key)))).labels["value"]

    async def close(self) -> None:
        await self._channel.close()


class Swarmnet:
    name = "swarmnet"

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._managers = [Manager(folder / f"m{number}") for number in range(MEMBERS)]
        self._credentials: Credentials | None = None

    async def start(self) -> None:
        for each in self._managers:
            each.folder.mkdir(parents=True)
            await each.start()
        first, *others = self._managers
        await first.init()
        token = (await first.tokens()).manager
        for each in others:
            await each.join(token, first.bootstrap)
        self._credentials = await _issue(first)
        await eventually(self._healthy)
        async with grpc.aio.insecure_channel(first.socket) as channel:
            control = control_pb2_grpc.ControlStub(channel)
            for key in range(KEYS):
                await control.CreateConfig(
                    control_pb2.CreateConfigRequest(name=_name(key), data=b"-", labels={"value": "first"})
                )

    async def leader(self) -> int:
        """Which member; an error while none is known."""
        nodes = await self._managers[0].nodes()
        (leader,) = (view.node.address for view in nodes if view.manager_status == "Leader")
        return [each.address for each in self._managers].index(leader)

    def client(self, member: int) -> SwarmnetClient:
        return SwarmnetClient(self._issued(), self._managers[member].address)

    def unary_client(self, member: int) -> UnaryClient:
        return UnaryClient(self._issued(), self._managers[member].address)

    def _issued(self) -> Credentials:
        assert self._credentials is not None, "not started"
        return self._credentials

    async def kill(self, member: int) -> None:
        await self._managers[member].stop(signal.SIGKILL)

    async def restart(self, member: int) -> None:
        await self._managers[member].start()
        await eventually(self._healthy)

    async def stop(self) -> None:
        for each in self._managers:
            if each.process is not None:
                await each.stop(signal.SIGKILL)

    async def _healthy(self) -> bool:
        """Each answers a linearizable read, in which the leader has a connection to all."""
        for each in self._managers:
            nodes = await each.nodes()
            statuses = sorted(view.manager_status for view in nodes)
            if statuses != ["Leader", "Reachable", "Reachable"]:
                return False
        return True


def _name(key: int) -> str:
    return f"bench-{key:03}"


async def _issue(manager: Manager) -> Credentials:
    """A client's certificate, as `swarmnet swarm credentials` gets one."""
    key = new_key()
    request = ca_pb2.RenewCertificateRequest(csr_pem=signing_request(key).decode())
    async with grpc.aio.insecure_channel(manager.socket) as channel:
        answer = await ca_pb2_grpc.CertificateAuthorityStub(channel).IssueClientCertificate(request)
    return Credentials(
        answer.certificate_pem.encode(), private_pem(key), answer.root_certificate_pem.encode()
    )
