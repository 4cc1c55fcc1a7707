"""A file of sealed frames: one frame is what became durable together.

    header   magic (16) · file id (16)
    frame    magic (4) · length (4) · CRC-32 of length and body (4) · body: AES-256-GCM under the data key

A frame is written only after the one before it was synced, so a crash can tear the last frame and no other: a
bad frame at the end is cut off (nobody was promised anything about it), a bad frame with a good one after it
is damage, and is refused. File id and place are sealed in, so none can be moved or taken from another file.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from cryptography.exceptions import InvalidTag

from swarmnet.manager.raft.disk import Disk, damaged, replace_file
from swarmnet.manager.raft.seal import DataKey

_MAGIC: Final = b"swarmnet raft 1\n"
_FRAME_MAGIC: Final = b"\xf0SNF"
_HEADER_BYTES: Final = len(_MAGIC) + 16
_FRAME: Final = struct.Struct("<4sII")
_LENGTH: Final = struct.Struct("<I")


class FrameFile:
    """An open file, appended to. Not for two threads at once.

    After an OSError of `append` nothing is known about the file's end: the process must stop using it.
    """

    def __init__(
        self, disk: Disk, path: Path, key: DataKey, *, file_id: bytes, frames: int, end: int
    ) -> None:
        self.path = path
        self._key = key
        self._file_id = file_id
        self._frames = frames
        self._end = end
        self._file = disk.open(path)

    @classmethod
    def create(cls, disk: Disk, path: Path, key: DataKey, bodies: Iterable[bytes]) -> FrameFile:
        """Make the file with these frames, in place of what was there, atomically and durably."""
        file_id = os.urandom(16)
        frames = [_frame(key, file_id, place, body) for place, body in enumerate(bodies)]
        whole = b"".join((_MAGIC, file_id, *frames))
        replace_file(disk, path, whole)
        return cls(disk, path, key, file_id=file_id, frames=len(frames), end=len(whole))

    @classmethod
    def open(cls, disk: Disk, path: Path, key: DataKey) -> tuple[FrameFile, list[bytes]]:
        """The file and what its frames hold, a torn end cut off. Internal for damage or another key."""
        raw = disk.read(path)
        if not raw.startswith(_MAGIC) or len(raw) < _HEADER_BYTES:
            raise damaged(path, "is damaged: it does not start as a swarmnet journal does")
        file_id = raw[len(_MAGIC) : _HEADER_BYTES]
        bodies: list[bytes] = []
        end = _HEADER_BYTES
        while (sealed := _body_at(raw, end)) is not None:
            bodies.append(_open(path, key, _context(file_id, len(bodies)), sealed, end))
            end += _FRAME.size + len(sealed)
        if end < len(raw):
            _check_torn(path, raw, end)
        opened = cls(disk, path, key, file_id=file_id, frames=len(bodies), end=end)
        opened._file.truncate(end)
        opened._file.sync()  # what was found may not have been synced before the last process died
        return opened, bodies

    def append(self, body: bytes) -> None:
        """Add a frame; it is durable on return. OSError otherwise."""
        frame = _frame(self._key, self._file_id, self._frames, body)
        self._file.write(self._end, frame)
        self._file.sync()
        self._frames += 1
        self._end += len(frame)

    def close(self) -> None:
        self._file.close()


def _context(file_id: bytes, place: int) -> bytes:
    return file_id + place.to_bytes(8, "little")


def _frame(key: DataKey, file_id: bytes, place: int, body: bytes) -> bytes:
    sealed = key.seal(body, _context(file_id, place))
    length = _LENGTH.pack(len(sealed))
    return _FRAME.pack(_FRAME_MAGIC, len(sealed), zlib.crc32(sealed, zlib.crc32(length))) + sealed


def _body_at(raw: bytes, offset: int) -> bytes | None:
    """The sealed body of the frame at `offset`, or None when there is no whole and correct frame."""
    if offset + _FRAME.size > len(raw):
        return None
    magic, length, crc = _FRAME.unpack_from(raw, offset)
    start = offset + _FRAME.size
    if magic != _FRAME_MAGIC or start + length > len(raw):
        return None
    sealed = raw[start : start + length]
    return sealed if zlib.crc32(sealed, zlib.crc32(_LENGTH.pack(length))) == crc else None


def _open(path: Path, key: DataKey, context: bytes, sealed: bytes, offset: int) -> bytes:
    try:
        return key.open(sealed, context)
    except InvalidTag:
        raise damaged(path, f"at byte {offset} was sealed with another key, or changed since") from None


def _check_torn(path: Path, raw: bytes, end: int) -> None:
    """A bad frame at `end` may be cut off only if no good one follows it."""
    candidate = end
    while (candidate := raw.find(_FRAME_MAGIC, candidate + 1)) >= 0:
        if _body_at(raw, candidate) is not None:
            raise damaged(path, f"is damaged at byte {end}: good data follows at byte {candidate}")
