"""The endpoints of one network: a table that its members keep alike by gossip.

Each entry has one owner, the node on which the task runs, and nobody else changes it. An owner's changes
carry its Lamport times, and travel as deltas: all that it changed between two times. A row remembers up to
which time it knows everything without a gap; these times of all rows are the version vector, by which two
nodes find out who lacks what.

    delta goes on where the row ends      the row ends where the delta does
    delta begins later                    its entries hold already; the gap is remembered, and filled later
    delta begins at 0                     it is the whole: what the row had before, and it has not, is gone

Whoever hears of a time of its own that it did not make (left from an earlier boot, or forged) tells all it
has anew with higher times: the owner has the last word. A deleted entry stays as a tombstone for a while,
for those that know an older time; who knows an even older one is told the whole row. Rows of owners that are
gone are hidden, not deleted: an owner that was wrongly given up has them back at once.

This module believes what it is told; signatures are verified before (network.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

from swarmnet.core.endpoints import Endpoint
from swarmnet.core.gossip.digests import mark
from swarmnet.core.gossip.limits import MAX_ENTRIES, MAX_ENTRIES_PER_OWNER, MAX_GAPS, MAX_JUMP, MAX_OWNERS
from swarmnet.core.gossip.names import handle_number


@dataclass(frozen=True, slots=True)
class Entry:
    """One version of one endpoint; without `endpoint` it is a tombstone. Times are > 0."""

    owner: str
    task_id: str
    time: int
    endpoint: Endpoint | None = None
    signature: bytes = b""

    @property
    def deleted(self) -> bool:
        return self.endpoint is None


class Delta(NamedTuple):
    """All that `owner` changed after `since` and up to `until`, and that holds at `until`."""

    owner: str
    since: int
    until: int
    entries: tuple[Entry, ...]


class Outcome(Enum):
    STALE = "stale"
    """Known, or beyond a limit; nothing changed."""
    NEWS = "news"
    """Taken over; to be passed on."""
    DISPUTED = "disputed"
    """About this node's own tasks, and not its word: `anew` makes the answer."""


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


class Row:
    """One owner's entries by task. `known`: up to here without a gap; `reaped`: what was deleted up to
    here is not known."""

    __slots__ = ("buried_at", "changed_at", "entries", "gaps", "handle", "hidden", "known", "owner", "reaped")

    def __init__(self, owner: str) -> None:
        self.owner = owner
        self.handle = handle_number(owner)
        self.known = 0
        self.reaped = 0
        self.hidden = False
        self.changed_at = 0.0
        self.entries: dict[str, Entry] = {}
        self.buried_at: dict[str, float] = {}
        self.gaps: dict[int, int] = {}

    def take(self, delta: Delta, now: float) -> None:
        if delta.since <= self.known:
            if delta.since < self.known or self.gaps:
                self._take_whole(delta)
            self.known = delta.until
            if not delta.since:
                self.reaped = max(self.reaped, delta.until)
            if self.gaps:
                self._close_gaps()
        else:
            self.gaps[delta.since] = delta.until
        for entry in delta.entries:
            held = self.entries.get(entry.task_id)
            if held is None or held.time < entry.time:
                self.entries[entry.task_id] = entry
                self.buried_at.pop(entry.task_id, None)
                if entry.deleted:
                    self.buried_at[entry.task_id] = now
        self.changed_at = now

    def since(self, time: int) -> Delta:
        """All that changed after that time, or the whole if that cannot be told any more."""
        if time < self.reaped:
            time = 0
        told = (e for e in self.entries.values() if time < e.time <= self.known and (time or not e.deleted))
        return Delta(self.owner, time, self.known, tuple(told))

    def reap(self, before: float) -> int:
        """Forget the tombstones made before that time; how many."""
        old = [task_id for task_id, at in self.buried_at.items() if at < before]
        for task_id in old:
            self.reaped = max(self.reaped, self.entries[task_id].time)
            if self.entries[task_id].time > self.known:
                self.gaps.clear()  # what fills one may be older than the tombstone: all has to come again
            del self.buried_at[task_id]
            del self.entries[task_id]
        return len(old)

    def drop_beyond(self) -> int:
        """Forget what came before its time; how many entries. It will come again."""
        beyond = [task_id for task_id, entry in self.entries.items() if entry.time > self.known]
        for task_id in beyond:
            del self.entries[task_id]
            self.buried_at.pop(task_id, None)
        self.gaps.clear()
        return len(beyond)

    def _take_whole(self, delta: Delta) -> None:
        """What the row has of the delta's time and the delta has not is gone."""
        told = {entry.task_id for entry in delta.entries}
        lost = [
            task_id
            for task_id, held in self.entries.items()
            if delta.since < held.time <= delta.until and task_id not in told
        ]
        for task_id in lost:
            del self.entries[task_id]
            self.buried_at.pop(task_id, None)

    def _close_gaps(self) -> None:
        for since in sorted(self.gaps):
            if since <= self.known:
                self.known = max(self.known, self.gaps.pop(since))


