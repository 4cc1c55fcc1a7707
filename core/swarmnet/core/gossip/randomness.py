"""The random choices of the protocol: an argument, so that a simulation replays from its seed."""

from __future__ import annotations

from collections.abc import MutableSequence, Sequence
from typing import Any, Protocol, TypeVar

T = TypeVar("T")


class Randomness(Protocol):
    """What `random.Random` gives. None of it is a secret: it spreads load."""

    def random(self) -> float: ...

    def shuffle(self, x: MutableSequence[Any]) -> None: ...

    def sample(self, population: Sequence[T], k: int) -> list[T]: ...


def some(randomness: Randomness, population: Sequence[T], most: int) -> list[T]:
    """`most` of them, or all if there are fewer."""
    return randomness.sample(population, min(most, len(population)))
