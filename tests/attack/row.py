"""One attack: what is sent, under which traffic of the tasks, and what came of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import partial
from itertools import cycle
from typing import Any, Final

from tests.attack.scene import A, B, Scene, Seen

Shot = Callable[[], None]
"""Sends one packet."""
_DIRECTIONS: Final = ((A, 1, 2), (A, 2, 1), (B, 1, 2), (B, 2, 1))
NOT_MEASURED: Final = "not measured"


class Wanted(Enum):
    NOTHING = "nothing may be delivered or leaked"
    ALL_IN = "a control: all that is sent is delivered"
    ALL_OUT = "a control: as much leaks as is sent"
    OPEN = "told without a bound"


@dataclass(frozen=True, slots=True)
class Row:
    """`aim` takes the scene and how many packets are wanted of each sort.

    `broken`: what a hand undoes under way, of a control before. `renew`: the scene must be put in order
    afterwards. `quiet`: the tasks' own traffic may be cut off meanwhile; else all of it must arrive.
    """

    case: str
    aim: Callable[[Scene, int], Iterable[Shot]]
    wanted: Wanted = Wanted.NOTHING
    network: str = "encrypted"
    broken: Callable[[Scene], None] | None = None
    renew: bool = False
    quiet: bool = False
    docker: str = NOT_MEASURED

    def run(self, scene: Scene, count: int) -> Result:
        shots = list(self.aim(scene, count))
        if self.broken is not None:
            at = len(shots) // 4 if self.wanted is Wanted.NOTHING else 0
            shots.insert(at, partial(self.broken, scene))
        with scene.watched() as seen:
            spoken = _under_traffic(scene, shots)
        if self.renew:
            scene.renew()
        return Result(self, len(shots) - (self.broken is not None), spoken, seen)


def _under_traffic(scene: Scene, shots: Sequence[Shot]) -> int:
    """How many datagrams tasks sent; the last of each direction follows the last shot."""
    directions = cycle(_DIRECTIONS)
    for shot in shots:
        scene.speak(*next(directions))
        shot()
    for direction in _DIRECTIONS:
        scene.speak(*direction)
    return len(shots) + len(_DIRECTIONS)


@dataclass(frozen=True, slots=True)
class Result:
    row: Row
    sent: int
    spoken: int
    seen: Seen

    @property
    def ok(self) -> bool | None:
        """Whether it went as it must; None where nothing is promised."""
        if self.row.wanted is Wanted.OPEN:
            return None
        if self.sent == 0:
            return False
        match self.row.wanted:
            case Wanted.NOTHING:
                nothing = self.seen.alien == self.seen.leaked == 0
                return nothing and (self.row.quiet or self.seen.heard == self.spoken)
            case Wanted.ALL_IN:
                return self.seen.alien >= self.sent
            case Wanted.ALL_OUT:
                return self.seen.leaked >= self.sent

    def figure(self) -> dict[str, Any]:
        """One line of JSON. Of a control, `reach` is what must be delivered or leaked at least."""
        wanted = self.row.wanted
        bound = {Wanted.NOTHING: 0, Wanted.OPEN: None}.get(wanted, self.sent)
        return {
            "bench": "attack",
            "case": self.row.case,
            "network": self.row.network,
            "unit": "packets",
            "sent": self.sent,
            "delivered": self.seen.alien,
            "leaked": self.seen.leaked,
            "traffic_sent": self.spoken,
            "traffic_heard": self.seen.heard,
            "docker_swarm": self.row.docker,
            "reach": bound,
            "reach_is": wanted.value,
            "ok": self.ok,
        }
