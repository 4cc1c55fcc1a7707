"""A worker whose node changes its role: what it hands to its host's manager daemon, and takes from it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc.aio
import pytest
from tests.unit.stand_in_manager import CLUSTER, WORKER, StandIn, Stream, assignment, running
from tests.unit.test_worker_local import Host, info, refused

from swarmnet.api.v1 import dispatcher_pb2 as dispatcher
from swarmnet.api.v1 import local_pb2, local_pb2_grpc
from swarmnet.api.v1 import types_pb2 as types
from swarmnet.core.errors import FailedPrecondition, InvalidArgument, PermissionDenied
from swarmnet.manager.ca.credentials import Credentials
from swarmnet.manager.identity import CallerRole
from swarmnet.manager.promotion import Offer
from swarmnet.worker import promotion as promotion_module


class ManagerDaemon(local_pb2_grpc.LocalServicer):
    """On the worker's host: it offers a key, and keeps what identity it is given."""

    def __init__(self) -> None:
        self.state = "inactive"
        self.offer = Offer()
        self.prepared = asyncio.Event()
        self.taken: asyncio.Queue[Credentials] = asyncio.Queue()
        self.managers: list[str] = []

    async def GetInfo(self, request: Any, context: Any) -> local_pb2.LocalInfo:
        return local_pb2.LocalInfo(state=self.state)

    async def PrepareTakeOver(self, request: Any, context: Any) -> local_pb2.PrepareTakeOverResponse:
        self.prepared.set()
        return local_pb2.PrepareTakeOverResponse(
            csr_pem=self.offer.csr_pem, bootstrap_address="192.0.2.1:2378"
        )

    async def TakeOver(self, request: local_pb2.TakeOverRequest, context: Any) -> local_pb2.TakeOverResponse:
        self.managers = list(request.manager_addresses)
        self.taken.put_nowait(self.offer.accepted(request))
        self.state = "pending"
        return local_pb2.TakeOverResponse()

    async def Init(self, request: Any, context: Any) -> Any:
        raise NotImplementedError

    async def Join(self, request: Any, context: Any) -> Any:
        raise NotImplementedError

    async def Leave(self, request: Any, context: Any) -> Any:
        raise NotImplementedError

    async def Restore(self, request: Any, context: Any) -> Any:
        raise NotImplementedError

    async def Unlock(self, request: Any, context: Any) -> Any:
        raise NotImplementedError

    async def Attach(self, request: Any, context: Any) -> Any:
        raise NotImplementedError

    @asynccontextmanager
    async def up(self, socket: Path) -> AsyncIterator[None]:
        server = grpc.aio.server()
        local_pb2_grpc.add_LocalServicer_to_server(self, server)
        server.add_insecure_port(f"unix:{socket}")
        await server.start()
        try:
            yield
        finally:
            await server.stop(grace=0)  # which takes the socket away


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(promotion_module, "_RETRY_S", 0.01)
    monkeypatch.setattr(promotion_module, "LOOK_S", 0.01)


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


@pytest.fixture
async def manager() -> AsyncIterator[StandIn]:
    manager = StandIn()
    async with running(manager):
        yield manager


async def joined(stub: local_pb2_grpc.LocalAsyncStub, manager: StandIn) -> Stream:
    """The session of a worker that has just joined."""
    request = local_pb2.JoinRequest(token=manager.token.text(), addresses=[manager.bootstrap])
    call = asyncio.ensure_future(stub.Join(request))
    stream = await manager.stream()
    stream.assign(assignment(manager))
    await call
    return stream


async def next_capabilities(stream: Stream) -> types.NodeCapabilities:
    async with asyncio.timeout(10):
        while True:
            message = await stream.said.get()
            assert message is not None
            if message.HasField("hello"):
                return message.hello.capabilities
            if message.HasField("capabilities"):
                return message.capabilities


async def test_it_tells_whether_a_manager_daemon_could_take_over_and_when_that_changes(
    host: Host, manager: StandIn
) -> None:
    daemon = ManagerDaemon()
    async with host.up() as stub:
        stream = await joined(stub, manager)
        said = await next_capabilities(stream)
        assert (said.manager, said.manager_reason) == (False, "no swarmnet-manager runs on its host")
        async with daemon.up(host.config.manager_socket):
            said = await next_capabilities(stream)
            assert (said.manager, said.manager_reason) == (True, "")
            daemon.state = "active"
            said = await next_capabilities(stream)
            assert said.manager_reason == "the swarmnet-manager on its host is active in a swarm"
        said = await next_capabilities(stream)
        assert said.manager_reason == "no swarmnet-manager runs on its host"
        host.config.manager_socket.touch()
        said = await next_capabilities(stream)
        assert said.manager_reason == "the swarmnet-manager on its host does not answer"


