"""A snapshot on disk, and on its way to a manager that lags too far behind for the log.

On disk it is sealed under a data key of this manager's, named before it; on the wire it is cut into chunks
and ends in its SHA-256, so that what arrives with a hole, after a reconnection say, is thrown away and asked
for again.
"""

from __future__ import annotations

import hashlib
import os
import struct
from pathlib import Path
from typing import Final, NamedTuple

from cryptography.exceptions import InvalidTag
from google.protobuf.message import DecodeError

from swarmnet.api.v1 import raft_pb2 as raft
from swarmnet.manager.raft import entries
from swarmnet.manager.raft.disk import Disk, damaged, replace_file
from swarmnet.manager.raft.seal import DataKeys

CHUNK_BYTES: Final = 512 * 1024
MAX_SNAPSHOT_BYTES: Final = 512 * 1024 * 1024
_CONTEXT: Final = b"swarmnet raft snapshot 2"
_START: Final = struct.Struct("<Q")
_DIGEST_BYTES: Final = 32


class Chunk(NamedTuple):
    """In pysyncobj's order of fields."""

    data: bytes
    first: bool
    last: bool


class SnapshotFile(os.PathLike[str]):
    """The one snapshot of this manager. `sealed_under`: the number of its data key; 0 = there is none."""

    def __init__(self, disk: Disk, path: Path, keys: DataKeys) -> None:
        self._disk = disk
        self._path = path
        self._keys = keys
        self.sealed_under = 0

    def __fspath__(self) -> str:
        return str(self._path)

    def read(self) -> raft.RaftSnapshot | None:
        """The snapshot; None when none was taken yet. Internal when it is damaged: never start without it."""
        try:
            raw = self._disk.read(self._path)
        except FileNotFoundError:
            return None
        number = _START.unpack_from(raw)[0] if len(raw) > _START.size else 0
        if (key := self._keys.get(number)) is None:
            raise damaged(self._path, "is damaged, or was sealed with a data key that is no longer there")
        try:
            snapshot = _parse(key.open(raw[_START.size :], _CONTEXT + raw[: _START.size]))
        except (InvalidTag, ValueError) as error:
            raise damaged(self._path, "is damaged, or was sealed with another key") from error
        self.sealed_under = number
        return snapshot

    def free_bytes(self) -> int:
        """What the disk still has room for."""
        return self._disk.free_bytes(self._path.parent)

    def write(self, snapshot: raft.RaftSnapshot) -> None:
        """Replace the snapshot; durable on return. OSError otherwise; a full disk leaves the old one."""
        key = self._keys.as_of(snapshot.last.index)
        start = _START.pack(key.number)
        sealed = key.seal(snapshot.SerializeToString(), _CONTEXT + start)
        replace_file(self._disk, self._path, start + sealed)
        self.sealed_under = key.number


class Outgoing:
    """A snapshot on its way to one manager."""

    def __init__(self, snapshot: raft.RaftSnapshot) -> None:
        encoded = snapshot.SerializeToString()
        self._bytes = encoded + hashlib.sha256(encoded).digest()
        self._sent = 0

    def next_chunk(self) -> Chunk:
        start, self._sent = self._sent, self._sent + CHUNK_BYTES
        return Chunk(self._bytes[start : self._sent], start == 0, self._sent >= len(self._bytes))


class Incoming:
    """A snapshot on its way here."""

    def __init__(self) -> None:
        self._bytes = bytearray()

    def add(self, chunk: Chunk) -> raft.RaftSnapshot | None:
        """The snapshot, once its last chunk is here and all of it is right; None until then."""
        if chunk.first:
            self._bytes.clear()
        if len(self._bytes) + len(chunk.data) > MAX_SNAPSHOT_BYTES:
            self._bytes.clear()
            return None
        self._bytes += chunk.data
        if not chunk.last:
            return None
        received, self._bytes = bytes(self._bytes), bytearray()
        encoded, digest = received[:-_DIGEST_BYTES], received[-_DIGEST_BYTES:]
        if hashlib.sha256(encoded).digest() != digest:
            return None
        return _parse(encoded)


def _parse(encoded: bytes) -> raft.RaftSnapshot:
    """ValueError for anything that is not a snapshot."""
    try:
        snapshot = raft.RaftSnapshot.FromString(encoded)
    except DecodeError as error:
        raise ValueError("not a snapshot") from error
    previous, last = entries.from_proto(snapshot.previous), entries.from_proto(snapshot.last)
    if previous.index + 1 != last.index:
        raise ValueError("a snapshot whose last two entries are not neighbours")
    return snapshot
