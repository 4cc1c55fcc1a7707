"""What happens in the rotation's simulation: a script, its interruptions, and random stories.

make sim-rotation SEEDS=2000    random stories; a failing one names its seed
make sim-rotation SEED=7        tells that one
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Final

import structlog
from tests.sim.rotation_world import World

from swarmnet.core.limits import HURRIED_GRACE_S, RETIRE_GRACE_S

Event = tuple[str, ...]
"""The name of what happens, and to whom or how."""

NAMES: Final = ("w1", "w2", "w3")
_MEMORY: Final = Path("/dev/shm")
LONGEST_PASS: Final = 16
"""Changes of a kernel in one pass, of three nodes and one that was away."""
LONGEST_STEP: Final = 4
"""In one step of a rotation between two nodes: two SAs or a policy; and one more."""


async def happen(world: World, event: Event) -> None:
    """One event, and the invariants after it."""
    what, *how = event
    match what:
        case "deliver":
            await world.deliver(how[0])
        case "deliver twice":
            await world.deliver(how[0], twice=True)
        case "kill in":
            await world.deliver(how[0], killed_after=int(how[1]))
        case "time":
            world.pass_time(float(how[0]))
        case "exchange":  # one turn of everything that goes well
            for name in how:
                world.push(name)
                await world.deliver(name)
                world.hear(name)
        case _:
            getattr(world, what.replace(" ", "_"))(*how)
    world.check()


def rotation(names: Sequence[str]) -> list[Event]:
    """One rotation without a fault, in its smallest steps: each gap between two is a place for one."""
    steps: list[Event] = [("rotate",)]
    for _ in range(3):  # prepare, switch, retire
        steps.append(("plan",))
        for step in ("push", "deliver", "hear"):
            steps += [(step, name) for name in names]
    return [*steps, ("plan",), ("time", str(RETIRE_GRACE_S)), ("plan",), *(("push", n) for n in names),
            *(("deliver", n) for n in names)]  # fmt: skip


def interruptions(names: Sequence[str]) -> Iterator[list[Event]]:
    """What can go wrong between two steps, each by itself."""
    yield [("leader dies",)]
    yield [("plan and die",)]
    yield [("rotate",)]
    yield [("rotate",), ("rotate",), ("plan",)]
    yield [("time", "301"), ("plan",)]  # whoever has not answered is fenced
    yield [("time", str(HURRIED_GRACE_S))]
    for name in names:
        yield [("breaks", name)]
        yield [("breaks", name), ("silent", name), ("plan",)]
        yield [("breaks", name), ("silent", name), ("plan",), ("plan",), ("register", name), ("plan",)]
        yield [("breaks", name), ("register", name)]
        yield [("restart", name)]
        yield [("restart", name), ("register", name), ("plan",)]
        yield [("reboot", name)]
        yield [("reboot", name), ("register", name), ("plan",)]
        yield [("deliver twice", name)]
        yield [("task ends", name), ("plan",)]
        yield [("task ends", name), ("push", name), ("deliver", name), ("task comes", name), ("plan",)]


_GO_ON: Final[list[Event]] = [
    *[("plan",), ("exchange", "w1")] * 3,
    ("time", str(RETIRE_GRACE_S)),
    ("plan",),
    ("exchange", "w1"),
]
LAGGARDS: Final[Sequence[list[Event]]] = (
    [("rotate",), ("plan",), ("exchange", "w1", "w2"), *_GO_ON],  # w2 is slow to switch
    [
        *[("rotate",), ("plan",), ("exchange", "w1", "w2"), ("breaks", "w2"), ("silent", "w2"), *_GO_ON],
        *[("rotate",), *_GO_ON, ("rotate",), ("plan",), ("exchange", "w1")],  # w2 misses that
        *[("register", "w2"), ("exchange", "w2")],
    ],
)
AFTER_A_KILL: Final[Sequence[list[Event]]] = (
    [],
    [("register", "it"), ("plan",)],
    [("silent", "it"), ("plan",), ("plan",)],
)


def named(fault: list[Event]) -> str:
    return ", ".join(" ".join(event) for event in fault) or "nothing"


@asynccontextmanager
async def world(names: Sequence[str]) -> AsyncIterator[World]:
    """At rest, with epoch 1 in use."""
    with tempfile.TemporaryDirectory(dir=_MEMORY if _MEMORY.is_dir() else None) as folder:
        made = World(Path(folder), tuple(names))
        await made.settles()
        yield made


async def interrupted(script: Sequence[Event], at: int, fault: Sequence[Event]) -> None:
    """The script with the fault before its step `at`; then all of it has to come to its end."""
    async with world(NAMES[:2]) as made:
        try:
            for event in (*script[:at], *fault, *script[at:]):
                await happen(made, event)
            await made.settles()
        except AssertionError as error:
            raise type(error)(f"{error}; at step {at}, before {script[at : at + 1]}: {fault}") from None


@dataclass
class Story:
    """Random events of one seed; `told` are those that happened."""

    seed: int
    told: list[Event] = field(default_factory=list)

    async def run(self, length: int = 80) -> None:
        random = Random(self.seed)
        names = NAMES[: random.choice([2, 2, 3])]
        async with world(names) as made:
            for _ in range(length):
                event = _any_event(random, names)
                self.told.append(event)
                await happen(made, event)
            await made.settles()


def _any_event(random: Random, names: Sequence[str]) -> Event:
    name = random.choice(names)
    return random.choice(
        [
            *[("exchange", *names)] * 3,
            *[("plan",)] * 6,
            *[("push", name)] * 4,
            *[("deliver", name)] * 6,
            *[("hear", name)] * 6,
            *[("register", name)] * 4,
            *[("time", random.choice(["0.1", "2", "10", "301"]))] * 2,
            ("rotate",),
            ("rotate",),
            ("kill in", name, str(random.randrange(LONGEST_PASS))),
            ("deliver twice", name),
            ("breaks", name),
            ("silent", name),
            ("restart", name),
            ("reboot", name),
            ("leader dies",),
            ("plan and die",),
            ("task ends", name),
            ("task comes", name),
            ("task comes", name),
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=1000)
    parser.add_argument("--seed", type=int)
    asked = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    seeds = range(1, asked.seeds + 1) if asked.seed is None else [asked.seed]
    failed = [seed for seed in seeds if not _holds(seed, tell=asked.seed is not None)]
    print(f"{len(seeds)} stories, {len(failed)} failed: {failed[:20]}")
    sys.exit(bool(failed))


def _holds(seed: int, *, tell: bool) -> bool:
    story = Story(seed)
    try:
        asyncio.run(story.run())
    except AssertionError as error:
        print(f"SEED={seed}: {error}")
        if tell:
            print(*story.told, sep="\n")
        return False
    return True


if __name__ == "__main__":
    main()