class Table:
    """`me` owns what `publish` says; the rest is others'."""

    def __init__(self, me: str, clock: LamportClock) -> None:
        self._me = me
        self._clock = clock
        self._rows: dict[str, Row] = {}
        self._size = 0
        self.digest = 0
        """Of what is known of the owners that are not hidden."""

    def __iter__(self) -> Iterator[Entry]:
        return (entry for row in self._rows.values() for entry in row.entries.values())

    def __len__(self) -> int:
        return self._size

    def rows(self) -> Iterable[Row]:
        return self._rows.values()

    def row(self, owner: str) -> Row | None:
        return self._rows.get(owner)

    def known(self, owner: str) -> int:
        row = self._rows.get(owner)
        return row.known if row is not None else 0

    def publish(self, wanted: Mapping[str, tuple[Endpoint, bytes]], now: float) -> Delta | None:
        """Make `wanted` (by task) the whole of this node's own entries; what is new by that. The first time,
        that is the whole: whatever an earlier boot has left with others goes."""
        held = self._rows[self._me].entries if self._me in self._rows else {}
        news = []
        for task_id, (endpoint, signature) in wanted.items():
            old = held.get(task_id)
            if old is None or (old.endpoint, old.signature) != (endpoint, signature):
                news.append(Entry(self._me, task_id, self._clock.tick(), endpoint, signature))
        for entry in held.values():
            if not entry.deleted and entry.task_id not in wanted:
                news.append(Entry(self._me, entry.task_id, self._clock.tick()))
        since = self.known(self._me)
        if not news and since:
            return None
        return self._put(
            Delta(self._me, since, news[-1].time if news else self._clock.tick(), tuple(news)), now
        )

    def anew(self, now: float) -> Delta:
        """This node's word against a disputed time, which `apply` has seen: all that it has, with new
        times."""
        row = self._rows.get(self._me)
        live = [entry for entry in row.entries.values() if not entry.deleted] if row else []
        said = [Entry(e.owner, e.task_id, self._clock.tick(), e.endpoint, e.signature) for e in live]
        return self._put(Delta(self._me, 0, self._clock.tick(), tuple(said)), now)

    def apply(self, delta: Delta, now: float) -> Outcome:
        row = self._rows.get(delta.owner)
        if row is not None and (delta.until <= row.known or row.gaps.get(delta.since) == delta.until):
            return Outcome.STALE
        if not self._clock.saw(delta.until):
            return Outcome.STALE
        if delta.owner == self._me:
            return Outcome.DISPUTED
        if not self._has_room(row, delta):
            return Outcome.STALE
        self._put(delta, now)
        return Outcome.NEWS

    def visible(self) -> list[Entry]:
        """Entries that are not deleted, of owners that are not hidden."""
        return [
            e for row in self._rows.values() if not row.hidden for e in row.entries.values() if not e.deleted
        ]

    def hide(self, owner: str, *, hidden: bool) -> bool:
        """That owner is gone, or back; True if it has entries."""
        row = self._rows.get(owner)
        if row is None or row.hidden is hidden:
            return False
        self._count(row)
        row.hidden = hidden
        self._count(row)
        return any(not entry.deleted for entry in row.entries.values())

    def reap(self, before: float) -> None:
        """Forget the tombstones made before that time."""
        for row in self._rows.values():
            self._size -= row.reap(before)

    def forget(self, owners: Iterable[str]) -> bool:
        """Drop all of theirs: they are gone for good. True if there was anything to be seen."""
        seen = False
        for owner in owners:
            if (row := self._rows.pop(owner, None)) is not None:
                self._count(row)
                self._size -= len(row.entries)
                seen = seen or (not row.hidden and any(not e.deleted for e in row.entries.values()))
        return seen

    def _put(self, delta: Delta, now: float) -> Delta:
        row = self._rows.get(delta.owner)
        if row is None:
            row = self._rows[delta.owner] = Row(delta.owner)
        self._count(row)
        size = len(row.entries)
        row.take(delta, now)
        self._size += len(row.entries) - size
        self._count(row)
        return delta

    def _has_room(self, row: Row | None, delta: Delta) -> bool:
        """What goes on where the row ends has priority over what came before its time."""
        more = len(delta.entries)
        if row is None:
            return len(self._rows) < MAX_OWNERS and self._size + more <= MAX_ENTRIES
        if delta.since > row.known and len(row.gaps) >= MAX_GAPS:
            return False
        if delta.since <= row.known and not self._fits(row, more):
            self._size -= row.drop_beyond()
        return self._fits(row, more)

    def _fits(self, row: Row, more: int) -> bool:
        return len(row.entries) + more <= MAX_ENTRIES_PER_OWNER and self._size + more <= MAX_ENTRIES

    def _count(self, row: Row) -> None:
        """Into the digest, or out of it again."""
        if row.known and not row.hidden:
            self.digest ^= mark(row.handle, row.known)
