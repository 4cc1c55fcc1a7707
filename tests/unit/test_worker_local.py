"""The worker as its unix socket shows it: joining, leaving, restarting, and what it refuses."""

from __future__ import annotations

import asyncio
import random
import stat
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeAlias

import grpc
import grpc.aio
import pytest
from tests.unit.stand_in_manager import CLUSTER, WORKER, StandIn, assignment, running
from tests.unit.test_worker_agent import Gossip, Kernel

from swarmnet.api.v1 import control_pb2, control_pb2_grpc, local_pb2, local_pb2_grpc
from swarmnet.api.v1 import types_pb2 as types
from swarmnet.core.datapath.desired import Desired
from swarmnet.core.errors import (
    BadToken,
    FailedPrecondition,
    MalformedToken,
    NotAManager,
    NotFound,
    SwarmnetError,
    SwarmScoped,
)
from swarmnet.core.status import TRAILER, decode
from swarmnet.worker.config import Config
from swarmnet.worker.datapath.datapath import Capability
from swarmnet.worker.datapath.probes import PeerProbes
from swarmnet.worker.datapath.tunnels import NetworkTunnels
from swarmnet.worker.local import NOT_A_MANAGER, make_server
from swarmnet.worker.node import Worker


class QuietKernel(Kernel):
    def __init__(self) -> None:
        super().__init__()
        self.calls: list[str] = []
        self.worn: Callable[[], None] = lambda: None
        self.programmed: Callable[[Desired], None] = lambda _: None
        self.kept_ledger = False

    async def start(self) -> Capability:
        if "start" not in self.calls:
            self.calls.append("start")
        return Capability(esp=False, reason="no ESP in this test")

    firewall = "none"

    async def counters(self) -> dict[str, int]:
        return {}

    async def underlay_mtu(self, address: str) -> int | None:
        raise AssertionError(address)

    async def tunnels(self) -> tuple[NetworkTunnels, ...]:
        return ()

    async def probe(self, network_id: str) -> list[PeerProbes]:
        raise AssertionError(network_id)

    async def remove_all(self, *, comes_back: bool = False) -> None:
        self.calls.append("remove_all")
        self.kept_ledger = comes_back

    async def close(self) -> None:
        self.calls.append("close")


class QuietGossip(Gossip):
    def __init__(self) -> None:
        super().__init__()
        self.calls: list[str] = []

    async def start(self) -> None:
        self.calls.append("start")

    async def stop(self) -> None:
        self.calls.append("stop")

    async def leave(self) -> None:
        self.calls.append("leave")

    def counters(self) -> dict[str, int]:
        return {"received": 9, "dropped_forged": 2, "refused_connections": 1}


class Host:
    """A worker's process, which can be started again on the same directories."""

    def __init__(self, folder: Path) -> None:
        for name in ("state", "run"):
            (folder / name).mkdir()
        self.config = Config(
            state_dir=folder / "state",
            run_dir=folder / "run",
            advertise="127.0.0.1",
            data_path="127.0.0.1",
            data_path_advertise="127.0.0.1",
            data_path_udp=False,
            gossip_listen="127.0.0.1:0",
            gossip_advertise="127.0.0.1:7946",
            image_store=folder / "store",
            hostname="w1",
        )
        self.kernel, self.gossip = QuietKernel(), QuietGossip()
        self.kernels: list[QuietKernel] = []

    def make(self) -> Worker:
        return Worker(
            self.config,
            make_datapath=self._fresh_kernel,
            make_gossip=self._fresh_gossip,
            rng=random.Random(1),
        )

    def _fresh_kernel(self, *_: object) -> QuietKernel:
        self.kernel = QuietKernel()
        self.kernels.append(self.kernel)
        return self.kernel

    def _fresh_gossip(self, *_: object) -> QuietGossip:
        self.gossip = QuietGossip()
        return self.gossip

    @asynccontextmanager
    async def up(self) -> AsyncIterator[local_pb2_grpc.LocalAsyncStub]:
        worker = self.make()
        await worker.start()
        server = make_server(self.config.socket, worker)
        await server.start()
        async with grpc.aio.insecure_channel(f"unix:{self.config.socket}") as channel:
            yield local_pb2_grpc.LocalStub(channel)
        await server.stop(grace=0)
        await worker.stop()


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


@pytest.fixture
async def manager() -> AsyncIterator[StandIn]:
    manager = StandIn()
    async with running(manager):
        yield manager


