"""Leading and not leading, renewing, and what a new cluster may be like."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from google.protobuf.duration_pb2 import Duration
from tests.unit.local_raft import LocalRaft, fill
from tests.unit.manager_doors import CLUSTER

from swarmnet.api.v1 import local_pb2
from swarmnet.api.v1 import types_pb2 as types
from swarmnet.core.errors import InvalidArgument, NoLeader
from swarmnet.manager.founding import checked
from swarmnet.manager.leadership import Leadership
from swarmnet.manager.store import Store


class Loops:
    """Records what was asked of it; `changed` is set at each step."""

    def __init__(self) -> None:
        self.history: list[str] = []
        self.changed = asyncio.Event()

    async def start(self) -> None:
        self._note("start")

    async def stop(self) -> None:
        self._note("stop")

    def _note(self, step: str) -> None:
        self.history.append(step)
        self.changed.set()

    async def reached(self, *history: str) -> None:
        async with asyncio.timeout(5):
            while self.history != list(history):
                self.changed.clear()
                await self.changed.wait()


class NoBarrier(LocalRaft):
    """A leader that lost its lead before it could confirm it."""

    async def read_barrier(self, timeout_s: float = 5.0) -> None:
        raise NoLeader


def founded_store(raft: type[LocalRaft] = LocalRaft) -> Store:
    store = Store()
    store.attach(raft(store))
    fill(store.state)
    return store


@asynccontextmanager
async def followed(store: Store, loops: Loops) -> AsyncIterator[Leadership]:
    leadership = Leadership(store, lambda: loops)
    running = asyncio.create_task(leadership.run())
    try:
        yield leadership
        assert not running.done()
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def test_loops_run_exactly_while_this_manager_leads() -> None:
    loops = Loops()
    async with followed(founded_store(), loops) as leadership:
        leadership.tell(leads=True)
        await loops.reached("start")
        assert serves(leadership)
        leadership.tell(leads=False)
        await loops.reached("start", "stop")
        assert not serves(leadership)
        leadership.tell(leads=True)
        await loops.reached("start", "stop", "start")
    assert loops.history == ["start", "stop", "start", "stop"]


def serves(leadership: Leadership) -> bool:
    return leadership.running


async def test_loops_wait_until_the_cluster_is_founded() -> None:
    store, loops = Store(), Loops()
    store.attach(LocalRaft(store))
    async with followed(store, loops) as leadership:
        leadership.tell(leads=True)
        for _ in range(10):
            await asyncio.sleep(0)
        assert loops.history == []
        await store.transact(lambda t: t.put(types.Cluster(meta=types.Meta(id=CLUSTER))))
        await loops.reached("start")


async def test_a_lead_that_cannot_be_confirmed_starts_nothing() -> None:
    loops = Loops()
    async with followed(founded_store(NoBarrier), loops) as leadership:
        leadership.tell(leads=True)
        for _ in range(10):
            await asyncio.sleep(0)
        assert loops.history == []


def test_a_new_cluster_has_defaults() -> None:
    wishes = checked(local_pb2.InitRequest())
    assert (wishes.rotation_period.seconds, wishes.pools, wishes.subnet_prefix_length) == (
        43200,
        ("10.0.0.0/8",),
        24,
    )


@pytest.mark.parametrize(
    ("request_", "says"),
    [
        (
            local_pb2.InitRequest(key_rotation_period=Duration(seconds=1)),
            "rotation period of 1 s is out of range",
        ),
        (
            local_pb2.InitRequest(key_rotation_deadline=Duration(seconds=1)),
            "rotation deadline of 1 s is out of range",
        ),
        (
            local_pb2.InitRequest(certificate_lifetime=Duration(seconds=3599)),
            "certificate lifetime of 3599 s is out of range",
        ),
        (local_pb2.InitRequest(address_pools=["10.0.0.0/33"]), "invalid address pool '10.0.0.0/33'"),
        (local_pb2.InitRequest(address_pools=["10.0.0.1/8"]), "has host bits set"),
        (local_pb2.InitRequest(subnet_prefix_length=31), "length 31 do not fit the address pool 10.0.0.0/8"),
        (local_pb2.InitRequest(subnet_prefix_length=7), "length 7 do not fit"),
    ],
)
def test_an_impossible_cluster_is_refused(request_: local_pb2.InitRequest, says: str) -> None:
    with pytest.raises(InvalidArgument, match=says) as caught:
        checked(request_)
    assert caught.value.hint
