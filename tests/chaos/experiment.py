"""The chaos run inside a lab whose bare hosts become the managers of one swarm.

    python -m tests.chaos.experiment SECONDS SEED      (run.py makes the lab)

Rounds: a storm of faults with clients at work; all faults end; a write must be accepted within 5 s; the
clients come to rest; every key of the round is read at every manager; the histories must be linearizable, the
state machines equal, and no manager may have ended by itself. At the very end all keys are looked at again.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import time
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from tests.chaos.faults import KINDS
from tests.chaos.linearizability import Operation, Read, violation
from tests.chaos.machine import machines_of
from tests.chaos.nemesis import Nemesis, some_storm
from tests.chaos.register import PipelinedRegisters, Refused, Registers, Unknown, Versioned
from tests.chaos.workload import CLIENTS, Client, Keys, Notes

from swarmnet.cli.lab import cluster
from swarmnet.cli.lab.place import Lab

WRITABLE_S: Final = 5.0
_GIVE_UP_S: Final = 60.0
_EQUAL_S: Final = 10.0
_PROBE_S: Final = 1.0
_LOG_ENTRIES: Final = 50
_CALM_S: Final = 1.0
_PROBE: Final = "probe"


class Broken(Exception):
    """What must hold did not."""


@dataclass
class Summary:
    seed: int
    managers: int
    seconds: float = 0.0
    rounds: int = 0
    faults: int = 0
    kinds: dict[str, int] = field(default_factory=dict)
    operations: dict[str, int] = field(default_factory=dict)
    retried: int = 0
    keys: int = 0
    restarts: int = 0
    snapshots_received: int = 0
    writable_max_s: float = 0.0
    writable_last_s: float = 0.0
    violations: list[str] = field(default_factory=list)


class Experiment:
    def __init__(self, lab: Lab, seed: int) -> None:
        self._lab = lab
        self._choose = random.Random(seed)
        self._machines = machines_of(lab, _LOG_ENTRIES)
        self._managers = [Registers(each.socket) for each in self._machines]
        self._nemesis = Nemesis(self._choose, self._machines, KINDS)
        self._notes = Notes()
        self._keys = Keys(self._notes)
        pipelined = [PipelinedRegisters([each.socket for each in self._machines])]
        self._clients = [
            self._client(f"{seed}c{number}", pipelined if number % 2 else self._managers)
            for number in range(1, CLIENTS + 1)
        ]
        self._going = asyncio.Event()
        self._work: list[asyncio.Task[None]] = []
        self._checked = 0
        self.summary = Summary(seed, len(self._machines))

    def _client(self, name: str, managers: Sequence[Registers]) -> Client:
        """Half of them share one stream."""
        return Client(name, managers, self._keys, self._notes, random.Random(self._choose.random()))

    async def run(self, seconds: float) -> None:
        """Raises Broken at the first thing that does not hold."""
        started = time.monotonic()
        await self._form()
        self._work = [asyncio.create_task(each.work(self._going)) for each in self._clients]
        self._work += [asyncio.create_task(each.keep_asking_who_leads()) for each in self._machines]
        try:
            while time.monotonic() - started < seconds:
                await self._round()
                self._count(time.monotonic() - started)
                print(self._progress(), flush=True)
            await self._look_at(self._keys.used)  # once more: snapshots were taken since, logs cut
        finally:
            self._count(time.monotonic() - started)
            for task in self._work:
                task.cancel()
            await asyncio.gather(*self._work, return_exceptions=True)

    async def _form(self) -> None:
        await asyncio.gather(*(each.start() for each in self._machines))
        hosts = [each.host for each in self._machines]
        await asyncio.gather(*(cluster.answers(self._lab, each) for each in hosts))
        await cluster.init(self._lab, hosts[0])
        tokens = await cluster.join_tokens(self._lab, hosts[0])
        for host in hosts[1:]:
            await cluster.join_host(self._lab, host, tokens.manager, tokens.manager_address)
        await self._managers[0].create(_PROBE, "-", _PROBE, _GIVE_UP_S)

    async def _round(self) -> None:
        self._going.set()
        await asyncio.sleep(_CALM_S)
        await self._nemesis.rage(some_storm(self._choose))
        await self._nemesis.heal()
        await self._writable_again()
        await asyncio.sleep(_CALM_S)
        await self._rest()
        await self._equal()
        await self._look_at(self._keys.used[self._checked :])
        self._checked = len(self._keys.used)
        self._keys.close()
        self.summary.rounds += 1

    async def _writable_again(self) -> None:
        healed = time.monotonic()
        tries = [asyncio.create_task(self._probe(each)) for each in self._managers]
        done, _ = await asyncio.wait(tries, timeout=_GIVE_UP_S, return_when=asyncio.FIRST_COMPLETED)
        took_s = time.monotonic() - healed
        for each in tries:
            each.cancel()
        await asyncio.gather(*tries, return_exceptions=True)
        self.summary.writable_last_s = round(took_s, 3)
        self.summary.writable_max_s = max(self.summary.writable_max_s, self.summary.writable_last_s)
        if not done or took_s > WRITABLE_S:
            raise Broken(f"writable only {took_s:.1f} s after the last fault")

    async def _probe(self, manager: Registers) -> None:
        while True:
            try:
                await manager.write(_PROBE, "-", f"{_PROBE}-{time.monotonic()}", _PROBE_S)
            except (Refused, Unknown):
                await asyncio.sleep(0.02)
            else:
                return

    async def _rest(self) -> None:
        self._going.clear()
        try:
            async with asyncio.timeout(_GIVE_UP_S):
                for client, work in zip(self._clients, self._work, strict=False):
                    await _sooner(client.resting.wait(), work)
        except TimeoutError:
            raise Broken(f"a client's request was not answered within {_GIVE_UP_S} s") from None

    async def _equal(self) -> None:
        """Every manager has applied the same, up to the same index."""
        until = time.monotonic() + _EQUAL_S
        while True:
            states = await asyncio.gather(*(each.state() for each in self._machines))
            if None not in states and len(set(states)) == 1:
                return
            if time.monotonic() > until:
                self._check_deaths()
                told = ", ".join(
                    f"{machine.name}: {state}" for machine, state in zip(self._machines, states, strict=True)
                )
                raise Broken(f"states differ {_EQUAL_S} s after all was quiet: {told}")

    def _check(self, keys: Sequence[str]) -> None:
        for key in keys:
            if (found := violation(self._notes.histories[key])) is not None:
                raise Broken(f"{key}: {found}")
        if repeated := self._notes.repeated():
            raise Broken(f"written more than once: {'; '.join(repeated)}")
        self._check_deaths()

    def _check_deaths(self) -> None:
        if died := [death for machine in self._machines for death in machine.deaths]:
            raise Broken(f"ended by itself: {died}")

    async def _look_at(self, keys: Sequence[str]) -> None:
        """What these keys are by each manager goes into their histories, which must be right then."""
        for manager in self._managers:
            called = time.monotonic()
            found = await self._all(manager)
            for key in keys:
                value = found[key].value if key in found else None
                self._notes.add(key, Operation(Read(value), called, time.monotonic(), "last"))
        await asyncio.to_thread(self._check, keys)

    async def _all(self, manager: Registers) -> Mapping[str, Versioned]:
        until = time.monotonic() + _GIVE_UP_S
        while True:
            try:
                return await manager.all(_PROBE_S)
            except (Refused, Unknown) as error:
                if time.monotonic() > until:
                    raise Broken(
                        f"a manager does not answer {_GIVE_UP_S} s after all was quiet: {error}"
                    ) from None
            await asyncio.sleep(0.05)

    def _count(self, seconds: float) -> None:
        self.summary.seconds = round(seconds, 1)
        self.summary.kinds = dict(self._nemesis.happened)
        self.summary.faults = self._nemesis.happened.total()
        self.summary.operations = dict(self._notes.outcomes)
        self.summary.retried = self._notes.retried
        self.summary.keys = len(self._keys.used)
        self.summary.snapshots_received = self._snapshots_received()
        self.summary.restarts = sum(each.starts for each in self._machines) - len(self._machines)

    def _snapshots_received(self) -> int:
        logs = [(self._lab.logs / f"{each.name}.log").read_text() for each in self._machines]
        return sum(log.count('event="snapshot received"') for log in logs)

    def _progress(self) -> str:
        now = self.summary
        return (
            f"{now.seconds:6.0f} s  round {now.rounds}: {now.faults} faults, "
            f"{now.operations.get('ok', 0)} operations, {now.operations.get('unknown', 0)} unknown, "
            f"{now.retried} retried, {now.keys} keys linearizable, "
            f"writable after {now.writable_last_s:.2f} s (at most {now.writable_max_s:.2f} s)"
        )

    def histories(self) -> dict[str, list[dict[str, Any]]]:
        """All of them, to look at after a failure."""
        return {
            key: [asdict(each) | {"action": str(each.action)} for each in history]
            for key, history in self._notes.histories.items()
        }


async def _sooner(event: Coroutine[Any, Any, bool], work: asyncio.Task[None]) -> None:
    """Wait for the event; `work` never ends but by an error, which is raised here."""
    waiting = asyncio.create_task(event)
    await asyncio.wait([waiting, work], return_when=asyncio.FIRST_COMPLETED)
    if work.done():
        await work


async def _main(arguments: argparse.Namespace) -> int:
    lab = Lab.load()
    experiment = Experiment(lab, arguments.seed)
    try:
        await experiment.run(arguments.seconds)
    except Broken as broken:
        experiment.summary.violations.append(str(broken))
        (lab.logs / "histories.json").write_text(json.dumps(experiment.histories(), indent=1))
        print(f"seed {arguments.seed}, logs {lab.logs}: {broken}", file=sys.stderr, flush=True)
    (lab.logs / "summary.json").write_text(json.dumps(asdict(experiment.summary)))
    return 1 if experiment.summary.violations else 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("seconds", type=float)
    parser.add_argument("seed", type=int)
    sys.exit(asyncio.run(_main(parser.parse_args())))


if __name__ == "__main__":
    main()
