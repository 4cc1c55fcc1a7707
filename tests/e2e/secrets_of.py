"""Every secret of a swarm and its managers, to be searched for where none may be."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.serialization import load_pem_private_key
from tests.e2e.island import Host
from tests.unit.raft_opened import keys_in

from swarmnet.api.v1 import store_pb2 as store
from swarmnet.core import backup
from swarmnet.core.secrecy import secrets_in
from swarmnet.core.secret import SecretBytes
from swarmnet.core.state import State
from swarmnet.core.unlock_key import parse_unlock_key
from swarmnet.manager.ca.files import IdentityFiles
from swarmnet.manager.raft import storage

PASSPHRASE: Final = "a passphrase of tests"
_SHORTEST: Final = 16


def state_of(host: Host, folder: Path) -> State:
    """The whole replicated state, by a backup."""
    file, passphrase = folder / f"{host.address}.backup", folder / "passphrase"
    passphrase.write_text(PASSPHRASE)
    file.unlink(missing_ok=True)
    host.ok("swarm", "backup", str(file), "--passphrase-file", str(passphrase))
    raw = file.read_bytes()
    key = backup.derive_key(SecretBytes(PASSPHRASE.encode()), backup.read_header(raw).salt)
    state = State()
    state.restore(backup.unseal(raw, key).state)
    return state


def secrets_of_state(state: State) -> set[bytes]:
    kinds = (store.ClusterSecrets, store.ScopeSecrets)
    return {secret for kind in kinds for each in state.all(kind) for secret in secrets_in(each)}


def identity_of(host: Host, unlock_key: str = "") -> IdentityFiles:
    """Its files, opened."""
    files = IdentityFiles(host.folder / "state")
    if unlock_key:
        files.lock.unlock(parse_unlock_key(unlock_key))
    return files


def kek_of(host: Host, unlock_key: str = "") -> SecretBytes:
    """The one that opens its Raft directory now."""
    return storage.fitting(host.folder / "state/raft", identity_of(host, unlock_key).lock.keks())


def secrets_of_manager(host: Host, unlock_key: str = "") -> set[bytes]:
    """Its key-encryption keys, its data keys, its private key: as bytes, and as lines of its file."""
    files = identity_of(host, unlock_key)
    found = {each.reveal() for each in files.lock.keks()}
    keys = keys_in(host.folder / "state/raft", kek_of(host, unlock_key))
    found |= {each.secret.reveal() for each in (*keys.old, keys.newest)}
    credentials = files.load()
    assert credentials is not None
    return found | _forms(credentials.key.reveal())


def _forms(pem: bytes) -> set[bytes]:
    key = load_pem_private_key(pem, None)
    number = key.private_numbers().private_value  # type: ignore[union-attr]
    return {
        number.to_bytes(32, "big"),
        *(line for line in pem.splitlines() if len(line) > _SHORTEST and b"-" not in line),
    }


def from_stdin(text: str) -> io.StringIO:
    """What a person or a script gives a command that reads a secret."""
    return io.StringIO(f"{text}\n")
