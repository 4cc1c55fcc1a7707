"""A dispatcher whose loops run on a store without Raft, and workers that open sessions with it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from tests.unit import local_raft as local
from tests.unit.obedient_worker import ObedientWorker

from swarmnet.api.v1 import dispatcher_pb2 as dispatcher
from swarmnet.api.v1 import types_pb2 as types
from swarmnet.core.errors import Unavailable
from swarmnet.core.state import Transaction
from swarmnet.manager.dispatcher import DispatcherService
from swarmnet.manager.store import Store

MANAGERS = (dispatcher.ManagerAddress(node_id="m1", address="192.0.2.100:2377"),)


def new_worker(name: str, index: int) -> types.Node:
    """As the CA makes it: never heard of yet."""
    return types.Node(meta=types.Meta(id=f"node-{name}"), role=types.ROLE_WORKER, index=index)


def assigned(name: str, node_id: str, *networks: str) -> types.Task:
    return types.Task(
        meta=types.Meta(id=name),
        node_id=node_id,
        state=types.TASK_STATE_ASSIGNED,
        desired_state=types.TASK_STATE_RUNNING,
        spec=types.ServiceSpec(name="web", networks=networks),
    )


class Bench:
    """A dispatcher whose loops run, with a hand-driven clock."""

    def __init__(self) -> None:
        self.store = Store(lambda: local.NOW)
        self.raft = local.LocalRaft(self.store)
        self.store.attach(self.raft)
        self.now = 1000.0
        self.service = DispatcherService(self.store, lambda: MANAGERS, lambda: self.now)
        local.fill(self.store.state, *(new_worker(f"w{n}", n) for n in (1, 2, 3)), local.network("net"))
        self.loops = [asyncio.create_task(loop.run()) for loop in self.service.begin()]
        self.workers: list[ObedientWorker] = []

    async def change(self, decide: Callable[[Transaction], object]) -> None:
        await self.store.transact(decide)

    async def put(self, *objects: object) -> None:
        def decide(transaction: Transaction) -> None:
            for each in objects:
                transaction.put(each)  # type: ignore[arg-type]

        await self.change(decide)

    async def edit(self, kind: type[types.Node], id_: str, change: Callable[[types.Node], object]) -> None:
        def decide(transaction: Transaction) -> None:
            found = transaction.get(kind, id_)
            assert found is not None
            changed = transaction.edit(found)
            change(changed)
            transaction.put(changed)

        await self.change(decide)

    def worker(self, number: int, *, obeys: bool = False, **described: object) -> ObedientWorker:
        made = ObedientWorker(self.service, f"w{number}", number, obeys=obeys, **described)
        self.workers.append(made)
        return self.workers[-1]

    def node(self, number: int) -> types.Node:
        found = self.store.state.get(types.Node, f"node-w{number}")
        assert found is not None
        return found

    def task(self, name: str) -> types.Task:
        found = self.store.state.get(types.Task, name)
        assert found is not None
        return found

    async def until(self, holds: Callable[[], bool]) -> None:
        with self.store.subscribe(types.Node, types.Task) as changes:
            async with asyncio.timeout(5):
                while not holds():
                    await changes.next()


@asynccontextmanager
async def running() -> AsyncIterator[Bench]:
    made = Bench()
    yield made
    made.service.close_sessions(Unavailable("the test is over"))
    for loop in made.loops:
        loop.cancel()
    sessions = [worker.session for worker in made.workers]
    await asyncio.gather(*made.loops, *sessions, return_exceptions=True)
