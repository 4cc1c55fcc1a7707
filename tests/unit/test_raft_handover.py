"""Leadership goes where it is wanted, with commands coming all the time; where Raft stands is told."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Self

import pytest
from tests.unit.raft_cluster import Cluster, cluster, eventually, until

from swarmnet.core.errors import FailedPrecondition, SwarmnetError
from swarmnet.manager.raft.handover import HANDOVER_S, Handover


def test_a_handover_asks_again_and_ends_by_itself() -> None:
    handover = Handover()
    assert not handover.goes_on(0.0)
    handover.begin("m2", 10.0)
    assert (handover.target, handover.goes_on(10.0), handover.is_due(10.0)) == ("m2", True, True)
    handover.asked(10.0)
    assert not handover.is_due(10.1)
    assert handover.is_due(10.3)
    assert not handover.goes_on(10.0 + HANDOVER_S)
    assert not handover.is_due(10.0 + HANDOVER_S)
    handover.begin(None, 20.0)
    handover.end()
    assert not handover.goes_on(20.0)


class Writers:
    """Propose without a pause, at whoever leads; `lines` are those that were accepted."""

    def __init__(self, made: Cluster, count: int) -> None:
        self._made = made
        self._count = count
        self.lines: list[bytes] = []
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        self._tasks = [asyncio.create_task(self._write(number)) for number in range(self._count)]
        await until(lambda: len(self.lines) > 50)
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _write(self, writer: int) -> None:
        for number in range(1_000_000):
            await self._put(f"{writer}.{number}".encode())

    async def _put(self, line: bytes) -> None:
        while True:
            for leader in self._made.leaders():
                try:
                    await leader.node.propose(line)
                except SwarmnetError:
                    continue
                self.lines.append(line)
                return
            await asyncio.sleep(0.001)


@pytest.mark.parametrize("named", [True, False])
async def test_leadership_moves_while_writers_never_pause(named: bool, tmp_path: Path) -> None:
    async with cluster(tmp_path, 3) as made:
        before = await made.leader()
        others = [each for each in made.managers if each is not before]
        target = others[1].node_id if named else None
        await until(lambda: all(before.node.reachable(each.node_id) for each in others))
        async with Writers(made, 4) as writers:
            leader_id = await before.node.transfer(target)
            assert leader_id in ({target} if named else {each.node_id for each in others})
            accepted = len(writers.lines)
            await until(lambda: len(writers.lines) > accepted + 50)
        after = await made.leader()
        assert after.node_id == leader_id
        assert set(writers.lines) <= set(after.machine.lines)


async def test_a_manager_that_is_gone_cannot_take_over(tmp_path: Path) -> None:
    async with cluster(tmp_path, 3) as made:
        leader = await made.leader()
        gone = next(each for each in made.managers if each is not leader)
        await gone.stop()
        await until(lambda: not leader.node.reachable(gone.node_id))
        with pytest.raises(FailedPrecondition, match=f"manager {gone.node_id} cannot be reached"):
            await leader.node.transfer(gone.node_id)
        await leader.node.propose(b"goes on")


async def test_the_standing_tells_how_far_each_manager_is(tmp_path: Path) -> None:
    async with cluster(tmp_path, 3) as made:
        leader = await made.leader()
        follower, gone = [each for each in made.managers if each is not leader]
        for number in range(5):
            await made.put(b"%d" % number)
        await gone.stop()
        await made.put(b"without it")

        async def matched() -> None:
            now = await leader.node.standing()
            if not now.matched[follower.node_id] == now.last_index > now.matched[gone.node_id]:
                raise TimeoutError

        await eventually(matched, TimeoutError)
        mine, theirs = await leader.node.standing(), await follower.node.standing()
        assert (mine.leads, theirs.leads, theirs.matched) == (True, False, {})
        assert mine.leader_id == theirs.leader_id == leader.node_id
        assert mine.term == theirs.term == mine.last_term
        assert mine.journal_entries == mine.last_index
        sizes = await leader.node.sizes()
        assert sizes.journal_bytes > 500
        assert sizes.snapshot_bytes == 0
        assert 0 <= (follower.node.heard_ago_s(leader.node_id) or -1) < 10

        await leader.stop()

        async def alone() -> None:
            if (await follower.node.standing()).leader_id is not None:
                raise TimeoutError

        await eventually(alone, TimeoutError)
