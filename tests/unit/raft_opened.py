"""What is in a manager's Raft directory for whoever has the files and the key-encryption key."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path

from cryptography.exceptions import InvalidTag

from swarmnet.core.errors import Internal
from swarmnet.core.secret import SecretBytes
from swarmnet.manager.raft import frames, seal
from swarmnet.manager.raft.disk import REAL_DISK, Disk
from swarmnet.manager.raft.seal import DataKey, DataKeys
from swarmnet.manager.raft.snapshot import _CONTEXT


def files_of(directory: Path, disk: Disk = REAL_DISK) -> dict[Path, bytes]:
    """Every file in it, byte for byte."""
    found = {each: directory / each for each in disk.names(directory) if each not in {"journal", "lock"}}
    segments = {each: directory / "journal" / each for each in disk.names(directory / "journal")}
    return {path: disk.read(path) for path in (*found.values(), *segments.values())}


def keys_in(directory: Path, kek: SecretBytes, disk: Disk = REAL_DISK) -> DataKeys:
    """All the data keys that are on this manager's disk."""
    return seal.load_data_keys(disk, directory / "data.keys", kek)


def opened(files: Mapping[Path, bytes], keys: DataKeys) -> bytes:
    """All that these keys open of these files, whatever number a file says its key has."""
    return b"\n".join(each for key in (*keys.old, keys.newest) for each in _opened_with(key, files))


def _opened_with(key: DataKey, files: Mapping[Path, bytes]) -> Iterator[bytes]:
    for path, raw in files.items():
        if path.parent.name == "journal" and not path.name.startswith("spare"):
            yield from _frames(path, raw, key)
        elif path.name == "snapshot":
            with suppress(InvalidTag):
                yield key.open(raw[8:], _CONTEXT + raw[:8])


def _frames(path: Path, raw: bytes, key: DataKey) -> list[bytes]:
    number = frames.Header(*frames._HEADER.unpack_from(raw)[1:]).key
    named = DataKeys([DataKey(key.secret, number)], keep=lambda _keys: None)
    try:
        return frames.read(path, raw, named).bodies
    except Internal:
        return []


def holds(directory: Path, word: bytes, kek: SecretBytes, disk: Disk = REAL_DISK) -> bool:
    """Whether the word is in the directory's files, opened with every key that is there."""
    return word in opened(files_of(directory, disk), keys_in(directory, kek, disk))
