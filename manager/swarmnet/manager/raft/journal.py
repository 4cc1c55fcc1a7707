"""Raft's log and promises on disk: entries, term, vote.

Changes are gathered in memory; `sync` makes all of them durable as one frame. Nobody may be told of a change
before that. What a durable snapshot covers leaves memory at once, and the disk by whole segments.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from swarmnet.api.v1 import raft_pb2 as raft
from swarmnet.core.errors import ResourceExhausted
from swarmnet.core.limits import MAX_COMMAND_BYTES
from swarmnet.manager.raft import entries, member
from swarmnet.manager.raft.disk import Disk, damaged
from swarmnet.manager.raft.election import LogEnd
from swarmnet.manager.raft.entries import FIRST_ENTRY, FIRST_INDEX, Entry
from swarmnet.manager.raft.member import Member
from swarmnet.manager.raft.seal import DataKey, DataKeys
from swarmnet.manager.raft.segments import Layout, Segments

LAYOUT: Final = Layout()
_RECORD_OVERHEAD_BYTES: Final = 64
_IN_SNAPSHOT: Final = 2
"""Where a log was cut, its first entries are in the snapshot: its last one, and the one before."""
assert LAYOUT.frame_bytes // 2 > MAX_COMMAND_BYTES + _RECORD_OVERHEAD_BYTES


class Journal:
    """Not for two threads at once. After an OSError of `sync` nothing is known of the disk: stop the process.

    `entries` is never empty. `term` and `vote` are as last set, durable or not. `base` is who the members
    were as of the first entry.
    """

    def __init__(self, disk: Disk, folder: Path, segments: Segments, layout: Layout) -> None:
        self.entries: list[Entry] = []
        self.term = 0
        self.vote: str | None = None
        self.commit_index = FIRST_INDEX
        self.size_bytes = 0
        self.base: dict[str, Member] = {}
        self.joined_at = LogEnd(0, 0)
        self._disk = disk
        self._folder = folder
        self._segments = segments
        self._frame_bytes = layout.frame_bytes // 2
        self._pending: list[Entry | raft.RaftJournalRecord] = []
        self._unsynced_bytes = 0
        self._claimed_bytes = 0
        self._dirty = False
        self._shortened = False
        self._next_index = segments.first_index
        self._restarted_after: int | None = None

    @classmethod
    def create(
        cls,
        disk: Disk,
        folder: Path,
        keys: DataKeys,
        members: Iterable[Member],
        layout: Layout = LAYOUT,
        *,
        joined_at: LogEnd | None = None,
    ) -> Journal:
        """A new log, durable on return; of a joiner if it `joined_at` an entry of others' (member.Joined)."""
        first = raft.RaftJournalRecord(entry=entries.to_proto(FIRST_ENTRY))
        head = raft.RaftJournalFrame(
            commit_index=FIRST_INDEX, members=member.to_proto(members), records=[first]
        )
        if joined_at is not None:
            head.term = joined_at.term
            head.joined_at.CopyFrom(member.end_message(joined_at))
        journal = cls(disk, folder, Segments.create(disk, folder, keys, head, layout), layout)
        journal._replay(folder, head)
        return journal

    @classmethod
    def open(
        cls,
        disk: Disk,
        folder: Path,
        keys: DataKeys,
        snapshot: raft.RaftSnapshot | None,
        layout: Layout = LAYOUT,
    ) -> Journal:
        """The log as last synced, from where `snapshot` (the durable one) ends.

        Internal when it is missing, damaged, sealed with another key, or starts after the snapshot's end.
        """
        segments, frames = Segments.open(disk, folder, keys, layout)
        journal = cls(disk, folder, segments, layout)
        for path, frame in frames:
            journal._replay(path, frame)
        journal._start_from(snapshot)
        journal.commit_index = min(journal.commit_index, journal.last.index)
        journal.sync()
        return journal

    @property
    def first(self) -> Entry:
        return self.entries[0]

    @property
    def last(self) -> Entry:
        return self.entries[-1]

    @property
    def end(self) -> LogEnd:
        return LogEnd(self.last.term, self.last.index)

    @property
    def complete(self) -> bool:
        """Whether it holds the entry at which this manager joined."""
        return self.end.holds_all_of(self.joined_at)

    @property
    def dirty(self) -> bool:
        """Whether `sync` has something to write."""
        return self._dirty

    def sealed_since(self, key: DataKey) -> int | None:
        """All entries that older keys sealed are below this index; None while `key` sealed nothing."""
        return self._segments.sealed_since(key)

    @property
    def oldest_key(self) -> DataKey:
        """That something in the journal is still sealed with; no other is older."""
        return self._segments.oldest_key

    def term_at(self, index: int) -> int | None:
        """The term of the entry at `index`; None when the log does not hold it (any more)."""
        place = index - self.first.index if self.entries else -1
        return self.entries[place].term if 0 <= place < len(self.entries) else None

    def after(self, index: int) -> list[Entry]:
        """The entries behind `index`."""
        return self.entries[max(0, index + 1 - self.first.index) :]

    def admission_of(self, node_id: str) -> LogEnd:
        """The entry that made this one a member last, or a committed one behind it."""
        for entry in reversed(self.entries):
            change = entries.change_of(entry)
            if change is not None and not change.remove and change.member.node_id == node_id:
                return LogEnd(entry.term, entry.index)
        return LogEnd(self.first.term, self.first.index)

    def members(self, index: int | None = None) -> dict[str, Member]:
        """Who the members are by the log up to `index`, or by all of it."""
        found = dict(self.base)
        for entry in self.entries[1:]:
            if index is not None and entry.index > index:
                break
            if (change := entries.change_of(entry)) is not None:
                if change.remove:
                    found.pop(change.member.node_id, None)
                else:
                    found[change.member.node_id] = change.member
        return found

    @property
    def full(self) -> bool:
        """Whether there is no room for the largest command."""
        return not self.has_room(min(MAX_COMMAND_BYTES, self._frame_bytes))

    def has_room(self, size_bytes: int, entries: int = 1) -> bool:
        """Whether entries of `size_bytes` in all can be stored, beside what was claimed."""
        taken = self._unsynced_bytes + self._claimed_bytes
        return self._segments.has_room(taken + size_bytes + entries * _RECORD_OVERHEAD_BYTES)

    def claim(self, size_bytes: int) -> None:
        """Keep room for a command that will be appended, until `release`. ResourceExhausted: no room."""
        if not self.has_room(size_bytes):
            free, needed = self._disk.free_bytes(self._folder), self._segments.segment_bytes
            raise ResourceExhausted(
                f"the disk is full: {self._folder} has {free} bytes free, {needed} are needed",
                hint="Free space there: writing goes on by itself. Nothing is lost.",
            )
        self._claimed_bytes += size_bytes + _RECORD_OVERHEAD_BYTES

    def release(self) -> None:
        """What was claimed room for is appended, or never will be."""
        self._claimed_bytes = 0

    def append(self, entry: Entry) -> None:
        size = len(entry.command) + _RECORD_OVERHEAD_BYTES
        self._add(entry)
        self._claimed_bytes = max(0, self._claimed_bytes - size)
        self._unsynced_bytes += size
        self._record(entry)

    def truncate(self, index: int) -> None:
        """Drop `index` and all after it."""
        place = index - self.first.index
        if 0 < place < len(self.entries):
            self._drop_from(place)
            self._record(raft.RaftJournalRecord(truncate_from=index))

    def trim(self, index: int) -> None:
        """Drop all before `index`, which a durable snapshot holds."""
        place = index - self.first.index
        if 0 < place < len(self.entries):
            self.base = self.members(index)
            self._become(self.entries[place:])

    def install(self, snapshot: raft.RaftSnapshot) -> None:
        """Start the log at the two last entries of a durable snapshot, keeping what follows them here if it
        fits on.

        What is kept may not be what the leader has: it was acknowledged, and stays until a leader cuts it.
        """
        previous, last = entries.from_proto(snapshot.previous), entries.from_proto(snapshot.last)
        if self.term_at(last.index) == last.term:
            tail = self.entries[last.index + 1 - self.first.index :]
        elif self._begins_at == last.index + 1:
            tail = self.entries
        else:
            tail = []
            self._record(raft.RaftJournalRecord(restart_after=last.index))
        self.commit_index = max(self.commit_index, last.index)
        self.base = member.from_proto(snapshot.members)
        self._become([previous, last, *tail])

    def set_vote(self, term: int, vote: str | None) -> None:
        self.term, self.vote = term, vote
        self._dirty = True

    def sync(self) -> None:
        """Make everything so far durable. OSError when it could not be."""
        if self._dirty:
            for frame in self._frames():
                self._segments.append(frame)
            self._pending, self._unsynced_bytes, self._dirty = [], 0, False
        if self._shortened:
            self._segments.drop_before(self.first.index + _IN_SNAPSHOT)
            self._shortened = False

    def seal_anew(self) -> bool:
        """Go on under the newest data key; False without room for another segment. OSError as `sync`."""
        if not self._segments.has_spare():
            return False
        self._dirty = True
        self.sync()
        return True

    def drop_covered(self) -> None:
        """Look again for segments that a durable snapshot, which the log was cut at, has all of."""
        self._shortened = True
        self.sync()

    def close(self) -> None:
        self._segments.close()

    def _record(self, record: Entry | raft.RaftJournalRecord) -> None:
        self._pending.append(record)
        self._dirty = True

    def _become(self, log: list[Entry]) -> None:
        self.entries = log
        self.size_bytes = sum(len(each.command) for each in log)
        self._shortened = True

    def _add(self, entry: Entry) -> None:
        self.entries.append(entry)
        self.size_bytes += len(entry.command)

    def _drop_from(self, place: int) -> None:
        self.size_bytes -= sum(len(each.command) for each in self.entries[place:])
        del self.entries[place:]

    def _frames(self) -> Iterator[raft.RaftJournalFrame]:
        """What is pending, cut into frames that are not too large, each to be synced by itself."""
        frame, size = self._frame(), 0
        for record in self._pending:
            if size > self._frame_bytes:
                yield frame
                frame, size = self._frame(), 0
            if isinstance(record, Entry):
                entries.fill(frame.records.add().entry, record)
                size += len(record.command)
            else:
                frame.records.append(record)
            size += _RECORD_OVERHEAD_BYTES
        yield frame

    def _frame(self) -> raft.RaftJournalFrame:
        frame = raft.RaftJournalFrame(term=self.term, vote=self.vote or "", commit_index=self.commit_index)
        if not self.complete:
            frame.joined_at.CopyFrom(member.end_message(self.joined_at))
        return frame

    def _replay(self, path: Path, frame: raft.RaftJournalFrame) -> None:
        if frame.members:
            self.base = member.from_proto(frame.members)
        self.term, self.vote = frame.term, frame.vote or None
        self.commit_index = frame.commit_index
        if frame.HasField("joined_at"):
            self.joined_at = member.end_of(frame.joined_at)
        try:
            for record in frame.records:
                self._replay_record(record)
        except ValueError as error:
            raise damaged(path, f"is damaged: {error}") from error

    def _replay_record(self, record: raft.RaftJournalRecord) -> None:
        match record.WhichOneof("record"):
            case "truncate_from":
                self._next_index = record.truncate_from
                if self.entries:
                    self._drop_from(max(0, self._next_index - self.first.index))
            case "restart_after":
                self._restarted_after = record.restart_after
                self._next_index = record.restart_after + 1
                self._drop_from(0)
            case _:
                entry = entries.from_proto(record.entry)
                if self._next_index != entry.index:
                    raise ValueError(f"entry {entry.index} stands where entry {self._next_index} should")
                self._add(entry)
                self._next_index = entry.index + 1

    def _start_from(self, snapshot: raft.RaftSnapshot | None) -> None:
        """Put the snapshot's end before what was replayed: the process may have died between the two."""
        before = self._begins_at - 1 if self._restarted_after is None else self._restarted_after
        self._check_reaches(before, 0 if snapshot is None else snapshot.last.index)
        if snapshot is None:
            if not self.entries:
                raise damaged(self._folder, "is damaged: it holds no entry")
            return
        if self._restarted_after == snapshot.last.index:
            self.entries.insert(0, entries.from_proto(snapshot.last))
        self.install(snapshot)

    @property
    def _begins_at(self) -> int:
        """The index of the first entry, or that of the one that comes next."""
        return self.entries[0].index if self.entries else self._next_index

    def _check_reaches(self, start: int, covered: int) -> None:
        if start > covered:
            what = f"lacks entries {covered + 1} to {start}: an old or no snapshot is with it"
            raise damaged(self._folder, what)
