"""Programs at work over one stream while managers come and go."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.e2e.manager_process import Manager, eventually, managers

from swarmnet.api.v1 import control_pb2 as control
from swarmnet.client.client import Client

WRITERS = 32


@asynccontextmanager
async def swarm_of_three(folder: Path) -> AsyncIterator[list[Manager]]:
    """The leader first."""
    async with managers(folder, 3) as made:
        first, *others = made
        await first.init()
        token = (await first.tokens()).manager
        for each in others:
            await each.join(token, first.bootstrap)

        async def whole() -> bool:
            statuses = [sorted(view.manager_status for view in await each.nodes()) for each in made]
            return statuses == [["Leader", "Reachable", "Reachable"]] * 3

        await eventually(whole)
        (leader,) = [view.node.address for view in await first.nodes() if view.manager_status == "Leader"]
        yield sorted(made, key=lambda each: each.address != leader)


@dataclass
class Chain:
    """Each write is made on the version that the one before it gave: if that one was lost, or made twice, it
    conflicts."""

    swarm: Client
    name: str
    version: int = 0
    written: int = 0

    async def begin(self) -> None:
        await self.swarm.CreateConfig(control.CreateConfigRequest(name=self.name, data=b"-"))
        self.version = (await self.swarm.GetConfig(control.GetRequest(ref=self.name))).meta.version

    async def write(self, until: asyncio.Event) -> None:
        while not until.is_set():
            request = control.UpdateConfigRequest(
                ref=self.name,
                labels={"value": f"{self.written + 1}"},
                version=self.version,
                request_id=f"{self.name}-{self.written}",
            )
            self.version = (await self.swarm.UpdateConfig(request)).version
            self.written += 1


@pytest.mark.parametrize("at", ["the leader", "a follower"])
async def test_no_write_is_lost_or_made_twice_when_the_leader_is_killed(tmp_path: Path, at: str) -> None:
    async with swarm_of_three(tmp_path) as made:
        leader = made[0]
        addresses = [each.address for each in (made if at == "the leader" else reversed(made))]
        async with Client(addresses, await leader.operator(), timeout_s=30.0) as swarm:
            chains = [Chain(swarm, f"chain-{number}") for number in range(WRITERS)]
            await asyncio.gather(*(each.begin() for each in chains))
            enough = asyncio.Event()
            work = asyncio.gather(*(each.write(enough) for each in chains))

            async def grown_by(count: int, since: list[int]) -> bool:
                if work.done():
                    work.result()
                return all(each.written >= before + count for each, before in zip(chains, since, strict=True))

            await eventually(lambda: grown_by(5, [0] * WRITERS))
            await leader.stop(signal.SIGKILL)
            since = [each.written for each in chains]
            await eventually(lambda: grown_by(5, since), within_s=30.0)
            enough.set()
            await work
            for each in chains:
                config = await swarm.GetConfig(control.GetRequest(ref=each.name))
                assert (config.labels["value"], config.meta.version) == (f"{each.written}", each.version)


async def test_a_manager_that_is_stopped_sends_its_programs_on(tmp_path: Path) -> None:
    """No call fails, reads and writes, while each manager in turn is stopped and started again."""
    async with swarm_of_three(tmp_path) as made:
        addresses = [each.address for each in made]
        async with Client(addresses, await made[0].operator(), timeout_s=30.0) as swarm:
            chain = Chain(swarm, "chain")
            await chain.begin()
            enough = asyncio.Event()
            writing = asyncio.create_task(chain.write(enough))
            for each in made:
                before = chain.written
                assert await each.stop() == 0
                await each.start()
                await eventually(lambda before=before: _more(chain, before))  # type: ignore[misc]
            enough.set()
            await writing
            config = await swarm.GetConfig(control.GetRequest(ref="chain"))
            assert config.labels["value"] == f"{chain.written}"


async def _more(chain: Chain, before: int) -> bool:
    return chain.written > before + 5
