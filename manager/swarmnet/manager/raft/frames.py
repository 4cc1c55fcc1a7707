"""What a segment of the journal looks like: a header, then sealed frames, then zeros.

    header   magic (16) · file id (16) · sequence (8) · first index (8) · number of its data key (8)
    frame    magic (4) · length (4) · CRC-32 of length and body (4) · body: AES-256-GCM under that data key

A frame is written only after the one before it was synced, so a crash can tear the last frame and no other: a
bad frame at the end is cut off (nobody was promised anything about it), a bad frame with a good one after it
is damage, and is refused. Header and place are sealed in, so no frame can be moved or come from another file.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography.exceptions import InvalidTag

from swarmnet.manager.raft.disk import damaged
from swarmnet.manager.raft.seal import NONCE_BYTES, TAG_BYTES, DataKey, DataKeys

_MAGIC: Final = b"swarmnet raft 3\n"
_FRAME_MAGIC: Final = b"\xf0SNF"
_HEADER: Final = struct.Struct("<16s16sQQQ")
_FRAME: Final = struct.Struct("<4sII")
_LENGTH: Final = struct.Struct("<I")
FRAME_OVERHEAD_BYTES: Final = _FRAME.size + NONCE_BYTES + TAG_BYTES


@dataclass(frozen=True, slots=True)
class Header:
    """`file_id` is random, `sequence` counts segments from 1, `first_index` of the first new entry; `key` is
    the number of the data key that seals all of its frames."""

    file_id: bytes
    sequence: int
    first_index: int
    key: int

    def encode(self) -> bytes:
        return _HEADER.pack(_MAGIC, self.file_id, self.sequence, self.first_index, self.key)

    def seal(self, key: DataKey, place: int, body: bytes) -> bytes:
        """The frame number `place` of this segment."""
        sealed = key.seal(body, self.context(place))
        length = _LENGTH.pack(len(sealed))
        return _FRAME.pack(_FRAME_MAGIC, len(sealed), zlib.crc32(sealed, zlib.crc32(length))) + sealed

    def context(self, place: int) -> bytes:
        return self.encode() + place.to_bytes(8, "little")


@dataclass(frozen=True, slots=True)
class Content:
    """A segment's frames, opened. The last one starts at byte `last_start` and ends at `end`; `used_end` is
    behind the last byte that is not zero: more than `end` when a frame was torn."""

    header: Header
    key: DataKey
    bodies: list[bytes]
    last_start: int
    end: int
    used_end: int


def read(path: Path, raw: bytes, keys: DataKeys) -> Content:
    """What the segment in `path`, of these bytes, holds. Internal for damage, or another key."""
    if not raw.startswith(_MAGIC) or len(raw) < _HEADER.size:
        raise damaged(path, "is damaged at byte 0: it does not start as a segment of a journal does")
    header = Header(*_HEADER.unpack_from(raw)[1:])
    if (key := keys.get(header.key)) is None:
        raise damaged(path, f"was sealed with data key {header.key}, which is not (or no longer) there")
    bodies: list[bytes] = []
    start = end = _HEADER.size
    while (sealed := _body_at(raw, end)) is not None:
        try:
            bodies.append(key.open(sealed, header.context(len(bodies))))
        except InvalidTag:
            raise damaged(path, f"at byte {end} was sealed with another key, or changed since") from None
        start, end = end, end + _FRAME.size + len(sealed)
    _check_torn(path, raw, end)
    if not bodies:
        raise damaged(path, f"is damaged at byte {end}: its first frame cannot be read")
    return Content(header, key, bodies, start, end, max(end, len(raw.rstrip(b"\0"))))


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


def _check_torn(path: Path, raw: bytes, end: int) -> None:
    """A bad frame at `end` may be cut off only if no good one follows it."""
    candidate = end
    while (candidate := raw.find(_FRAME_MAGIC, candidate + 1)) >= 0:
        if _body_at(raw, candidate) is not None:
            raise damaged(path, f"is damaged at byte {end}: good data follows at byte {candidate}")
