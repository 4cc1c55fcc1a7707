"""Keys in sessions: who is sent which, how they are sealed, and what is believed of reports on them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from tests.unit.dispatcher_bench import Bench, assigned, running

from swarmnet.api.v1 import dispatcher_pb2 as dispatcher
from swarmnet.api.v1 import types_pb2 as types
from swarmnet.core.errors import Unavailable
from swarmnet.core.key_chain import KeyOffer
from swarmnet.core.keys import GOSSIP_SCOPE
from swarmnet.core.state import Transaction


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    async with running() as made:
        yield made


async def test_what_is_said_while_a_node_registers_is_of_the_session_before(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = dispatcher.ScopeReport(scope=GOSSIP_SCOPE, installed=[1], sending=1)

    async def slowly(raw: bytes, timeout_s: float = 5.0) -> object:
        bench.service.acks.put("node-w1", dispatcher.KeyReport(scopes=[before]))
        return bench.store.apply(bench.store.state.index + 1, raw)

    monkeypatch.setattr(bench.raft, "propose", slowly)
    await bench.worker(1).until(lambda a: True)
    assert bench.service.acks.of(GOSSIP_SCOPE) == {}


async def test_who_offers_a_key_gets_keys_sealed_and_none_in_clear(bench: Bench) -> None:
    mine = KeyOffer(b"w" * 32)
    worker = bench.worker(1, key_offer=mine.public)
    first = await worker.until(lambda a: bool(a.sealed_keys))
    chain = mine.workers_end(first.key_offer)
    await bench.put(assigned("a", "node-w1", "net-net"))
    second = await worker.until(lambda a: bool(a.tasks))
    opened = [dispatcher.Keys.FromString(chain.open(each.sealed_keys)) for each in (first, second)]
    assert [[each.scope for each in keys.scopes] for keys in opened] == [
        [GOSSIP_SCOPE],
        [GOSSIP_SCOPE, "net-net"],
    ]
    secrets = [epoch.secret for keys in opened for scope in keys.scopes for epoch in scope.epochs]
    for told in worker.received:
        assert not told.keys
        assert not any(secret in told.SerializeToString() for secret in secrets)


async def test_a_node_drained_by_force_is_told_to_have_nothing(bench: Bench) -> None:
    """Its tasks are not orphans yet, and its worker may be slow: the keys are withdrawn first."""
    await bench.put(assigned("a", "node-w1", "net-net"))
    worker = bench.worker(1)
    await worker.until(lambda a: len(a.keys) == 2)
    await bench.edit(types.Node, "node-w1", lambda n: setattr(n, "drained_by_force", True))
    told = await worker.until(lambda a: len(a.keys) == 1)
    assert [each.scope for each in told.keys] == [GOSSIP_SCOPE]
    assert (list(told.tasks), list(told.networks)) == ([], [])


async def test_what_an_older_session_still_says_of_keys_does_not_count(bench: Bench) -> None:
    """It may be of before the host restarted, and under way for long."""
    first = bench.worker(1)
    await first.until(lambda a: bool(a.keys))
    second = bench.worker(1)
    first.acknowledge()  # handed to the manager at the same moment as the second's hello
    await second.until(lambda a: bool(a.keys))
    with pytest.raises(Unavailable):
        await first.ended()
    assert bench.service.acks.of(GOSSIP_SCOPE) == {}
    heard = asyncio.Event()
    bench.service.acks.on_change = heard.set
    second.acknowledge()
    async with asyncio.timeout(5):
        await heard.wait()
    assert bench.service.acks.of(GOSSIP_SCOPE)["node-w1"].sending == 1


async def test_a_key_is_withdrawn_with_the_last_task_and_not_before(bench: Bench) -> None:
    worker = bench.worker(1)
    await bench.put(assigned("t1", "node-w1", "net-net"))
    await worker.until(lambda a: len(a.tasks) == 1)

    def stop(transaction: Transaction) -> None:
        task = transaction.edit(bench.task("t1"))
        task.desired_state = types.TASK_STATE_SHUTDOWN
        transaction.put(task)

    await bench.change(stop)
    stopping = await worker.until(lambda a: a.tasks[0].task.desired_state == types.TASK_STATE_SHUTDOWN)
    assert len(stopping.networks) == 1
    worker.report("t1", types.TASK_STATE_SHUTDOWN)
    over = await worker.until(lambda a: not a.tasks)
    assert [keys.scope for keys in over.keys] == [GOSSIP_SCOPE]


async def test_a_key_report_counts_for_scopes_that_exist(bench: Bench) -> None:
    worker = bench.worker(1)
    await worker.until(lambda a: True)
    heard = asyncio.Event()
    bench.service.acks.on_change = heard.set
    worker.say(
        keys=dispatcher.KeyReport(
            scopes=[
                dispatcher.ScopeReport(scope=GOSSIP_SCOPE, installed=[1], sending=1),
                dispatcher.ScopeReport(scope="nonsense", installed=[1], sending=1),
            ]
        )
    )
    async with asyncio.timeout(5):
        await heard.wait()
    assert bench.service.acks.of(GOSSIP_SCOPE)["node-w1"].sending == 1
    assert bench.service.acks.of("nonsense") == {}


async def test_a_new_session_has_acknowledged_nothing_yet(bench: Bench) -> None:
    """The node may have been rebooted meanwhile."""
    before = dispatcher.ScopeReport(scope=GOSSIP_SCOPE, installed=[1], sending=1)
    bench.service.acks.put("node-w1", dispatcher.KeyReport(scopes=[before]))
    await bench.worker(1).until(lambda a: True)
    assert bench.service.acks.of(GOSSIP_SCOPE) == {}
