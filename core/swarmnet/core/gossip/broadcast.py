"""News on its way: sent in rounds to a few random members each, as often as their number asks for."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator
from dataclasses import dataclass
from math import ceil, inf, log10
from typing import Generic, Protocol, TypeVar

from swarmnet.core.gossip.timing import MAX_QUEUED, Timing


class Sized(Protocol):
    """A protobuf message, as far as the queue looks at it."""

    def ByteSize(self) -> int: ...  # noqa: N802 - protobuf's name


M = TypeVar("M", bound=Sized)
_FRAME_BYTES = 4  # tag and length of a repeated field below 16 KiB


@dataclass(slots=True)
class _Item(Generic[M]):
    message: M
    size: int
    rounds: int = 0


class Broadcast(Generic[M]):
    """A bounded queue of messages by key: a newer one about the same thing takes the older one's place.

    `peek` is for riding along on a datagram that goes anyway; `round` counts: after 1 + log10(members) rounds
    an item has reached everybody with high probability and is dropped.
    """

    def __init__(self, timing: Timing) -> None:
        self._timing = timing
        self._items: dict[Hashable, _Item[M]] = {}
        self._last_round = -inf
        self.due = inf
        """When the next round is to be sent."""

    def __len__(self) -> int:
        return len(self._items)

    @property
    def untold(self) -> bool:
        """Whether something has had no round yet."""
        return any(item.rounds == 0 for item in self._items.values())

    def put(self, key: Hashable, message: M, now: float) -> None:
        """Tell everybody; the first round goes at once, save for the few ms in which news is gathered."""
        self._items.pop(key, None)
        if len(self._items) >= MAX_QUEUED:
            del self._items[max(self._items, key=lambda each: self._items[each].rounds)]
        self._items[key] = _Item(message, message.ByteSize() + _FRAME_BYTES)
        self.due = min(self.due, max(now, self._last_round + self._timing.coalesce_s))

    def peek(self, room: int) -> list[M]:
        """What fits into `room` bytes, the least told first."""
        return [item.message for _, item in self._fitting(room)]

    def round(self, room: int, members: int, now: float) -> list[M]:
        """The same, counted as told once more; sets when the next round is due."""
        told = list(self._fitting(room))
        for key, item in told:
            item.rounds += 1
            if item.rounds >= rounds_for(members):
                del self._items[key]
        self._last_round = now
        wait = self._timing.coalesce_s if self.untold else self._timing.gossip_period_s
        self.due = now + wait if self._items else inf
        return [item.message for _, item in told]

    def clear(self) -> None:
        self._items.clear()
        self.due = inf

    def _fitting(self, room: int) -> Iterator[tuple[Hashable, _Item[M]]]:
        ordered: Iterable[tuple[Hashable, _Item[M]]] = self._items.items()
        if len(self._items) > 1:
            ordered = sorted(ordered, key=lambda pair: pair[1].rounds)
        for key, item in ordered:
            if item.size <= room:
                room -= item.size
                yield key, item


def rounds_for(members: int) -> int:
    """2 up to 9 members, 3 up to 99, and so on."""
    return 1 + ceil(log10(members + 1)) if members > 0 else 1
