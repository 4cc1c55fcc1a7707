"""A manager's identity on disk: certificates/{node.pem,node.key,root.pem} and the key-encryption key `kek`.

The private key is sealed under that one, as the data keys of Raft are (keyfile.py).

Files are 0600 in directories of 0700, replaced as a whole and synced, so a crash leaves the old or the new.
A renewal changes two files: the new key is written beside the old one first, so whichever certificate a crash
leaves, its key is there too, and `load` finds it.
"""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidTag

from swarmnet.core.errors import Internal
from swarmnet.core.secret import SecretBytes
from swarmnet.manager.ca.authority import Subject
from swarmnet.manager.ca.credentials import Credentials, subject_of
from swarmnet.manager.ca.keyfile import KeyFile
from swarmnet.manager.ca.write import sync_directory, write_file
from swarmnet.manager.raft.seal import Cipher

_CONTEXT: Final = b"swarmnet private key 1"


class IdentityFiles:
    """The identity below one state directory. `lock` opens it. Blocks; any thread."""

    def __init__(self, state_dir: Path) -> None:
        self._state_dir = state_dir
        self._folder = state_dir / "certificates"
        self._changing = threading.RLock()
        self.lock = KeyFile(state_dir / "kek")

    def subject(self) -> Subject | None:
        """Whose identity it is, which is no secret; None when there is none yet."""
        path = self._folder / "node.pem"
        return subject_of(x509.load_pem_x509_certificate(path.read_bytes())) if path.exists() else None

    def load(self) -> Credentials | None:
        """None when there is no identity yet. Internal when what is there does not belong together;
        SwarmLocked while it cannot be opened."""
        if not (self._folder / "node.pem").exists():
            return None
        certificate, root = ((self._folder / name).read_bytes() for name in ("node.pem", "root.pem"))
        for key in self._private_keys():
            if (found := Credentials(certificate, key, root)).matches():
                return found
        raise Internal(
            f"the certificate in {self._folder} has no private key beside it",
            hint="Restore the folder from a backup, or remove the state directory and join again.",
        )

    def _private_keys(self) -> Iterator[SecretBytes]:
        """All that are there and open with a key that is there."""
        for name in ("node.key", "node.key.next"):
            if not (self._folder / name).exists():
                continue
            sealed = (self._folder / name).read_bytes()
            for kek in reversed(self.lock.keks()):
                try:
                    yield SecretBytes(Cipher(kek).open(sealed, _CONTEXT))
                except InvalidTag:
                    continue

    def save(self, credentials: Credentials) -> None:
        """The key first under another name, then the certificate, then the key in its place."""
        with self._changing:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            sealed = Cipher(self.lock.keks()[-1]).seal(credentials.key.reveal(), _CONTEXT)
            write_file(self._folder / "node.key.next", sealed)
            write_file(self._folder / "root.pem", credentials.root_pem)
            write_file(self._folder / "node.pem", credentials.certificate_pem)
            (self._folder / "node.key.next").replace(self._folder / "node.key")
            sync_directory(self._folder)

    def reseal(self) -> None:
        """Have the private key sealed under the newest key-encryption key."""
        with self._changing:
            if (credentials := self.load()) is not None:
                self.save(credentials)

    def forget_swarm(self) -> None:
        """Erase the state of the swarm, its keys first. The identity stays, and needs no unlock key any more:
        it is to be a worker's."""
        (self._state_dir / "raft" / "data.keys").unlink(missing_ok=True)
        shutil.rmtree(self._state_dir / "raft", ignore_errors=True)
        sync_directory(self._state_dir)
        if self.lock.locks:
            self.lock.turn(0, None)
        self.reseal()
        self.lock.forget_old()

    def erase(self) -> None:
        """Take everything out of the state directory; the directory stays.

        The certificate goes first: without it a manager that is started again has nothing to go on with. Then
        the key.
        """
        (self._folder / "node.pem").unlink(missing_ok=True)
        (self._state_dir / "kek").unlink(missing_ok=True)
        self.lock.close()
        for entry in self._state_dir.iterdir():
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            elif entry.name != "lock":
                entry.unlink()
        sync_directory(self._state_dir)