async def test_its_identity_goes_to_the_manager_daemon_when_the_managers_say_so(
    host: Host, manager: StandIn
) -> None:
    daemon = ManagerDaemon()
    async with host.up() as stub, daemon.up(host.config.manager_socket):
        stream = await joined(stub, manager)
        stream.assign(assignment(manager, become_manager=True))
        async with asyncio.timeout(10):
            given = await daemon.taken.get()
        assert (given.subject.node_id, given.subject.role) == (WORKER, CallerRole.MANAGER)
        assert given.root_pem == manager.root.root_pem
        assert daemon.managers == [manager.address]
        (request,) = manager.renewals
        assert (request.role, request.bootstrap_address) == (types.ROLE_MANAGER, "192.0.2.1:2378")
        assert (await info(stub)).state == "active"  # until the managers say that it is none any more

        promoted = dispatcher.Removed(reason="this node is a manager now", promoted=True)
        stream.answers.put_nowait(dispatcher.ManagerMessage(removed=promoted))
        async with asyncio.timeout(10):
            while (said := await info(stub)).state != "inactive":  # noqa: ASYNC110 - seen from outside
                await asyncio.sleep(0.01)
        assert (said.error, said.node_id) == ("", "")
        assert host.kernel.calls[-2:] == ["remove_all", "close"]
        assert host.kernel.kept_ledger  # once demoted, it has the same id, and so the same keys
    async with host.up() as stub:
        assert (await info(stub)).state == "inactive"


async def test_it_tries_again_until_the_managers_give_the_certificate(host: Host, manager: StandIn) -> None:
    daemon = ManagerDaemon()
    manager.renewal_error = PermissionDenied("node is not to be a manager")
    async with host.up() as stub, daemon.up(host.config.manager_socket):
        stream = await joined(stub, manager)
        stream.assign(assignment(manager, become_manager=True))
        async with asyncio.timeout(10):
            for _ in range(3):
                await manager.renewed.acquire()
        assert (await info(stub)).error == "node is not to be a manager"
        manager.renewal_error = None
        async with asyncio.timeout(10):
            await daemon.taken.get()


async def test_a_wish_that_was_taken_back_is_not_carried_out(host: Host, manager: StandIn) -> None:
    daemon = ManagerDaemon()
    manager.renewal_error = PermissionDenied("node is not to be a manager")
    async with host.up() as stub, daemon.up(host.config.manager_socket):
        stream = await joined(stub, manager)
        stream.assign(assignment(manager, become_manager=True))
        async with asyncio.timeout(10):
            await daemon.prepared.wait()
        stream.assign(assignment(manager))
        daemon.state = "active"  # which it tells: by then it has seen the assignment too
        while (await next_capabilities(stream)).manager:
            pass
        manager.renewal_error = None
        daemon.state = "inactive"
        assert (await next_capabilities(stream)).manager
        daemon.state = "active"  # seen at the next look, which comes after whatever the last one led to
        assert not (await next_capabilities(stream)).manager
        assert daemon.taken.empty()


async def test_it_takes_over_from_a_demoted_manager_also_after_a_restart(
    host: Host, manager: StandIn
) -> None:
    async with host.up() as stub:
        offered = await stub.PrepareTakeOver(local_pb2.PrepareTakeOverRequest())
        await stub.TakeOver(taking(manager, offered.csr_pem))
        stream = await manager.stream()
        stream.assign(assignment(manager))
        await stream.next("hello")
        said = await info(stub)
        assert (said.node_id, said.cluster_id) == (WORKER, CLUSTER)
        async with refused(FailedPrecondition, IN_A_SWARM):
            await stub.PrepareTakeOver(local_pb2.PrepareTakeOverRequest())
        async with refused(FailedPrecondition, IN_A_SWARM):
            await stub.TakeOver(taking(manager, offered.csr_pem))
    async with host.up() as stub:
        await (await manager.stream()).next("hello")
        assert (await info(stub)).node_id == WORKER


IN_A_SWARM = (
    "This node is already part of a swarm. Use `swarmnet swarm leave` to leave this swarm "
    "and join another one."
)


def taking(manager: StandIn, csr_pem: str, role: CallerRole = CallerRole.WORKER) -> local_pb2.TakeOverRequest:
    return local_pb2.TakeOverRequest(
        certificate_pem=manager.certified(csr_pem, role),
        root_certificate_pem=manager.root.root_pem.decode(),
        manager_addresses=[manager.address],
    )


async def test_it_takes_over_only_what_fits(host: Host, manager: StandIn) -> None:
    mismatch = "the certificate is not a worker's for the key that was offered"
    async with host.up() as stub:
        async with refused(FailedPrecondition, "no key was offered"):
            await stub.TakeOver(taking(manager, Offer().csr_pem))
        offered = await stub.PrepareTakeOver(local_pb2.PrepareTakeOverRequest())
        stranger = taking(manager, offered.csr_pem)
        stranger.root_certificate_pem = StandIn().root.root_pem.decode()
        for bad in (
            taking(manager, Offer().csr_pem),
            taking(manager, offered.csr_pem, CallerRole.MANAGER),
            stranger,
            local_pb2.TakeOverRequest(certificate_pem="junk", root_certificate_pem="junk"),
        ):
            async with refused(InvalidArgument, mismatch):
                await stub.TakeOver(bad)
        assert (await info(stub)).state == "inactive"
    assert not list(host.config.state_dir.rglob("node.pem"))
