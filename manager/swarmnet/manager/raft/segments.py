"""The journal's files: segments, appended to one after the other, dropped whole at the front.

A segment takes its full size on the disk before it is used, so that an append inside it needs no new room and
one cheap fdatasync. A new one starts with the file id and the number of frames of the one before it, and only
when it is durable does a last frame close that one: whatever is missing, cut or of another log shows.

What entries may fill ends `reserve_bytes` before the end of a segment. When the disk has no room for another
segment, terms and votes still find theirs there.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count, pairwise
from pathlib import Path
from typing import Final

from google.protobuf.message import DecodeError

from swarmnet.api.v1 import raft_pb2 as raft
from swarmnet.manager.raft.disk import Disk, File, damaged, is_full
from swarmnet.manager.raft.frames import FRAME_OVERHEAD_BYTES, Content, Header, read
from swarmnet.manager.raft.seal import DataKey, DataKeys

_CLOSING_BYTES: Final = 256
_NAME: Final = re.compile(r"(\d{16})-(\d{16})")
_SPARE: Final = "spare-"


@dataclass(frozen=True, slots=True)
class Layout:
    """`segment_bytes` is what a segment takes, `reserve_bytes` what entries leave of it; no frame has
    `frame_bytes`."""

    segment_bytes: int = 8 * 1024 * 1024
    reserve_bytes: int = 256 * 1024
    frame_bytes: int = 4 * 1024 * 1024

    @property
    def limit(self) -> int:
        """Where entries end in a segment."""
        return self.segment_bytes - self.reserve_bytes

    @property
    def usable_bytes(self) -> int:
        """What certainly fits into a new segment, however the frames come."""
        return self.limit - self.frame_bytes


@dataclass(slots=True)
class _Segment:
    """Every entry of the segments before it that still counts is below `first`."""

    path: Path
    header: Header
    key: DataKey
    frames: int
    end: int
    first: int


@dataclass
class Segments:
    """Not for two threads at once. After an OSError of `append` nothing is known of the end of the last
    segment: stop the process."""

    _disk: Disk
    _folder: Path
    _keys: DataKeys
    _layout: Layout
    _held: list[_Segment]
    _file: File
    _next_index: int
    _spares: list[Path] = field(default_factory=list)
    _numbers: Iterator[int] = field(default_factory=count)

    @classmethod
    def exist(cls, disk: Disk, folder: Path) -> bool:
        return disk.is_folder(folder) and any(_NAME.fullmatch(name) for name in disk.names(folder))

    @classmethod
    def create(
        cls, disk: Disk, folder: Path, keys: DataKeys, head: raft.RaftJournalFrame, layout: Layout
    ) -> Segments:
        """A new journal that starts with `head`, durable on return."""
        disk.make_folder(folder)
        head.start.SetInParent()
        header = Header(os.urandom(16), 1, 1, keys.newest.number)
        segment, file = _start(disk, _allocate(disk, folder, 0, layout), header, keys.newest, head)
        segments = cls(disk, folder, keys, layout, [segment], file, 1)
        segments._note(head)
        return segments

    @classmethod
    def open(
        cls, disk: Disk, folder: Path, keys: DataKeys, layout: Layout
    ) -> tuple[Segments, list[tuple[Path, raft.RaftJournalFrame]]]:
        """The journal and its frames in order, a torn end cut off. Internal for damage or another key."""
        if not cls.exist(disk, folder):
            raise damaged(folder, "is missing, or holds no segment of a journal")
        paths = sorted(folder / name for name in disk.names(folder) if _NAME.fullmatch(name))
        contents = [read(path, disk.read(path), keys) for path in paths]
        frames = [
            [_parse(path, body) for body in each.bodies] for path, each in zip(paths, contents, strict=True)
        ]
        _check_chain(paths, contents, frames)
        start = contents[0].header.first_index
        segments = cls(disk, folder, keys, layout, [], disk.open(paths[-1]), start)
        for path, content, some in zip(paths, contents, frames, strict=True):
            header = content.header
            segments._held.append(
                _Segment(path, header, content.key, len(some), content.end, header.first_index)
            )
            for frame in some:
                segments._note(frame)
        segments._settle(contents[-1], frames)
        return segments, [
            (path, frame) for path, content in zip(paths, frames, strict=True) for frame in content
        ]

    @property
    def segment_bytes(self) -> int:
        return self._layout.segment_bytes

    @property
    def first_index(self) -> int:
        """The first entry that is still there has it, or the next one will."""
        return self._held[0].header.first_index

    @property
    def oldest_key(self) -> DataKey:
        """That of the first segment; no other is older."""
        return self._held[0].key

    def sealed_since(self, key: DataKey) -> int | None:
        """All entries that older keys sealed are below this index; None while `key` sealed nothing."""
        return next((each.first for each in self._held if each.key is key), None)

    def has_room(self, size_bytes: int) -> bool:
        """Whether entries of this size in all can be stored now; takes the room for it from the disk."""
        if size_bytes + _CLOSING_BYTES <= self._layout.limit - self._held[-1].end:
            return True
        while len(self._spares) * self._layout.usable_bytes < size_bytes:
            if self._disk.free_bytes(self._folder) < self.segment_bytes or not self._add_spare():
                return False
        return True

    def has_spare(self) -> bool:
        """Whether another segment can be begun; takes the room for it from the disk."""
        return bool(self._spares) or self._add_spare()

    def append(self, frame: raft.RaftJournalFrame) -> None:
        """Add a frame, durable on return."""
        body = frame.SerializeToString()
        behind = self._held[-1].end + len(body) + FRAME_OVERHEAD_BYTES + _CLOSING_BYTES
        is_over = behind > self._layout.limit or self._held[-1].key is not self._keys.newest
        if is_over and (self.has_spare() or behind > self.segment_bytes):
            self._start_next(frame)
        self._write(self._held[-1], self._file, body)
        self._note(frame)

    def drop_before(self, index: int) -> None:
        """Delete the segments that hold only entries below `index`: a snapshot that is durable has those."""
        while len(self._held) > 1 and self._held[1].first <= index:
            self._disk.remove(self._held.pop(0).path)
            self._disk.sync_folder(self._folder)  # each by itself: never a gap

    def close(self) -> None:
        self._file.close()

    def _write(self, segment: _Segment, file: File, body: bytes) -> None:
        sealed = segment.header.seal(segment.key, segment.frames, body)
        file.write(segment.end, sealed)
        file.sync()
        segment.frames += 1
        segment.end += len(sealed)

    def _start_next(self, frame: raft.RaftJournalFrame) -> None:
        if not self._spares:
            self._spares.append(_allocate(self._disk, self._folder, next(self._numbers), self._layout))
        before, file_before = self._held[-1], self._file
        start = raft.RaftSegmentStart(previous_file_id=before.header.file_id, previous_frames=before.frames)
        head = raft.RaftJournalFrame(
            term=frame.term, vote=frame.vote, commit_index=frame.commit_index, start=start
        )
        key = self._keys.newest
        header = Header(os.urandom(16), before.header.sequence + 1, self._next_index, key.number)
        segment, self._file = _start(self._disk, self._spares.pop(0), header, key, head)
        self._held.append(segment)
        self._close(before, file_before, head)

    def _close(self, segment: _Segment, file: File, state: raft.RaftJournalFrame) -> None:
        closing = raft.RaftJournalFrame(
            term=state.term, vote=state.vote, commit_index=state.commit_index, closes=True
        )
        self._write(segment, file, closing.SerializeToString())
        file.close()

    def _note(self, frame: raft.RaftJournalFrame) -> None:
        """Follow what a frame, durable now, says about which entries count."""
        for record in frame.records:
            match record.WhichOneof("record"):
                case "truncate_from":
                    self._next_index = low = record.truncate_from
                case "restart_after":
                    self._next_index, low = record.restart_after + 1, record.restart_after - 1
                case _:
                    self._next_index = record.entry.index + 1
                    continue
            for segment in self._held:
                segment.first = min(segment.first, low)

    def _add_spare(self) -> bool:
        """Take a segment's room from the disk. False when there is none."""
        try:
            self._spares.append(_allocate(self._disk, self._folder, next(self._numbers), self._layout))
        except OSError as error:
            if not is_full(error):
                raise
            return False
        return True

    def _settle(self, last: Content, frames: list[list[raft.RaftJournalFrame]]) -> None:
        """Finish what a crash left half done.

        What was read may never have reached the disk, even if a later sync says so (a failed one leaves the
        page cache clean): the last frame is written again, and others are told of it only after that.
        """
        raw = self._disk.read(self._held[-1].path)
        self._file.write(last.last_start, raw[last.last_start : last.end] + bytes(last.used_end - last.end))
        self._file.sync()
        for name in self._disk.names(self._folder):
            if name.startswith(_SPARE):
                self._disk.remove(self._folder / name)
        self._disk.sync_folder(self._folder)
        if len(frames) > 1 and not frames[-2][-1].closes:
            self._close(self._held[-2], self._disk.open(self._held[-2].path), frames[-1][0])