async def info(stub: local_pb2_grpc.LocalAsyncStub) -> local_pb2.LocalInfo:
    return await stub.GetInfo(local_pb2.GetInfoRequest())


async def join(stub: local_pb2_grpc.LocalAsyncStub, manager: StandIn) -> local_pb2.JoinResponse:
    """Joins, and gets a first assignment."""
    request = local_pb2.JoinRequest(token=manager.token.text(), addresses=[manager.bootstrap])
    call = asyncio.ensure_future(stub.Join(request))
    (await manager.stream()).assign(assignment(manager))
    return await call


@asynccontextmanager
async def refused(kind: type[SwarmnetError], text: str) -> AsyncIterator[None]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        yield
    raw = next(value for key, value in caught.value.trailing_metadata() or () if key == TRAILER)
    assert isinstance(raw, bytes)
    error = decode(raw)
    assert (type(error), error and error.message) == (kind, text)
    assert caught.value.code().name == kind.status


async def test_a_new_worker_is_inactive_and_only_root_may_ask(host: Host) -> None:
    async with host.up() as stub:
        said = await info(stub)
        assert (said.role, said.state, said.node_id) == (types.ROLE_WORKER, "inactive", "")
        assert said.version
        assert stat.S_IMODE(host.config.socket.stat().st_mode) == 0o600


async def test_joining_makes_it_active(host: Host, manager: StandIn) -> None:
    async with host.up() as stub:
        joined = await join(stub, manager)
        assert (joined.node_id, joined.cluster_id) == (WORKER, CLUSTER)
        said = await info(stub)
        assert (said.state, said.node_id, said.manager_id) == ("active", WORKER, "manager 0")
        assert list(said.managers) == [manager.address]
        assert said.refused == {"dropped_forged": 2, "refused_connections": 1}


async def test_what_a_worker_says_of_itself(host: Host, manager: StandIn) -> None:
    async with host.up() as stub:
        request = local_pb2.JoinRequest(token=manager.token.text(), addresses=[manager.bootstrap])
        call = asyncio.ensure_future(stub.Join(request))
        stream = await manager.stream()
        hello = await stream.next("hello")
        assert (hello.hostname, hello.gossip_address) == ("w1", "127.0.0.1:7946")
        assert list(hello.capabilities.images) == ["host"]
        assert (hello.capabilities.esp, hello.capabilities.esp_reason) == (False, "no ESP in this test")
        stream.assign(assignment(manager))
        await call


async def test_a_restarted_worker_goes_on_by_itself(host: Host, manager: StandIn) -> None:
    async with host.up() as stub:
        await join(stub, manager)
    assert host.kernel.calls == ["start", "close"]
    assert "leave" not in host.gossip.calls
    async with host.up() as stub:
        stream = await manager.stream()
        assert (await info(stub)).state == "pending"
        stream.assign(assignment(manager))
        await stream.next("hello")
        await stream.next("keys")
        assert (await info(stub)).state == "active"


async def test_leaving_takes_everything_away(host: Host, manager: StandIn) -> None:
    async with host.up() as stub:
        request = local_pb2.JoinRequest(token=manager.token.text(), addresses=[manager.bootstrap])
        call = asyncio.ensure_future(stub.Join(request))
        stream = await manager.stream()
        stream.assign(assignment(manager))
        await call
        leaving = asyncio.ensure_future(stub.Leave(local_pb2.LeaveRequest()))
        await stream.ended()
        stream.close()
        await leaving
        assert (await info(stub)).state == "inactive"
        assert host.kernel.calls == ["start", "remove_all", "close"]
        assert host.gossip.calls == ["start", "leave", "stop"]
    async with host.up() as stub:
        assert (await info(stub)).state == "inactive"


async def test_a_removed_worker_forgets_everything_and_says_why(host: Host, manager: StandIn) -> None:
    async with host.up() as stub:
        request = local_pb2.JoinRequest(token=manager.token.text(), addresses=[manager.bootstrap])
        call = asyncio.ensure_future(stub.Join(request))
        stream = await manager.stream()
        stream.assign(assignment(manager))
        await call
        stream.remove("an operator removed it")
        async with asyncio.timeout(10):
            while (said := await info(stub)).state != "error":  # noqa: ASYNC110 - seen from outside
                await asyncio.sleep(0.01)
        assert said.error == "removed from the swarm: an operator removed it"
        assert host.kernel.calls == ["start", "remove_all", "close"]
        assert not host.kernel.kept_ledger
        assert not (host.config.state_dir / "certificates/node.key").exists()


