"""The data keys that seal a manager's journal and snapshots, in a file sealed under the key-encryption key.

The newest seals what is written, all of them open. A new one is made when something that was taken out of the
state is to become unreadable: once nothing on disk is sealed under the ones before it, they are destroyed.
Changing the key-encryption key seals this one small file again, not the log.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from swarmnet.api.v1 import raft_pb2 as raft
from swarmnet.core.errors import FailedPrecondition
from swarmnet.core.secret import SecretBytes
from swarmnet.manager.raft.disk import Disk, damaged, replace_file

KEY_BYTES: Final = 32
NONCE_BYTES: Final = 12
TAG_BYTES: Final = 16
_CONTEXT: Final = b"swarmnet raft data keys 2"
_MAGIC: Final = b"swarmnet keys 2\n"
_FILE: Final = struct.Struct("<16sI")


class Cipher:
    """AES-256-GCM with random nonces: good for 2**32 seals (NIST SP 800-38D), more than a manager makes."""

    def __init__(self, key: SecretBytes) -> None:
        self._cipher = AESGCM(key.reveal())

    def seal(self, plaintext: bytes, context: bytes) -> bytes:
        """Nonce and ciphertext. `context` says what it is and where it belongs; `open` must name the same."""
        nonce = os.urandom(NONCE_BYTES)
        return nonce + self._cipher.encrypt(nonce, plaintext, context)

    def open(self, sealed: bytes, context: bytes) -> bytes:
        """What `seal` was given. cryptography's InvalidTag for another key, context or changed bytes."""
        return self._cipher.decrypt(sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], context)


class DataKey(Cipher):
    """`number` is its name, ascending. `made_at`: the last entry that was in the state when it was made."""

    def __init__(self, secret: SecretBytes, number: int = 1, made_at: int = 0) -> None:
        super().__init__(secret)
        self.secret, self.number, self.made_at = secret, number, made_at

    def __repr__(self) -> str:
        return f"<data key {self.number}>"


Keep = Callable[[Sequence[DataKey]], None]
"""Makes them durable, as they are to be."""


class DataKeys:
    """One thread at a time changes them; any may read. A change counts once `keep` has it."""

    def __init__(self, keys: Sequence[DataKey], keep: Keep) -> None:
        self._keys = tuple(keys)
        self._keep = keep

    @property
    def newest(self) -> DataKey:
        return self._keys[-1]

    @property
    def old(self) -> tuple[DataKey, ...]:
        """Those before it, which still open something, or did a moment ago."""
        return self._keys[:-1]

    def get(self, number: int) -> DataKey | None:
        return next((each for each in self._keys if each.number == number), None)

    def as_of(self, index: int) -> DataKey:
        """The newest that may seal a state as of that entry: a younger one must not see what went since."""
        return next((each for each in reversed(self._keys) if each.made_at <= index), self._keys[0])

    def renew(self, made_at: int) -> None:
        """Make one that seals from now on. OSError leaves the old ones."""
        self._become((*self._keys, DataKey(_fresh(), self.newest.number + 1, made_at)))

    def forget_old(self) -> None:
        """Destroy all but the newest: what they sealed can never be read again. OSError: not yet."""
        gone = self.old
        self._become((self.newest,))
        for each in gone:
            each.secret.erase()

    def keep_by(self, keep: Keep) -> None:
        """Keep them in another way from now on. OSError leaves the old one."""
        keep(self._keys)
        self._keep = keep

    def _become(self, keys: tuple[DataKey, ...]) -> None:
        self._keep(keys)
        self._keys = keys


def create_data_keys(disk: Disk, path: Path, kek: SecretBytes) -> DataKeys:
    """Make the first data key and keep it in `path`, sealed under `kek` (32 bytes)."""
    keys, keep = [DataKey(_fresh())], keeper(disk, path, kek)
    keep(keys)
    return DataKeys(keys, keep)


def load_data_keys(disk: Disk, path: Path, kek: SecretBytes) -> DataKeys:
    """The data keys in `path`. FailedPrecondition when `kek` is not its key; Internal when it is damaged."""
    raw = disk.read(path)
    if len(raw) < _FILE.size or _FILE.unpack_from(raw) != (_MAGIC, zlib.crc32(raw[_FILE.size :])):
        raise damaged(path, f"holds no sealed data keys: {len(raw)} bytes")
    try:
        found = raft.RaftDataKeys.FromString(Cipher(kek).open(raw[_FILE.size :], _CONTEXT))
    except InvalidTag:
        raise FailedPrecondition(
            f"the key-encryption key does not open {path}",
            hint="Put back the key file of this state directory, or unlock with the swarm's unlock key.",
        ) from None
    keys = [DataKey(SecretBytes(each.secret), each.number, each.made_at) for each in found.keys]
    return DataKeys(keys, keeper(disk, path, kek))


def keeper(disk: Disk, path: Path, kek: SecretBytes) -> Keep:
    """Keeps them in `path`, sealed under `kek`."""
    return partial(_store, disk, path, kek)


def _store(disk: Disk, path: Path, kek: SecretBytes, keys: Sequence[DataKey]) -> None:
    plain = raft.RaftDataKeys(
        keys=[
            raft.RaftDataKey(number=each.number, made_at=each.made_at, secret=each.secret.reveal())
            for each in keys
        ]
    )
    sealed = Cipher(kek).seal(plain.SerializeToString(), _CONTEXT)
    replace_file(disk, path, _FILE.pack(_MAGIC, zlib.crc32(sealed)) + sealed)


def _fresh() -> SecretBytes:
    return SecretBytes(os.urandom(KEY_BYTES))