def _allocate(disk: Disk, folder: Path, number: int, layout: Layout) -> Path:
    """A file that takes a segment's room. OSError leaves nothing behind."""
    path = folder / f"{_SPARE}{number}"
    file = disk.create(path)
    try:
        file.allocate(layout.segment_bytes)
        file.sync()
    except OSError:
        disk.remove(path)
        raise
    finally:
        file.close()
    return path


def _start(
    disk: Disk, spare: Path, header: Header, key: DataKey, head: raft.RaftJournalFrame
) -> tuple[_Segment, File]:
    """Make the spare file a segment that holds its first frame, durably."""
    path = spare.with_name(f"{header.sequence:016}-{header.first_index:016}")
    content = header.encode() + header.seal(key, 0, head.SerializeToString())
    file = disk.open(spare)
    file.write(0, content)
    file.sync()
    disk.rename(spare, path)
    disk.sync_folder(path.parent)
    return _Segment(path, header, key, 1, len(content), header.first_index), file


def _parse(path: Path, body: bytes) -> raft.RaftJournalFrame:
    try:
        return raft.RaftJournalFrame.FromString(body)
    except DecodeError as error:
        raise damaged(path, f"is damaged: {error}") from error


def _check_chain(
    paths: list[Path], contents: list[Content], frames: list[list[raft.RaftJournalFrame]]
) -> None:
    """Internal unless these are all segments of one journal from some place on."""
    for path, content in zip(paths, contents, strict=True):
        name = f"{content.header.sequence:016}-{content.header.first_index:016}"
        if path.name != name:
            raise damaged(path, f"is the segment {name}, under another name")
    if contents[0].header.sequence == 1 and frames[0][0].start.previous_file_id:
        raise damaged(paths[0], "is not the start of a journal")
    for place, (before, after) in enumerate(pairwise(contents)):
        _check_link(paths[place], before, paths[place + 1], after, frames[place : place + 2])
    if frames[-1][-1].closes:
        raise damaged(paths[-1], "is not the last segment of the journal: the one after it is missing")


def _check_link(
    path: Path, before: Content, next_path: Path, after: Content, frames: list[list[raft.RaftJournalFrame]]
) -> None:
    if after.header.sequence != before.header.sequence + 1:
        raise damaged(path, f"is followed by {next_path.name}: the segment between them is missing")
    start = frames[1][0].start
    if start.previous_file_id != before.header.file_id:
        raise damaged(next_path, f"belongs to another journal than {path.name}")
    closed = frames[0][-1].closes
    if len(frames[0]) - closed != start.previous_frames or not (closed or len(frames[1]) == 1):
        raise damaged(path, f"is damaged at byte {before.end}: its end is missing")
