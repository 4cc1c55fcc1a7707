"""The store's transactions: what an answer rests on when nobody has confirmed that this one still leads."""

from __future__ import annotations

import asyncio

import pytest
from tests.unit.local_raft import LocalRaft, network, put

from swarmnet.api.v1 import types_pb2 as types
from swarmnet.core.errors import NotFound, OutcomeUnknown
from swarmnet.core.state import Transaction
from swarmnet.manager.store import Store


class LateRaft(LocalRaft):
    """This manager has not applied yet what `arriving` says; a barrier waits for it."""

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self.here = store
        self.arriving: list[types.Network] = []
        self.barriers = 0

    async def read_barrier(self, timeout_s: float = 5.0) -> None:
        self.barriers += 1
        put(self.here.state, *self.arriving)
        self.arriving.clear()


@pytest.fixture
def raft() -> LateRaft:
    store = Store()
    raft = LateRaft(store)
    store.attach(raft)
    return raft


def change_a(transaction: Transaction) -> str:
    """Changes `a`, refuses without one."""
    found = transaction.get(types.Network, "net-a")
    if found is None:
        raise NotFound("no a")
    changed = transaction.edit(found)
    changed.internal = True
    transaction.put(changed)
    return changed.name


async def test_a_commit_needs_no_barrier(raft: LateRaft) -> None:
    put(raft.here.state, network("a"))
    assert await raft.here.transact_unconfirmed(change_a) == ("a", raft.here.state.index)
    assert raft.barriers == 0


async def test_a_refusal_on_an_old_state_is_decided_anew(raft: LateRaft) -> None:
    raft.arriving.append(network("a"))
    assert await raft.here.transact_unconfirmed(change_a) == ("a", raft.here.state.index)
    with pytest.raises(NotFound):
        await raft.here.transact_unconfirmed(lambda t: change_a(t) if t.get(types.Network, "b") else absent())
    assert raft.barriers == 2


def absent() -> str:
    raise NotFound("no b")


async def test_an_answer_without_a_change_rests_on_a_barrier(raft: LateRaft) -> None:
    raft.arriving.append(network("a"))
    assert await raft.here.transact_unconfirmed(lambda t: len(t.all(types.Network))) == (1, 0)
    assert raft.barriers == 1


async def test_an_unknown_outcome_is_told_and_not_tried_again(raft: LateRaft) -> None:
    put(raft.here.state, network("a"))
    raft.failures.append(OutcomeUnknown("lost"))
    with pytest.raises(OutcomeUnknown):
        await raft.here.transact_unconfirmed(change_a)
    assert raft.barriers == 0


async def test_what_was_changed_meanwhile_is_decided_anew(raft: LateRaft) -> None:
    put(raft.here.state, network("a"))
    seen: list[bool] = []

    def decide(transaction: Transaction) -> str:
        seen.append(bool(raft.here.state.get(types.Network, "net-b")))
        transaction.all(types.Network)
        name = change_a(transaction)
        if len(seen) == 1:
            put(raft.here.state, network("b"))
        return name

    assert (await raft.here.transact_unconfirmed(decide))[0] == "a"
    assert seen == [False, True]


async def test_many_that_want_the_same_at_once_all_get_it(raft: LateRaft) -> None:
    """As when a program creates many things: each rests on no other name being taken meanwhile."""
    propose = raft.propose

    async def later(command: bytes, timeout_s: float = 5.0) -> object:
        await asyncio.sleep(0)
        return await propose(command, timeout_s)

    raft.propose = later  # type: ignore[method-assign]

    def add(name: str) -> None:
        def decide(transaction: Transaction) -> None:
            transaction.all(types.Network)
            transaction.put(network(name))

        adding.append(asyncio.create_task(raft.here.transact_unconfirmed(decide)))

    adding: list[asyncio.Task[tuple[None, int]]] = []
    for number in range(60):
        add(f"n{number}")
    await asyncio.gather(*adding)
    assert len(list(raft.here.state.all(types.Network))) == 60
