"""The epochs of one scope as a worker holds them: up to three secrets, each with its role.

A rotation moves every epoch through `next` (can be received, nobody sends), `current` (used to send) and
`previous` (can still be received), after which it is forgotten.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum

from swarmnet.core.keys import EpochSecret
from swarmnet.core.limits import MAX_LIVE_EPOCHS


class Role(Enum):
    NEXT = 1
    CURRENT = 2
    PREVIOUS = 3


@dataclass(frozen=True, slots=True)
class Epoch:
    secret: EpochSecret
    role: Role

    @property
    def number(self) -> int:
        return self.secret.epoch


@dataclass(frozen=True, slots=True)
class Epochs:
    """The live epochs of one scope, oldest first. ValueError unless the roles make sense together."""

    scope: str
    live: tuple[Epoch, ...]

    def __post_init__(self) -> None:
        numbers = [each.number for each in self.live]
        if any(each.secret.scope != self.scope for each in self.live):
            raise ValueError(f"epochs of another scope among those of {self.scope}")
        if len(numbers) > MAX_LIVE_EPOCHS or numbers != sorted(set(numbers)):
            raise ValueError(f"{self.scope} has the epochs {numbers}: at most {MAX_LIVE_EPOCHS}, ascending")
        if [each.role for each in self.live].count(Role.CURRENT) > 1:
            raise ValueError(f"{self.scope} has more than one current epoch")

    @property
    def current(self) -> Epoch | None:
        """The epoch to send with; None: nothing may be sent."""
        return next((each for each in self.live if each.role is Role.CURRENT), None)

    def numbers(self) -> tuple[int, ...]:
        return tuple(each.number for each in self.live)


def epochs(scope: str, live: Iterable[Epoch]) -> Epochs:
    """Epochs in whatever order they came."""
    return Epochs(scope, tuple(sorted(live, key=lambda each: each.number)))
