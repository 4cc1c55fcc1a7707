"""What can go wrong, each kind as a function that makes one fault for machines chosen at random."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final, TypeAlias

from tests.chaos.control import DieAt
from tests.chaos.machine import Machine, Token
from tests.chaos.relay import Quality

Mark: TypeAlias = Callable[[Token], object]
_LAST_WORDS_S: Final = 5.0


@dataclass
class Fault:
    """`inject`, and `heal` some time later. The fault itself is the token of its marks."""

    kind: str
    marks: Sequence[tuple[Machine, Mark]]
    armed: bool = False
    """It only happens if the manager comes to a certain point; whether it did is known at the end."""

    __hash__ = object.__hash__

    @property
    def machines(self) -> list[Machine]:
        return [machine for machine, _ in self.marks]

    async def inject(self) -> None:
        for _, mark in self.marks:
            mark(self)
        await asyncio.gather(*(each.settle() for each in self.machines))

    async def heal(self) -> bool:
        """Whether it has happened."""
        for each in self.machines:
            each.unmark(self)
        await asyncio.gather(*(each.settle() for each in self.machines))
        return not self.armed or self._went_off()

    def _went_off(self) -> bool:
        """Disarm it; it went off if there was nothing to disarm."""
        machine = self.machines[0]
        waiting, machine.controls.die_at = machine.controls.die_at, DieAt.NEVER
        return waiting is DieAt.NEVER


Make: TypeAlias = Callable[[random.Random, Sequence[Machine]], Fault | None]
"""None: there is nothing now that this could happen to."""


def _shuffled(choose: random.Random, machines: Sequence[Machine]) -> list[Machine]:
    """Half the time with the leader first, which has most to lose."""
    drawn = choose.sample(machines, len(machines))
    return sorted(drawn, key=lambda each: not each.leads) if choose.random() < 0.5 else drawn


def _some(choose: random.Random, machines: Sequence[Machine]) -> tuple[str, list[Machine]]:
    """One, a majority or all, in the order of how often."""
    majority = len(machines) // 2 + 1
    name, count = choose.choices(
        [("one", 1), ("majority", majority), ("all", len(machines))], weights=[6, 2, 1]
    )[0]
    return name, _shuffled(choose, machines)[:count]


def kill(choose: random.Random, machines: Sequence[Machine]) -> Fault | None:
    name, chosen = _some(choose, machines)
    if not any(each.is_up for each in chosen):
        return None
    return Fault(f"kill {name}", [(each, each.down.add) for each in chosen])


def pause(choose: random.Random, machines: Sequence[Machine]) -> Fault | None:
    name, chosen = _some(choose, machines)
    if not any(each.is_up for each in chosen):
        return None
    return Fault(f"pause {name}", [(each, each.paused.add) for each in chosen])


def die_at(when: DieAt, choose: random.Random, machines: Sequence[Machine]) -> Fault | None:
    """SIGKILL in the middle of writing the journal, or a snapshot."""
    able = [each for each in machines if each.is_up and each.controls.die_at is DieAt.NEVER]
    if not able:
        return None
    chosen = _shuffled(choose, able)[0]

    def arm(_token: Token) -> None:
        chosen.may_die_until = time.monotonic() + _LAST_WORDS_S
        chosen.controls.die_at = when

    return Fault(f"kill at {when.name.lower().replace('_', ' ')}", [(chosen, arm)], armed=True)


def terminate(choose: random.Random, machines: Sequence[Machine]) -> Fault | None:
    """SIGTERM: the leader hands over."""
    able = [each for each in machines if each.is_up]
    if not able:
        return None
    chosen = _shuffled(choose, able)[0]
    return Fault("terminate", [(chosen, lambda _token: chosen.terminate())])


def _cut(machine: Machine, others: Sequence[Machine]) -> tuple[Machine, Mark]:
    addresses = frozenset(each.host.address for each in others)
    return machine, lambda token: machine.cut_from.update({token: addresses})


def isolate(choose: random.Random, machines: Sequence[Machine]) -> Fault | None:
    """One hears nobody, and nobody hears it."""
    one, *rest = _shuffled(choose, machines)
    return Fault("cut one off", [_cut(one, rest), *(_cut(each, [one]) for each in rest)])


def deafen(choose: random.Random, machines: Sequence[Machine]) -> Fault | None:
    """One hears nobody, but all hear it."""
    one, *rest = _shuffled(choose, machines)
    return Fault("one hears nobody", [_cut(one, rest)])


def mute(choose: random.Random, machines: Sequence[Machine]) -> Fault | None:
    """Nobody hears one, but it hears all."""
    one, *rest = _shuffled(choose, machines)
    return Fault("nobody hears one", [_cut(each, [one]) for each in rest])


def one_way(choose: random.Random, machines: Sequence[Machine]) -> Fault | None:
    one, other, *_ = _shuffled(choose, machines)
    return Fault("one way of a link cut", [_cut(one, [other])])


def link(choose: random.Random, machines: Sequence[Machine]) -> Fault | None:
    """Two do not reach each other, but both reach the rest."""
    one, other, *_ = _shuffled(choose, machines)
    return Fault("link cut", [_cut(one, [other]), _cut(other, [one])])


def shatter(choose: random.Random, machines: Sequence[Machine]) -> Fault | None:
    """Nobody reaches anybody."""
    alone = [_cut(each, [other for other in machines if other is not each]) for each in machines]
    return Fault("all cut off", alone)


def reset(choose: random.Random, machines: Sequence[Machine]) -> Fault | None:
    """Connections to one break at once, with what was under way in them."""
    one, *rest = _shuffled(choose, machines)
    addresses = frozenset(each.host.address for each in rest)
    return Fault("connections reset", [(one, lambda token: one.reset_from.update({token: addresses}))])


def slow_disk(choose: random.Random, machines: Sequence[Machine]) -> Fault | None:
    name, chosen = _some(choose, machines)
    delay_s = choose.choice([0.005, 0.02, 0.1, 0.4])
    return Fault(f"slow disk of {name}", [(each, partial(_slow, each, delay_s)) for each in chosen])


def _slow(machine: Machine, delay_s: float, token: Token) -> None:
    machine.slow[token] = delay_s


def full_disk(choose: random.Random, machines: Sequence[Machine]) -> Fault | None:
    name, chosen = _some(choose, machines)
    return Fault(f"full disk of {name}", [(each, each.full.add) for each in chosen])


def clock(choose: random.Random, machines: Sequence[Machine]) -> Fault | None:
    """The time of day jumps, and jumps back later."""
    name, chosen = _some(choose, machines)
    return Fault(f"clock jump of {name}", [(each, partial(_jump, each, _jump_s(choose))) for each in chosen])


def _jump_s(choose: random.Random) -> float:
    """A tenth of a second to a day, forward or back."""
    return choose.choice([-1, 1]) * 0.1 * float(864_000 ** choose.random())


def _jump(machine: Machine, offset_s: float, token: Token) -> None:
    machine.clocks[token] = offset_s


def delay(choose: random.Random, machines: Sequence[Machine]) -> Fault | None:
    """Packets to and from some are late, each by its own while, so that they overtake each other."""
    return _bad_cable(
        "late packets", Quality(delay_s=choose.choice([0.01, 0.05, 0.2, 0.5])), choose, machines
    )


def loss(choose: random.Random, machines: Sequence[Machine]) -> Fault | None:
    """Packets to and from some get lost, or come twice."""
    quality = Quality(0.01, loss=choose.choice([0.02, 0.1, 0.3]), twice=choose.choice([0.0, 0.1, 0.5]))
    return _bad_cable("lost and repeated packets", quality, choose, machines)


def _bad_cable(
    kind: str, quality: Quality, choose: random.Random, machines: Sequence[Machine]
) -> Fault | None:
    name, chosen = _some(choose, [each for each in machines if not each.cables])
    if not chosen:
        return None
    return Fault(f"{kind} of {name}", [(each, partial(_impair, each, quality)) for each in chosen])


def _impair(machine: Machine, quality: Quality, token: Token) -> None:
    machine.cables[token] = quality


KINDS: Final[Mapping[Make, int]] = {
    kill: 6,
    pause: 6,
    partial(die_at, DieAt.ANY_SYNC): 3,
    partial(die_at, DieAt.SNAPSHOT_SYNC): 3,
    terminate: 2,
    isolate: 4,
    deafen: 3,
    mute: 3,
    one_way: 4,
    link: 3,
    shatter: 2,
    reset: 4,
    slow_disk: 4,
    full_disk: 4,
    clock: 4,
    delay: 4,
    loss: 4,
}
"""Every kind, and how often, in proportion."""
