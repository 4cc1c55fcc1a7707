"""Three managers as processes that are killed with SIGKILL: nothing that was acknowledged is ever lost."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from itertools import count
from pathlib import Path

from tests.e2e.raft_process import RaftProcess
from tests.unit.raft_cluster import CLUSTER, Cluster, until

from swarmnet.manager.ca.authority import Authority
from swarmnet.manager.raft.node import Tuning

IN_FLIGHT = 20
KILLS = 3


class Swarm:
    """Three processes, and a client that writes numbered words to whoever leads."""

    def __init__(self, processes: list[RaftProcess], padding_bytes: int) -> None:
        self.processes = processes
        self._padding_bytes = padding_bytes
        self._words = (str(number) for number in count())
        self._given = 0
        self.running = True

    async def leader(self) -> RaftProcess:
        await until(lambda: any(each.leads for each in self.processes))
        return next(each for each in self.processes if each.leads)

    @property
    def acknowledged(self) -> list[str]:
        return [word for each in self.processes for word in each.acknowledged]

    async def write(self) -> None:
        """Keep some words in flight; a word that was refused, or whose manager died, is not tried again."""
        while self.running:
            leader = await self.leader()
            base = len(leader.acknowledged) + len(leader.refused)
            for _ in range(IN_FLIGHT):
                leader.put(next(self._words), self._padding_bytes)
            while leader.leads and len(leader.acknowledged) + len(leader.refused) < base + IN_FLIGHT:
                await leader.next_change()

    async def acknowledge_more(self, words: int) -> None:
        """Wait until so many more words were promised to be kept."""
        wanted = len(self.acknowledged) + words
        await until(lambda: len(self.acknowledged) >= wanted, 20.0)

    async def check_nothing_lost(self) -> None:
        """All managers end up with the same words in the same order, each once, with all acknowledged."""
        self.running = False
        acknowledged = set(self.acknowledged)
        deadline = time.monotonic() + 15.0
        while True:
            logs = [await each.dump() for each in self.processes]
            same = all(each == logs[0] for each in logs)
            if (same and acknowledged <= set(logs[0])) or time.monotonic() > deadline:
                break
        assert same
        assert acknowledged - set(logs[0]) == set()
        assert len(set(logs[0])) == len(logs[0])


@asynccontextmanager
async def swarm(folder: Path, log_entries: int, padding_bytes: int = 0) -> AsyncIterator[Swarm]:
    cluster = Cluster(Authority.create(CLUSTER, datetime.now(UTC)), folder, Tuning(log_entries=log_entries))
    processes = [RaftProcess(cluster.new()) for _ in range(3)]
    made = Swarm(processes, padding_bytes)
    try:
        await processes[0].start(bootstrap=True)
        leader = await made.leader()
        for each in processes[1:]:
            await each.start(join=leader)
        made.processes[0].put("first")
        await until(lambda: bool(made.acknowledged))
        writer = asyncio.create_task(made.write())
        yield made
        made.running = False
        writer.cancel()
        await asyncio.wait([writer])
    finally:
        for each in processes:
            await each.kill()


async def test_a_killed_leader_is_replaced_in_time_and_nothing_acknowledged_is_lost(tmp_path: Path) -> None:
    async with swarm(tmp_path, log_entries=4096) as made:
        gaps = []
        for _ in range(KILLS):
            await made.acknowledge_more(200)
            leader = await made.leader()
            killed_at = time.monotonic()
            await leader.kill()
            await made.acknowledge_more(1)
            gaps.append(time.monotonic() - killed_at)
            await leader.start()
        await made.acknowledge_more(200)
        await made.check_nothing_lost()
        assert max(gaps) < 1.5, gaps


async def test_killed_together_while_the_log_is_cut_they_lose_nothing(tmp_path: Path) -> None:
    async with swarm(tmp_path, log_entries=50) as made:
        for _ in range(2):
            await made.acknowledge_more(300)
            await asyncio.gather(*(each.kill() for each in made.processes))
            await asyncio.gather(*(each.start() for each in made.processes))
        await made.acknowledge_more(100)
        await made.check_nothing_lost()


async def test_a_lagging_manager_catches_up_by_snapshot_while_the_leader_is_killed(tmp_path: Path) -> None:
    async with swarm(tmp_path, log_entries=100) as made:
        leader = await made.leader()
        lagging = next(each for each in made.processes if each is not leader)
        await lagging.kill()
        await made.acknowledge_more(500)
        await lagging.start()
        await leader.kill()
        await made.acknowledge_more(100)
        await leader.start()
        await made.check_nothing_lost()
        assert max(each.memory_mib() for each in made.processes) < 100
