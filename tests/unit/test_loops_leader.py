"""Loops as they run: woken by changes and by time, hard to kill, and all of them together."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest
from tests.unit import local_raft as local
from tests.unit.obedient_worker import ObedientWorker

from swarmnet.api.v1 import types_pb2 as types
from swarmnet.core import rotation
from swarmnet.core.errors import NoLeader, NotLeader, OutcomeUnknown
from swarmnet.core.keys import GOSSIP_SCOPE
from swarmnet.core.state import Transaction
from swarmnet.manager import loop as loop_module
from swarmnet.manager.dispatcher import DispatcherService
from swarmnet.manager.keymanager import request_rotation
from swarmnet.manager.leader import Leader, keep_running
from swarmnet.manager.loop import Loop
from swarmnet.manager.raft.member import Member
from swarmnet.manager.role_manager import RoleManager
from swarmnet.manager.store import Store

KINDS = (types.Cluster, types.Node, types.Network, types.Service, types.Task, types.KeyScope)


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop_module, "_FIRST_PAUSE_S", 0.001)


def make_store() -> tuple[Store, local.LocalRaft]:
    store = Store(lambda: local.NOW)
    raft = local.LocalRaft(store)
    store.attach(raft)
    return store, raft


class Passes:
    """A plan that counts its passes, does what it is told in each, and lets a test wait for them."""

    def __init__(self) -> None:
        self.count = 0
        self.due: float | None = None
        self.errors: list[Exception] = []
        self._passed = asyncio.Event()

    def plan(self, transaction: Transaction, now: float) -> float | None:
        self.count += 1
        self._passed.set()
        if self.errors:
            raise self.errors.pop(0)
        return self.due

    async def reach(self, count: int) -> None:
        async with asyncio.timeout(5):
            while self.count < count:
                self._passed.clear()
                await self._passed.wait()


@pytest.fixture
async def running() -> AsyncIterator[Callable[[Loop], asyncio.Task[None]]]:
    tasks: list[asyncio.Task[None]] = []

    def run(loop: Loop) -> asyncio.Task[None]:
        tasks.append(asyncio.create_task(loop.run()))
        return tasks[-1]

    yield run
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


Run = Callable[[Loop], asyncio.Task[None]]


async def test_a_loop_plans_at_start_on_a_change_and_when_woken(running: Run) -> None:
    store, _ = make_store()
    passes = Passes()
    loop = Loop("test", store, (types.Node,), passes.plan, lambda: local.NOW)
    running(loop)
    await passes.reach(1)
    await store.transact(lambda t: t.put(local.node("w1", 1)))
    await passes.reach(2)
    await store.transact(lambda t: t.put(local.network("other kind")))
    loop.wake()
    await passes.reach(3)
    await asyncio.sleep(0)
    assert passes.count == 3


async def test_a_loop_plans_when_the_plan_said_it_is_due(running: Run) -> None:
    store, _ = make_store()
    passes = Passes()
    passes.due = local.NOW - 1
    running(Loop("test", store, (types.Node,), passes.plan, lambda: local.NOW))
    await passes.reach(3)


async def test_a_loop_survives_errors_of_its_plan_and_of_raft(running: Run) -> None:
    store, raft = make_store()
    raft.failures = [NoLeader(), OutcomeUnknown("no majority answered in time")]
    errors: list[Exception] = [ValueError("a defect")]

    def plan(transaction: Transaction, now: float) -> float | None:
        if errors:
            raise errors.pop()
        if transaction.get(types.Node, "node-w1") is None:
            transaction.put(local.node("w1", 1))
        return None

    with store.subscribe(types.Node) as changes:
        running(Loop("test", store, (types.Node,), plan, lambda: local.NOW))
        async with asyncio.timeout(5):
            await changes.next()
    assert errors == raft.failures == []


async def test_a_loop_ends_when_another_manager_leads(running: Run) -> None:
    store, _ = make_store()
    passes = Passes()
    passes.errors = [NotLeader("m2 leads")]
    async with asyncio.timeout(5):
        await running(Loop("test", store, (types.Node,), passes.plan, lambda: local.NOW))
    assert passes.count == 1


class Mortal:
    """Dies at each run, in another way."""

    name = "mortal"

    def __init__(self) -> None:
        self.runs = 0
        self.third = asyncio.Event()

    async def run(self) -> None:
        self.runs += 1
        if self.runs == 1:
            raise ValueError("a defect")
        if self.runs == 3:
            self.third.set()
            await asyncio.Event().wait()


async def test_what_dies_is_started_again() -> None:
    mortal = Mortal()
    keeper = asyncio.create_task(keep_running(mortal, pause_s=0))
    async with asyncio.timeout(5):
        await mortal.third.wait()
    keeper.cancel()
    await asyncio.gather(keeper, return_exceptions=True)
    assert mortal.runs == 3


class NoManagers:
    """No node of this swarm is to change its role."""

    def members(self) -> dict[str, Member]:
        return {}

    def reachable(self, node_id: str) -> bool:
        raise NotImplementedError

    async def remove(self, node_id: str) -> None:
        raise NotImplementedError


class Swarm:
    """A leader with all its loops, and workers that do as they are told."""

    def __init__(self) -> None:
        self.store, self.raft = make_store()
        self.now = local.NOW
        self.service = DispatcherService(self.store, lambda: ())
        roles = RoleManager(self.store, NoManagers(), "node-m1")
        self.leader = Leader(self.store, self.service, roles, lambda: self.now)
        nodes = [
            types.Node(meta=types.Meta(id=f"node-w{n}"), role=types.ROLE_WORKER, index=n) for n in (1, 2, 3)
        ]
        local.fill(self.store.state, *nodes, local.network("net"))
        self.workers: list[ObedientWorker] = []

    async def start(self, *, obey: bool = True) -> None:
        await self.leader.start()
        self.workers = [ObedientWorker(self.service, f"w{n}", n, obeys=obey) for n in (1, 2, 3)]
        for worker in self.workers:
            await worker.until(lambda a: True)

    async def stop(self) -> None:
        await self.leader.stop()
        await asyncio.gather(*(worker.session for worker in self.workers), return_exceptions=True)

    async def until(self, holds: Callable[[], bool]) -> None:
        with self.store.subscribe(*KINDS) as changes:
            async with asyncio.timeout(5):
                while not holds():
                    await changes.next()

    def running(self) -> list[types.Task]:
        return [t for t in local.tasks(self.store.state) if t.state == types.TASK_STATE_RUNNING]

    def phases(self) -> set[int]:
        return {scope.phase for scope in self.store.state.all(types.KeyScope)}

    def epochs(self, scope_id: str) -> list[int]:
        scope = self.store.state.get(types.KeyScope, scope_id)
        return [epoch.number for epoch in scope.epochs] if scope is not None else []


@pytest.fixture
async def swarm() -> AsyncIterator[Swarm]:
    made = Swarm()
    yield made
    await made.stop()


async def test_a_service_runs_everywhere_soon_after_it_is_created(swarm: Swarm) -> None:
    await swarm.start()
    before, began = swarm.store.state.index, asyncio.get_running_loop().time()
    await swarm.store.transact(lambda t: t.put(local.service("web", 3, ["net-net"])))
    await swarm.until(lambda: len(swarm.running()) == 3)
    assert {t.node_id for t in swarm.running()} == {"node-w1", "node-w2", "node-w3"}
    assert asyncio.get_running_loop().time() - began < 1
    assert swarm.store.state.index - before <= 8


async def test_keys_rotate_through_all_steps_by_the_workers_acknowledgements(swarm: Swarm) -> None:
    await swarm.start()
    await swarm.store.transact(lambda t: t.put(local.service("web", 3, ["net-net"])))
    await swarm.until(lambda: len(swarm.running()) == 3)
    await swarm.store.transact(lambda t: request_rotation(t, ["net-net", GOSSIP_SCOPE], "requested"))
    await swarm.until(lambda: swarm.phases() == {rotation.RETIRE})
    swarm.now += 10
    swarm.workers[0].acknowledge()
    await swarm.until(lambda: swarm.phases() == {rotation.STABLE})
    assert swarm.epochs("net-net") == swarm.epochs(GOSSIP_SCOPE) == [2]
    for worker in swarm.workers:
        await worker.until(lambda a: all([e.number for e in k.epochs] == [2] for k in a.keys))


async def test_a_rotation_goes_on_under_the_next_leader(swarm: Swarm) -> None:
    await swarm.start(obey=False)
    await swarm.store.transact(lambda t: request_rotation(t, [GOSSIP_SCOPE], "requested"))
    await swarm.until(lambda: rotation.PREPARE in swarm.phases())
    await swarm.stop()
    await swarm.start()
    await swarm.until(lambda: rotation.RETIRE in swarm.phases())


async def test_a_worker_that_leaves_is_replaced_and_its_networks_rekeyed(swarm: Swarm) -> None:
    await swarm.start()
    await swarm.store.transact(lambda t: t.put(local.service("web", 3, ["net-net"])))
    await swarm.until(lambda: len(swarm.running()) == 3)
    swarm.workers[0].say(leave={})
    await swarm.until(lambda: swarm.epochs("net-net") == swarm.epochs(GOSSIP_SCOPE) == [1, 2])
    await swarm.until(lambda: len(swarm.running()) == 3)
    assert {t.node_id for t in swarm.running()} == {"node-w2", "node-w3"}


async def test_when_it_no_longer_leads_nothing_runs_and_sessions_end(swarm: Swarm) -> None:
    await swarm.start()
    before = len(asyncio.all_tasks())
    await swarm.leader.stop()
    for worker in swarm.workers:
        with pytest.raises(NotLeader):
            await worker.ended()
    index = swarm.store.state.index
    await swarm.store.transact(lambda t: t.put(local.service("web", 3)))
    for _ in range(10):
        await asyncio.sleep(0)
    assert swarm.store.state.index == index + 1
    assert len(asyncio.all_tasks()) < before
