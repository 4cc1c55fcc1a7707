"""The file of a backup: how it is sealed, and what is wrong with one that cannot be opened.

backup.proto specifies the format. What is sealed is opaque here.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt
from google.protobuf.message import DecodeError

from swarmnet.api.v1.backup_pb2 import BackupHeader
from swarmnet.core.errors import FailedPrecondition, InvalidArgument
from swarmnet.core.ids import to_base36
from swarmnet.core.secret import SecretBytes

KEY_BYTES: Final = 32
SALT_BYTES: Final = 32
FRAME_BYTES: Final = 1024 * 1024
MIN_PASSPHRASE_BYTES: Final = 12
MAX_STATE_BYTES: Final = 512 * 1024 * 1024
_MAGIC: Final = b"swarmnet backup\n"
_FORMAT: Final = 1
_PREAMBLE: Final = struct.Struct("!16sII")
_LENGTH: Final = struct.Struct("!I")
_TAG_BYTES: Final = 16
_CHECK_BYTES: Final = 16
_MAX_HEADER_BYTES: Final = 4096
_ANOTHER: Final = "Take another backup: nothing of this one can be used."


@dataclass(frozen=True, slots=True)
class Backup:
    """What was in a file: `state` is what was sealed."""

    header: BackupHeader
    state: bytes


def make_recovery_key(random32: bytes) -> SecretBytes:
    """A passphrase that nobody has to think of: 256 random bits, as `SWMREC-1-` and 50 base36 digits."""
    return SecretBytes(f"SWMREC-1-{to_base36(random32, 50)}".encode())


def derive_key(passphrase: SecretBytes, salt: bytes) -> SecretBytes:
    """The key of one file: takes half a second and 128 MiB, so that passphrases cannot be tried fast.

    InvalidArgument for a passphrase that could be guessed all the same.
    """
    if len(passphrase) < MIN_PASSPHRASE_BYTES:
        raise InvalidArgument(
            f"a passphrase of {len(passphrase)} characters could be guessed",
            hint=f"Use {MIN_PASSPHRASE_BYTES} or more, or none: then a recovery key is made and printed.",
        )
    return SecretBytes(Scrypt(salt=salt, length=KEY_BYTES, n=1 << 17, r=8, p=1).derive(passphrase.reveal()))


def seal(header: BackupHeader, state: bytes, key: SecretBytes) -> Iterator[bytes]:
    """The file in pieces of about a megabyte; sets the header's key_check. `key` is for this file only."""
    header.key_check = _expand(key, b"check", _CHECK_BYTES)
    encoded = header.SerializeToString()
    start = _PREAMBLE.pack(_MAGIC, _FORMAT, len(encoded)) + encoded
    cipher = AESGCM(_expand(key, b"seal", KEY_BYTES))
    yield start
    count = max(1, -(-len(state) // FRAME_BYTES))
    for number in range(count):
        part = state[number * FRAME_BYTES : (number + 1) * FRAME_BYTES]
        sealed = cipher.encrypt(_nonce(number, last=number == count - 1), part, start)
        yield _LENGTH.pack(len(sealed)) + sealed


def read_header(raw: bytes) -> BackupHeader:
    """The header at the start of a file. InvalidArgument for what is no backup, or of another format."""
    return _start_of(raw)[0]


def unseal(raw: bytes, key: SecretBytes) -> Backup:
    """What is in a file. FailedPrecondition for a wrong key, InvalidArgument for a file that is not whole."""
    header, start = _start_of(raw)
    if SecretBytes(_expand(key, b"check", _CHECK_BYTES)) != SecretBytes(header.key_check):
        raise FailedPrecondition(
            "this is not the passphrase or recovery key of the backup",
            hint="Give the one that the backup was made with. Without it the backup cannot be opened.",
        )
    cipher = AESGCM(_expand(key, b"seal", KEY_BYTES))
    return Backup(header, b"".join(_frames(raw, start, cipher)))


def _start_of(raw: bytes) -> tuple[BackupHeader, bytes]:
    """The header, and all before the frames."""
    if len(raw) < _PREAMBLE.size or not raw.startswith(_MAGIC):
        raise InvalidArgument("this file is no backup of a swarm", hint="`swarmnet swarm backup` makes one.")
    _, number, length = _PREAMBLE.unpack_from(raw)
    if number != _FORMAT:
        raise InvalidArgument(
            f"the backup has format {number}, and this version of swarmnet reads format {_FORMAT}",
            hint="Restore it with the version of swarmnet that made it, or a later one that reads it.",
        )
    start = raw[: _PREAMBLE.size + length]
    if length > _MAX_HEADER_BYTES or len(start) < _PREAMBLE.size + length:
        raise _damaged(len(raw))
    try:
        return BackupHeader.FromString(start[_PREAMBLE.size :]), start
    except DecodeError:
        raise _damaged(_PREAMBLE.size) from None


def _frames(raw: bytes, start: bytes, cipher: AESGCM) -> Iterator[bytes]:
    at, number, last = len(start), 0, False
    while not last:
        if at + _LENGTH.size > len(raw):
            raise _cut_off(at)
        (length,) = _LENGTH.unpack_from(raw, at)
        sealed = raw[at + _LENGTH.size : at + _LENGTH.size + length]
        if length > FRAME_BYTES + _TAG_BYTES:
            raise _damaged(at)
        if len(sealed) < length:
            raise _cut_off(len(raw))
        last = at + _LENGTH.size + length == len(raw)
        yield _opened(cipher, sealed, start, at=at, number=number, last=last)
        at, number = at + _LENGTH.size + length, number + 1


def _opened(cipher: AESGCM, sealed: bytes, start: bytes, *, at: int, number: int, last: bool) -> bytes:
    try:
        return cipher.decrypt(_nonce(number, last=last), sealed, start)
    except InvalidTag:
        pass
    try:
        cipher.decrypt(_nonce(number, last=not last), sealed, start)
    except InvalidTag:
        raise _damaged(at) from None
    raise _cut_off(at) if last else _damaged(at + _LENGTH.size + len(sealed))


def _nonce(number: int, *, last: bool) -> bytes:
    return number.to_bytes(11, "big") + bytes([last])


def _expand(key: SecretBytes, purpose: bytes, length: int) -> bytes:
    return HKDF(SHA256(), length, salt=None, info=b"swarmnet/1 backup " + purpose).derive(key.reveal())


def _damaged(at: int) -> InvalidArgument:
    return InvalidArgument(f"the backup is damaged at byte {at}", hint=_ANOTHER)


def _cut_off(at: int) -> InvalidArgument:
    return InvalidArgument(f"the backup is cut off at byte {at}: its end is missing", hint=_ANOTHER)
