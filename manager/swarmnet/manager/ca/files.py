"""A manager's identity on disk: certificates/{node.pem,node.key,root.pem} and the key-encryption key `kek`.

Files are 0600 in directories of 0700, replaced as a whole and synced, so a crash leaves the old or the new.
A renewal changes two files: the new key is written beside the old one first, so whichever certificate a crash
leaves, its key is there too, and `load` finds it.
"""

from __future__ import annotations

import os
import secrets
import shutil
from pathlib import Path
from typing import Final

from swarmnet.core.errors import Internal
from swarmnet.core.secret import SecretBytes
from swarmnet.manager.ca.credentials import Credentials

KEK_BYTES: Final = 32


def write_file(path: Path, raw: bytes) -> None:
    """Replace a file, 0600, so that it is on disk when this returns."""
    fresh = path.with_name(path.name + ".tmp")
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(raw)
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)
    sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class IdentityFiles:
    """The identity below one state directory."""

    def __init__(self, state_dir: Path) -> None:
        self._state_dir = state_dir
        self._folder = state_dir / "certificates"
        self._kek = state_dir / "kek"

    def load(self) -> Credentials | None:
        """None when there is no identity yet. Internal when what is there does not belong together."""
        if not (self._folder / "node.pem").exists():
            return None
        for name in ("node.key", "node.key.next"):
            if (self._folder / name).exists() and (found := self._read(name)).matches():
                return found
        raise Internal(
            f"the certificate in {self._folder} has no private key beside it",
            hint="Restore the folder from a backup, or remove the state directory and join again.",
        )

    def _read(self, key_name: str) -> Credentials:
        certificate, key, root = (
            (self._folder / name).read_bytes() for name in ("node.pem", key_name, "root.pem")
        )
        return Credentials(certificate, SecretBytes(key), root)

    def save(self, credentials: Credentials) -> None:
        """The key first under another name, then the certificate, then the key in its place."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_file(self._folder / "node.key.next", credentials.key.reveal())
        write_file(self._folder / "root.pem", credentials.root_pem)
        write_file(self._folder / "node.pem", credentials.certificate_pem)
        (self._folder / "node.key.next").replace(self._folder / "node.key")
        sync_directory(self._folder)

    def kek(self) -> SecretBytes:
        """The key-encryption key, made on first use."""
        if not self._kek.exists():
            write_file(self._kek, secrets.token_bytes(KEK_BYTES))
        return SecretBytes(self._kek.read_bytes())

    def forget_raft(self) -> None:
        """Erase the state of the swarm, its key first; the identity stays."""
        self._kek.unlink(missing_ok=True)
        shutil.rmtree(self._state_dir / "raft", ignore_errors=True)
        sync_directory(self._state_dir)

    def erase(self) -> None:
        """Take everything out of the state directory; the directory stays.

        The certificate goes first: without it a manager that is started again has nothing to go on with. Then
        the key.
        """
        (self._folder / "node.pem").unlink(missing_ok=True)
        self._kek.unlink(missing_ok=True)
        for entry in self._state_dir.iterdir():
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            elif entry.name != "lock":
                entry.unlink()
        sync_directory(self._state_dir)