async def test_leftovers_of_a_leave_that_was_cut_short_are_taken_away(host: Host) -> None:
    (host.config.state_dir / "tasks/t1").mkdir(parents=True)
    (host.config.state_dir / "leaving").touch()
    async with host.up():
        assert host.kernels[0].calls == ["start", "remove_all", "close"]
        assert list((host.config.state_dir / "tasks").iterdir()) == []
        assert not (host.config.state_dir / "leaving").exists()


async def test_a_host_of_no_swarm_is_prepared_for_one_and_left_as_it_was(host: Host) -> None:
    async with host.up():
        assert host.kernel.calls == ["start"]
    assert host.kernel.calls == ["start", "remove_all", "close"]


async def test_joining_takes_the_prepared_data_path(host: Host, manager: StandIn) -> None:
    async with host.up() as stub:
        await join(stub, manager)
        assert [kernel.calls for kernel in host.kernels] == [["start"]]


async def test_a_data_path_that_cannot_be_prepared_is_tried_again_at_the_join(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(self: QuietKernel) -> Capability:
        raise OSError(1, "Operation not permitted")

    monkeypatch.setattr(QuietKernel, "start", refuse)
    async with host.up():
        assert host.kernel.calls == ["close"]


async def test_a_second_worker_on_the_same_state_is_refused(host: Host) -> None:
    async with host.up():
        second = host.make()
        with pytest.raises(FailedPrecondition, match="another swarmnet-worker is using"):
            await second.start()


Request: TypeAlias = "Callable[[local_pb2_grpc.LocalAsyncStub, StandIn], Awaitable[object]]"


@pytest.mark.parametrize(
    ("kind", "text", "request_of"),
    [
        (
            NotAManager,
            NOT_A_MANAGER,
            lambda stub, _: stub.Init(local_pb2.InitRequest()),
        ),
        (
            MalformedToken,
            "invalid join token",
            lambda stub, m: stub.Join(local_pb2.JoinRequest(token="SWMTKN", addresses=[m.bootstrap])),
        ),
        (
            BadToken,
            "A valid join token is necessary to join this cluster",
            lambda stub, m: stub.Join(
                local_pb2.JoinRequest(token=m.made_token(b"x" * 16).text(), addresses=[m.bootstrap])
            ),
        ),
        (
            FailedPrecondition,
            "This node is not part of a swarm",
            lambda stub, _: stub.Leave(local_pb2.LeaveRequest()),
        ),
        (
            NotFound,
            "network net not found",
            lambda stub, _: stub.Attach(local_pb2.AttachRequest(network="net")),
        ),
    ],
)
async def test_what_an_inactive_worker_refuses(
    host: Host, manager: StandIn, kind: type[SwarmnetError], text: str, request_of: Request
) -> None:
    async with host.up() as stub:
        async with refused(kind, text):
            await request_of(stub, manager)
        assert (await info(stub)).state == "inactive"


async def test_what_a_worker_in_a_swarm_refuses(host: Host, manager: StandIn) -> None:
    async with host.up() as stub:
        await join(stub, manager)
        text = (
            "This node is already part of a swarm. Use `swarmnet swarm leave` to leave this swarm and join "
        )
        async with refused(FailedPrecondition, text + "another one."):
            await stub.Join(local_pb2.JoinRequest(token=manager.token.text(), addresses=[manager.bootstrap]))
        text = "swarm-scoped network (net) is not compatible with `swarmnet create` or `swarmnet run`. This "
        async with refused(SwarmScoped, text + "network can only be used by a swarm service."):
            await stub.Attach(local_pb2.AttachRequest(network="net", image="host", command=["sh"]))


async def test_the_control_api_is_not_here_and_the_answer_says_where(host: Host) -> None:
    async with host.up(), grpc.aio.insecure_channel(f"unix:{host.config.socket}") as channel:
        stub = control_pb2_grpc.ControlStub(channel)
        async with refused(NotAManager, NOT_A_MANAGER):
            await stub.ListNodes(control_pb2.ListNodesRequest())
        async with refused(NotAManager, NOT_A_MANAGER):
            async for _ in stub.Watch(control_pb2.WatchRequest()):
                pass
