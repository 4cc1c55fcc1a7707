"""Read barriers that calls share."""

from __future__ import annotations

import asyncio

import pytest

from swarmnet.core.errors import NotLeader
from swarmnet.manager.barrier import SharedBarrier


class Raft:
    """Each barrier that begins is a future in `begun`; the test ends it."""

    def __init__(self) -> None:
        self.begun: asyncio.Queue[asyncio.Future[None]] = asyncio.Queue()

    async def read_barrier(self) -> None:
        barrier: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.begun.put_nowait(barrier)
        await barrier


@pytest.fixture
async def raft() -> Raft:
    return Raft()


async def test_calls_at_once_share_one_and_late_ones_the_next(raft: Raft) -> None:
    shared = SharedBarrier(raft.read_barrier)
    early = asyncio.gather(*(shared.passed() for _ in range(3)))
    first = await raft.begun.get()
    late = asyncio.gather(*(shared.passed() for _ in range(3)))
    first.set_result(None)
    await early
    assert not late.done()
    (await raft.begun.get()).set_result(None)
    await late
    assert raft.begun.empty()


async def test_a_refusal_is_told_to_those_who_share_it_and_to_nobody_else(raft: Raft) -> None:
    shared = SharedBarrier(raft.read_barrier)
    early = [asyncio.create_task(shared.passed()) for _ in range(2)]
    first = await raft.begun.get()
    late = asyncio.create_task(shared.passed())
    await asyncio.sleep(0)  # it has asked
    first.set_exception(NotLeader("deposed"))
    for each in early:
        with pytest.raises(NotLeader, match="deposed"):
            await each
    (await raft.begun.get()).set_result(None)
    await late


async def test_a_caller_who_goes_away_takes_nothing_from_the_others(raft: Raft) -> None:
    shared = SharedBarrier(raft.read_barrier)
    gone, stays = (asyncio.create_task(shared.passed()) for _ in range(2))
    first = await raft.begun.get()
    gone.cancel()
    first.set_result(None)
    await stays
    assert gone.cancelled()
