"""The endpoints of one network: a table that its members keep alike by gossip.

Each entry has one owner, the node on which the task runs, and nobody else changes it: of two versions the one
with the higher Lamport time holds. Whoever finds a version of its own entry that it did not make (left
from an earlier boot, or forged) makes a newer one: the owner has the last word. A deleted entry stays as a
tombstone for a while, so that a late copy does not bring it back. Entries of owners that are gone are hidden,
not deleted: an owner that was wrongly given up has them back at once.

This module believes what it is told; signatures are verified before (verify.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from hashlib import blake2b

from swarmnet.core.endpoints import Endpoint
from swarmnet.core.gossip.timing import MAX_ENTRIES, MAX_JUMP


@dataclass(frozen=True, slots=True)
class Entry:
    """One version of one endpoint; without `endpoint` it is a tombstone. Times are > 0."""

    owner: str
    task_id: str
    time: int
    endpoint: Endpoint | None = None
    signature: bytes = b""

    @property
    def key(self) -> tuple[str, str]:
        return (self.owner, self.task_id)

    @property
    def deleted(self) -> bool:
        return self.endpoint is None

    def overrides(self, other: Entry) -> bool:
        return (self.time, self.deleted) > (other.time, other.deleted)


class Outcome(Enum):
    STALE = "stale"
    """Known, older than what is known, or beyond a limit; nothing changed."""
    NEWS = "news"
    """Taken over; to be passed on."""
    DISPUTED = "disputed"
    """About this node's own task, and not its word: `refuted` makes the answer."""


class LamportClock:
    """Higher than every time seen. Starts from the wall clock (ms), so that a restart goes on from above."""

    def __init__(self, start: int) -> None:
        self._time = start

    def tick(self) -> int:
        self._time += 1
        return self._time

    def saw(self, time: int) -> bool:
        """False, with nothing changed, for a time too far ahead to be anybody's clock."""
        if time > self._time + MAX_JUMP:
            return False
        self._time = max(self._time, time)
        return True


class Table:
    """`me` owns what `publish` says; the rest is others'."""

    def __init__(self, me: str, clock: LamportClock) -> None:
        self._me = me
        self._clock = clock
        self._entries: dict[tuple[str, str], Entry] = {}
        self._buried_at: dict[tuple[str, str], float] = {}

    def __iter__(self) -> Iterator[Entry]:
        return iter(self._entries.values())

    def __len__(self) -> int:
        return len(self._entries)

    def publish(self, wanted: Mapping[str, tuple[Endpoint, bytes]], now: float) -> list[Entry]:
        """Make `wanted` (by task) the whole of this node's own entries; what is new by that."""
        news = []
        for task_id, (endpoint, signature) in wanted.items():
            held = self._entries.get((self._me, task_id))
            if held is None or (held.endpoint, held.signature) != (endpoint, signature):
                news.append(Entry(self._me, task_id, self._clock.tick(), endpoint, signature))
        for entry in list(self):
            if entry.owner == self._me and not entry.deleted and entry.task_id not in wanted:
                news.append(Entry(self._me, entry.task_id, self._clock.tick()))
        for entry in news:
            self._put(entry, now)
        return news

    def apply(self, entry: Entry, now: float) -> Outcome:
        held = self._entries.get(entry.key)
        if held == entry or not self._clock.saw(entry.time):
            return Outcome.STALE
        if entry.deleted and (held is None or held.deleted):
            return (
                Outcome.STALE
            )  # nothing to delete; so forged tombstones take no memory, and old ones die out
        if (
            held is not None
            and not entry.overrides(held)
            and (held.overrides(entry) or entry.owner != self._me)
        ):
            return Outcome.STALE
        if entry.owner == self._me:
            return Outcome.DISPUTED
        if held is None and len(self._entries) >= MAX_ENTRIES:
            return Outcome.STALE
        self._put(entry, now)
        return Outcome.NEWS

    def refuted(self, entry: Entry, now: float) -> Entry:
        """This node's word against a disputed entry: what it has published, or that there is no such task."""
        held = self._entries.get(entry.key)
        endpoint, signature = (held.endpoint, held.signature) if held else (None, b"")
        answer = Entry(self._me, entry.task_id, self._clock.tick(), endpoint, signature)
        self._put(answer, now)
        return answer

    def visible(self, gone: Callable[[str], bool]) -> list[Entry]:
        """Entries that are not deleted, of owners that are not `gone`."""
        absent = {owner for owner in {entry.owner for entry in self} if gone(owner)}
        return [entry for entry in self if not entry.deleted and entry.owner not in absent]

    def owners(self) -> set[str]:
        """Of entries that are not deleted."""
        return {entry.owner for entry in self if not entry.deleted}

    def forget_buried(self, before: float) -> None:
        """Drop the tombstones made before that time."""
        for key in [key for key, at in self._buried_at.items() if at < before]:
            del self._buried_at[key]
            del self._entries[key]

    def forget_owners(self, owners: Iterable[str]) -> None:
        """Drop all of theirs: they are gone for good."""
        lost = set(owners)
        for key in [key for key in self._entries if key[0] in lost]:
            del self._entries[key]
            self._buried_at.pop(key, None)

    def _put(self, entry: Entry, now: float) -> None:
        self._entries[entry.key] = entry
        if entry.deleted:
            self._buried_at[entry.key] = now
        else:
            self._buried_at.pop(entry.key, None)


def digest(entries: Iterable[Entry]) -> int:
    """64 bits that are the same for the same entries, in whatever order; against mistakes, not forgers."""
    total = 0
    for entry in entries:
        raw = f"{entry.owner} {entry.task_id} {entry.time}".encode()
        total ^= int.from_bytes(blake2b(raw, digest_size=8).digest(), "big")
    return total
