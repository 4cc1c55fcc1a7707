"""What goes wrong in a simulated cluster, and what operators do meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from tests.sim.raft_machine import Machine, Process
from tests.sim.raft_net import Network, Weather
from tests.sim.raft_world import World

from swarmnet.core.errors import SwarmnetError
from swarmnet.manager.raft.entries import Change
from swarmnet.manager.raft.member import Member

_FEWEST_MEMBERS, _MOST_MEMBERS = 3, 6


class Faults:
    def __init__(
        self,
        world: World,
        network: Network,
        machines: Mapping[str, Machine],
        *,
        changes_members: bool,
        down_s: tuple[float, float],
    ) -> None:
        self._world = world
        self._network = network
        self._machines = machines
        self._down_s = down_s
        self._over = False
        self._kinds: list[Callable[[], None]] = [
            self._crash_one,
            self._crash_one,
            self._crash_leader,
            self._crash_many,
            self._crash_in_an_operation,
            self._crash_in_an_operation,
            self._split,
            self._cut_off,
            self._cut_one_way,
            self._network.heal,
            self._pause,
            self._busy_loop,
            self._compact,
            self._renew_data_key,
            self._renew_data_key,
            self._transfer,
            self._fill_disk,
        ]
        if changes_members:
            self._kinds += [self._change_members] * 6

    def one(self) -> None:
        """Let something happen."""
        act = self._world.random.choice(self._kinds)
        self._world.note("", act.__name__.strip("_"))
        act()
        self._start_missing()

    def end(self) -> None:
        """The last fault is over: all that is still under way ends now."""
        self._over = True
        self._world.note("", "all is well again")
        self._network.weather = Weather()
        self._network.heal()
        for machine in self._machines.values():
            machine.disk.cut_after = None
            machine.disk.capacity_bytes = 1 << 40
            if machine.process is not None:
                machine.process.paused_until = machine.process.loop_free_at = self._world.now
                machine.process.wake()
            elif machine.is_wanted:
                self._restart(machine)
        self._start_missing()
        self._keep_started()

    def members(self) -> list[str]:
        """Who they are by the manager that leads; by none, nobody."""
        leader = self._leader()
        return [] if leader is None else sorted(leader.members)

    def all_members_run(self) -> bool:
        members = self.members()
        return members != [] and all(self._machines[name].process is not None for name in members)

    # Crashes

    def _crash_one(self) -> None:
        if (running := self._running()) != []:
            self._crash(self._world.random.choice(running))

    def _crash_leader(self) -> None:
        if (leader := self._leader()) is not None:
            self._crash(leader.machine)

    def _crash_many(self) -> None:
        running = self._running()
        power = self._world.chance(0.7)
        for machine in self._world.random.sample(running, self._world.random.randint(0, len(running))):
            machine.crash(power=power)
            self._restart_soon(machine)

    def _crash_in_an_operation(self) -> None:
        """Its power goes at one of the next times that it uses the disk; maybe while it starts."""
        if (running := self._running()) != []:
            machine = self._world.random.choice(running)
            if self._world.chance(0.3):
                self._crash(machine)
            machine.disk.cut_after = self._world.random.randint(0, 12)
            self._restart_soon(machine)

    def _crash(self, machine: Machine) -> None:
        machine.crash(power=self._world.chance(0.5))
        self._restart_soon(machine)

    def _restart_soon(self, machine: Machine) -> None:
        machine.restart_due = True
        self._world.after(self._world.random.uniform(*self._down_s), partial(self._restart, machine))

    def _restart(self, machine: Machine) -> None:
        machine.start()
        if machine.process is None and machine.is_wanted:
            self._world.after(self._world.random.uniform(*self._down_s), partial(self._restart, machine))

    # Network

    def _split(self) -> None:
        names = list(self._machines)
        self._world.random.shuffle(names)
        at = self._world.random.randint(1, len(names) - 1)
        self._block(names[:at], names[at:], both=True)

    def _cut_off(self) -> None:
        """Of all, the leader."""
        if (leader := self._leader()) is not None:
            self._block([leader.name], [each for each in self._machines if each != leader.name], both=True)

    def _cut_one_way(self) -> None:
        names = self._world.random.sample(list(self._machines), 2)
        self._block(names[:1], names[1:], both=False)

    def _block(self, these: list[str], those: list[str], *, both: bool) -> None:
        for one in these:
            for other in those:
                self._network.block(one, other)
                if both:
                    self._network.block(other, one)

    # Slowness

    def _pause(self) -> None:
        """SIGSTOP, or a machine that has other things to do."""
        if (running := self._running()) != []:
            process = self._world.random.choice(running).process
            assert process is not None
            process.paused_until = process.loop_free_at = self._world.now + self._world.random.uniform(
                0.1, 3.0
            )

    def _busy_loop(self) -> None:
        if (running := self._running()) != []:
            process = self._world.random.choice(running).process
            assert process is not None
            process.loop_free_at = self._world.now + self._world.random.uniform(0.01, 0.5)

    def _fill_disk(self) -> None:
        if (running := self._running()) != []:
            machine = self._world.random.choice(running)
            room = self._world.random.randint(0, 2000)
            machine.disk.capacity_bytes = machine.disk.used_bytes() + room

            def make_room() -> None:
                machine.disk.capacity_bytes = 1 << 40
                if machine.process is None:
                    self._restart_soon(machine)

            self._world.after(self._world.random.uniform(*self._down_s), make_room)

    # Operators

    def _compact(self) -> None:
        for machine in self._running():
            if machine.process is not None and self._world.chance(0.5):
                machine.process.engine.post(machine.process.raft.compact)

    def _renew_data_key(self) -> None:
        for machine in self._running():
            if machine.process is not None and self._world.chance(0.5):
                machine.process.engine.post(machine.process.engine.renew_data_key)

    def _transfer(self) -> None:
        if (leader := self._leader()) is not None:
            leader.engine.post(leader.engine.transfer)

    def _change_members(self) -> None:
        """One goes, or one comes; one that went for good comes back as a new one."""
        if (leader := self._leader()) is None:
            return
        outside = [name for name in self._machines if name not in leader.members]
        inside = [name for name in leader.members if name != leader.name]
        few, many = len(inside) < _FEWEST_MEMBERS, len(inside) + 1 >= _MOST_MEMBERS
        if outside and not many and (few or self._world.chance(0.5)):
            self._add(leader, self._world.random.choice(outside))
        elif not few:
            self._remove(leader, self._world.random.choice(inside))

    def _add(self, leader: Process, name: str) -> None:
        def counted(error: SwarmnetError | None) -> None:
            if error is None and not self._over:
                self._world.note(name, f"is added by {leader.name}")
                self._machines[name].found(leader.members, leader.admission_of(name))

        change = Change(remove=False, member=Member(name, name, name))
        leader.engine.post(partial(leader.engine.change, change, counted, lambda _error: None))

    def _remove(self, leader: Process, name: str) -> None:
        def final(error: SwarmnetError | None) -> None:
            if error is None:
                self._world.note(name, f"is removed by {leader.name}")
                self._machines[name].clear()

        change = Change(remove=True, member=Member(name, name, name))
        leader.engine.post(partial(leader.engine.change, change, lambda _error: None, final))

    def _start_missing(self) -> None:
        """A member that never heard that it is one asks again."""
        if (leader := self._leader()) is None:
            return
        for name in self.members():
            machine = self._machines[name]
            if machine.process is None and not machine.restart_due:
                machine.found(self.members(), leader.admission_of(name))

    def _keep_started(self) -> None:
        self._start_missing()
        self._world.after(0.2, self._keep_started)

    # Who

    def _running(self) -> list[Machine]:
        return [each for each in self._machines.values() if each.process is not None]

    def _leader(self) -> Process | None:
        """Of those that believe that they lead, the one of the latest term."""
        leaders = [
            each.process for each in self._running() if each.process is not None and each.process.leads
        ]
        return max(leaders, key=lambda each: each.raft.term, default=None)
