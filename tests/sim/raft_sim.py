"""A cluster of managers under random faults: our engines, guards and journals on disks and wires in memory.

`run(seed)` is one story, the same each time. It ends well when, the last fault over, a client's write is
accepted within `WRITABLE_S`, all managers come to the same state, and raft_oracle.py never objected.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import count
from typing import Final

from tests.sim.raft_faults import Faults
from tests.sim.raft_machine import Machine, Process
from tests.sim.raft_net import Network, Weather
from tests.sim.raft_oracle import Oracle
from tests.sim.raft_world import Violation, World, time_of

from swarmnet.manager.raft.library import Tuning

WRITABLE_S: Final = 5.0
_ALIKE_S: Final = 15.0
_ERASED_S: Final = 15.0
_MOST_SPARES: Final = 2


@dataclass(frozen=True, slots=True)
class Plan:
    """What kind of story a seed tells."""

    size: int
    harsh: bool
    changes_members: bool
    weather: Weather
    tuning: Tuning
    batch_bytes: int
    calm_s: float
    faults_s: float
    fault_pause_s: float
    down_s: tuple[float, float]
    write_pause_s: float

    @classmethod
    def drawn(cls, world: World) -> Plan:
        draw = world.random
        harsh = draw.random() < 0.4
        weather = Weather(
            delay=(0.0003, draw.choice((0.001, 0.005, 0.03))),
            spike=draw.choice((0.0, 0.01, 0.05)),
            disorder=draw.choice((0.02, 0.2)) if harsh else 0.0,
            doubled=draw.choice((0.02, 0.1)) if harsh else 0.0,
            stale=draw.choice((0.1, 0.9)) if harsh else 0.0,
        )
        return cls(
            size=draw.choice((3, 3, 3, 5)),
            harsh=harsh,
            changes_members=draw.random() < 0.4,
            weather=weather,
            tuning=Tuning(log_entries=draw.choice((8, 20, 60, 10_000)), log_age_s=draw.choice((1.0, 600.0))),
            batch_bytes=draw.choice((150, 400, 1_000_000)),
            calm_s=draw.choice((0.0, 2.0, 2.0, 2.0)),
            faults_s=draw.uniform(1.0, 6.0),
            fault_pause_s=draw.choice((0.05, 0.1, 0.3, 0.8)),
            down_s=draw.choice(((0.001, 0.05), (0.05, 1.5))),
            write_pause_s=draw.choice((0.02, 0.05, 0.1)),
        )


@dataclass(frozen=True, slots=True)
class Outcome:
    """`violation` is None for a story that ends well; `digest` is of all that happened."""

    seed: int
    violation: str | None
    story: str
    digest: int
    acknowledged: int


class Simulation:
    def __init__(self, seed: int) -> None:
        self.world = World(seed)
        self.plan = Plan.drawn(self.world)
        self.oracle = Oracle(self.world)
        names = [f"m{number}" for number in range(self.plan.size + _MOST_SPARES)]
        self.founders = names[: self.plan.size]
        self.network = Network(self.world, self.plan.weather, names)
        self.machines = {name: self._machine(name) for name in names}
        self._numbers = count(1)
        self._writing = True

    def tell(self) -> None:
        """From the first start to the end. Violation."""
        for name in self.founders:
            self.machines[name].found(self.founders)
        self._write()
        faults = Faults(
            self.world,
            self.network,
            self.machines,
            changes_members=self.plan.changes_members,
            down_s=self.plan.down_s,
        )
        self.world.run(self.plan.calm_s)
        end = self.world.now + self.plan.faults_s
        while self.world.now < end:
            self.world.run(self.world.random.expovariate(1.0 / self.plan.fault_pause_s))
            faults.one()
        faults.end()
        self._recover(faults)

    def running(self) -> list[Process]:
        return [each.process for each in self.machines.values() if each.process is not None]

    def _machine(self, name: str) -> Machine:
        plan = self.plan
        return Machine(name, self.world, self.network, self.oracle, plan.tuning, plan.batch_bytes)

    def _write(self) -> None:
        """Clients: a few writes at once to one manager, mostly one that leads; now and then reads."""
        if not self._writing:
            return
        draw = self.world.random
        running = self.running()
        asked = running if draw.random() < 0.1 else [each for each in running if each.leads]
        if asked:
            process = draw.choice(asked)
            for _ in range(draw.choice((1, 1, 1, 2, 6))):
                process.propose(b"%d:" % next(self._numbers) + bytes(draw.randint(0, 60)))
            for each in asked:
                if draw.random() < 0.4:
                    each.read()
        self.world.after(draw.expovariate(1.0 / self.plan.write_pause_s), self._write)

    def _recover(self, faults: Faults) -> None:
        world, oracle = self.world, self.oracle
        before = len(oracle.acknowledged)
        if not world.run(WRITABLE_S, lambda: len(oracle.acknowledged) > before):
            world.fail(f"no write is accepted within {WRITABLE_S} s of the last fault")
        self._writing = False
        if not world.run(_ALIKE_S, lambda: faults.all_members_run() and self._alike(faults.members())):
            world.fail(f"the managers are not alike within {_ALIKE_S} s: {self._positions()}")
        self._erase(faults.members())
        states = {name: self._process(name).state for name in faults.members()}
        oracle.at_the_end(states)

    def _erase(self, names: Iterable[str]) -> None:
        """One more data key: nothing from before it may be left."""
        world, processes = self.world, [self._process(name) for name in names]
        if not world.run(_ERASED_S, lambda: not any(each.keys_to_destroy for each in processes)):
            world.fail(f"old data keys are still there {_ERASED_S} s after the last fault")
        made_at = {each.name: each.data_key for each in processes}
        for each in processes:
            each.renew_data_key()
        if not world.run(
            _ERASED_S,
            lambda: all(
                each.data_key > made_at[each.name] and not each.keys_to_destroy for each in processes
            ),
        ):
            world.fail(f"old data keys are still there {_ERASED_S} s after a new one was made")
        if left := [each.name for each in processes if each.has_old_data()]:
            world.fail(f"{left} still have what was sealed before")

    def _process(self, name: str) -> Process:
        process = self.machines[name].process
        assert process is not None
        return process

    def _alike(self, names: Iterable[str]) -> bool:
        found = [self._process(name) for name in names]
        return (
            len({(each.raft.commit_index, each.raft.applied_index, each.state.index) for each in found}) == 1
        )

    def _positions(self) -> dict[str, tuple[int, int, int]]:
        return {
            each.name: (each.raft.term, each.raft.commit_index, each.raft.applied_index)
            for each in self.running()
        }


def run(seed: int) -> Outcome:
    """One story. Needs a running event loop, because the engine asks for one."""
    simulation = Simulation(seed)
    world = simulation.world
    with time_of(world), contextlib.suppress(Violation):
        simulation.tell()
    acknowledged = len(simulation.oracle.acknowledged)
    return Outcome(seed, world.violation, world.story(), world.digest, acknowledged)
