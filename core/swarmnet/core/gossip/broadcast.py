"""News on its way: pushed to a few members when it is made or heard (fanout.py), and again some times, by
their number.

quiet   an item goes at once, and is repeated shortly after
load    rounds are spread (pace.py), so items share datagrams; they go to fewer, and what was heard from
        another one, too, is not repeated
"""

from __future__ import annotations

from collections.abc import Hashable
from math import ceil, inf, log10
from typing import NamedTuple

from swarmnet.core.gossip.limits import MAX_QUEUED, MAX_ROUND_DATAGRAMS
from swarmnet.core.gossip.pace import Pace
from swarmnet.core.gossip.timing import Timing

_OTHERS_ROUNDS = 3
"""Under load, until it is clear whether others tell it, too."""
_FULL = 0.75
"""Under load, the part of a datagram that has to be filled, unless it is a round's only one."""
_SLACK_S = 0.005
"""What is due so soon goes along."""


class _Item:
    __slots__ = ("due", "frame", "heard", "told")

    def __init__(self, frame: bytes, due: float) -> None:
        self.frame = frame
        self.due = due
        self.told = 0
        self.heard = False


class Body(NamedTuple):
    """Frames, at most as many bytes as there is room for, to be told to `fanout` members. `first`: some of
    them have never been told."""

    frames: bytes
    first: bool
    fanout: int


class _Pack:
    """Items that share a datagram. `first`: one of them has never been told."""

    __slots__ = ("bytes", "first", "items")

    def __init__(self) -> None:
        self.items: list[tuple[Hashable, _Item]] = []
        self.bytes = 0
        self.first = False

    def add(self, key: Hashable, item: _Item) -> None:
        self.items.append((key, item))
        self.bytes += len(item.frame)
        self.first = self.first or not item.told


class Broadcast:
    """A bounded queue of frames by key: a newer one about the same thing takes the older one's place.

    A frame is an encoded message whose repeated field it adds to, so that frames one behind the other are a
    message.
    """

    def __init__(self, timing: Timing, pace: Pace) -> None:
        self._timing = timing
        self._pace = pace
        self._items: dict[Hashable, _Item] = {}
        self.due = inf
        """When the next round is to be sent."""

    def __len__(self) -> int:
        return len(self._items)

    @property
    def untold(self) -> bool:
        """Whether something has had no round yet."""
        return any(not item.told for item in self._items.values())

    def put(self, key: Hashable, frame: bytes, now: float) -> None:
        """Tell everybody, from the next round on: at once, unless too many went just now."""
        self._items.pop(key, None)
        if len(self._items) >= MAX_QUEUED:
            del self._items[next(iter(self._items))]
        self._items[key] = _Item(frame, now)
        self.due = min(self.due, self._pace.ready(now))

    def heard(self, key: Hashable) -> None:
        """Another copy of it came in: others tell it, too."""
        if (item := self._items.get(key)) is not None:
            item.heard = True

    def frames(self, room: int) -> bytes:
        """What fits into `room` bytes, the least told first, to ride along on a datagram that goes anyway."""
        if not self._items:
            return b""
        taken = []
        for item in sorted(self._items.values(), key=lambda each: each.told):
            if len(item.frame) <= room:
                room -= len(item.frame)
                taken.append(item.frame)
        return b"".join(taken)

    def round(self, room: int, members: int, now: float) -> list[Body]:
        """Bodies of at most `room` bytes; sets when the next round is due."""
        busy = self._pace.spend(self.due, now)
        fanout = self._timing.busy_fanout if busy else self._timing.fanout
        packs = _packs(self._take_due(busy=busy, now=now), room)[:MAX_ROUND_DATAGRAMS]
        if busy and len(packs) > 1 and packs[-1].bytes < _FULL * room:
            packs.pop()  # it shares a datagram with what comes until the next round
        rounds = rounds_for(members)
        for pack in packs:
            for key, item in pack.items:
                self._told(key, item, rounds, busy=busy, now=now)
        self._schedule(now)
        return [Body(b"".join(item.frame for _, item in pack.items), pack.first, fanout) for pack in packs]

    def clear(self) -> None:
        self._items.clear()
        self.due = inf

    def _take_due(self, *, busy: bool, now: float) -> list[tuple[Hashable, _Item]]:
        """What is to be told; what others tell anyway is dropped under load."""
        due = [(key, item) for key, item in self._items.items() if item.due <= now + _SLACK_S]
        if not busy:
            return due
        for key, item in due:
            if item.told and item.heard:
                del self._items[key]
        return [(key, item) for key, item in due if not (item.told and item.heard)]

    def _told(self, key: Hashable, item: _Item, rounds: int, *, busy: bool, now: float) -> None:
        item.told += 1
        if item.told >= rounds:
            del self._items[key]
            return
        repeat_s = self._timing.repeat_s[min(item.told, len(self._timing.repeat_s)) - 1]
        if busy:
            repeat_s = max(repeat_s, _OTHERS_ROUNDS * self._pace.period_s)
        item.due = now + self._pace.spread(repeat_s)

    def _schedule(self, now: float) -> None:
        due = min((item.due for item in self._items.values()), default=inf)
        self.due = max(due, self._pace.ready(now)) if due < inf else inf


def _packs(items: list[tuple[Hashable, _Item]], room: int) -> list[_Pack]:
    packs: list[_Pack] = []
    for key, item in items:
        if not packs or packs[-1].bytes + len(item.frame) > room:
            packs.append(_Pack())
        packs[-1].add(key, item)
    return packs


def rounds_for(members: int) -> int:
    """2 up to some 300 members, 3 up to 100,000: what they miss by chance, the digests find."""
    return 1 + max(1, ceil(log10(members + 1) / 2.5))
