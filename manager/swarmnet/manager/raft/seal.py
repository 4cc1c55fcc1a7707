"""The data key that seals a manager's journal and snapshots, itself sealed under the key-encryption key.

Changing the key-encryption key re-seals 32 bytes, not the log.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from swarmnet.core.errors import FailedPrecondition
from swarmnet.core.secret import SecretBytes
from swarmnet.manager.raft.disk import Disk, damaged, replace_file

KEY_BYTES: Final = 32
NONCE_BYTES: Final = 12
TAG_BYTES: Final = 16
_CONTEXT: Final = b"swarmnet raft data key 1"


class DataKey:
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

    def __repr__(self) -> str:
        return "<data key>"


def create_data_key(disk: Disk, path: Path, kek: SecretBytes) -> DataKey:
    """Make a data key and keep it in `path`, sealed under `kek` (32 bytes)."""
    raw = os.urandom(KEY_BYTES)
    replace_file(disk, path, DataKey(kek).seal(raw, _CONTEXT))
    return DataKey(SecretBytes(raw))


def load_data_key(disk: Disk, path: Path, kek: SecretBytes) -> DataKey:
    """The data key in `path`. FailedPrecondition when `kek` is not its key; Internal when it is damaged."""
    sealed = disk.read(path)
    if len(sealed) != NONCE_BYTES + KEY_BYTES + TAG_BYTES:
        raise damaged(path, f"holds no sealed data key: {len(sealed)} bytes")
    try:
        return DataKey(SecretBytes(DataKey(kek).open(sealed, _CONTEXT)))
    except InvalidTag:
        raise FailedPrecondition(
            f"the key-encryption key does not open {path}",
            hint="Put back the key file of this state directory, or unlock with the swarm's unlock key.",
        ) from None
