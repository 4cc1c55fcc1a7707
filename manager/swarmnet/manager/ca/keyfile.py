"""The file `kek`: the key that opens a manager's other secret files; with autolock, itself sealed.

A change of the lock replaces this one file, at one stroke, by one with a new key beside the old one. Then the
other files are sealed under the new one, and then the old one is forgotten. So whenever a manager is stopped,
its files open with exactly one unlock key, or without any.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from cryptography.exceptions import InvalidTag
from google.protobuf.message import DecodeError

from swarmnet.api.v1 import store_pb2 as store
from swarmnet.core.errors import BadUnlockKey, Internal, SwarmLocked
from swarmnet.core.secret import SecretBytes
from swarmnet.manager.ca.write import write_file
from swarmnet.manager.raft.seal import Cipher

KEK_BYTES: Final = 32
_CONTEXT: Final = b"swarmnet key-encryption keys 1 "


class KeyFile:
    """Blocks; not for two threads at once. `generation` is the one of the lock that the file follows."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.close()

    def close(self) -> None:
        """Forget what was read or opened."""
        self._keys: tuple[SecretBytes, ...] = ()
        self._unlock_key: SecretBytes | None = None
        self.generation = 0

    @property
    def needs_unlock_key(self) -> bool:
        """Whether `keks` cannot be had without `unlock`."""
        return not self._keys and (found := self._read()) is not None and found.locked

    @property
    def locks(self) -> bool:
        """Whether it will need the unlock key again after a restart. Once it is open."""
        return self._unlock_key is not None

    def unlock(self, unlock_key: SecretBytes) -> None:
        """BadUnlockKey, and nothing has changed, for another one."""
        found = self._read()
        assert found is not None, "there is a lock to open"
        try:
            opened = Cipher(unlock_key).open(found.keys, _context(found.generation))
        except InvalidTag:
            raise BadUnlockKey(
                "swarm could not be unlocked: invalid key provided",
                hint="Use the unlock key of this swarm. A manager that was down while the key was rotated "
                "still opens with the one before.",
            ) from None
        self._take(found, opened, unlock_key)

    def keks(self) -> Sequence[SecretBytes]:
        """All of them, the newest last; the first one is made on first use. SwarmLocked before `unlock`."""
        if not self._keys and (found := self._read()) is not None:
            if found.locked:
                raise SwarmLocked
            self._take(found, found.keys, None)
        if not self._keys:
            self.make(0, None)
        return self._keys

    def make(self, generation: int, unlock_key: SecretBytes | None) -> None:
        """The first key."""
        self._store((_fresh(),), generation, unlock_key)

    def turn(self, generation: int, unlock_key: SecretBytes | None) -> None:
        """A new key beside those that there are; from here on it is this unlock key, or none, that opens."""
        self._store((*self.keks(), _fresh()), generation, unlock_key)

    def forget_old(self) -> None:
        """Keep only the newest: nothing is sealed under the others any more."""
        *gone, newest = self.keks()
        if gone:
            self._store((newest,), self.generation, self._unlock_key)
        for each in gone:
            each.erase()

    def _store(self, keys: tuple[SecretBytes, ...], generation: int, unlock_key: SecretBytes | None) -> None:
        plain = store.KeyEncryptionKeys(keys=[each.reveal() for each in keys]).SerializeToString()
        sealed = plain if unlock_key is None else Cipher(unlock_key).seal(plain, _context(generation))
        file = store.KeyEncryptionFile(generation=generation, locked=unlock_key is not None, keys=sealed)
        write_file(self._path, file.SerializeToString())
        self._keys, self.generation, self._unlock_key = keys, generation, unlock_key

    def _read(self) -> store.KeyEncryptionFile | None:
        """None when there is no file."""
        try:
            found = store.KeyEncryptionFile.FromString(self._path.read_bytes())
        except FileNotFoundError:
            return None
        except DecodeError:
            raise self._damaged() from None
        return found

    def _take(self, found: store.KeyEncryptionFile, plain: bytes, unlock_key: SecretBytes | None) -> None:
        try:
            keys = store.KeyEncryptionKeys.FromString(plain).keys
        except DecodeError:
            raise self._damaged() from None
        if not keys or any(len(each) != KEK_BYTES for each in keys):
            raise self._damaged()
        self._keys, self.generation = tuple(map(SecretBytes, keys)), found.generation
        self._unlock_key = unlock_key

    def _damaged(self) -> Internal:
        return Internal(
            f"{self._path} is damaged",
            hint="Put it back from a backup of this host, or remove this manager on another one, empty its "
            "state directory and join again.",
        )


def _context(generation: int) -> bytes:
    return _CONTEXT + generation.to_bytes(8, "little")


def _fresh() -> SecretBytes:
    return SecretBytes(os.urandom(KEK_BYTES))
