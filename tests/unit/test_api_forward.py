"""A follower hands calls on to the leader: two real servers, one behind the other."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from tests.ports import free_port
from tests.unit.local_raft import LocalRaft
from tests.unit.manager_doors import (
    AS_CLIENT,
    AS_MANAGER,
    AS_WORKER,
    CLIENT,
    MANAGER,
    WORKER,
    Doors,
    MadeUpSwarm,
    open_doors,
    said,
)

from swarmnet.api.v1 import control_pb2, control_pb2_grpc, dispatcher_pb2, dispatcher_pb2_grpc
from swarmnet.api.v1 import types_pb2 as types
from swarmnet.client.pipe import Pipe
from swarmnet.core.errors import (
    AlreadyExists,
    NoLeader,
    NotLeader,
    OutcomeUnknown,
    Unauthenticated,
    Unavailable,
)
from swarmnet.manager import forward
from swarmnet.manager.guard import refuse
from swarmnet.manager.identity import Caller, CallerRole
from swarmnet.manager.pipeline import Pipelines
from swarmnet.manager.store import Store
from swarmnet.manager.tls import node_channel

GET = control_pb2.GetClusterRequest()


@dataclass
class Pair:
    """`follower` is dialled, `leader` answers."""

    leader: MadeUpSwarm
    follower: MadeUpSwarm
    leader_doors: Doors
    follower_doors: Doors


@pytest.fixture
async def pair(tmp_path: Path) -> AsyncIterator[Pair]:
    leader, follower = MadeUpSwarm(), MadeUpSwarm(leading=False)
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    async with AsyncExitStack() as stack:
        at_leader = await stack.enter_async_context(open_doors(leader, tmp_path / "a"))
        at_follower = await stack.enter_async_context(open_doors(follower, tmp_path / "b"))
        follower.channel = await stack.enter_async_context(node_channel(AS_MANAGER, at_leader.nodes))
        yield Pair(leader, follower, at_leader, at_follower)


async def get_cluster(pair: Pair) -> control_pb2.GetClusterResponse:
    async with node_channel(AS_CLIENT, pair.follower_doors.nodes) as channel:
        return await control_pb2_grpc.ControlStub(channel).GetCluster(GET, timeout=10)


async def test_the_leader_hears_the_first_caller(pair: Pair) -> None:
    answer = await get_cluster(pair)
    assert answer.leader_id == CLIENT
    assert pair.leader.answers.callers == [Caller(CLIENT, CallerRole.CLIENT, via=MANAGER)]
    assert pair.follower.answers.callers == []


async def test_the_operator_on_the_unix_socket_is_forwarded_too(pair: Pair) -> None:
    async with grpc.aio.insecure_channel(pair.follower_doors.socket) as channel:
        await control_pb2_grpc.ControlStub(channel).GetCluster(GET)
    assert [each.role for each in pair.leader.answers.callers] == [CallerRole.CLIENT]


async def test_the_leaders_error_comes_back_whole(pair: Pair) -> None:
    pair.leader.answers.failures.append(AlreadyExists("it is there", hint="Take another."))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await get_cluster(pair)
    error = said(caught.value)
    assert isinstance(error, AlreadyExists)
    assert error.hint == "Take another."
    assert caught.value.code() is grpc.StatusCode.ALREADY_EXISTS


async def test_a_manager_that_does_not_lead_after_all_is_asked_again(pair: Pair) -> None:
    pair.leader.answers.failures.extend([NotLeader("not me"), NoLeader()])
    await get_cluster(pair)
    assert len(pair.leader.answers.callers) == 3


async def test_a_call_waits_for_the_election(pair: Pair) -> None:
    channel, pair.follower.channel = pair.follower.channel, None
    asking = asyncio.create_task(get_cluster(pair))
    done, _ = await asyncio.wait([asking], timeout=0.2)
    assert not done
    pair.follower.channel = channel
    await asking


async def test_a_channel_closed_because_its_manager_lost_the_lead_is_no_error(pair: Pair) -> None:
    open_channel, closed = pair.follower.channel, node_channel(AS_MANAGER, pair.leader_doors.nodes)
    await closed.close()
    pair.follower.channel = closed
    asking = asyncio.create_task(get_cluster(pair))
    done, _ = await asyncio.wait([asking], timeout=0.2)
    assert not done
    pair.follower.channel = open_channel
    await asking


@asynccontextmanager
async def pipe_to(doors: Doors) -> AsyncIterator[Pipe]:
    async with node_channel(AS_CLIENT, doors.nodes) as channel:
        pipe = Pipe(channel)
        yield pipe
        await pipe.close(0.0)


async def begun(swarm: MadeUpSwarm, *refs: str) -> None:
    async with asyncio.timeout(5):
        while True:
            if set(swarm.answers.begun) == set(refs):
                return
            await asyncio.sleep(0.005)


async def test_all_calls_go_to_the_leader_over_one_stream(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    streams: list[object] = []
    serve = Pipelines.serve

    async def counted(pipelines: Pipelines, stream: Any) -> None:
        streams.append(pipelines)
        await serve(pipelines, stream)

    monkeypatch.setattr(Pipelines, "serve", counted)
    async with pipe_to(pair.follower_doors) as one, pipe_to(pair.follower_doors) as other:
        for pipe in (one, other):
            await asyncio.gather(*(pipe.call("GetCluster", b"") for _ in range(10)))
    await get_cluster(pair)
    assert streams.count(pair.leader.pipelines) == 1
    assert streams.count(pair.follower.pipelines) == 2
    assert pair.leader.answers.callers == [Caller(CLIENT, CallerRole.CLIENT, via=MANAGER)] * 21


async def test_a_pipelined_call_waits_for_the_election_too(pair: Pair) -> None:
    channel, pair.follower.channel = pair.follower.channel, None
    async with pipe_to(pair.follower_doors) as pipe:
        asking = asyncio.create_task(pipe.call("GetCluster", b""))
        done, _ = await asyncio.wait([asking], timeout=0.2)
        assert not done
        pair.follower.channel = channel
        await asking


async def test_a_leader_lost_in_the_middle_leaves_the_outcome_of_a_write_unknown(pair: Pair) -> None:
    """A read is asked again."""
    pair.leader.answers.gate.clear()
    async with (
        pipe_to(pair.follower_doors) as pipe,
        node_channel(AS_MANAGER, pair.leader_doors.nodes) as again,
    ):
        write = asyncio.create_task(pipe.call("UpdateConfig", b"\x0a\x01w"))
        read = asyncio.create_task(pipe.call("GetConfig", b"\x0a\x01r"))
        await begun(pair.leader, "w", "r")
        broken, pair.follower.channel = pair.follower.channel, again
        assert broken is not None
        await broken.close()
        pair.leader.answers.gate.set()
        with pytest.raises(OutcomeUnknown, match="broke during the call"):
            await write
        await read
    assert pair.leader.answers.begun.count("r") == 2


async def test_an_error_after_the_callers_time_is_nobodys() -> None:
    """As when the leader says that the time is over: gRPC cannot send it, and would log that as a failure."""

    class Over:
        async def abort(self, *what: object) -> None:
            raise grpc.aio.InternalError("execute_batch")

    over: Any = Over()
    with pytest.raises(asyncio.CancelledError):
        await refuse(over, Unavailable("too late"))


async def test_without_a_leader_it_says_so(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forward, "LEADER_WAIT_S", 0.1)
    async with node_channel(AS_MANAGER, f"127.0.0.1:{free_port()}") as nowhere:
        for channel in (None, nowhere):
            pair.follower.channel = channel
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await get_cluster(pair)
            error = said(caught.value)
            assert isinstance(error, NoLeader)
            assert "The swarm does not have a leader" in error.message


async def test_what_was_forwarded_is_not_forwarded_again(pair: Pair, tmp_path: Path) -> None:
    third = MadeUpSwarm()
    (tmp_path / "c").mkdir()
    async with (
        open_doors(third, tmp_path / "c") as at_third,
        node_channel(AS_MANAGER, at_third.nodes) as to_third,
    ):
        pair.leader.leading, pair.leader.channel = False, to_third
        call = asyncio.create_task(get_cluster(pair))
        done, _ = await asyncio.wait([call], timeout=0.2)
        assert not done
        pair.leader.leading = True
        await call
    assert third.answers.callers == []
    assert len(pair.leader.answers.callers) == 1


async def test_a_watch_comes_through(pair: Pair) -> None:
    async with node_channel(AS_CLIENT, pair.follower_doors.nodes) as channel:
        call = control_pb2_grpc.ControlStub(channel).Watch(control_pb2.WatchRequest())
        await call.initial_metadata()
        assert [event.network.name async for event in call] == ["first", "second"]


async def test_a_workers_stream_comes_through_both_ways(pair: Pair) -> None:
    async with node_channel(AS_WORKER, pair.follower_doors.nodes) as channel:
        call = dispatcher_pb2_grpc.DispatcherStub(channel).Session()
        for name in ("one", "two"):
            await call.write(dispatcher_pb2.WorkerMessage(hello=dispatcher_pb2.Hello(hostname=name)))
            answer = await call.read()
            assert isinstance(answer, dispatcher_pb2.ManagerMessage)
            assert answer.removed.reason == name
        await call.done_writing()
    assert pair.leader.answers.callers == [Caller(WORKER, CallerRole.WORKER, via=MANAGER)]


async def test_a_leader_lost_in_the_middle_ends_the_call_as_unavailable(tmp_path: Path) -> None:
    leader, follower = MadeUpSwarm(), MadeUpSwarm(leading=False)
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    async with open_doors(follower, tmp_path / "b") as at_follower:
        async with open_doors(leader, tmp_path / "a") as at_leader:
            follower.channel = node_channel(AS_MANAGER, at_leader.nodes)
            channel = node_channel(AS_WORKER, at_follower.nodes)
            call = dispatcher_pb2_grpc.DispatcherStub(channel).Session()
            await call.write(dispatcher_pb2.WorkerMessage(hello=dispatcher_pb2.Hello(hostname="one")))
            await call.read()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call.read()
        await channel.close()
        await follower.channel.close()
    error = said(caught.value)
    assert error is not None
    assert error.reason == "UNAVAILABLE"


@pytest.mark.parametrize(("changed", "gone"), [(MANAGER, MANAGER), (WORKER, WORKER), (MANAGER, "")])
async def test_a_stream_ends_with_the_manager_that_forwards_it(pair: Pair, changed: str, gone: str) -> None:
    """And not by any other change."""
    store = Store()
    store.attach(LocalRaft(store))
    for node_id in (MANAGER, WORKER):
        await _put(store, types.Node(meta=types.Meta(id=node_id), role=types.ROLE_WORKER))
    looking = asyncio.create_task(pair.leader.streams.run(store))
    async with node_channel(AS_WORKER, pair.follower_doors.nodes) as channel, asyncio.timeout(10):
        call = dispatcher_pb2_grpc.DispatcherStub(channel).Session()
        hello = dispatcher_pb2.WorkerMessage(hello=dispatcher_pb2.Hello(hostname="one"))
        await call.write(hello)
        await call.read()
        pair.leader.unknown.add(gone)
        node = store.state.get(types.Node, changed)
        assert node is not None
        await _put(store, types.Node(meta=node.meta, role=types.ROLE_MANAGER))
        if gone:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call.read()
            assert isinstance(said(caught.value), Unauthenticated)
        else:
            await call.write(hello)
            assert await call.read()
    looking.cancel()
    await asyncio.gather(looking, return_exceptions=True)


async def _put(store: Store, node: types.Node) -> None:
    await store.transact(lambda transaction: transaction.put(node))
