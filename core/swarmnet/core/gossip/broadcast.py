"""News on its way: pushed to a few members when it is made or heard (fanout.py), and again some times, by
their number.

quiet   an item goes at once, and is repeated shortly after
load    rounds are spread (pace.py), so items share datagrams; what was heard from others meanwhile is not
repeated
"""

from __future__ import annotations

from collections.abc import Hashable
from math import ceil, inf, log10
from typing import NamedTuple

from swarmnet.core.gossip.limits import MAX_QUEUED, MAX_ROUND_DATAGRAMS
from swarmnet.core.gossip.pace import Pace
from swarmnet.core.gossip.timing import Timing

_HEARD_ENOUGH = 2
"""Copies that came back: others are telling it, too."""
_SLACK_S = 0.005
"""What is due so soon goes along."""


class _Item:
    __slots__ = ("due", "frame", "heard", "told")

    def __init__(self, frame: bytes, due: float) -> None:
        self.frame = frame
        self.due = due
        self.told = 0
        self.heard = 0


class Body(NamedTuple):
    """Frames, at most as many bytes as there is room for. `first`: some of them have never been told."""

    frames: bytes
    first: bool


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
        """Another copy of it came in."""
        if (item := self._items.get(key)) is not None:
            item.heard += 1

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
        """Each to be sent to `fanout` members; sets when the next round is due."""
        busy = self._pace.spend(self.due, now)
        rounds = rounds_for(members)
        bodies: list[Body] = []
        body: list[bytes] = []
        first, left = False, room
        for key, item in list(self._items.items()):
            if item.due > now + _SLACK_S:
                continue
            if busy and item.told and item.heard >= _HEARD_ENOUGH:
                del self._items[key]
                continue
            if len(item.frame) > left:
                if len(bodies) + 1 == MAX_ROUND_DATAGRAMS:
                    break
                bodies.append(Body(b"".join(body), first))
                body, first, left = [], False, room
            first = first or not item.told
            body.append(item.frame)
            left -= len(item.frame)
            self._told(key, item, rounds, now)
        if body:
            bodies.append(Body(b"".join(body), first))
        self._schedule(now)
        return bodies

    def clear(self) -> None:
        self._items.clear()
        self.due = inf

    def _told(self, key: Hashable, item: _Item, rounds: int, now: float) -> None:
        item.told += 1
        if item.told >= rounds:
            del self._items[key]
            return
        repeat_s = self._timing.repeat_s
        item.due = now + self._pace.spread(repeat_s[min(item.told, len(repeat_s)) - 1])

    def _schedule(self, now: float) -> None:
        due = min((item.due for item in self._items.values()), default=inf)
        self.due = max(due, self._pace.ready(now)) if due < inf else inf


def rounds_for(members: int) -> int:
    """2 up to some 300 members, 3 up to 100,000: what they miss by chance, the digests find."""
    return 1 + max(1, ceil(log10(members + 1) / 2.5))
