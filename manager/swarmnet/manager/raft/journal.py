"""Raft's log and promises on disk: entries, term, vote.

Changes are gathered in memory; `sync` makes all of them durable as one frame. Nobody may be told of a change
before that. Cutting off the front, or taking over a snapshot, writes a new file in place of the old.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from google.protobuf.message import DecodeError

from swarmnet.api.v1 import raft_pb2 as raft
from swarmnet.manager.raft import entries, member
from swarmnet.manager.raft.disk import Disk, damaged
from swarmnet.manager.raft.entries import FIRST_ENTRY, Entry
from swarmnet.manager.raft.frames import FrameFile
from swarmnet.manager.raft.member import Member, Members
from swarmnet.manager.raft.seal import DataKey

_FRAME_BYTES: Final = 1024 * 1024
"""A rewritten file is cut into frames of about this size."""


class Journal:
    """Not for two threads at once. After an OSError of `sync` nothing is known of the disk: stop the process.

    `entries` is never empty. `term` and `vote` are as last set, durable or not. `base` is who the members
    were as of the first entry.
    """

    def __init__(self, disk: Disk, path: Path, key: DataKey, base: Members) -> None:
        self.entries: list[Entry] = [FIRST_ENTRY]
        self.term = 0
        self.vote: str | None = None
        self.commit_index = FIRST_ENTRY.index
        self.size_bytes = len(FIRST_ENTRY.command)
        self.base = dict(base)
        self._disk = disk
        self._path = path
        self._key = key
        self._file: FrameFile | None = None
        self._pending: list[raft.RaftJournalRecord] = []
        self._dirty = True
        self._rewrite = True

    @classmethod
    def create(cls, disk: Disk, path: Path, key: DataKey, members: Iterable[Member]) -> Journal:
        """A new log, durable on return."""
        journal = cls(disk, path, key, {each.node_id: each for each in members})
        journal.sync()
        return journal

    @classmethod
    def open(cls, disk: Disk, path: Path, key: DataKey) -> Journal:
        """The log as last synced. Internal when it is missing, damaged, or sealed with another key."""
        if path.name not in disk.names(path.parent):
            raise damaged(path, "is missing")
        journal = cls(disk, path, key, {})
        journal.entries, journal.size_bytes = [], 0
        journal._file, bodies = FrameFile.open(disk, path, key)
        for body in bodies:
            journal._replay(body)
        if not journal.entries:
            raise damaged(path, "is damaged: it holds no entry")
        journal.commit_index = min(journal.commit_index, journal.last.index)
        journal._dirty = journal._rewrite = False
        return journal

    @property
    def first(self) -> Entry:
        return self.entries[0]

    @property
    def last(self) -> Entry:
        return self.entries[-1]

    @property
    def dirty(self) -> bool:
        """Whether `sync` has something to write."""
        return self._dirty

    def term_at(self, index: int) -> int | None:
        """The term of the entry at `index`; None when the log does not hold it (any more)."""
        place = index - self.first.index
        return self.entries[place].term if 0 <= place < len(self.entries) else None

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

    def append(self, entry: Entry) -> None:
        self.entries.append(entry)
        self.size_bytes += len(entry.command)
        self._record(raft.RaftJournalRecord(entry=entries.to_proto(entry)))

    def truncate(self, index: int) -> None:
        """Drop `index` and all after it."""
        place = index - self.first.index
        if 0 < place < len(self.entries):
            self._drop_from(place)
            self._record(raft.RaftJournalRecord(truncate_from=index))

    def trim(self, index: int) -> None:
        """Drop all before `index`, which a snapshot holds; the file is rewritten at the next `sync`."""
        place = index - self.first.index
        if 0 < place < len(self.entries):
            self.base = self.members(index)
            self._become(self.entries[place:])

    def install(self, snapshot: raft.RaftSnapshot) -> None:
        """Start the log at a snapshot's two last entries, keeping what follows them here if it fits on.

        What is kept may not be what the leader has: it was acknowledged, and stays until a leader cuts it.
        """
        previous, last = entries.from_proto(snapshot.previous), entries.from_proto(snapshot.last)
        place = last.index - self.first.index
        tail = self.entries[place + 1 :] if self.term_at(last.index) == last.term else []
        self.commit_index = max(self.commit_index, last.index)
        if self.entries[:2] != [previous, last]:
            self.base = member.from_proto(snapshot.members)
            self._become([previous, last, *tail])

    def set_vote(self, term: int, vote: str | None) -> None:
        self.term, self.vote = term, vote
        self._dirty = True

    def sync(self) -> None:
        """Make everything so far durable. OSError when it could not be."""
        if self._rewrite:
            if self._file is not None:
                self._file.close()
            self._file = FrameFile.create(self._disk, self._path, self._key, self._whole())
        elif self._dirty:
            assert self._file is not None
            self._file.append(self._frame(self._pending).SerializeToString())
        self._pending, self._dirty, self._rewrite = [], False, False

    def close(self) -> None:
        if self._file is not None:
            self._file.close()

    def _record(self, record: raft.RaftJournalRecord) -> None:
        self._pending.append(record)
        self._dirty = True

    def _become(self, log: list[Entry]) -> None:
        self.entries = log
        self.size_bytes = sum(len(each.command) for each in log)
        self._dirty = self._rewrite = True

    def _drop_from(self, place: int) -> None:
        self.size_bytes -= sum(len(each.command) for each in self.entries[place:])
        del self.entries[place:]

    def _frame(self, records: Iterable[raft.RaftJournalRecord]) -> raft.RaftJournalFrame:
        return raft.RaftJournalFrame(
            term=self.term, vote=self.vote or "", commit_index=self.commit_index, records=records
        )

    def _whole(self) -> Iterator[bytes]:
        """The whole log as frames, for a new file."""
        frame = self._frame(())
        frame.members.extend(member.to_proto(self.base.values()))
        size = 0
        for entry in self.entries:
            frame.records.add(entry=entries.to_proto(entry))
            size += len(entry.command)
            if size >= _FRAME_BYTES:
                yield frame.SerializeToString()
                frame, size = self._frame(()), 0
        yield frame.SerializeToString()

    def _replay(self, body: bytes) -> None:
        try:
            frame = raft.RaftJournalFrame.FromString(body)
            if frame.members:
                self.base = member.from_proto(frame.members)
            self.term, self.vote = frame.term, frame.vote or None
            self.commit_index = frame.commit_index
            for record in frame.records:
                self._replay_record(record)
        except (DecodeError, ValueError) as error:
            raise damaged(self._path, f"is damaged: {error}") from error

    def _replay_record(self, record: raft.RaftJournalRecord) -> None:
        if record.WhichOneof("record") == "truncate_from":
            self._drop_from(record.truncate_from - self.first.index)
            return
        entry = entries.from_proto(record.entry)
        if self.entries and entry.index != self.last.index + 1:
            raise ValueError(f"entry {entry.index} follows entry {self.last.index}")
        self.entries.append(entry)
        self.size_bytes += len(entry.command)
