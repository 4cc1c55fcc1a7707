"""Three managers as processes on small disks that run full: writes stop with a reason, nothing is lost, and
all goes on when there is room, without a restart."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

from tests.e2e.raft_process import RaftProcess
from tests.e2e.small_disk import SmallDisk, small_disk
from tests.e2e.test_raft_cluster import Swarm, swarm
from tests.unit.raft_cluster import eventually, name_of

DISK_MIB = 80
WORD_BYTES = 8_000
SEGMENT_WORDS = 8 * 2**20 // WORD_BYTES
FULL = "RESOURCE_EXHAUSTED"


async def refused(made: Swarm) -> RaftProcess:
    """Whoever led and refused a word for want of room; another one may lead a moment later."""
    while True:
        for each in made.processes:
            if FULL in each.reasons:
                return each
        await (await made.leader()).next_change()


async def caught_up(follower: RaftProcess, leader: RaftProcess) -> None:
    """Wait until it has all that the leader has now."""
    wanted = len(await leader.dump())

    async def check() -> None:
        if len(await follower.dump()) < wanted:
            raise TimeoutError

    await eventually(check, TimeoutError, 20.0)


async def test_full_disks_stop_writes_lose_nothing_and_everything_goes_on_after(tmp_path: Path) -> None:
    with ExitStack() as stack:
        disks = {
            name: stack.enter_context(small_disk(tmp_path / name, DISK_MIB))
            for name in map(name_of, (1, 2, 3))
        }
        async with swarm(tmp_path, log_entries=1_000_000, padding_bytes=WORD_BYTES) as made:
            await one_follower_is_full(made, disks)
            await the_leader_is_full(made, disks)
            await all_are_full(made, disks)
            assert all(each.process and each.process.returncode is None for each in made.processes)
            await made.check_nothing_lost()


async def one_follower_is_full(made: Swarm, disks: dict[str, SmallDisk]) -> None:
    leader = await made.leader()
    follower = next(each for each in made.processes if each is not leader)
    disk = disks[follower.manager.node_id]
    disk.fill()
    await made.acknowledge_more(2 * SEGMENT_WORDS)
    assert len(await follower.dump()) < SEGMENT_WORDS
    assert not follower.leads
    disk.free()
    await caught_up(follower, leader)


async def the_leader_is_full(made: Swarm, disks: dict[str, SmallDisk]) -> None:
    for each in made.processes:
        each.reasons.clear()
    leader = await made.leader()
    disk = disks[leader.manager.node_id]
    disk.fill()
    assert await refused(made) is leader
    while leader.leads:
        await leader.next_change()
    await made.acknowledge_more(SEGMENT_WORDS)
    disk.free()
    await caught_up(leader, await made.leader())


async def all_are_full(made: Swarm, disks: dict[str, SmallDisk]) -> None:
    for each in made.processes:
        each.reasons.clear()
    for disk in disks.values():
        disk.fill()
    await refused(made)
    for disk in disks.values():
        disk.free()
    await made.acknowledge_more(100)
